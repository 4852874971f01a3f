// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! CPU time of a command with all its processes, between marks that it prints.
//!
//! The command is User Mode Linux: its kernel and its programs are processes of this machine, and
//! the scheduler counts their time to the nanosecond, however busy the machine is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::print;
use crate::sample::{Sample, Unit};

/// What the guest says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Mark {
    /// Something begins.
    Begin,
    /// It has ended.
    End {
        /// What it was.
        name: String,
        /// How many blocks of 4 KiB were read; 0 if it was an activation.
        blocks: u64,
    },
}

/// Runs `command`, and writes samples to `out`: medians over all rounds.
pub fn run(out: &Path, command: &[&str]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command is named")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let (mut answers, lines) = child
        .stdin
        .take()
        .zip(child.stdout.take())
        .context("the command has no pipes")?;
    let mut rounds = Rounds::default();
    let mut begin = 0;
    for line in BufReader::new(lines).lines() {
        let line = line.context("cannot read what the command prints")?;
        let Ok(mark) = serde_json::from_str(line.trim()) else {
            print(line.trim_end());
            continue;
        };
        let now = cpu_time_below(child.id())?;
        match mark {
            Mark::Begin => begin = now,
            Mark::End { name, blocks } => rounds.add(name, blocks, now.saturating_sub(begin)),
        }
        answers
            .write_all(b"\n")
            .context("the command does not listen")?;
    }
    child.wait().context("cannot wait for the command")?;
    let samples = rounds.samples();
    ensure!(
        !samples.is_empty(),
        "the command set no marks; see what it printed"
    );
    let lines = samples.iter().map(serde_json::to_string);
    let text: Vec<String> = lines.collect::<Result<_, _>>()?;
    fs::write(out, text.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", out.display()))
}

/// CPU times in nanoseconds, by name, one a round.
#[derive(Default)]
struct Rounds(BTreeMap<(String, u64), Vec<u64>>);

impl Rounds {
    fn add(&mut self, name: String, blocks: u64, nanoseconds: u64) {
        self.0.entry((name, blocks)).or_default().push(nanoseconds);
    }

    fn samples(self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for ((device, blocks), mut times) in self.0 {
            times.sort_unstable();
            let Some(median) = times.get(times.len() / 2).map(|&time| time as f64) else {
                continue;
            };
            let deviations = times.iter().map(|&time| (time as f64 - median).abs());
            let mut deviations: Vec<f64> = deviations.collect();
            deviations.sort_unstable_by(f64::total_cmp);
            let spread = deviations.get(deviations.len() / 2).copied().unwrap_or(0.0) / median;
            let (test, value, unit) = if blocks == 0 {
                ("cpu-activation", median / 1e6, Unit::CpuMilliseconds)
            } else {
                ("cpu", median / blocks as f64, Unit::CpuNanoseconds)
            };
            for (test, value, unit) in [
                (test.to_owned(), value, unit),
                (format!("{test}-deviation"), spread, Unit::Ratio),
            ] {
                samples.push(Sample {
                    device: device.clone(),
                    test,
                    value,
                    unit,
                });
            }
        }
        samples
    }
}

/// Nanoseconds that `pid` and all processes below it have run so far.
fn cpu_time_below(pid: u32) -> Result<u64> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let name = entry?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.parse::<u32>().ok()) {
            // A process may end while it is looked at.
            if let Some(parent) = parent_of(id) {
                parents.push((id, parent));
            }
        }
    }
    let mut family = vec![pid];
    let mut at = 0;
    while let Some(&member) = family.get(at) {
        let children = parents.iter().filter(|(_, parent)| *parent == member);
        family.extend(children.map(|(id, _)| id));
        at += 1;
    }
    Ok(family.into_iter().map(cpu_time).sum())
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold anything, a bracket too.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Of all threads of a process.
fn cpu_time(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return 0;
    };
    let time = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads
        .flatten()
        .filter_map(|thread| time(thread.path()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_become_medians() {
        let mut rounds = Rounds::default();
        for time in [30, 10, 20] {
            rounds.add("a".to_owned(), 2, time);
        }
        let samples = rounds.samples();
        assert_eq!(
            (samples[0].value, samples[0].unit),
            (10.0, Unit::CpuNanoseconds)
        );
        assert_eq!(samples[1].value, 0.5);
    }

    #[test]
    fn time_of_a_child_counts() {
        let script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo '\"Begin\"'; read x";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(matches!(serde_json::from_str(line.trim()), Ok(Mark::Begin)));
        assert!(cpu_time_below(child.id()).unwrap() > 0);
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        child.wait().unwrap();
    }
}
