// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The `ovbd` command line: reads arguments, calls the library, prints, chooses the exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
