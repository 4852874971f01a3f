// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! ZFile: a seekable compressed file.
//!
//! ```text
//! header 512 B | block 0 [crc] | block 1 [crc] | … | index | trailer 512 B
//! ```
//!
//! Each block is `block_size` bytes of the original file, compressed on its own;
//! the index holds their stored lengths. [`ZFile::open`] reads header, trailer and
//! index, once, and keeps a [`JumpTable`] in the index's place.

#[cfg(not(MODULE))]
mod encode;
mod header;

pub use self::header::{
    flag, Algorithm, Header, BLOCK_CRC_LEN, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE, SIZE,
};

pub(super) use self::header::MAGIC;

use core::ops::{Range, RangeInclusive};

use self::header::at;
use super::fields::{array, LEN};
use super::jump::{Builder, JumpTable};
use super::platform::{for_each_chunk, read};
use super::{Bytes, Error, Invalid, Part, Platform, ReadAt, Rule};

/// Seed of a block's CRC.
const BLOCK_CRC_SEED: u32 = 100_007;

/// Bytes of an index entry.
const ENTRY_LEN: u64 = 4;

/// CRC of a block's compressed bytes, as the 4 bytes behind them hold it,
/// little-endian.
#[inline]
pub fn block_crc<P: Platform>(payload: &[u8]) -> u32 {
    P::crc32c(BLOCK_CRC_SEED, payload)
}

/// An opened ZFile: where its blocks are, and how to decode them.
///
/// # Invariants
///
/// * Every block lies between header and index; its stored length is within
///   [`Header::stored_len`] of the trailer.
/// * There are as many blocks as the original size needs.
pub struct ZFile<P: Platform> {
    header: Header,
    trailer: Header,
    table: JumpTable<P>,
}

impl<P: Platform> ZFile<P> {
    /// Opens the ZFile of exactly `length` bytes that `src` holds.
    ///
    /// Reads header, trailer and index, and nothing else.
    pub fn open<S: ReadAt + ?Sized>(src: &S, length: Bytes) -> Result<Self, Error<S::Error>> {
        let end = trailer_offset(length)?;
        let header = read_header::<P, S>(src, 0, Part::Header)?;
        let trailer = read_header::<P, S>(src, end, Part::Trailer)?;
        header.check_trailer(&trailer, end)?;
        let index = index_range(&trailer, end)?;
        let table = load_index(src, &trailer, index)?;
        Ok(Self {
            header,
            trailer,
            table,
        })
    }

    /// The header at the beginning of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The trailer, which counts where the two differ.
    pub fn trailer(&self) -> &Header {
        &self.trailer
    }

    /// Length of the original file.
    pub fn original_size(&self) -> Bytes {
        self.trailer.original_size
    }

    /// Bytes of the original file in each block but the last.
    pub fn block_size(&self) -> u32 {
        self.trailer.block_size
    }

    /// Number of blocks; 0 if the original file is empty.
    pub fn block_count(&self) -> u64 {
        self.trailer.blocks
    }

    /// How blocks are compressed.
    pub fn algorithm(&self) -> Algorithm {
        self.trailer.algorithm
    }

    /// A CRC of 4 bytes follows each block.
    pub fn verify(&self) -> bool {
        self.trailer.verify
    }

    /// Where the blocks are.
    pub fn table(&self) -> &JumpTable<P> {
        &self.table
    }

    /// Bytes of the original file in `block`: the block size, but for the last
    /// one, and 0 beyond it.
    #[inline]
    pub fn block_len(&self, block: u64) -> u32 {
        let size = self.block_size();
        let start = block.saturating_mul(size.into());
        let rest = self.original_size().saturating_sub(start);
        u32::try_from(rest).map_or(size, |rest| rest.min(size))
    }

    /// What the stored length of a block may be, its CRC included.
    pub fn stored_len(&self) -> RangeInclusive<u32> {
        self.trailer.stored_len()
    }
}

/// Where the trailer begins.
fn trailer_offset(length: Bytes) -> Result<Bytes, Invalid> {
    const LEAST: Bytes = 2 * SIZE;
    if length < LEAST {
        return Err(Invalid::new(Rule::ZfileLength, 0, length, LEAST));
    }
    Ok(length.saturating_sub(SIZE))
}

