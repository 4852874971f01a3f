// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The status lines of the two targets: pairs of key and value, in fixed order.
//!
//! ```text
//! zfile: lz4|zstd block_size N blocks N size N read_sectors N decompressed_bytes N
//!        cache_hits N reserve_waits N crc_errors N decompress_errors N io_errors N
//! lsmt:  layers N extents N size N reads N zero_sectors N tail_sectors N io_errors N
//! ```

use core::fmt;

use super::table::number;
use super::zfile::Algorithm;
use super::{Bytes, Sectors};

/// A line that is not a status line of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusError {
    /// Number of the word that is wrong or missing, from 0; behind the last one,
    /// if words are left over.
    pub word: usize,
}

impl fmt::Display for StatusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unexpected status line at word {}", self.word)
    }
}

impl core::error::Error for StatusError {}

/// Status of a `zfile` target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZfileStatus {
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Bytes of the original file in a block.
    pub block_size: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Length of the original file.
    pub size: Bytes,
    /// Sectors read from the device below.
    pub read_sectors: Sectors,
    /// Bytes that decompression yielded.
    pub decompressed_bytes: Bytes,
    /// Reads that were answered from the cache of decompressed blocks.
    pub cache_hits: u64,
    /// Reads for which there was no memory: they waited for the device's reserve, or were told to
    /// come again if they may not wait.
    pub reserve_waits: u64,
    /// Blocks whose CRC was wrong.
    pub crc_errors: u64,
    /// Blocks that could not be decompressed.
    pub decompress_errors: u64,
    /// Reads that the device below failed.
    pub io_errors: u64,
}

const ZFILE_KEYS: [&str; 10] = [
    "block_size",
    "blocks",
    "size",
    "read_sectors",
    "decompressed_bytes",
    "cache_hits",
    "reserve_waits",
    "crc_errors",
    "decompress_errors",
    "io_errors",
];

impl ZfileStatus {
    /// Parses what the target prints.
    pub fn parse(line: &str) -> Result<Self, StatusError> {
        let mut words = Words::new(line);
        let algorithm = words.take(|word| match word {
            "lz4" => Some(Algorithm::Lz4),
            "zstd" => Some(Algorithm::Zstd),
            _ => None,
        })?;
        let values = words.values(ZFILE_KEYS)?;
        words.finish()?;
        let [block_size, blocks, size, read_sectors, decompressed_bytes, rest @ ..] = values;
        let [cache_hits, reserve_waits, crc_errors, decompress_errors, io_errors] = rest;
        Ok(Self {
            algorithm,
            block_size,
            blocks,
            size,
            read_sectors,
            decompressed_bytes,
            cache_hits,
            reserve_waits,
            crc_errors,
            decompress_errors,
            io_errors,
        })
    }
}

impl fmt::Display for ZfileStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = [
            self.block_size,
            self.blocks,
            self.size,
            self.read_sectors,
            self.decompressed_bytes,
            self.cache_hits,
            self.reserve_waits,
            self.crc_errors,
            self.decompress_errors,
            self.io_errors,
        ];
        f.write_str(self.algorithm.name())?;
        for (key, value) in ZFILE_KEYS.iter().zip(values) {
            write!(f, " {key} {value}")?;
        }
        Ok(())
    }
}

/// Status of an `lsmt` target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LsmtStatus {
    /// Number of layers.
    pub layers: u64,
    /// Number of merged extents.
    pub extents: u64,
    /// Size of the disk.
    pub size: Sectors,
    /// Number of reads.
    pub reads: u64,
    /// Sectors that were read and are zeros: in no layer, or set to zero by one.
    pub zero_sectors: Sectors,
    /// Reads of a layer's last sector that is not full.
    pub tail_sectors: Sectors,
    /// Reads that failed because a layer's device failed them.
    pub io_errors: u64,
}

const LSMT_KEYS: [&str; 7] = [
    "layers",
    "extents",
    "size",
    "reads",
    "zero_sectors",
    "tail_sectors",
    "io_errors",
];

impl LsmtStatus {
    /// Parses what the target prints.
    pub fn parse(line: &str) -> Result<Self, StatusError> {
        let mut words = Words::new(line);
        let values = words.values(LSMT_KEYS)?;
        words.finish()?;
        let [layers, extents, size, reads, zero_sectors, tail_sectors, io_errors] = values;
        Ok(Self {
            layers,
            extents,
            size,
            reads,
            zero_sectors,
            tail_sectors,
            io_errors,
        })
    }
}

impl fmt::Display for LsmtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = [
            self.layers,
            self.extents,
            self.size,
            self.reads,
            self.zero_sectors,
            self.tail_sectors,
            self.io_errors,
        ];
        let mut separator = "";
        for (key, value) in LSMT_KEYS.iter().zip(values) {
            write!(f, "{separator}{key} {value}")?;
            separator = " ";
        }
        Ok(())
    }
}

/// The words of a line, counted.
struct Words<'a> {
    words: core::str::SplitAsciiWhitespace<'a>,
    taken: usize,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        Self {
            words: line.split_ascii_whitespace(),
            taken: 0,
        }
    }

    /// Takes a word that `parse` accepts.
    fn take<T>(&mut self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, StatusError> {
        let word = self.taken;
        self.taken = word.saturating_add(1);
        let value = self.words.next().and_then(parse);
        value.ok_or(StatusError { word })
    }

    /// Takes pairs of key and number.
    fn values<const N: usize>(&mut self, keys: [&str; N]) -> Result<[u64; N], StatusError> {
        let mut values = [0; N];
        for (value, key) in values.iter_mut().zip(keys) {
            self.take(|word| (word == key).then_some(()))?;
            *value = self.take(number)?;
        }
        Ok(values)
    }

    /// No word may be left.
    fn finish(mut self) -> Result<(), StatusError> {
        match self.words.next() {
            None => Ok(()),
            Some(_) => Err(StatusError { word: self.taken }),
        }
    }
}
