// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Judging instruction counts: against the limits of the same boot, and against a baseline.
//!
//! What the project wants to reach are [`rows`]. What must not get worse is every single count:
//! the baseline of a kernel version is a file of the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::print;
use crate::report::text;
use crate::rows::rows;
use crate::sample::{Sample, Samples, Unit};

/// How much more than in the baseline fails.
const MARGIN: f64 = 0.03;
/// The same for the baseline of another kernel, if this one has none.
const MARGIN_OF_OTHER: f64 = 0.10;

/// The counts of a kernel version.
#[derive(Serialize, Deserialize)]
struct Baseline {
    kernel: String,
    samples: Vec<Sample>,
}

impl Baseline {
    fn path(folder: &Path, kernel: &str) -> PathBuf {
        folder.join(format!("{kernel}.json"))
    }

    fn read(path: &Path) -> Result<Self> {
        let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is no baseline; make bench-rebase writes one",
                path.display()
            )
        })
    }

    /// That of `kernel`, or else that of the kernel whose name comes last.
    fn find(folder: &Path, kernel: &str) -> Result<Self> {
        let exact = Self::path(folder, kernel);
        if exact.exists() {
            return Self::read(&exact);
        }
        let entries =
            fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
        let files: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
        let last = files.iter().max();
        Self::read(last.with_context(|| format!("{} has no baseline", folder.display()))?)
    }
}

/// A count and what it was.
struct Change<'a> {
    now: &'a Sample,
    before: Option<f64>,
}

impl Change<'_> {
    fn relative(&self) -> f64 {
        self.before
            .map_or(0.0, |before| self.now.value / before - 1.0)
    }
}

/// Makes what was measured the baseline of `kernel`.
pub fn rebase(samples: &Path, folder: &Path, kernel: &str) -> Result<()> {
    let baseline = Baseline {
        kernel: kernel.to_owned(),
        samples: Samples::read(samples)?.all().to_vec(),
    };
    let path = Baseline::path(folder, kernel);
    let text = serde_json::to_string_pretty(&baseline)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    print(format_args!("{} is the baseline now", path.display()));
    Ok(())
}

/// Prints what was measured, and fails if anything got worse.
pub fn check(samples: &Path, folder: &Path, kernel: &str) -> Result<ExitCode> {
    let samples = Samples::read(samples)?;
    text::samples(&samples);
    text::rows(&rows(&samples));
    let baseline = Baseline::find(folder, kernel)?;
    let margin = if baseline.kernel == kernel {
        MARGIN
    } else {
        print(format_args!(
            "There is no baseline for {kernel}; that of {} counts, with a wider margin.",
            baseline.kernel
        ));
        MARGIN_OF_OTHER
    };
    let before: Samples = baseline.samples.into_iter().collect();
    let (passed, failed) = compare(&samples, &before, margin);
    print(format_args!(
        "instruction gate: {passed} passed, {failed} failed"
    ));
    Ok(if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Says which counts got worse, better, or are gone; how many are fine and how many are not.
fn compare(now: &Samples, before: &Samples, margin: f64) -> (usize, usize) {
    let counts = |s: &&Sample| s.unit == Unit::Instructions;
    let (mut passed, mut failed) = (0, 0);
    for now in now.all().iter().filter(counts) {
        let change = Change {
            now,
            before: before.get(&now.device, &now.test),
        };
        let relative = change.relative();
        if relative.abs() > margin {
            let word = if relative > 0.0 { "FAIL" } else { "note" };
            print(format_args!(
                "  {word}  {} {}: {:.0} instructions, {:+.1} % ({:.0} in the baseline)",
                now.device,
                now.test,
                now.value,
                100.0 * relative,
                change.before.unwrap_or_default()
            ));
        }
        if relative > margin {
            failed += 1;
        } else {
            passed += 1;
        }
    }
    for gone in before.all().iter().filter(counts) {
        if now.get(&gone.device, &gone.test).is_none() {
            print(format_args!(
                "  FAIL  {} {}: was not measured",
                gone.device, gone.test
            ));
            failed += 1;
        }
    }
    (passed, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(values: &[(&str, f64)]) -> Samples {
        let sample = |(device, value): &(&str, f64)| Sample {
            device: (*device).to_owned(),
            test: "seq".to_owned(),
            value: *value,
            unit: Unit::Instructions,
            round: None,
        };
        values.iter().map(sample).collect()
    }

    #[test]
    fn more_than_the_margin_fails_and_less_does_not() {
        let before = counts(&[("a", 1000.0), ("b", 1000.0)]);
        let now = counts(&[("a", 1029.0), ("b", 500.0)]);
        assert_eq!(compare(&now, &before, MARGIN), (2, 0));
        let now = counts(&[("a", 1031.0), ("b", 1000.0)]);
        assert_eq!(compare(&now, &before, MARGIN), (1, 1));
    }

    #[test]
    fn what_is_gone_fails_and_what_is_new_does_not() {
        let before = counts(&[("a", 1000.0), ("b", 1000.0)]);
        let now = counts(&[("a", 1000.0), ("c", 1000.0)]);
        assert_eq!(compare(&now, &before, MARGIN), (2, 1));
    }
}
