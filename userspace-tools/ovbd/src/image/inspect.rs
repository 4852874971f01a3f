// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a file is, field by field.
//!
//! Shows as much as can be read: a layer whose index is broken still has a header to look at.

use std::path::{Path, PathBuf};

use overlaybd_format::lsmt::{self, Layer};
use overlaybd_format::zfile;
use overlaybd_format::SECTOR;
use serde::Serialize;

use super::blob::Blob;
use super::picture::Picture;
use super::source::{Source, Std};
use super::stack::Stack;
use super::zsource::ZSource;
use crate::error::ExitCode;
use crate::{Error, Result};

/// A file.
#[derive(Clone, Debug, Serialize)]
pub struct FileInfo {
    /// Its name.
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

/// A ZFile.
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
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes that the blocks take, checksums included.
    pub stored: u64,
    /// Stored length of the smallest block.
    pub smallest_block: u64,
    /// Stored length of the largest block.
    pub largest_block: u64,
    /// How many blocks are stored longer than they are.
    pub expanded_blocks: u64,
    /// The record at the beginning.
    pub header: ZfileRecord,
    /// The record at the end, which counts.
    pub trailer: ZfileRecord,
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
    pub path: PathBuf,
    /// Data within the disk.
    pub data: u64,
    /// Data that no higher layer hides.
    pub seen: u64,
    /// What it sets to zero.
    pub zeroed: u64,
}

/// Looks at the file `path`.
///
/// # Errors
/// Only if it cannot be read at all. What is wrong in it is in [`FileInfo::problem`].
pub fn inspect(path: &Path) -> Result<FileInfo> {
    let mut info = FileInfo {
        path: path.to_owned(),
        size: 0,
        kinds: Vec::new(),
        tar: None,
        zfile: None,
        lsmt: None,
        problem: None,
    };
    let blob = match Blob::open(path) {
        Ok(blob) => blob,
        Err(error) if is_about_content(&error) => {
            info.size = super::source::FileSource::open(path)?.size();
            info.problem = Some(error.to_string());
            return Ok(info);
        }
        Err(error) => return Err(error),
    };
    info.size = blob.size();
    info.fill(&blob);
    Ok(info)
}

/// Whether the bytes are wrong, as opposed to not there.
fn is_about_content(error: &Error) -> bool {
    error.exit_code() == ExitCode::Invalid
}

