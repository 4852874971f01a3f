// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd status`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Show one device's layers and counters
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("status"))
}
