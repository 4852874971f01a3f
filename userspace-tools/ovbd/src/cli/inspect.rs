// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd inspect`.

use std::path::PathBuf;

use ovbd::output::Output;
use ovbd::{Error, Result};

/// Show what files are: tar, ZFile, LSMT layer
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _output: &Output) -> Result<()> {
    Err(Error::NotBuilt("inspect"))
}

/// The files in `arguments`, with configurations replaced by the layers that they name.
pub fn layer_files(arguments: &[PathBuf], _output: &Output) -> Result<Vec<PathBuf>> {
    Ok(arguments.to_vec())
}
