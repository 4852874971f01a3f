// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Tests of the kernel module, in one static program that runs inside a virtual machine.
//!
//! `guest-tests run` runs the tests whose names match and prints KTAP; see [`harness`] for what
//! surrounds each test, [`ctx`] for what a test is given, and [`cases`] for the tests. On the
//! build machine, `guest-tests pack-golden` makes the disk that carries the golden files in.
#![deny(unsafe_code)]

mod cases;
mod ctx;
mod demo;
mod forge;
mod golden;
mod harness;
mod read;
mod rig;
mod rng;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use harness::Kernel;

const USAGE: &str = "\
Usage: guest-tests run [PATTERN]...      run the tests whose names hold a PATTERN, or all
       guest-tests list [PATTERN]...     print their names
       guest-tests demo CONFIG.json      show an image
       guest-tests pack-golden DIR OUT   make a disk image of golden files

A PATTERN may have * in it, and then has to match the whole name.
OVBD_SEED=NUMBER in the environment changes what the random tests do; OVBD_KERNEL=debug says
that the kernel is the debug kernel.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["run", patterns @ ..] => Kernel::of_this_run()
            .and_then(|kernel| harness::run(kernel, cases::all(kernel), patterns)),
        ["child", words @ ..] => cases::child(words),
        ["user", words @ ..] => cases::user(words),
        ["list", patterns @ ..] => list(patterns),
        ["demo", config] => demo::show(Path::new(config)).map(|()| ExitCode::SUCCESS),
        ["pack-golden", dir, out] => {
            golden::pack(Path::new(dir), Path::new(out)).map(|()| ExitCode::SUCCESS)
        }
        _ => return say(ExitCode::from(2), USAGE),
    };
    result.unwrap_or_else(|error| say(ExitCode::FAILURE, &format!("guest-tests: {error:#}")))
}

fn list(patterns: &[&str]) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for case in harness::filter(cases::all(Kernel::of_this_run()?), patterns) {
        writeln!(out, "{}", case.name)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn say(code: ExitCode, text: &str) -> ExitCode {
    // Nobody is left to tell if this fails.
    let _ = writeln!(std::io::stderr(), "{text}");
    code
}
