// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd up`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Set an image up as a block device, and mount it
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("up"))
}
