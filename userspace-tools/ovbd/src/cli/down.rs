// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd down`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Unmount an image and remove its devices
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("down"))
}
