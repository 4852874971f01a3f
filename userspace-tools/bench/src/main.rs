// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The bench: one program for both sides of the virtual machine.
//!
//! On the build machine it makes the content ([`content`]) and judges what was measured
//! ([`gate`], [`report`]). In the guest, statically linked, it measures ([`guest`]) and prints a line of
//! JSON for each number ([`sample`]).
#![deny(unsafe_code)]

mod content;
mod cpu;
mod gate;
mod guest;
mod pack;
mod report;
mod rng;
mod rows;
mod sample;

use std::io::Write;
use std::num::ParseIntError;
use std::path::Path;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Context;

const USAGE: &str = "\
Usage: ovbd-bench content TREE MIB OUT        make a disk of images out of the files of TREE
       ovbd-bench content-core DIR OUT        the same out of images of file systems
       ovbd-bench content-others GATE OUT     the gate's files in other forms
       ovbd-bench guest-gate DISK             in the guest: read block devices
       ovbd-bench guest-blocks DISK OTHERS ROUNDS
                                              the same, and what they are compared with
       ovbd-bench guest-profile DISK DEVICE TEST
                                              one of its devices in one way, once it is told to
       ovbd-bench guest-core DISK PAGES       in the guest: costs, file systems
       ovbd-bench guest-cpu DISK ROUNDS [DEVICE...]
                                              in User Mode Linux: read block devices,
       ovbd-bench guest-cpu-files DISK ROUNDS [DEVICE...]
                                              file systems; say what to take the time of
       ovbd-bench cpu OUT COMMAND...          run that, and take its CPU time
       ovbd-bench guest-scaling DISK ROUNDS   in a guest of two CPUs: what the second is good for
       ovbd-bench gate SAMPLES BASELINES KERNEL
                                              judge them; BASELINES is a folder
       ovbd-bench rebase SAMPLES BASELINES KERNEL
                                              make them the baseline of KERNEL
       ovbd-bench print SAMPLES               print tables
       ovbd-bench report SAMPLES KERNEL DIR   print tables, write bench.json and bench.html
       ovbd-bench tables REPORT.json          print the tables of Documentation/performance.rst
       ovbd-bench diff OLD.json NEW.json      what changed between two reports

MIB is how much of the tree is taken. SAMPLES is what guest-gate printed.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["content", tree, mib, out] => content::make(Path::new(tree), mib, Path::new(out)),
        ["content-core", dir, out] => content::make_core(Path::new(dir), Path::new(out)),
        ["content-others", gate, out] => content::make_others(Path::new(gate), Path::new(out)),
        ["guest-gate", disk] => guest::gate::run(Path::new(disk)),
        ["guest-profile", disk, device, test] => guest::profile::run(Path::new(disk), device, test),
        ["guest-core", disk, pages] => guest::core::run(Path::new(disk), pages),
        ["guest-blocks", disk, others, rounds] => {
            guest::blocks::run(Path::new(disk), Path::new(others), rounds)
        }
        ["guest-cpu", disk, rounds, only @ ..] => {
            number(rounds).and_then(|rounds| guest::cpu::devices(Path::new(disk), rounds, only))
        }
        ["guest-cpu-files", disk, rounds, only @ ..] => number(rounds)
            .and_then(|rounds| guest::cpu::file_systems(Path::new(disk), rounds, only)),
        ["guest-scaling", disk, rounds] => {
            number(rounds).and_then(|rounds| guest::scaling::run(Path::new(disk), rounds))
        }
        ["cpu", out, command @ ..] => cpu::run(Path::new(out), command),
        ["gate", samples, baselines, kernel] => {
            return gate::check(Path::new(samples), Path::new(baselines), kernel)
                .unwrap_or_else(|error| failed(&error))
        }
        ["rebase", samples, baselines, kernel] => {
            gate::rebase(Path::new(samples), Path::new(baselines), kernel)
        }
        ["print", samples] => report::show(Path::new(samples)),
        ["report", samples, kernel, out] => {
            report::make(Path::new(samples), kernel, Path::new(out))
        }
        ["tables", report] => report::tables(Path::new(report)),
        ["diff", old, new] => report::diff(Path::new(old), Path::new(new)),
        _ => return say(ExitCode::from(2), USAGE),
    };
    result.map_or_else(|error| failed(&error), |()| ExitCode::SUCCESS)
}

fn number<T: FromStr<Err = ParseIntError>>(word: &str) -> anyhow::Result<T> {
    word.parse()
        .with_context(|| format!("'{word}' is no number"))
}

/// Prints a line. That nobody listens is no reason to stop measuring.
fn print(line: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn failed(error: &anyhow::Error) -> ExitCode {
    say(ExitCode::FAILURE, &format!("ovbd-bench: {error:#}"))
}

fn say(code: ExitCode, text: &str) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "{text}");
    code
}
