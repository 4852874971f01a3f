// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd down`.

use std::collections::BTreeSet;

use ovbd::dm::{self, Dm, Name};
use ovbd::down::{self, Options, Report};
use ovbd::output::Output;
use ovbd::Result;
use serde::Serialize;

/// Unmount an image and remove its devices
///
/// Removes /dev/mapper/NAME, and those of its layers that no other image uses; the kernel frees
/// their loop devices. Clears up what an interrupted `ovbd up` left, too. An image that is not there
/// is no error.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The images to remove
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Vec<Name>,
    /// Remove all images
    #[arg(long)]
    all: bool,
    /// Detach an image that is in use, and have the kernel remove it with its last user
    #[arg(long)]
    deferred: bool,
    /// The same, and have its reads fail from now on: its layers go at once
    #[arg(short, long)]
    force: bool,
}

const EXAMPLES: &str = "\
Examples:
  ovbd down web
  ovbd down --all --deferred
  ovbd down --force web";

#[derive(Serialize)]
struct Reports {
    images: Vec<Report>,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let options = Options {
        deferred: args.deferred,
        force: args.force,
    };
    let watch = |step| output.detail(step);
    let mut images = Vec::new();
    let mut failed = Ok(());
    for name in names(args)? {
        match name.and_then(|name| down::down(&name, options, &watch)) {
            Ok(report) => images.push(report),
            // The others are removed all the same.
            Err(error) => {
                if let Err(earlier) = std::mem::replace(&mut failed, Err(error)) {
                    output.error(&earlier);
                }
            }
        }
    }
    for note in images.iter().flat_map(|report| &report.notes) {
        output.remark(note);
    }
    let reports = Reports { images };
    output.answer(&reports, || reports.images.iter().map(text).collect())?;
    failed
}

fn names(args: &Args) -> Result<Vec<Result<Name>>> {
    if !args.all {
        return Ok(args.name.iter().cloned().map(Ok).collect());
    }
    let dm = Dm::open()?;
    let names = down::images(&dm)?;
    if names.is_empty() {
        // There may be layers without an image.
        down::clean(&dm, BTreeSet::new(), &|_| {})?;
    }
    let name = |name: String| Name::new(&name).map_err(|_| dm::Error::Renamed(name).into());
    Ok(names.into_iter().map(name).collect())
}

fn text(report: &Report) -> String {
    let name = &report.name;
    if !report.existed {
        return format!("{name}: was not set up\n");
    }
    let mut text = String::new();
    for target in &report.unmounted {
        text += &format!("{name}: unmounted from {}\n", target.display());
    }
    let what = match (report.deferred, report.forced) {
        (true, true) => "in use; its reads fail, and it will be removed with its last user",
        (true, false) => "in use; it will be removed with its last user",
        (false, _) => "removed",
    };
    text + &format!("{name}: {what}\n")
}
