// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd compress`, and the arguments about output files that other commands have, too.

use std::path::PathBuf;

use clap::ValueEnum;
use ovbd::image::build::{self, Compressed, Target};
use ovbd::image::output::{OutputSettings, Wrapper, Written};
use ovbd::image::size::{self, Human};
use ovbd::image::zwriter::{ZSettings, ZSummary};
use ovbd::image::ImageError;
use ovbd::output::{paths, Output};
use ovbd::Result;
use overlaybd_format::zfile::Algorithm;
use serde::Serialize;

/// Compress a layer, or any file, into a ZFile
///
/// A layer that is compressed or wrapped in a tar already is unpacked first, so that this changes
/// the compression of a layer, too. Any other file is compressed as it is.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The file to compress
    file: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd compress layer.lsmt -o layer.zfile
  ovbd compress layer.lsmt -o layer.tar --tar -a zstd --block-size 16k
  ovbd compress old.zfile -o new.zfile -a zstd";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let target = args.target.target()?;
    let content = build::compressible(&args.file)?;
    let progress = output.progress(content.size(), "compress");
    let result = build::compress(&*content, &target, &progress);
    progress.finish();
    let made = result?;
    output.answer(&Report::new(&made, &target), || text(&made, &target))
}

/// Where to write a layer, and how to compress and wrap it.
#[derive(clap::Args)]
pub struct TargetArgs {
    #[command(flatten)]
    pub file: FileArgs,
    /// How to compress
    #[arg(
        short,
        long,
        visible_alias = "compress",
        value_enum,
        default_value_t,
        value_name = "ALGORITHM"
    )]
    algorithm: AlgorithmArg,
    /// Bytes a compressed block: 4k, 8k, 16k, 32k or 64k. Larger blocks compress better, smaller
    /// ones are faster to read at random
    #[arg(long, value_parser = size::parse, default_value = "4k", value_name = "SIZE")]
    block_size: u64,
    /// Leave out the checksum behind each block
    #[arg(long)]
    no_checksums: bool,
    /// Leave the header incomplete, as `overlaybd-zfile` does, so that only the trailer counts
    #[arg(long)]
    trailer_only: bool,
    /// Wrap the result in a tar, as registries hold layers
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "pax")]
    tar: Option<TarArg>,
    /// Number of threads [default: one for each CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
}

/// The name of an output file.
#[derive(clap::Args)]
pub struct FileArgs {
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace the output file if it exists
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum AlgorithmArg {
    /// Fast to read
    #[default]
    Lz4,
    /// Smaller
    Zstd,
    /// Not compressed at all
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TarArg {
    /// With a pax header, like the reference tools
    Pax,
    /// With one plain header; up to 8 GiB
    Ustar,
}

impl TargetArgs {
    /// The arguments in the library's terms. Sets the number of threads.
    pub fn target(&self) -> Result<Target> {
        if let Some(threads) = self.threads {
            // Fails only if threads were started already, and they were not.
            let _ = rayon::ThreadPoolBuilder::new()
                .num_threads(threads.into())
                .build_global();
        }
        Ok(Target {
            output: OutputSettings {
                path: self.file.output.clone(),
                replace: self.file.force,
                wrapper: match self.tar {
                    None => Wrapper::None,
                    Some(TarArg::Pax) => Wrapper::Pax,
                    Some(TarArg::Ustar) => Wrapper::Ustar,
                },
            },
            compression: self.compression()?,
        })
    }

    fn compression(&self) -> Result<Option<ZSettings>> {
        let algorithm = match self.algorithm {
            AlgorithmArg::None => return Ok(None),
            AlgorithmArg::Lz4 => Algorithm::Lz4,
            AlgorithmArg::Zstd => Algorithm::Zstd,
        };
        let block_size = u32::try_from(self.block_size)
            .ok()
            .filter(|size| size.is_power_of_two() && (4096..=65536).contains(size))
            .ok_or_else(|| {
                ImageError::Argument(format!(
                    "block size {}: 4k, 8k, 16k, 32k or 64k expected",
                    self.block_size
                ))
            })?;
        Ok(Some(ZSettings {
            algorithm,
            block_size,
            checksums: !self.no_checksums,
            overwrite_header: !self.trailer_only,
        }))
    }
}

/// What was written, for programs.
#[derive(Serialize)]
pub struct WrittenReport<'a> {
    #[serde(serialize_with = "paths::one")]
    path: &'a std::path::Path,
    size: u64,
    digest: String,
    tar: bool,
}

impl<'a> WrittenReport<'a> {
    pub fn new(written: &'a Written, target: &Target) -> Self {
        Self {
            path: &written.path,
            size: written.size,
            digest: written.digest.to_string(),
            tar: target.output.wrapper != Wrapper::None,
        }
    }
}

/// A ZFile, for programs.
#[derive(Serialize)]
pub struct ZfileReport {
    algorithm: &'static str,
    block_size: u32,
    checksums: bool,
    blocks: u64,
    original_size: u64,
    size: u64,
}

impl ZfileReport {
    pub fn new(target: &Target, summary: Option<ZSummary>) -> Option<Self> {
        let (settings, summary) = (target.compression?, summary?);
        Some(Self {
            algorithm: settings.algorithm.name(),
            block_size: settings.block_size,
            checksums: settings.checksums,
            blocks: summary.blocks,
            original_size: summary.original_size,
            size: summary.size,
        })
    }
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    written: WrittenReport<'a>,
    original_size: u64,
    zfile: Option<ZfileReport>,
}

impl<'a> Report<'a> {
    fn new(made: &'a Compressed, target: &Target) -> Self {
        Self {
            written: WrittenReport::new(&made.written, target),
            original_size: made.original_size,
            zfile: ZfileReport::new(target, made.zfile),
        }
    }
}

fn text(made: &Compressed, target: &Target) -> String {
    written_text(&made.written, target) + &zfile_text(target, made.zfile)
}

/// The first lines of the answer about a file.
pub fn written_text(written: &Written, target: &Target) -> String {
    let wrapped = match target.output.wrapper {
        Wrapper::None => "",
        Wrapper::Pax | Wrapper::Ustar => ", in a tar",
    };
    format!(
        "{}: {} ({} bytes){wrapped}\n  digest  {}\n",
        written.path.display(),
        Human(written.size),
        written.size,
        written.digest
    )
}

/// The line about a ZFile.
pub fn zfile_text(target: &Target, summary: Option<ZSummary>) -> String {
    let Some((settings, summary)) = target.compression.zip(summary) else {
        return String::new();
    };
    format!(
        "  zfile   {} → {}{}, {}, {} blocks of {}{}\n",
        Human(summary.original_size),
        Human(summary.size),
        size::percentage(summary.size, summary.original_size),
        settings.algorithm.name(),
        summary.blocks,
        Human(settings.block_size.into()),
        if settings.checksums {
            " with checksums"
        } else {
            " without checksums"
        },
    )
}
