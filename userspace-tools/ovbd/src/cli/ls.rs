// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd ls`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// List the images and layers that are set up
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("ls"))
}
