// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The original file inside a ZFile, as a source: any bytes of it, checked and decompressed.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlaybd_format::zfile::{block_crc, ZFile, BLOCK_CRC_LEN};
use overlaybd_format::ReadAt;

use super::codec::{CodecError, Decompressor};
use super::source::{within, ReadError, SharedSource, Source, Std};

/// The most original bytes that one read of the file covers.
const PIECE: u64 = 1 << 20;

/// How many decompressed blocks are kept for reads of parts of them.
const RECENT_BLOCKS: usize = 16;

/// What is wrong with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockFault {
    /// The checksum behind the block differs from that of its bytes.
    Checksum {
        /// What the file says.
        found: u32,
        /// What the compressed bytes have.
        expected: u32,
    },
    /// The checksum is right or absent, and yet the block does not decompress.
    Codec(CodecError),
}

impl fmt::Display for BlockFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checksum { found, expected } => {
                write!(
                    f,
                    "checksum {found:#010x} where its bytes have {expected:#010x}"
                )
            }
            Self::Codec(error) => error.fmt(f),
        }
    }
}

/// A corrupt block, with its place in the file that the user named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: block {block} at byte {offset}: {fault}", path = path.display())]
pub struct BlockError {
    /// The file.
    pub path: PathBuf,
    /// Number of the block, from 0.
    pub block: u64,
    /// Byte offset of the block's stored form in the file, a tar wrapper included.
    pub offset: u64,
    /// What is wrong.
    pub fault: BlockFault,
}

/// A ZFile's original file.
pub struct ZSource {
    stored: SharedSource,
    path: PathBuf,
    base: u64,
    zfile: ZFile<Std>,
    decompressors: Mutex<Vec<Decompressor>>,
    recent: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
}

impl ZSource {
    /// Opens the ZFile that is all of `stored`, which begins at byte `base` of the file `path`.
    pub fn open(
        stored: SharedSource,
        path: PathBuf,
        base: u64,
    ) -> Result<Self, overlaybd_format::Error<ReadError>> {
        let zfile = ZFile::open(&&*stored, stored.size())?;
        Ok(Self {
            stored,
            path,
            base,
            zfile,
            decompressors: Mutex::default(),
            recent: Mutex::default(),
        })
    }

    /// Header, trailer and jump table.
    pub fn zfile(&self) -> &ZFile<Std> {
        &self.zfile
    }

    /// Byte offset of `block`'s stored form in the file that the user named.
    pub fn block_offset(&self, block: u64) -> u64 {
        self.base.saturating_add(self.zfile.table().start(block))
    }

    /// How many original bytes `block` holds: the block size, less in the last block.
    pub fn block_length(&self, block: u64) -> usize {
        self.zfile.block_len(block) as usize
    }

    /// How many blocks one read of the file should cover.
    pub fn blocks_a_piece(&self) -> u64 {
        (PIECE / u64::from(self.zfile.block_size())).max(1)
    }

    /// Reads the stored form of `blocks`, which lie back to back, into `stored`.
    pub fn read_stored(&self, blocks: Range<u64>, stored: &mut Vec<u8>) -> Result<(), ReadError> {
        let extent = self.zfile.table().extent(blocks);
        let length = extent.end.saturating_sub(extent.start);
        stored.resize(length as usize, 0);
        self.stored.read_exact_at(extent.start, stored)
    }

