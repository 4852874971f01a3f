// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd completions` and `ovbd man`: what packaging generates from the command line itself.

use std::path::{Path, PathBuf};

use clap::CommandFactory;
use clap_complete::Shell;
use ovbd::output::Output;
use ovbd::{Error, Result};

/// The section of the manual: commands of the administrator.
const SECTION: &str = "8";

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
    /// The folder, as a rule one named man8; made if it is not there
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
    std::fs::create_dir_all(&args.dir).map_err(|e| Error::io("create", &args.dir, e))?;
    // Otherwise each command would be called by its last word.
    let mut command = super::Cli::command().disable_help_subcommand(true);
    command.build();
    page(&command, "ovbd", &args.dir)?;
    for sub in command.get_subcommands() {
        page(sub, &format!("ovbd-{}", sub.get_name()), &args.dir)?;
    }
    Ok(())
}

fn page(command: &clap::Command, title: &str, dir: &Path) -> Result<()> {
    let path = dir.join(format!("{title}.{SECTION}"));
    let page = clap_mangen::Man::new(command.clone())
        .title(title)
        .section(SECTION);
    let mut text = Vec::new();
    page.render(&mut text)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|e| Error::io("write", &path, e))
}
