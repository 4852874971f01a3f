// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd table`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Print the device-mapper tables of an image, touching nothing
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("table"))
}
