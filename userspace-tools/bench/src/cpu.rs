// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The CPU time that a command with all its processes takes between marks that it prints.
//!
//! The command is User Mode Linux: its kernel and its programs are processes of this machine, and
//! the scheduler counts their time to the nanosecond, however busy the machine is.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
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
    /// It goes on after something that does not count.
    Pause,
    /// It has ended.
    End {
        /// What was read.
        device: String,
        /// How.
        test: String,
        /// How many blocks of 4 KiB were read; 0 if it was an activation.
        blocks: u64,
    },
}

/// Runs `command`, and writes samples to the file `out`. What is measured again and again makes
/// rounds.
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
    let mut taken = Taken::default();
    let mut begin = 0;
    let mut spent = 0;
    for line in BufReader::new(lines).lines() {
        let line = line.context("cannot read what the command prints")?;
        let Ok(mark) = serde_json::from_str(line.trim()) else {
            print(line.trim_end());
            continue;
        };
        let cpu = cpu_time_below(child.id())?;
        match mark {
            Mark::Begin => begin = cpu,
            Mark::Pause => spent += cpu.saturating_sub(begin),
            Mark::End {
                device,
                test,
                blocks,
            } => taken.add(device, test, blocks, std::mem::take(&mut spent)),
        }
        answers
            .write_all(b"\n")
            .context("the command does not listen")?;
    }
    child.wait().context("cannot wait for the command")?;
    ensure!(
        !taken.samples.is_empty(),
        "the command set no marks; see what it printed"
    );
    let lines = taken.samples.iter().map(serde_json::to_string);
    let text: Vec<String> = lines.collect::<Result<_, _>>()?;
    fs::write(out, text.join("\n") + "\n")
        .with_context(|| format!("cannot write {}", out.display()))
}

/// What was taken so far.
#[derive(Default)]
struct Taken {
    /// How often each test was done.
    counts: BTreeMap<(String, String), u32>,
    samples: Vec<Sample>,
}

impl Taken {
    fn add(&mut self, device: String, test: String, blocks: u64, spent: u64) {
        let count = self
            .counts
            .entry((device.clone(), test.clone()))
            .or_default();
        let round = *count;
        *count += 1;
        let spent = spent as f64;
        let (value, unit) = if blocks == 0 {
            (spent / 1e6, Unit::CpuMilliseconds)
        } else {
            (spent / blocks as f64, Unit::CpuNanoseconds)
        };
        self.samples.push(Sample {
            device,
            test,
            value,
            unit,
            round: Some(round),
        });
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
    fn what_comes_again_is_another_round() {
        let mut taken = Taken::default();
        for spent in [30, 10] {
            taken.add("a".to_owned(), "t".to_owned(), 2, spent);
        }
        taken.add("b".to_owned(), "t".to_owned(), 0, 7_000_000);
        let found = taken
            .samples
            .iter()
            .map(|s| (s.device.as_str(), s.round, s.value, s.unit));
        assert_eq!(
            found.collect::<Vec<_>>(),
            [
                ("a", Some(0), 15.0, Unit::CpuNanoseconds),
                ("a", Some(1), 5.0, Unit::CpuNanoseconds),
                ("b", Some(0), 7.0, Unit::CpuMilliseconds),
            ]
        );
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