impl FileInfo {
    fn fill(&mut self, blob: &Blob) {
        if let Err(error) = blob.require_known() {
            self.problem = Some(error.to_string());
            return;
        }
        if let Some(payload) = blob.wrapper() {
            self.kinds.push("tar");
            self.tar = Some(TarInfo {
                payload_offset: payload.offset,
                payload_size: payload.length,
            });
        }
        if let Some(zfile) = blob.zfile() {
            self.kinds.push("zfile");
            self.zfile = Some(ZfileInfo::new(zfile, blob.stored().size()));
        }
        match blob.holds_lsmt() {
            Ok(true) => self.fill_lsmt(blob),
            Ok(false) => {}
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    fn fill_lsmt(&mut self, blob: &Blob) {
        self.kinds.push("lsmt");
        let layer = blob.layer();
        let content = blob.content();
        self.lsmt = blob.lsmt_header().map(|header| LsmtInfo {
            state: state(&header, layer.is_ok()),
            size: content.size(),
            header: LsmtRecord::new(&header, &*content, 0),
            trailer: layer.as_ref().ok().map(|layer| {
                let at = content.size().saturating_sub(lsmt::SIZE);
                LsmtRecord::new(layer.trailer(), &*content, at)
            }),
            index: layer.as_ref().ok().map(IndexInfo::new),
        });
        let writable = self
            .lsmt
            .as_ref()
            .is_some_and(|lsmt| lsmt.trailer.is_none() && lsmt.state != UNKNOWN);
        if let Err(error) = layer {
            // A writable layer has no trailer, and is none the worse for that.
            if !writable {
                self.problem = Some(error.to_string());
            }
        }
    }
}

/// The state of a layer that claims to be sealed and cannot be opened.
const UNKNOWN: &str = "broken";

fn state(header: &lsmt::Header, sealed: bool) -> &'static str {
    match (sealed, header.is_sealed(), header.is_data()) {
        (true, true, _) => "sealed",
        (true, false, _) => "sealed in place",
        (false, true, _) => UNKNOWN,
        (false, false, false) => "index file of a writable layer",
        (false, false, true) if header.flags & lsmt::flag::SPARSE != 0 => "sparse writable layer",
        (false, false, true) => "data file of a writable layer",
    }
}

impl ZfileInfo {
    fn new(source: &ZSource, size: u64) -> Self {
        let file = source.zfile();
        let table = file.table();
        let lengths = (0..file.block_count())
            .map(|block| (block, table.start(block + 1) - table.start(block)));
        let (mut smallest, mut largest, mut expanded) = (u64::MAX, 0, 0);
        for (block, length) in lengths {
            smallest = smallest.min(length);
            largest = largest.max(length);
            expanded += u64::from(length > u64::from(file.block_len(block)));
        }
        Self {
            algorithm: file.algorithm().name(),
            block_size: file.block_size(),
            checksums: file.verify(),
            original_size: file.original_size(),
            size,
            blocks: file.block_count(),
            stored: table.end() - zfile::SIZE,
            smallest_block: if largest == 0 { 0 } else { smallest },
            largest_block: largest,
            expanded_blocks: expanded,
            header: ZfileRecord::new(file.header()),
            trailer: ZfileRecord::new(file.trailer()),
        }
    }
}

impl ZfileRecord {
    fn new(record: &zfile::Header) -> Self {
        use zfile::flag::{DATA, DIGEST, HEADER, INDEX_COMPRESSED, OVERWRITTEN, SEALED};
        let names = [
            (HEADER, "header"),
            (DATA, "data"),
            (SEALED, "sealed"),
            (OVERWRITTEN, "overwritten"),
            (DIGEST, "digest"),
            (INDEX_COMPRESSED, "index compressed"),
        ];
        Self {
            flags: record.flags,
            flag_names: flag_names(record.flags, &names),
            digest: record.digest,
            index_offset: record.index_offset,
            index_size: record.blocks,
            original_size: record.original_size,
            index_crc: record.index_crc,
            block_size: record.block_size,
            algorithm: record.algorithm.number(),
            level: record.level,
            verify: record.verify,
        }
    }
}

impl LsmtRecord {
    /// `record` stands at byte `at` of `content`, where its tag is, too.
    fn new(record: &lsmt::Header, content: &dyn Source, at: u64) -> Self {
        use lsmt::flag::{DATA, HEADER, SEALED, SPARSE};
        let names = [
            (HEADER.into(), "header"),
            (DATA.into(), "data"),
            (SEALED.into(), "sealed"),
            (SPARSE.into(), "sparse"),
        ];
        let mut bytes = [0; 512];
        let tag = match content.read_exact_at(at, &mut bytes) {
            Ok(()) => lsmt::user_tag(&bytes),
            Err(_) => &[],
        };
        Self {
            flags: record.flags,
            flag_names: flag_names(record.flags.into(), &names),
            index_offset: record.index_offset,
            index_size: record.index_size,
            virtual_size: record.virtual_size,
            uuid: record.uuid.map(|uuid| uuid.to_string()),
            parent_uuid: record.parent_uuid.map(|uuid| uuid.to_string()),
            version: (record.version, record.sub_version),
            user_tag: String::from_utf8_lossy(tag).into_owned(),
        }
    }
}

/// Names of the bits that are set; numbers for those without a name.
fn flag_names(flags: u64, names: &[(u64, &str)]) -> Vec<String> {
    (0..u64::BITS)
        .filter(|bit| flags >> bit & 1 != 0)
        .map(
            |bit| match names.iter().find(|(flag, _)| *flag == 1 << bit) {
                Some((_, name)) => (*name).to_owned(),
                None => format!("bit {bit}"),
            },
        )
        .collect()
}

impl IndexInfo {
    fn new(layer: &Layer<Std>) -> Self {
        let entries = layer.entries();
        let sectors = |zeroed: bool| -> u64 {
            let of_kind = entries.iter().filter(|e| e.zeroed() == zeroed);
            of_kind.map(|entry| entry.len()).sum()
        };
        let lengths = entries.iter().map(|entry| entry.len());
        let size = layer.virtual_size();
        let beyond = |start: u64| size != 0 && start >= size.div_ceil(SECTOR);
        Self {
            extents: entries.len() as u64,
            zeroed_extents: entries.iter().filter(|e| e.zeroed()).count() as u64,
            padding: layer.trailer().index_size - entries.len() as u64,
            data: sectors(false) * SECTOR,
            zeroed: sectors(true) * SECTOR,
            shortest: lengths.clone().min().unwrap_or(0) * SECTOR,
            longest: lengths.max().unwrap_or(0) * SECTOR,
            beyond: entries.iter().filter(|e| beyond(e.start())).count() as u64,
            partial_tail: layer.partial_tail().map(|(_, bytes)| bytes),
        }
    }
}

impl ImageInfo {
    /// The disk that `stack` makes.
    pub fn new(stack: &Stack) -> Self {
        let picture = Picture::new(stack);
        let layer = |(share, blob): (&super::picture::LayerShare, &Blob)| LayerInfo {
            path: blob.path().to_owned(),
            data: share.data,
            seen: share.seen,
            zeroed: share.zeroed,
        };
        Self {
            size: picture.size(),
            extents: stack.map().data_segments(),
            index_memory: stack.map().memory() as u64,
            layers: picture
                .layers
                .iter()
                .zip(stack.blobs())
                .map(layer)
                .collect(),
            warnings: stack.warnings(),
        }
    }
}
