// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Checking a file as a whole: everything that the format says, and every byte that it protects.
//!
//! What is wrong is a *problem*: the file cannot be read correctly, all of it or in part. What is
//! merely odd, such as bytes that ought to be zero and mean nothing, is a *warning*.

use std::ops::Range;
use std::path::{Path, PathBuf};

use overlaybd_format::lsmt::{self, Layer};
use rayon::prelude::*;

use super::blob::{Blob, Shape};
use super::changes::is_zero;
use super::codec::Decompressor;
use super::digest::Digest;
use super::error::{ImageError, Place};
use super::output::digest_of;
use super::source::{FileSource, ReadError, Source, Std};
use super::zsource::ZSource;
use crate::output::Progress;
use crate::{Error, Result};

/// How many bad blocks are listed one by one; all are counted.
const LISTED: usize = 16;

/// Bytes of an LSMT header or trailer that are used.
const LSMT_USED: u64 = 390;

/// What was found in a file.
#[derive(Debug)]
pub struct FileReport {
    /// The file.
    pub path: PathBuf,
    /// Its length, bytes; 0 if it could not be opened.
    pub size: u64,
    /// The layers of wrapping that were found, outermost first: "tar", "zfile", "lsmt".
    pub kinds: Vec<&'static str>,
    /// The digest, if it was asked for.
    pub digest: Option<Digest>,
    /// Of a ZFile, its blocks.
    pub blocks: Option<BlockReport>,
    /// Of a layer, the number of its extents.
    pub extents: Option<u64>,
    /// What is wrong, the first thing first.
    pub problems: Vec<Error>,
    /// What is odd.
    pub warnings: Vec<String>,
}

impl FileReport {
    /// Nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// What was found in the blocks of a ZFile.
#[derive(Debug, Default)]
pub struct BlockReport {
    /// How many there are.
    pub count: u64,
    /// Each has a checksum; if not, they only had to decompress.
    pub checksums: bool,
    /// How many are bad.
    pub bad: u64,
    /// The first ones of them, with the reason.
    pub listed: Vec<BadBlock>,
}

/// A block that cannot be had.
#[derive(Debug)]
pub struct BadBlock {
    /// Its number, from 0.
    pub block: u64,
    /// Byte offset of its stored form in the file.
    pub offset: u64,
    /// Why.
    pub error: ReadError,
}

/// Byte offset in the file that an error is about, if it is about one.
pub fn offset_of(error: &Error) -> Option<u64> {
    match error {
        Error::Image(ImageError::Format { place, invalid, .. }) => Some(match place {
            Place::File => invalid.offset,
            Place::Content { block } => *block,
        }),
        Error::Image(ImageError::Corrupt { offset, .. }) => Some(*offset),
        Error::Image(ImageError::Read(ReadError::Block(block))) => Some(block.offset),
        Error::Image(ImageError::Read(
            ReadError::Io { offset, .. } | ReadError::End { offset, .. },
        )) => Some(*offset),
        _ => None,
    }
}

/// How many bytes [`verify`] goes through, for a progress bar.
pub fn work(path: &Path, with_digest: bool) -> u64 {
    let size = FileSource::open(path).map_or(0, |file| file.size());
    size * (1 + u64::from(with_digest))
}

/// Checks the file `path`, and its digest if one is given.
///
/// Never fails: whatever is wrong is in the report.
pub fn verify(path: &Path, digest: Option<Digest>, progress: &Progress) -> FileReport {
    let mut report = FileReport {
        path: path.to_owned(),
        size: 0,
        kinds: Vec::new(),
        digest: None,
        blocks: None,
        extents: None,
        problems: Vec::new(),
        warnings: Vec::new(),
    };
    let (found, contents) = rayon::join(
        || digest.map(|expected| check_digest(path, expected, progress)),
        || report.check_contents(progress),
    );
    if let Err(error) = contents {
        report.problems.push(error);
    }
    match found {
        Some(Ok(digest)) => report.digest = Some(digest),
        // A wrong digest says less than what was found inside, and comes last. A file that
        // cannot be read is reported once.
        Some(Err(error)) if report.problems.is_empty() || is_wrong_digest(&error) => {
            report.problems.push(error);
        }
        _ => {}
    }
    report
}

fn is_wrong_digest(error: &Error) -> bool {
    matches!(error, Error::Image(ImageError::Digest { .. }))
}

fn check_digest(path: &Path, expected: Digest, progress: &Progress) -> Result<Digest> {
    let file = std::fs::File::open(path).map_err(|e| Error::io("open", path, e))?;
    let found =
        digest_of(&file, |bytes| progress.add(bytes)).map_err(|e| Error::io("read", path, e))?;
    if found == expected {
        return Ok(found);
    }
    Err(ImageError::Digest {
        path: path.to_owned(),
        found,
        expected,
    }
    .into())
}

impl FileReport {
    fn check_contents(&mut self, progress: &Progress) -> Result<()> {
        let blob = Blob::open(&self.path)?;
        self.size = blob.size();
        blob.require_known()?;
        self.check_wrapper(&blob)?;
        if let Some(zfile) = blob.zfile() {
            self.kinds.push("zfile");
            let blocks = check_blocks(zfile, progress);
            let corrupt = blocks.corrupt(&self.path);
            self.blocks = Some(blocks);
            if let Some(error) = corrupt {
                // What the bad blocks hold cannot be judged.
                self.problems.push(error);
                return Ok(());
            }
        }
        if blob.holds_lsmt()? {
            self.kinds.push("lsmt");
            let layer = blob.layer()?;
            self.extents = Some(layer.entries().len() as u64);
            self.check_spare_bytes(&blob, &layer)?;
        }
        if matches!(blob.shape(), Shape::Lsmt) {
            progress.add(self.size);
        }
        Ok(())
    }

