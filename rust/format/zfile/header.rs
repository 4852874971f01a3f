// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Header and trailer of a ZFile.

use core::ops::RangeInclusive;

use super::super::fields::{Fields, Magic, LEN};
use super::super::{Bytes, Invalid, Part, Platform, Rule};

/// Length of header and trailer on disk.
pub const SIZE: Bytes = LEN as Bytes;

/// Bits of [`Header::flags`].
pub mod flag {
    /// Set in a header, clear in a trailer.
    pub const HEADER: u64 = 1 << 0;
    /// A data file.
    pub const DATA: u64 = 1 << 1;
    /// The file is complete; set in a trailer.
    pub const SEALED: u64 = 1 << 2;
    /// The header was overwritten with the trailer's fields.
    pub const OVERWRITTEN: u64 = 1 << 3;
    /// `digest` and `index_crc` count.
    pub const DIGEST: u64 = 1 << 4;
    /// The index is compressed; not supported.
    pub const INDEX_COMPRESSED: u64 = 1 << 5;
}

/// Offsets of the fields.
pub(super) mod at {
    pub(crate) const SIZE: usize = 24;
    pub(crate) const DIGEST: usize = 28;
    pub(crate) const FLAGS: usize = 32;
    pub(crate) const INDEX_OFFSET: usize = 40;
    pub(crate) const INDEX_SIZE: usize = 48;
    pub(crate) const ORIGINAL_SIZE: usize = 56;
    pub(crate) const INDEX_CRC: usize = 64;
    pub(crate) const BLOCK_SIZE: usize = 72;
    pub(crate) const ALGORITHM: usize = 76;
    pub(crate) const LEVEL: usize = 77;
    pub(crate) const USE_DICT: usize = 78;
    pub(crate) const DICT_SIZE: usize = 84;
    pub(crate) const VERIFY: usize = 88;
}

/// Both magic numbers.
pub(crate) const MAGIC: Magic = *b"ZFile\0\x01\0tuji.yyf@Alibaba";

/// Value of the size field.
pub(super) const FIELDS_SIZE: u32 = 96;

/// Smallest block size, bytes.
pub const MIN_BLOCK_SIZE: u32 = 4096;

/// Largest block size, bytes.
pub const MAX_BLOCK_SIZE: u32 = 65536;

/// Bytes of the CRC behind a block.
pub const BLOCK_CRC_LEN: u32 = 4;

/// How blocks are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// LZ4, plain block format.
    Lz4,
    /// zstd, one frame a block.
    Zstd,
}

impl Algorithm {
    /// Lower-case name, as in status lines.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Lz4 => "lz4",
            Algorithm::Zstd => "zstd",
        }
    }

    /// The number that stands for it in a header.
    pub fn number(self) -> u8 {
        match self {
            Algorithm::Lz4 => 1,
            Algorithm::Zstd => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Algorithm::Lz4),
            2 => Some(Algorithm::Zstd),
            _ => None,
        }
    }

    /// The most bytes that `len` bytes can be compressed to, for a `len` of up
    /// to [`MAX_BLOCK_SIZE`].
    pub const fn bound(self, len: u32) -> u32 {
        /// Below this length, small inputs of zstd have an additional margin.
        const SMALL: u32 = 128 * 1024;
        match self {
            Algorithm::Lz4 => len.saturating_add(len / 255).saturating_add(16),
            Algorithm::Zstd => {
                let margin = SMALL.saturating_sub(len) / 2048;
                len.saturating_add(len / 256).saturating_add(margin)
            }
        }
    }
}

/// A header or trailer; every field is within what the format allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// See [`flag`]; unknown bits are kept and mean nothing.
    pub flags: u64,
    /// The digest as it was stored; 0 without [`flag::DIGEST`].
    pub digest: u32,
    /// Where the index begins.
    pub index_offset: Bytes,
    /// Number of blocks, which is that of index entries.
    pub blocks: u64,
    /// Length of the original file.
    pub original_size: Bytes,
    /// CRC of the index.
    pub index_crc: u32,
    /// Bytes of the original file in a block: a power of two, 4096 to 65536.
    pub block_size: u32,
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Compression level; only a note.
    pub level: u8,
    /// A CRC follows each block.
    pub verify: bool,
}

