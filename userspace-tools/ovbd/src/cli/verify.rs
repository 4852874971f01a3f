// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd verify`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Check structure, digests and every block of files
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("verify"))
}
