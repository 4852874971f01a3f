// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd build`.

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Make a layer from a raw disk image or a directory
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("build"))
}
