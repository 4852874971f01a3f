// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd init`, and `/init`.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use ovbd::boot;
use ovbd::output::Output;
use ovbd::Result;

/// Boot from an image, as the first process of an initramfs
///
/// An initramfs needs nothing but this program, statically linked, as /init, and the kernel modules
/// in /modules, which are loaded in the order of their names. ovbd.root= on the kernel's command
/// line names the disks that hold the layers, bottom first: each a path below /dev, or a serial
/// number, which unlike a path does not depend on the order in which disks are found. They become
/// the root; its init goes on.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// What its init is given
    arguments: Vec<OsString>,
}

const EXAMPLES: &str = "\
Kernel parameters:
  ovbd.root=DISK,…   the disks with the layers, bottom first
  ovbd.verity=DISK:HASH,…
                     the disks with their hash trees, and the root hashes, in the same order; then
                     nothing is read of a layer that its root hash does not vouch for
  rw                 changes are possible; they go to memory [default: read-only]
  rootfstype=TYPE    the file system's type [default: what the disk shows]
  rootflags=OPTIONS  mount options
  init=PATH          the program to go on with [default: /sbin/init]
Any other parameter that begins with ovbd. is an error.

Examples:
  ovbd.root=/dev/vda,/dev/vdb,/dev/vdc
  ovbd.root=base,app,top rw";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    boot(&args.arguments, output).map(|never| match never {})
}

fn boot(arguments: &[OsString], output: &Output) -> Result<Infallible> {
    boot::boot(arguments, &|step| output.detail(step))
}

/// Whether the kernel has started this program as `/init`.
pub fn is_init() -> bool {
    let name = std::env::args_os().next();
    std::process::id() == 1 && name.is_some_and(|name| Path::new(&name).ends_with("init"))
}

/// What the kernel runs. Its arguments are for the next init, and any of them is possible.
pub fn main() -> ExitCode {
    let output = Output::default();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match boot(&arguments, &output) {
        Ok(never) => match never {},
        Err(error) => {
            output.error(&error);
            error.exit_code().into()
        }
    }
}
