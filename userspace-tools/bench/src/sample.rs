// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What was measured: a line of JSON each.

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
}

impl Unit {
    /// What tables say, and how many of it make one of what they show.
    pub fn shown(self) -> (&'static str, f64) {
        match self {
            Self::Instructions => ("k instructions a 4 KiB", 1e3),
            Self::InstructionsInAll => ("M instructions", 1e6),
            Self::CpuNanoseconds => ("ns of CPU time a 4 KiB", 1.0),
            Self::CpuMilliseconds => ("ms of CPU time", 1.0),
            Self::Bytes => ("bytes", 1.0),
            Self::Sectors => ("sectors", 1.0),
            Self::Blocks => ("blocks", 1.0),
            Self::Switches => ("waits a read", 1.0),
            Self::LookupNanoseconds => ("ns a lookup", 1.0),
            Self::Ratio => ("", 1.0),
        }
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

    /// The number that `device` has in `test`.
    pub fn get(&self, device: &str, test: &str) -> Option<f64> {
        let found = |s: &&Sample| s.device == device && s.test == test;
        self.0.iter().find(found).map(|sample| sample.value)
    }
}

impl FromIterator<Sample> for Samples {
    fn from_iter<I: IntoIterator<Item = Sample>>(samples: I) -> Self {
        Self(samples.into_iter().collect())
    }
}
