// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A run for people and for other programs: tables, a JSON file, a page with bars.

mod html;
mod rst;
pub mod text;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::print;
use crate::rows::rows;
use crate::sample::{Sample, Samples};

/// The JSON file.
#[derive(Serialize, Deserialize)]
struct Report {
    /// Release of the kernel that ran.
    kernel: String,
    samples: Vec<Sample>,
}

/// Prints what was measured.
pub fn show(samples: &Path) -> Result<()> {
    let samples = Samples::read(samples)?;
    text::samples(&samples);
    text::rows(&rows(&samples));
    Ok(())
}

/// Prints what was measured, and writes `bench.json` and `bench.html` in `out`.
pub fn make(samples: &Path, kernel: &str, out: &Path) -> Result<()> {
    let samples = Samples::read(samples)?;
    let rows = rows(&samples);
    text::samples(&samples);
    text::rows(&rows);
    let report = Report {
        kernel: kernel.to_owned(),
        samples: samples.all().to_vec(),
    };
    write(
        &out.join("bench.json"),
        serde_json::to_string_pretty(&report)? + "\n",
    )?;
    write(&out.join("bench.html"), html::page(kernel, &samples, &rows))
}

fn write(path: &Path, text: String) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    print(path.display());
    Ok(())
}

fn read(path: &Path) -> Result<Samples> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no bench.json", path.display()))?;
    Ok(report.samples.into_iter().collect())
}

/// Prints the tables of the document about performance.
pub fn tables(report: &Path) -> Result<()> {
    let samples = read(report)?;
    print(rst::tables(&samples, &rows(&samples)).trim_end());
    Ok(())
}

/// Prints what differs between two reports.
pub fn diff(old: &Path, new: &Path) -> Result<()> {
    text::diff(&read(old)?, &read(new)?);
    Ok(())
}
