// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use ovbd::dm::Name;
use ovbd::mount::overlay::Upper;
use ovbd::output::Output;
use ovbd::run::{self, inside, Job, Outcome};
use ovbd::Result;

use super::up::ImageArgs;

/// Run a command in an image, and take the image down when it has ended
///
/// Sets the image up and mounts it as `ovbd up` does, but where only the command sees it, with /proc,
/// /sys and /dev. The command has processes, mounts, host name and IPC of its own; network and rights
/// are those of whoever calls: this is no sandbox. How the image says that it is to be run is not
/// looked at: name the command.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// The command and its arguments
    #[arg(last = true, default_value = "/bin/sh")]
    command: Vec<OsString>,
    /// The name of the device, and the host's name in there [default: run-PID]
    #[arg(long)]
    name: Option<Name>,
    /// Let the command change files; changes go to DIR, or without DIR to memory, and are gone with
    /// the command. DIR serves one overlay at a time, and one image
    #[arg(short, long, value_name = "DIR", num_args = 0..=1, require_equals = true)]
    writable: Option<Option<PathBuf>>,
    /// Set a variable of its environment, which else has PATH, HOME and TERM; can be repeated
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(OsString, OsString)>,
    /// The folder to start in
    #[arg(long, value_name = "DIR", default_value = "/")]
    workdir: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  ovbd run registry.example/app:1
  ovbd run registry.example/app:1 -- /bin/app --version
  ovbd run --writable=/var/lib/app-changes config.v1.json -- sh -c 'apt-get update'
  ovbd run -e LANG=C layer0.tar layer1.tar -- ls -l /

Exit codes:
  that of the command; 128 and the signal's number if a signal ended it
  125  ovbd failed before the command had started, and says why
  126  the command cannot be run
  127  there is no such command

SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 are passed on to the command. If ovbd is killed, so is the
command, and the image goes away, too: that is why `ovbd ls` shows it as leaving.";

fn variable(text: &str) -> Result<(OsString, OsString), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("is not NAME=VALUE".to_owned()),
    }
}

pub fn run(args: &Args, output: &Output) -> ExitCode {
    match attempt(args, output) {
        Ok(outcome) => {
            for note in outcome.notes {
                output.remark(note);
            }
            outcome.code.into()
        }
        Err(error) => {
            output.error_ending_with(&error, inside::FAILED);
            inside::FAILED.into()
        }
    }
}

fn attempt(args: &Args, output: &Output) -> Result<Outcome> {
    let name = match &args.name {
        Some(name) => name.clone(),
        None => Name::new(format!("run-{}", std::process::id()))?,
    };
    let upper = args.writable.clone().map(|folder| match folder {
        Some(folder) => Upper::Folder(folder),
        None => Upper::Memory,
    });
    let job = Job {
        name,
        settings: args.image.settings(),
        upper,
        command: args.command.clone(),
        folder: args.workdir.clone(),
        environment: args.env.clone(),
    };
    let watch = |step| output.detail(step);
    args.image.setting_up(output, |input, sources| {
        run::run(input, sources, &job, &watch, &|note| output.remark(note))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_names() {
        let pair = |name: &str, value: &str| Ok((name.into(), value.into()));
        assert_eq!(variable("A=b=c"), pair("A", "b=c"));
        assert_eq!(variable("A="), pair("A", ""));
        for wrong in ["", "A", "=b"] {
            assert!(variable(wrong).is_err());
        }
    }
}
