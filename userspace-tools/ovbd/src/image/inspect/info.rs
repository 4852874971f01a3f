// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What there is to know about files and images, as it goes into JSON.

use std::path::PathBuf;

use serde::Serialize;

use crate::output::paths;
use crate::verity::seal::Sealed;

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct FileInfo {
    /// Its name.
    #[serde(serialize_with = "paths::one")]
    pub path: PathBuf,
    /// Its length, bytes.
    pub size: u64,
    /// The layers of wrapping, outermost first: "tar", "zfile", "lsmt"; empty if it is none.
    pub kinds: Vec<&'static str>,
    /// The tar around it.
    pub tar: Option<TarInfo>,
    /// The ZFile.
    pub zfile: Option<ZfileInfo>,
    /// The LSMT file.
    pub lsmt: Option<LsmtInfo>,
    /// The hash tree beside it.
    pub verity: Option<Sealed>,
    /// Why there is no more to see.
    pub problem: Option<String>,
}

/// A tar around a payload.
#[derive(Clone, Debug, Serialize)]
pub struct TarInfo {
    /// Where the payload begins, bytes.
    pub payload_offset: u64,
    /// Its length, bytes.
    pub payload_size: u64,
}

/// A ZFile. What its records agree on comes from the trailer, or from the header if that is broken.
#[derive(Clone, Debug, Serialize)]
pub struct ZfileInfo {
    /// "lz4" or "zstd".
    pub algorithm: &'static str,
    /// Bytes of the original a block.
    pub block_size: u32,
    /// A checksum follows each block.
    pub checksums: bool,
    /// Length of the original, bytes.
    pub original_size: u64,
    /// Length of the ZFile, bytes.
    pub size: u64,
    /// The record at the beginning, if it is sound.
    pub header: Option<ZfileRecord>,
    /// The record at the end, which counts, if it is sound.
    pub trailer: Option<ZfileRecord>,
    /// The blocks, if all of header, trailer and index are sound.
    pub blocks: Option<BlockInfo>,
}

/// The blocks of a ZFile.
#[derive(Clone, Debug, Serialize)]
pub struct BlockInfo {
    /// Number of blocks.
    pub count: u64,
    /// Bytes that the blocks take, checksums included.
    pub stored: u64,
    /// Stored length of the smallest block.
    pub smallest: u64,
    /// Stored length of the largest block.
    pub largest: u64,
    /// How many blocks are stored longer than they are.
    pub expanded: u64,
}

/// Header or trailer of a ZFile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ZfileRecord {
    /// The bits.
    pub flags: u64,
    /// Their names.
    pub flag_names: Vec<String>,
    /// Checksum of the record.
    pub digest: u32,
    /// Where the index begins, bytes.
    pub index_offset: u64,
    /// Number of blocks.
    pub index_size: u64,
    /// Length of the original, bytes.
    pub original_size: u64,
    /// Checksum of the index.
    pub index_crc: u32,
    /// Bytes of the original a block.
    pub block_size: u32,
    /// 1: LZ4, 2: zstd.
    pub algorithm: u8,
    /// A note of the compression level.
    pub level: u8,
    /// A checksum follows each block.
    pub verify: bool,
}

/// An LSMT file.
#[derive(Clone, Debug, Serialize)]
pub struct LsmtInfo {
    /// "sealed", or which file of which kind of writable layer.
    pub state: &'static str,
    /// Its length, bytes.
    pub size: u64,
    /// The record at the beginning.
    pub header: LsmtRecord,
    /// The record at the end of a sealed layer, which counts.
    pub trailer: Option<LsmtRecord>,
    /// The index of a sealed layer.
    pub index: Option<IndexInfo>,
}

/// Header or trailer of an LSMT file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LsmtRecord {
    /// The bits.
    pub flags: u32,
    /// Their names.
    pub flag_names: Vec<String>,
    /// Where the index begins, bytes.
    pub index_offset: u64,
    /// Number of entries, padding included.
    pub index_size: u64,
    /// Size of the disk, bytes.
    pub virtual_size: u64,
    /// Name of the layer.
    pub uuid: Option<String>,
    /// Name of the layer below.
    pub parent_uuid: Option<String>,
    /// Version and sub-version.
    pub version: (u8, u8),
    /// Free text, as far as it is text.
    pub user_tag: String,
}

/// What an index holds.
#[derive(Clone, Debug, Serialize)]
pub struct IndexInfo {
    /// Entries that are not padding.
    pub extents: u64,
    /// Those of them that set their range to zero.
    pub zeroed_extents: u64,
    /// Entries that mean nothing.
    pub padding: u64,
    /// Bytes of the disk that the layer has data for.
    pub data: u64,
    /// Bytes of the disk that it sets to zero.
    pub zeroed: u64,
    /// Bytes of the shortest extent.
    pub shortest: u64,
    /// Bytes of the longest extent.
    pub longest: u64,
    /// Extents that begin beyond the disk and cannot be seen.
    pub beyond: u64,
    /// Bytes of data in the last sector of the data, if it is not full.
    pub partial_tail: Option<u16>,
}

/// The disk that layers make.
#[derive(Clone, Debug, Serialize)]
pub struct ImageInfo {
    /// Size of the disk, bytes.
    pub size: u64,
    /// Extents of the merged index that have data.
    pub extents: u64,
    /// Bytes that the merged index takes in the kernel.
    pub index_memory: u64,
    /// The layers, bottom first.
    pub layers: Vec<LayerInfo>,
    /// What is odd.
    pub warnings: Vec<String>,
}

/// What a layer is to the disk. Bytes.
#[derive(Clone, Debug, Serialize)]
pub struct LayerInfo {
    /// Its file.
    #[serde(serialize_with = "paths::one")]
    pub path: PathBuf,
    /// Data within the disk.
    pub data: u64,
    /// Data that no higher layer hides.
    pub seen: u64,
    /// What it sets to zero.
    pub zeroed: u64,
}
