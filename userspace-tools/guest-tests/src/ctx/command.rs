// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Running programs.

use std::process::{Command, Stdio};

use anyhow::{bail, Context as _, Result};

/// Runs a program and returns what it printed; fails with what it complained about.
pub fn output(words: &[&str]) -> Result<String> {
    let (program, args) = words.split_first().context("no program")?;
    let run = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| (*program).to_owned())?;
    if !run.status.success() {
        let said = String::from_utf8_lossy(&run.stderr);
        bail!("{}: {}: {}", words.join(" "), run.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&run.stdout).trim().to_owned())
}
