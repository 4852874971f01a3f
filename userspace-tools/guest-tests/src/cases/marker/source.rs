// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What userspace finds on a device: bytes, some of which cannot be had.

use anyhow::{Context as _, Result};
use ovbd::image::codec::Decompressor;
use ovbd::image::source::Std;
use overlaybd_format::zfile::ZFile;
use overlaybd_format::ReadAt;

use crate::ctx::SECTOR;
use crate::forge;

/// Blocks of bytes, whole sectors altogether; those that cannot be read are none.
#[derive(Clone)]
pub struct Source {
    block: usize,
    blocks: Vec<Option<Vec<u8>>>,
}

/// Something that cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct Unreadable;

impl Source {
    /// Bytes that can all be read.
    pub fn of(bytes: &[u8]) -> Self {
        let block = 4096;
        let blocks = bytes.chunks(block).map(|bytes| Some(bytes.to_vec()));
        Self {
            block,
            blocks: blocks.collect(),
        }
    }

    /// What a ZFile decodes to, with the zeros that fill the last sector.
    pub fn decoded(open: &ZFile<Std>, file: &[u8]) -> Result<Self> {
        let mut decompressor = Decompressor::new(open.algorithm())?;
        let count = open.block_count();
        let mut blocks = Vec::new();
        for block in 0..count {
            let content = decode(open, file, block, &mut decompressor)?;
            blocks.push(content.map(|mut content| {
                content.resize(content.len().next_multiple_of(SECTOR as usize), 0);
                content
            }));
        }
        Ok(Self {
            block: open.block_size() as usize,
            blocks,
        })
    }

    /// Bytes of each block but the last.
    pub fn block_size(&self) -> usize {
        self.block
    }

    /// Whole blocks, each with its place.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, Option<&[u8]>)> {
        let place = |number| (number * self.block) as u64;
        let blocks = self.blocks.iter().enumerate();
        blocks.map(move |(number, block)| (place(number), block.as_deref()))
    }

    /// Bytes from `at` on; nothing if any of them cannot be read.
    pub fn get(&self, at: u64, length: usize) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length);
        let mut at = usize::try_from(at).ok()?;
        while bytes.len() < length {
            let block = self.blocks.get(at / self.block)?.as_ref()?;
            let rest = block.get(at % self.block..)?;
            let part = rest.len().min(length - bytes.len());
            if part == 0 {
                return None;
            }
            bytes.extend_from_slice(&rest[..part]);
            at += part;
        }
        Some(bytes)
    }
}

impl ReadAt for Source {
    type Error = Unreadable;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Unreadable> {
        let bytes = self.get(offset, buf.len()).ok_or(Unreadable)?;
        buf.copy_from_slice(&bytes);
        Ok(())
    }
}

/// What a block holds; nothing if it cannot be decoded.
fn decode(
    open: &ZFile<Std>,
    file: &[u8],
    block: u64,
    decompressor: &mut Decompressor,
) -> Result<Option<Vec<u8>>> {
    let place = open.table().extent(block..block + 1);
    let mut stored = &file[usize::try_from(place.start)?..usize::try_from(place.end)?];
    if open.verify() {
        let (payload, crc) = stored
            .split_last_chunk()
            .context("no room for a checksum")?;
        if forge::block_crc(payload) != u32::from_le_bytes(*crc) {
            return Ok(None);
        }
        stored = payload;
    }
    let mut content = vec![0; open.block_len(block) as usize];
    let decoded = decompressor.decompress(stored, &mut content);
    Ok(decoded.is_ok().then_some(content))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_read() {
        let mut source = Source::of(&[7; 10_000]);
        assert_eq!(source.get(4000, 200), Some(vec![7; 200]));
        assert_eq!(source.get(9_999, 2), None);
        source.blocks[1] = None;
        assert_eq!(source.get(4000, 96), Some(vec![7; 96]));
        assert_eq!(source.get(4000, 97), None);
        assert!(source.read_exact_at(8191, &mut [0]).is_err());
        assert!(source.read_exact_at(8192, &mut [0]).is_ok());
    }
}
