// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd extract`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use ovbd::image::extract::{self, Depth};
use ovbd::image::size::Human;
use ovbd::image::ImageError;
use ovbd::output::{paths, Output};
use ovbd::Result;
use serde::Serialize;

use super::compress::FileArgs;
use super::inspect::layer_files;

/// Unpack a layer, a ZFile or a whole image
///
/// Layers become a raw disk image with holes where it is zero: one layer alone, or several as the
/// image that they make. A ZFile of something else becomes that.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// A file, the layers of an image, bottom first, or its configuration (.json)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// How far to unpack [default: as far as it goes]
    #[arg(long, value_enum, value_name = "DEPTH")]
    to: Option<To>,
    #[command(flatten)]
    file: FileArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd extract config.v1.json -o disk.img          The disk, as a raw image
  ovbd extract layer.tar --to content -o layer     The layer, neither wrapped nor compressed
  ovbd extract layer.zfile -o - | sha256sum        To standard output";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum To {
    /// Out of the tar only
    Blob,
    /// Out of tar and ZFile
    Content,
    /// To the disk that the layers make
    Disk,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "paths::one")]
    path: &'a Path,
    size: u64,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let files = layer_files(&args.files, output)?;
    let depth = args.to.map(|to| match to {
        To::Blob => Depth::Blob,
        To::Content => Depth::Content,
        To::Disk => Depth::Disk,
    });
    let source = extract::open(&files, depth)?;
    let progress = output.progress(source.size(), "extract");
    let path = &args.file.output;
    if path == Path::new("-") {
        if io::stdout().is_terminal() {
            let sentence = "a disk is nothing to show on a terminal; redirect standard output";
            return Err(ImageError::Argument(sentence.to_owned()).into());
        }
        let result = extract::to_stream(&*source, &mut io::stdout().lock(), &progress);
        progress.finish();
        return result;
    }
    let result = extract::to_file(&*source, path.clone(), args.file.force, &progress);
    progress.finish();
    result?;
    let report = Report {
        path,
        size: source.size(),
    };
    output.answer(&report, || {
        format!(
            "{}: {} ({} bytes)\n",
            path.display(),
            Human(report.size),
            report.size
        )
    })
}