impl Header {
    /// Parses a header or trailer that was read at byte `offset` of the file.
    ///
    /// Checks everything that can be checked without the rest of the file. The
    /// index fields of a header that was not overwritten mean nothing.
    pub fn parse<P: Platform>(
        bytes: &[u8; LEN],
        offset: Bytes,
        part: Part,
    ) -> Result<Self, Invalid> {
        let fields = Fields::new(bytes, offset);
        let flags = check_kind(&fields, part)?;
        check_digest::<P>(bytes, &fields, flags, part)?;
        check_dictionary(&fields)?;
        Ok(Self {
            flags,
            digest: fields.u32(at::DIGEST),
            index_offset: fields.u64(at::INDEX_OFFSET),
            blocks: fields.u64(at::INDEX_SIZE),
            original_size: fields.u64(at::ORIGINAL_SIZE),
            index_crc: fields.u32(at::INDEX_CRC),
            block_size: block_size(&fields)?,
            algorithm: algorithm(&fields)?,
            level: fields.u8(at::LEVEL),
            verify: verify(&fields)?,
        })
    }

    /// The header holds the trailer's fields, too.
    pub fn is_overwritten(&self) -> bool {
        self.flags & flag::OVERWRITTEN != 0
    }

    /// Digest and index CRC count; not so in files from before they existed.
    pub fn has_digest(&self) -> bool {
        self.flags & flag::DIGEST != 0
    }

    /// Bytes behind each block's compressed data.
    pub fn block_crc_len(&self) -> u32 {
        if self.verify {
            BLOCK_CRC_LEN
        } else {
            0
        }
    }

    /// Number of blocks that the original file needs.
    pub fn original_blocks(&self) -> u64 {
        // A power of two: no division, and nothing to divide by zero.
        let shift = self.block_size.trailing_zeros();
        let rest = self.original_size & u64::from(self.block_size).wrapping_sub(1);
        let blocks = self.original_size.wrapping_shr(shift);
        blocks.saturating_add(u64::from(rest != 0))
    }

    /// What the stored length of a block may be, its CRC included.
    pub fn stored_len(&self) -> RangeInclusive<u32> {
        let crc = self.block_crc_len();
        let most = self.algorithm.bound(self.block_size).saturating_add(crc);
        crc.saturating_add(1)..=most
    }

    /// Refuses a `trailer` that contradicts this header.
    ///
    /// Of a header that was not overwritten only those fields count without which
    /// the blocks cannot be decoded.
    pub(super) fn check_trailer(&self, trailer: &Header, offset: Bytes) -> Result<(), Invalid> {
        let first = if self.is_overwritten() { 0 } else { 5 };
        let pairs = self.fields().into_iter().zip(trailer.fields());
        for ((field, expected), (_, found)) in pairs.skip(first) {
            if found != expected {
                let offset = offset.saturating_add(field as Bytes);
                let rule = Rule::ZfileTrailerDiffers;
                return Err(Invalid::new(rule, offset, found, expected));
            }
        }
        Ok(())
    }

    /// Offset and value of each field that header and trailer share; the last
    /// three are known when a file is begun.
    fn fields(&self) -> [(usize, u64); 8] {
        [
            (at::INDEX_OFFSET, self.index_offset),
            (at::INDEX_SIZE, self.blocks),
            (at::ORIGINAL_SIZE, self.original_size),
            (at::INDEX_CRC, self.index_crc.into()),
            (at::LEVEL, self.level.into()),
            (at::BLOCK_SIZE, self.block_size.into()),
            (at::ALGORITHM, self.algorithm.number().into()),
            (at::VERIFY, self.verify.into()),
        ]
    }
}

