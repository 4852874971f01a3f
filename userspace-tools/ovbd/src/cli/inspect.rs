// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd inspect`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Show what a file is and what its headers say
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("inspect"))
}
