// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd verify`.

use std::path::{Path, PathBuf};

use ovbd::image::digest::Digest;
use ovbd::image::verify::{self, BlockReport, FileReport};
use ovbd::image::ImageError;
use ovbd::output::{paths, Output};
use ovbd::Result;
use serde::Serialize;

use super::inspect::layer_files;

/// Check structure, digests and every block of files
///
/// Reads all of each file: checks every field of tar, ZFile and LSMT, the checksum of every
/// block, and that every block decompresses. Ends with exit code 3 if anything is wrong, and
/// names the first bad byte offset.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The files to check, or the configuration (.json) of an image
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The digest that the file has to have; for one file only
    #[arg(long, value_name = "sha256:…")]
    digest: Option<Digest>,
}

const EXAMPLES: &str = "\
Examples:
  ovbd verify layer0.tar layer1.tar
  ovbd verify blob --digest sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
  ovbd --json verify config.v1.json";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let files = layer_files(&args.files, output)?;
    if args.digest.is_some() && files.len() != 1 {
        let sentence = format!("--digest is for one file, not for {}", files.len());
        return Err(ImageError::Argument(sentence).into());
    }
    let work = |file: &PathBuf| verify::work(file, args.digest.is_some());
    let progress = output.progress(files.iter().map(work).sum(), "verify");
    let reports: Vec<_> = files
        .iter()
        .map(|file| verify::verify(file, args.digest, &progress))
        .collect();
    progress.finish();
    let text = || reports.iter().map(text).collect();
    output.answer(&Report::new(&reports), text)?;
    conclude(&reports)
}

/// An error that counts the bad files, if there are any.
fn conclude(reports: &[FileReport]) -> Result<()> {
    let mut bad = reports.iter().filter(|report| !report.is_ok());
    let Some((report, problem)) = bad.next().and_then(|r| Some((r, r.problems.first()?))) else {
        return Ok(());
    };
    Err(ImageError::Unverified {
        bad: 1 + bad.count(),
        files: reports.len(),
        first: report.path.clone(),
        offset: verify::offset_of(problem),
        exit_code: problem.exit_code(),
    }
    .into())
}

#[derive(Serialize)]
struct Report<'a> {
    ok: bool,
    files: Vec<File<'a>>,
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(serialize_with = "paths::one")]
    path: &'a Path,
    ok: bool,
    size: u64,
    kinds: &'a [&'static str],
    digest: Option<Digest>,
    blocks: Option<Blocks<'a>>,
    extents: Option<u64>,
    /// In bytes; of the first problem.
    first_bad_offset: Option<u64>,
    problems: Vec<String>,
    warnings: &'a [String],
}

#[derive(Serialize)]
struct Blocks<'a> {
    count: u64,
    checksums: bool,
    bad: u64,
    listed: Vec<Bad<'a>>,
}

#[derive(Serialize)]
struct Bad<'a> {
    block: u64,
    offset: u64,
    #[serde(serialize_with = "as_text")]
    error: &'a ovbd::image::source::ReadError,
}

fn as_text<S: serde::Serializer>(
    value: impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&value)
}

impl<'a> Report<'a> {
    fn new(reports: &'a [FileReport]) -> Self {
        Self {
            ok: reports.iter().all(FileReport::is_ok),
            files: reports.iter().map(File::new).collect(),
        }
    }
}

impl<'a> File<'a> {
    fn new(report: &'a FileReport) -> Self {
        Self {
            path: &report.path,
            ok: report.is_ok(),
            size: report.size,
            kinds: &report.kinds,
            digest: report.digest,
            blocks: report.blocks.as_ref().map(Blocks::new),
            extents: report.extents,
            first_bad_offset: report.problems.first().and_then(verify::offset_of),
            problems: report.problems.iter().map(ToString::to_string).collect(),
            warnings: &report.warnings,
        }
    }
}

impl<'a> Blocks<'a> {
    fn new(report: &'a BlockReport) -> Self {
        let listed = report.listed.iter().map(|bad| Bad {
            block: bad.block,
            offset: bad.offset,
            error: &bad.error,
        });
        Self {
            count: report.count,
            checksums: report.checksums,
            bad: report.bad,
            listed: listed.collect(),
        }
    }
}

fn text(report: &FileReport) -> String {
    let path = report.path.display();
    let mut text = match report.problems.len() {
        0 => format!("{path}: ok: {}\n", summary(report)),
        _ => format!("{path}: BAD\n"),
    };
    for problem in &report.problems {
        text += &format!("  {problem}\n");
    }
    let bad = report.blocks.iter().flat_map(|blocks| &blocks.listed);
    for bad in bad.skip(1) {
        text += &format!("  {}\n", bad.error);
    }
    if let Some(blocks) = &report.blocks {
        let listed = blocks.listed.len() as u64;
        if blocks.bad > listed {
            text += &format!("  and {} more bad blocks\n", blocks.bad - listed);
        }
    }
    for warning in &report.warnings {
        text += &format!("  warning: {warning}\n");
    }
    text
}

/// What was found to be right.
fn summary(report: &FileReport) -> String {
    let mut parts = vec![report.kinds.join(" › ")];
    if let Some(blocks) = &report.blocks {
        let checks = match blocks.checksums {
            true => "checksums and decompression",
            false => "decompression, no checksums",
        };
        parts.push(format!("{} blocks ({checks})", blocks.count));
    }
    if let Some(extents) = report.extents {
        parts.push(format!("{extents} extents"));
        if report.blocks.is_none() {
            parts.push("layers that are not compressed have no checksums".to_owned());
        }
    }
    if report.digest.is_some() {
        parts.push("digest".to_owned());
    }
    parts.join(", ")
}