    /// The stored form of `block` among `stored`, which `read_stored` filled from block `first`.
    pub fn stored_block<'a>(&self, stored: &'a [u8], first: u64, block: u64) -> &'a [u8] {
        let table = self.zfile.table();
        let start = table.start(first);
        let from = table.start(block).saturating_sub(start) as usize;
        let to = table.start(block.saturating_add(1)).saturating_sub(start) as usize;
        stored.get(from..to).unwrap_or_default()
    }

    /// Checks the stored form of `block` and decompresses it into `content`, which is as long as
    /// [`block_length`](Self::block_length) says.
    pub fn decode(
        &self,
        decompressor: &mut Decompressor,
        block: u64,
        stored: &[u8],
        content: &mut [u8],
    ) -> Result<(), BlockError> {
        let compressed = if self.zfile.verify() {
            check_crc(stored)
        } else {
            Ok(stored)
        };
        compressed
            .and_then(|bytes| {
                decompressor
                    .decompress(bytes, content)
                    .map_err(BlockFault::Codec)
            })
            .map_err(|fault| BlockError {
                path: self.path.clone(),
                block,
                offset: self.block_offset(block),
                fault,
            })
    }

    /// Calls `work` with a decompressor that no other thread has.
    pub fn with_decompressor<T>(
        &self,
        work: impl FnOnce(&mut Decompressor) -> T,
    ) -> Result<T, ReadError> {
        let kept = lock(&self.decompressors).pop();
        let mut decompressor = match kept {
            Some(decompressor) => decompressor,
            None => Decompressor::new(self.zfile.algorithm()).map_err(|source| ReadError::Io {
                path: self.path.clone(),
                offset: self.base,
                length: 0,
                source,
            })?,
        };
        let result = work(&mut decompressor);
        lock(&self.decompressors).push(decompressor);
        Ok(result)
    }

    fn recent(&self, block: u64) -> Option<Arc<[u8]>> {
        let recent = lock(&self.recent);
        let hit = recent.iter().find(|(number, _)| *number == block);
        hit.map(|(_, content)| Arc::clone(content))
    }

    fn remember(&self, block: u64, content: Arc<[u8]>) {
        let mut recent = lock(&self.recent);
        recent.truncate(RECENT_BLOCKS - 1);
        recent.push_front((block, content));
    }

    /// Copies from the middle of `block`, through the recent blocks.
    fn read_within(
        &self,
        decompressor: &mut Decompressor,
        block: u64,
        stored: &[u8],
        from: usize,
        buf: &mut [u8],
    ) -> Result<(), BlockError> {
        let mut content = vec![0; self.block_length(block)];
        self.decode(decompressor, block, stored, &mut content)?;
        copy_from(&content, from, buf);
        self.remember(block, content.into());
        Ok(())
    }

    /// Fills `buf` with what begins at `offset` and lies in the blocks of one piece.
    fn read_piece(
        &self,
        decompressor: &mut Decompressor,
        offset: u64,
        mut buf: &mut [u8],
    ) -> Result<(), ReadError> {
        let size = u64::from(self.zfile.block_size());
        let first = offset / size;
        let last = (offset + buf.len() as u64 - 1) / size;
        let mut stored = Vec::new();
        self.read_stored(first..last + 1, &mut stored)?;
        let mut from = (offset % size) as usize;
        for block in first..=last {
            let length = self.block_length(block) - from;
            let (part, rest) = buf.split_at_mut(length.min(buf.len()));
            let bytes = self.stored_block(&stored, first, block);
            if part.len() == self.block_length(block) {
                self.decode(decompressor, block, bytes, part)?;
            } else {
                self.read_within(decompressor, block, bytes, from, part)?;
            }
            (buf, from) = (rest, 0);
        }
        Ok(())
    }
}

impl ReadAt for ZSource {
    type Error = ReadError;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if !within(self.size(), offset, buf.len()) {
            return Err(ReadError::End {
                path: self.path.clone(),
                offset,
                length: buf.len(),
                end: self.size(),
            });
        }
        let size = u64::from(self.zfile.block_size());
        let (mut at, mut buf) = (offset, buf);
        while !buf.is_empty() {
            if let Some(content) = self.recent(at / size) {
                let part = copy_from(&content, (at % size) as usize, buf);
                buf = &mut buf[part..];
                at += part as u64;
                continue;
            }
            let piece = (PIECE - at % size).min(buf.len() as u64) as usize;
            let (part, rest) = buf.split_at_mut(piece);
            self.with_decompressor(|decompressor| self.read_piece(decompressor, at, part))??;
            at += piece as u64;
            buf = rest;
        }
        Ok(())
    }
}

impl Source for ZSource {
    fn size(&self) -> u64 {
        self.zfile.original_size()
    }
}

/// The compressed bytes of a stored block, if the checksum behind them is theirs.
fn check_crc(stored: &[u8]) -> Result<&[u8], BlockFault> {
    const CRC_LEN: usize = BLOCK_CRC_LEN as usize;
    let Some((bytes, crc)) = stored.split_last_chunk::<CRC_LEN>() else {
        return Err(BlockFault::Codec(CodecError::Malformed));
    };
    let found = u32::from_le_bytes(*crc);
    let expected = block_crc::<Std>(bytes);
    if found == expected {
        Ok(bytes)
    } else {
        Err(BlockFault::Checksum { found, expected })
    }
}

/// Copies what `content` has from `from` on into the front of `buf`; returns how much.
fn copy_from(content: &[u8], from: usize, buf: &mut [u8]) -> usize {
    let available = content.get(from..).unwrap_or_default();
    let length = available.len().min(buf.len());
    buf[..length].copy_from_slice(&available[..length]);
    length
}

/// A panic of another thread in the middle of a `push` leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
