// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd compress`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Turn an LSMT layer into a ZFile
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("compress"))
}