fn read_header<P: Platform, S: ReadAt + ?Sized>(
    src: &S,
    offset: Bytes,
    part: Part,
) -> Result<Header, Error<S::Error>> {
    let mut bytes = [0; LEN];
    read(src, offset, &mut bytes)?;
    Ok(Header::parse::<P>(&bytes, offset, part)?)
}

/// Where the index is, which has to end at `end`, where the trailer begins.
fn index_range(trailer: &Header, end: Bytes) -> Result<Range<Bytes>, Invalid> {
    let refuse = |rule, field: usize, found, expected| {
        let offset = end.saturating_add(field as Bytes);
        Err(Invalid::new(rule, offset, found, expected))
    };
    let start = trailer.index_offset;
    if start < SIZE {
        return refuse(Rule::ZfileIndexStart, at::INDEX_OFFSET, start, SIZE);
    }
    let bytes = trailer.blocks.saturating_mul(ENTRY_LEN);
    let found = start.saturating_add(bytes);
    if found != end {
        return refuse(Rule::ZfileIndexEnd, at::INDEX_SIZE, found, end);
    }
    let blocks = trailer.original_blocks();
    if trailer.blocks != blocks {
        return refuse(
            Rule::ZfileBlockCount,
            at::INDEX_SIZE,
            trailer.blocks,
            blocks,
        );
    }
    Ok(start..end)
}

/// Reads the index into a jump table, piece by piece.
///
/// A wrong checksum is reported before a wrong length, because it explains it.
fn load_index<P: Platform, S: ReadAt + ?Sized>(
    src: &S,
    trailer: &Header,
    index: Range<Bytes>,
) -> Result<JumpTable<P>, Error<S::Error>> {
    let mut entries = Entries::new(trailer, index.start)?;
    let mut crc = 0;
    for_each_chunk::<P, S>(src, index.clone(), |chunk| {
        crc = P::crc32c(crc, chunk);
        entries.take(chunk);
    })?;
    if trailer.has_digest() && crc != trailer.index_crc {
        let (found, expected) = (crc.into(), trailer.index_crc.into());
        return Err(Invalid::new(Rule::ZfileIndexDigest, index.start, found, expected).into());
    }
    Ok(entries.finish(index.start)?)
}

/// The index on its way into a jump table.
struct Entries<P: Platform> {
    table: Builder<P>,
    allowed: RangeInclusive<u32>,
    /// Offset of the next entry.
    at: Bytes,
    /// The first entry that is wrong.
    wrong: Option<Invalid>,
}

impl<P: Platform> Entries<P> {
    fn new<E>(trailer: &Header, at: Bytes) -> Result<Self, Error<E>> {
        let allowed = trailer.stored_len();
        let table = Builder::new(trailer.blocks, *allowed.end(), SIZE)?;
        Ok(Self {
            table,
            allowed,
            at,
            wrong: None,
        })
    }

    /// Takes the next entries, up to the first wrong one.
    fn take(&mut self, chunk: &[u8]) {
        if self.wrong.is_some() {
            return;
        }
        for entry in chunk.chunks_exact(ENTRY_LEN as usize) {
            let len = u32::from_le_bytes(array(entry, 0));
            if !self.allowed.contains(&len) {
                self.wrong = Some(self.refuse(len));
                return;
            }
            self.table.push(len);
            self.at = self.at.saturating_add(ENTRY_LEN);
        }
    }

    #[cold]
    fn refuse(&self, len: u32) -> Invalid {
        let (least, most) = (*self.allowed.start(), *self.allowed.end());
        let (rule, expected) = if len < least {
            (Rule::ZfileBlockShort, least)
        } else {
            (Rule::ZfileBlockLong, most)
        };
        Invalid {
            item: self.table.len(),
            ..Invalid::new(rule, self.at, len.into(), expected.into())
        }
    }

    /// The table, if all entries are right and the blocks end at `index`.
    fn finish(self, index: Bytes) -> Result<JumpTable<P>, Invalid> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let table = self.table.finish();
        if table.end() != index {
            let (found, expected) = (table.end(), index);
            return Err(Invalid::new(Rule::ZfileBlocksEnd, index, found, expected));
        }
        Ok(table)
    }
}
