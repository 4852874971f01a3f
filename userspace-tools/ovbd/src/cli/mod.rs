// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The commands, one file each: arguments in, a call of the library, text or JSON out.

mod build;
mod compress;
mod config;
mod df;
mod down;
mod extract;
mod gc;
mod generate;
mod images;
mod init;
mod inspect;
mod ls;
#[cfg(feature = "registry")]
mod pull;
#[cfg(feature = "registry")]
mod push;
#[cfg(feature = "registry")]
mod registry;
mod rmi;
mod run;
mod seal;
mod status;
mod table;
#[cfg(feature = "registry")]
mod transfer;
mod up;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ovbd::output::Output;
use ovbd::run::inside;
use ovbd::store::Store;
use ovbd::Result;

/// Inspect, build and mount OverlayBD images with the kernel's device-mapper, without a daemon
///
/// An OverlayBD image is a stack of layers, each a file: an LSMT file, mostly inside a compressed
/// ZFile, often inside a tar. `ovbd up` joins them to one read-only block device with the dm
/// targets `zfile` and `lsmt`; nothing keeps running afterwards.
#[derive(Parser)]
#[command(name = "ovbd", version, max_term_width = 100, propagate_version = true)]
#[command(after_long_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Print one JSON document instead of text; its field "version" is 1
    #[arg(long, global = true)]
    json: bool,
    /// Print no progress and no remarks, only the answer and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print every step that is taken on the host; twice: every request to a registry
    #[arg(short, long, global = true, conflicts_with = "quiet", action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Where images are kept.
#[derive(Args)]
struct StoreArgs {
    /// The folder of the store [default: $OVBD_STORE, or /var/lib/ovbd]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl StoreArgs {
    fn open(&self) -> Store {
        Store::open(self.store.clone())
    }
}

const AFTER_HELP: &str = "\
Examples:
  ovbd inspect layer0.zfile layer1.zfile      What is in these files?
  ovbd pull registry.example/app:1            Fetch an image
  ovbd up web config.v1.json --mount /mnt     Compose and mount an image
  ovbd seal config.v1.json --update           Have its layers verified from now on
  ovbd ls                                     What is set up on this host?
  ovbd down web                               Unmount and remove it
  ovbd run registry.example/app:1 -- ls /     Run a command in an image

Exit codes:
  0  done
  1  failed for a reason that none of the following names
  2  the command line is wrong
  3  an image, layer or configuration is invalid or corrupt, or what is to verify it is missing or
     not accepted
  4  a name or device is in use by something else
  5  the privilege is missing (up, down, ls and status need root)
  6  a file or device does not exist
  7  the kernel lacks device-mapper, a target or loop devices

Environment:
  OVBD_RUN    the folder of the lock that `up` and `down` take [default: /run/ovbd]
  OVBD_STORE  the folder of the store, if --store does not name it [default: /var/lib/ovbd]";

#[derive(Subcommand)]
enum Command {
    Inspect(inspect::Args),
    Verify(verify::Args),
    Build(build::Args),
    Compress(compress::Args),
    Extract(extract::Args),
    Seal(seal::Args),
    Table(table::Args),
    Up(up::Args),
    Run(run::Args),
    Down(down::Args),
    Ls(ls::Args),
    Status(status::Args),
    #[cfg(feature = "registry")]
    Pull(pull::Args),
    #[cfg(feature = "registry")]
    Push(push::Args),
    Images(images::Args),
    Rmi(rmi::Args),
    Gc(gc::Args),
    Df(df::Args),
    Config(config::Args),
    Init(init::Args),
    Completions(generate::CompletionsArgs),
    Man(generate::ManArgs),
}

impl Command {
    fn run(&self, output: &Output) -> Result<ExitCode> {
        let done = match self {
            Self::Run(args) => return Ok(run::run(args, output)),
            Self::Inspect(args) => inspect::run(args, output),
            Self::Verify(args) => verify::run(args, output),
            Self::Build(args) => build::run(args, output),
            Self::Compress(args) => compress::run(args, output),
            Self::Extract(args) => extract::run(args, output),
            Self::Seal(args) => seal::run(args, output),
            Self::Table(args) => table::run(args, output),
            Self::Up(args) => up::run(args, output),
            Self::Down(args) => down::run(args, output),
            Self::Ls(args) => ls::run(args, output),
            Self::Status(args) => status::run(args, output),
            #[cfg(feature = "registry")]
            Self::Pull(args) => pull::run(args, output),
            #[cfg(feature = "registry")]
            Self::Push(args) => push::run(args, output),
            Self::Images(args) => images::run(args, output),
            Self::Rmi(args) => rmi::run(args, output),
            Self::Gc(args) => gc::run(args, output),
            Self::Df(args) => df::run(args, output),
            Self::Config(args) => config::run(args, output),
            Self::Init(args) => init::run(args, output),
            Self::Completions(args) => generate::completions(args, output),
            Self::Man(args) => generate::man(args, output),
        };
        done.map(|()| ExitCode::SUCCESS)
    }
}

/// Parses the command line, runs the command and reports what failed.
pub fn main() -> ExitCode {
    if init::is_init() {
        return init::main();
    }
    if inside::is_inside() {
        return inside::main();
    }
    let cli = Cli::parse();
    let output = Output {
        json: cli.global.json,
        quiet: cli.global.quiet,
        verbose: cli.global.verbose,
    };
    match cli.command.run(&output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            error.exit_code().into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[cfg(feature = "registry")]
    #[test]
    fn only_registry_options_are_called_so() {
        let command = Cli::command();
        let up = command.find_subcommand("up").unwrap();
        let heading = |name: &str| {
            let mut arguments = up.get_arguments();
            let found = arguments.find(|argument| argument.get_long() == Some(name));
            found.unwrap().get_help_heading()
        };
        for name in ["platform", "host-config", "p2p"] {
            assert_eq!(heading(name), Some("Registry options"));
        }
        for name in ["no-pull", "ignore-crc", "mount"] {
            assert_eq!(heading(name), None);
        }
    }
}