    /// Zeros have to follow the payload of a tar.
    fn check_wrapper(&mut self, blob: &Blob) -> Result<()> {
        let Some(payload) = blob.wrapper() else {
            return Ok(());
        };
        self.kinds.push("tar");
        let file = FileSource::open(&self.path)?;
        let end = payload.offset + payload.length;
        let padding = overlaybd_format::tar::padding(payload.length) as u64;
        if let Some(at) = first_nonzero(&file, end..self.size)? {
            self.warn(format!("byte {at}, behind the tar's member, is not zero"));
        } else if self.size < end + padding {
            self.warn(format!(
                "the tar ends at byte {}, where {} bytes are due",
                self.size,
                end + padding
            ));
        }
        Ok(())
    }

    /// Header and trailer of a layer are mostly unused, and zero there.
    fn check_spare_bytes(&mut self, blob: &Blob, layer: &Layer<Std>) -> Result<()> {
        let content = blob.content();
        let trailer = content.size() - lsmt::SIZE;
        for (name, start) in [("header", 0), ("trailer", trailer)] {
            let spare = start + LSMT_USED..start + lsmt::SIZE;
            if let Some(at) = first_nonzero(&*content, spare)? {
                self.warn(format!(
                    "byte {} of the layer's {name}, which is unused, is not zero",
                    at - start
                ));
            }
        }
        if layer.virtual_size() == 0 {
            self.warn("the layer's virtual size is 0: it takes that of the layer below".to_owned());
        }
        Ok(())
    }