/// Checks what makes the record a header or a trailer, and returns its flags.
fn check_kind(fields: &Fields<'_>, part: Part) -> Result<u64, Invalid> {
    let (magic, kind) = match part {
        Part::Header => (Rule::ZfileMagic, HEADER_FLAGS),
        Part::Trailer => (Rule::ZfileTrailerMagic, TRAILER_FLAGS),
    };
    fields.check_magic(&MAGIC, magic)?;
    fields.check_u32(Rule::ZfileRecordSize, at::SIZE, FIELDS_SIZE)?;
    let flags = fields.u64(at::FLAGS);
    for &(rule, flag, set) in kind {
        let right = if set { flags | flag } else { flags & !flag };
        if flags != right {
            return Err(fields.refuse(rule, at::FLAGS, flags, right));
        }
    }
    Ok(flags)
}

/// A flag, whether it has to be set or clear, and the rule that says so.
type FlagRule = (Rule, u64, bool);

const HEADER_FLAGS: &[FlagRule] = &[
    (Rule::ZfileHeaderFlag, flag::HEADER, true),
    (Rule::ZfileIndexCompressed, flag::INDEX_COMPRESSED, false),
];

const TRAILER_FLAGS: &[FlagRule] = &[
    (Rule::ZfileTrailerFlag, flag::HEADER, false),
    (Rule::ZfileDataFlag, flag::DATA, true),
    (Rule::ZfileSealedFlag, flag::SEALED, true),
    (Rule::ZfileIndexCompressed, flag::INDEX_COMPRESSED, false),
];

fn check_digest<P: Platform>(
    bytes: &[u8; LEN],
    fields: &Fields<'_>,
    flags: u64,
    part: Part,
) -> Result<(), Invalid> {
    let rule = match part {
        Part::Header => Rule::ZfileDigest,
        Part::Trailer => Rule::ZfileTrailerDigest,
    };
    if flags & flag::DIGEST == 0 {
        return Ok(());
    }
    fields.check_u32(rule, at::DIGEST, digest::<P>(bytes))
}

/// CRC of a header or trailer, with its digest field taken as zero.
pub(super) fn digest<P: Platform>(bytes: &[u8; LEN]) -> u32 {
    let before = bytes.get(..at::DIGEST).unwrap_or_default();
    let after = bytes.get(at::DIGEST + 4..).unwrap_or_default();
    let crc = P::crc32c(0, before);
    let crc = P::crc32c(crc, &[0; 4]);
    P::crc32c(crc, after)
}

fn check_dictionary(fields: &Fields<'_>) -> Result<(), Invalid> {
    let used = fields.u8(at::USE_DICT);
    if used != 0 {
        return Err(fields.refuse(Rule::ZfileDictionary, at::USE_DICT, used.into(), 0));
    }
    fields.check_u32(Rule::ZfileDictionary, at::DICT_SIZE, 0)
}

fn block_size(fields: &Fields<'_>) -> Result<u32, Invalid> {
    let size = fields.u32(at::BLOCK_SIZE);
    if !size.is_power_of_two() || !(MIN_BLOCK_SIZE..=MAX_BLOCK_SIZE).contains(&size) {
        let nearest = size.clamp(MIN_BLOCK_SIZE, MAX_BLOCK_SIZE);
        return Err(fields.refuse(
            Rule::ZfileBlockSize,
            at::BLOCK_SIZE,
            size.into(),
            nearest.into(),
        ));
    }
    Ok(size)
}

fn algorithm(fields: &Fields<'_>) -> Result<Algorithm, Invalid> {
    let number = fields.u8(at::ALGORITHM);
    Algorithm::from_number(number)
        .ok_or_else(|| fields.refuse(Rule::ZfileAlgorithm, at::ALGORITHM, number.into(), 1))
}

fn verify(fields: &Fields<'_>) -> Result<bool, Invalid> {
    match fields.u8(at::VERIFY) {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(fields.refuse(Rule::ZfileVerify, at::VERIFY, other.into(), 1)),
    }
}
