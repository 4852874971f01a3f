// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What was measured: a line of JSON each.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

/// One number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// What was read, "zfile" for example.
    pub device: String,
    /// How, "seq" for example.
    pub test: String,
    /// How much of what `unit` says.
    pub value: f64,
    /// What `value` counts.
    pub unit: Unit,
    /// The number of the round, if it was measured in several: what others take at the same time
    /// disturbs all of a round alike.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<u32>,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Instructions of the guest for each 4 KiB of output.
    Instructions,
    /// Instructions of the guest in all.
    InstructionsInAll,
    /// Nanoseconds of CPU time for each 4 KiB of output.
    CpuNanoseconds,
    /// Nanoseconds on the wall for each 4 KiB of output.
    Nanoseconds,
    /// Milliseconds of CPU time.
    CpuMilliseconds,
    /// Bytes of memory.
    Bytes,
    /// Sectors read from the device below for each block.
    Sectors,
    /// Blocks that were decompressed.
    Blocks,
    /// Waits of a thread for each read.
    Switches,
    /// Nanoseconds for each lookup, at the processor's own speed.
    LookupNanoseconds,
    /// Stored bytes for each byte of output.
    Ratio,
    /// How many times faster something is.
    Speedup,
}

impl Unit {
    /// What tables say, and how many of it make one of what they show.
    pub fn shown(self) -> (&'static str, f64) {
        match self {
            Self::Instructions => ("k instructions a 4 KiB", 1e3),
            Self::InstructionsInAll => ("M instructions", 1e6),
            Self::CpuNanoseconds => ("ns of CPU time a 4 KiB", 1.0),
            Self::Nanoseconds => ("ns a 4 KiB", 1.0),
            Self::CpuMilliseconds => ("ms of CPU time", 1.0),
            Self::Bytes => ("bytes", 1.0),
            Self::Sectors => ("sectors", 1.0),
            Self::Blocks => ("blocks", 1.0),
            Self::Switches => ("waits a read", 1.0),
            Self::LookupNanoseconds => ("ns a lookup", 1.0),
            Self::Ratio => ("", 1.0),
            Self::Speedup => ("times", 1.0),
        }
    }

    /// It depends on what else the machine does, so that there are rounds.
    pub fn is_of_rounds(self) -> bool {
        matches!(
            self,
            Self::CpuNanoseconds | Self::CpuMilliseconds | Self::Nanoseconds | Self::Speedup
        )
    }
}

/// All that was measured in a run.
#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Reads the lines that the guest printed.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut samples = Vec::new();
        for (number, line) in BufReader::new(file).lines().enumerate() {
            let line = line.with_context(|| format!("cannot read {}", path.display()))?;
            // The serial port may add a carriage return; the guest ends with a line of its own.
            let line = line.trim_end();
            if !line.starts_with('{') {
                continue;
            }
            let sample = serde_json::from_str(line).with_context(|| {
                format!(
                    "{}: line {} is no sample: {line}",
                    path.display(),
                    number + 1
                )
            })?;
            samples.push(sample);
        }
        ensure!(
            !samples.is_empty(),
            "{}: no samples; the guest measured nothing (see its console)",
            path.display()
        );
        Ok(Self(samples))
    }

    /// All of them.
    pub fn all(&self) -> &[Sample] {
        &self.0
    }

    /// The number that `device` has in `test`: the median if there were several rounds.
    pub fn get(&self, device: &str, test: &str) -> Option<f64> {
        let found = |s: &&Sample| s.device == device && s.test == test;
        median(self.0.iter().filter(found).map(|s| s.value).collect())
    }

    /// One number for each test of each device: the median if there were several rounds.
    pub fn medians(&self) -> Self {
        let mut medians: Vec<Sample> = Vec::new();
        for sample in &self.0 {
            let same = |m: &Sample| m.device == sample.device && m.test == sample.test;
            if medians.iter().any(same) {
                continue;
            }
            let value = self.get(&sample.device, &sample.test);
            medians.push(Sample {
                value: value.unwrap_or(sample.value),
                round: None,
                ..sample.clone()
            });
        }
        Self(medians)
    }

    /// What was measured in each round, together with what has no rounds.
    pub fn rounds(&self) -> Vec<Self> {
        let numbers: BTreeSet<u32> = self.0.iter().filter_map(|s| s.round).collect();
        let of_round = |number| {
            let belongs = |s: &&Sample| s.round.is_none_or(|round| round == number);
            self.0.iter().filter(belongs).cloned().collect()
        };
        numbers.into_iter().map(of_round).collect()
    }
}

/// The middle one, or the mean of the two there; `None` of nothing.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let high = values.get(values.len() / 2)?;
    let low = values.get((values.len() - 1) / 2)?;
    Some((low + high) / 2.0)
}

impl FromIterator<Sample> for Samples {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_have_a_median() {
        let sample = |device: &str, value, round| Sample {
            device: device.to_owned(),
            test: "t".to_owned(),
            value,
            unit: Unit::CpuNanoseconds,
            round,
        };
        let all: Samples = [
            sample("a", 1.0, Some(0)),
            sample("a", 9.0, Some(1)),
            sample("a", 2.0, Some(2)),
            sample("b", 5.0, None),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            (all.get("a", "t"), all.get("b", "t")),
            (Some(2.0), Some(5.0))
        );
        let medians = all.medians();
        let medians = medians.all().iter().map(|s| (s.device.as_str(), s.value));
        assert_eq!(medians.collect::<Vec<_>>(), [("a", 2.0), ("b", 5.0)]);
        let of_round: Vec<_> = all.rounds().iter().map(|r| r.get("a", "t")).collect();
        assert_eq!(of_round, [Some(1.0), Some(9.0), Some(2.0)]);
        assert!(all.rounds().iter().all(|r| r.get("b", "t") == Some(5.0)));
        assert_eq!(median(vec![1.0, 4.0]), Some(2.5));
        assert_eq!(median(Vec::new()), None);
    }
}