    fn warn(&mut self, sentence: String) {
        self.warnings.push(sentence);
    }
}

/// The first byte of a range that is not zero.
fn first_nonzero(source: &dyn Source, range: Range<u64>) -> Result<Option<u64>, ReadError> {
    const PIECE: u64 = 1 << 20;
    let mut at = range.start;
    while at < range.end {
        let mut bytes = vec![0; PIECE.min(range.end - at) as usize];
        source.read_exact_at(at, &mut bytes)?;
        if !is_zero(&bytes) {
            let place = bytes.iter().take_while(|byte| **byte == 0).count();
            return Ok(Some(at + place as u64));
        }
        at += bytes.len() as u64;
    }
    Ok(None)
}

/// Checks and decompresses every block, on all CPUs.
pub fn check_blocks(zfile: &ZSource, progress: &Progress) -> BlockReport {
    let count = zfile.zfile().block_count();
    let step = zfile.blocks_a_piece();
    let pieces = count.div_ceil(step);
    let report = (0..pieces)
        .into_par_iter()
        .map_init(Scratch::default, |scratch, piece| {
            let blocks = piece * step..count.min((piece + 1) * step);
            progress.add(stored_length(zfile, &blocks));
            check_piece(zfile, blocks, scratch)
        })
        .reduce(BlockReport::default, BlockReport::join);
    BlockReport {
        count,
        checksums: zfile.zfile().verify(),
        ..report
    }
}

fn stored_length(zfile: &ZSource, blocks: &Range<u64>) -> u64 {
    let extent = zfile.zfile().table().extent(blocks.clone());
    extent.end - extent.start
}

/// Buffers that a thread uses again.
#[derive(Default)]
struct Scratch {
    stored: Vec<u8>,
    content: Vec<u8>,
}

fn check_piece(zfile: &ZSource, blocks: Range<u64>, scratch: &mut Scratch) -> BlockReport {
    let mut report = BlockReport::default();
    let checked = zfile.with_decompressor(|decompressor| {
        match zfile.read_stored(blocks.clone(), &mut scratch.stored) {
            Ok(()) => {
                let first = blocks.start;
                for block in blocks.clone() {
                    let stored = zfile.stored_block(&scratch.stored, first, block);
                    let content = &mut scratch.content;
                    if let Err(error) = check_block(zfile, decompressor, block, stored, content) {
                        report.add(zfile, block, error);
                    }
                }
            }
            // Something cannot be read: find out which blocks it is.
            Err(_) => {
                for block in blocks.clone() {
                    if let Err(error) = read_and_check(zfile, decompressor, block, scratch) {
                        report.add(zfile, block, error);
                    }
                }
            }
        }
    });
    if let Err(error) = checked {
        // No decompressor: none of the blocks could be looked at.
        report.add(zfile, blocks.start, error);
        report.bad = blocks.end - blocks.start;
    }
    report
}

fn check_block(
    zfile: &ZSource,
    decompressor: &mut Decompressor,
    block: u64,
    stored: &[u8],
    content: &mut Vec<u8>,
) -> Result<(), ReadError> {
    content.resize(zfile.block_length(block), 0);
    Ok(zfile.decode(decompressor, block, stored, content)?)
}

fn read_and_check(
    zfile: &ZSource,
    decompressor: &mut Decompressor,
    block: u64,
    scratch: &mut Scratch,
) -> Result<(), ReadError> {
    zfile.read_stored(block..block + 1, &mut scratch.stored)?;
    check_block(
        zfile,
        decompressor,
        block,
        &scratch.stored,
        &mut scratch.content,
    )
}

impl BlockReport {
    fn add(&mut self, zfile: &ZSource, block: u64, error: ReadError) {
        self.bad += 1;
        if self.listed.len() < LISTED {
            let offset = zfile.block_offset(block);
            self.listed.push(BadBlock {
                block,
                offset,
                error,
            });
        }
    }

    /// The reports about two sets of blocks as one.
    fn join(mut self, mut other: Self) -> Self {
        self.bad += other.bad;
        self.listed.append(&mut other.listed);
        self.listed.sort_by_key(|bad| bad.block);
        self.listed.truncate(LISTED);
        self
    }

    /// What is wrong as one error.
    fn corrupt(&self, path: &Path) -> Option<Error> {
        let first = self.listed.first()?;
        let reason = match &first.error {
            ReadError::Block(block) => block.fault.to_string(),
            other => other.to_string(),
        };
        Some(Error::Image(ImageError::Corrupt {
            path: path.to_owned(),
            bad: self.bad,
            blocks: self.count,
            block: first.block,
            offset: first.offset,
            reason,
        }))
    }
}
