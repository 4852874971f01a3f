// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd completions` and `ovbd man`: what packaging generates from the command line itself.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use ovbd::output::Output;
use ovbd::{Error, Result};

/// Print the completion script for a shell
#[derive(clap::Args)]
#[command(after_help = "Example:\n  ovbd completions bash > /etc/bash_completion.d/ovbd")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Write the man pages, one a command, into a folder
#[derive(clap::Args)]
#[command(after_help = "Example:\n  ovbd man /usr/local/share/man/man8")]
pub struct ManArgs {
    /// An existing folder, as a rule one named man8
    dir: PathBuf,
}

/// Prints the completion script.
pub fn completions(args: &CompletionsArgs, output: &Output) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::Cli::command(), "ovbd", &mut script);
    output.write(&String::from_utf8_lossy(&script))
}

/// Writes `ovbd.8` and one `ovbd-COMMAND.8` for each command.
pub fn man(args: &ManArgs, _output: &Output) -> Result<()> {
    clap_mangen::generate_to(super::Cli::command(), &args.dir)
        .map_err(|e| Error::io("write the man pages", &args.dir, e))
}
