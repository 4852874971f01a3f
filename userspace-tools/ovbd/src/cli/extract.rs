// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd extract`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Turn a compressed layer back into what it holds
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("extract"))
}
