// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a file is, field by field.
//!
//! Shows as much as can be read: a layer whose index is broken still has a header to look at.

mod info;

use std::path::Path;
use std::sync::Arc;

use overlaybd_format::blob::{Blob as Detected, Kind};
use overlaybd_format::lsmt::{self, Layer};
use overlaybd_format::tar::Payload;
use overlaybd_format::zfile::{self, Header, ZFile};
use overlaybd_format::{Part, SECTOR};

use super::blob::Blob;
use super::picture::{LayerShare, Picture};
use super::source::{self, FileSource, SharedSource, Source, Std};
use super::stack::Stack;
use super::zsource::ZSource;
use crate::error::ExitCode;
use crate::verity::look::look;
use crate::{Error, Result};

pub use self::info::{
    BlockInfo, FileInfo, ImageInfo, IndexInfo, LayerInfo, LsmtInfo, LsmtRecord, TarInfo, ZfileInfo,
    ZfileRecord,
};

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
        verity: None,
        problem: None,
    };
    match look(path) {
        Ok(sealed) => info.verity = sealed,
        Err(error) if is_about_content(&error) => info.problem = Some(error.to_string()),
        Err(error) => return Err(error),
    }
    let blob = match Blob::open(path) {
        Ok(blob) => blob,
        Err(error) if is_about_content(&error) => {
            info.problem = Some(error.to_string());
            info.fill_broken()?;
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
            self.add_tar(payload);
        }
        if let Some(zfile) = blob.zfile() {
            self.kinds.push("zfile");
            self.zfile = ZfileInfo::of_sound(zfile, blob.stored().size());
        }
        match blob.holds_lsmt() {
            Ok(true) => self.fill_lsmt(blob),
            Ok(false) => {}
            Err(error) => self.problem = Some(error.to_string()),
        }
    }

    /// What can be told of a file that cannot be opened: which ZFile fields are sound.
    fn fill_broken(&mut self) -> Result<()> {
        let file: SharedSource = Arc::new(FileSource::open(&self.path)?);
        self.size = file.size();
        let Ok(detected) = Detected::detect(&&*file, self.size) else {
            return Ok(());
        };
        let payload = detected.payload;
        if detected.wrapped {
            self.add_tar(payload);
        }
        if detected.kind == Kind::Zfile {
            self.kinds.push("zfile");
            let path = self.path.clone();
            let stored = source::Part::new(file, path, payload.offset, payload.length);
            self.zfile = ZfileInfo::of_broken(&stored);
        }
        Ok(())
    }

    fn add_tar(&mut self, payload: Payload) {
        self.kinds.push("tar");
        self.tar = Some(TarInfo {
            payload_offset: payload.offset,
            payload_size: payload.length,
        });
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
    fn new(header: Option<Header>, trailer: Option<Header>, size: u64) -> Option<Self> {
        let record = trailer.or(header)?;
        Some(Self {
            algorithm: record.algorithm.name(),
            block_size: record.block_size,
            checksums: record.verify,
            original_size: record.original_size,
            size,
            header: header.as_ref().map(ZfileRecord::new),
            trailer: trailer.as_ref().map(ZfileRecord::new),
            blocks: None,
        })
    }

    fn of_sound(source: &ZSource, size: u64) -> Option<Self> {
        let file = source.zfile();
        let info = Self::new(Some(*file.header()), Some(*file.trailer()), size)?;
        Some(Self {
            blocks: Some(BlockInfo::new(file)),
            ..info
        })
    }

    /// What can be read of a ZFile that cannot be opened.
    fn of_broken(stored: &dyn Source) -> Option<Self> {
        let record = |at: u64, part| {
            let mut bytes = [0; 512];
            stored.read_exact_at(at, &mut bytes).ok()?;
            Header::parse::<Std>(&bytes, at, part).ok()
        };
        let trailer = stored.size().checked_sub(zfile::SIZE);
        Self::new(
            record(0, Part::Header),
            trailer.and_then(|at| record(at, Part::Trailer)),
            stored.size(),
        )
    }
}

impl BlockInfo {
    fn new(file: &ZFile<Std>) -> Self {
        let table = file.table();
        let (mut smallest, mut largest, mut expanded) = (u64::MAX, 0, 0);
        for block in 0..file.block_count() {
            let length = table.start(block + 1) - table.start(block);
            smallest = smallest.min(length);
            largest = largest.max(length);
            expanded += u64::from(length > u64::from(file.block_len(block)));
        }
        Self {
            count: file.block_count(),
            stored: table.end() - zfile::SIZE,
            smallest: smallest.min(largest),
            largest,
            expanded,
        }
    }
}

impl ZfileRecord {
    fn new(record: &Header) -> Self {
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
        let layer = |(share, blob): (&LayerShare, &Blob)| LayerInfo {
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
