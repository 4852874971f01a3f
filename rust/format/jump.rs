// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Where each block of a ZFile begins, in 2.5 bytes a block.
//!
//! Blocks are taken in groups of 16. A group keeps the offset of its first block
//! in 64 bits and those of all 16 relative to it, in 16 bits where the blocks are
//! small enough (4 KiB ones are: 15 of them stay under 64 KiB even if none could
//! be compressed), in 32 bits else. That makes 2.5 or 4.5 bytes a block, rounded up
//! to a whole group, and a lookup that touches one or two cache lines.

use core::ops::Range;

use super::{Bytes, OutOfMemory, Platform};

/// Blocks in a group.
const GROUP: usize = 16;

/// Offsets of the blocks of a group.
#[derive(Clone, Copy, Default)]
struct Group<T> {
    /// Offset in the file of the group's first block.
    base: Bytes,
    /// Offset of each block from `base`.
    offsets: [T; GROUP],
}

impl<T: Copy + Into<u64>> Group<T> {
    #[inline]
    fn start(&self, slot: usize) -> Option<Bytes> {
        let offset = *self.offsets.get(slot)?;
        Some(self.base.wrapping_add(offset.into()))
    }
}

/// The groups, with offsets as wide as the block size needs.
enum Groups<P: Platform> {
    Narrow(P::Vec<Group<u16>>),
    Wide(P::Vec<Group<u32>>),
}

/// Where each block begins, and where the last one ends.
pub struct JumpTable<P: Platform> {
    groups: Groups<P>,
    blocks: u64,
    end: Bytes,
}

impl<P: Platform> JumpTable<P> {
    /// Offset in the file of `block`; the end of the last block for any number
    /// beyond it.
    #[inline]
    pub fn start(&self, block: u64) -> Bytes {
        if block >= self.blocks {
            return self.end;
        }
        let group = (block / GROUP as u64) as usize;
        let slot = (block % GROUP as u64) as usize;
        let start = match &self.groups {
            Groups::Narrow(groups) => groups.get(group).and_then(|group| group.start(slot)),
            Groups::Wide(groups) => groups.get(group).and_then(|group| group.start(slot)),
        };
        start.unwrap_or(self.end)
    }

    /// Where `blocks` are stored, back to back; empty beyond the last block.
    #[inline]
    pub fn extent(&self, blocks: Range<u64>) -> Range<Bytes> {
        self.start(blocks.start)..self.start(blocks.end)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Where the last block ends; with no block, where the first would begin.
    pub fn end(&self) -> Bytes {
        self.end
    }

    /// Bytes of memory, but for the fixed-size part.
    pub fn memory(&self) -> usize {
        match &self.groups {
            Groups::Narrow(groups) => size_of_val::<[_]>(groups),
            Groups::Wide(groups) => size_of_val::<[_]>(groups),
        }
    }
}

/// A jump table in the making.
pub struct Builder<P: Platform> {
    table: JumpTable<P>,
    /// Blocks that were pushed.
    len: u64,
    /// Where the current group begins.
    base: Bytes,
}

impl<P: Platform> Builder<P> {
    /// A table for `blocks` blocks of at most `longest` bytes, the first of which
    /// begins at byte `start`.
    pub fn new(blocks: u64, longest: u32, start: Bytes) -> Result<Self, OutOfMemory> {
        let groups = usize::try_from(blocks.div_ceil(GROUP as u64)).map_err(|_| OutOfMemory)?;
        let furthest = u64::from(longest).saturating_mul(GROUP as u64 - 1);
        let groups = if furthest <= u16::MAX.into() {
            Groups::Narrow(P::alloc(groups)?)
        } else {
            Groups::Wide(P::alloc(groups)?)
        };
        let table = JumpTable {
            groups,
            blocks,
            end: start,
        };
        Ok(Self {
            table,
            len: 0,
            base: start,
        })
    }

    /// Number of blocks so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// No block yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds the next block, stored in `len` bytes, no more than `longest`.
    ///
    /// A block beyond the number that the table is for only moves its end.
    #[inline]
    pub fn push(&mut self, len: u32) {
        let group = (self.len / GROUP as u64) as usize;
        let slot = (self.len % GROUP as u64) as usize;
        if slot == 0 {
            self.base = self.table.end;
        }
        // Fits: at most 15 blocks of `longest` bytes lie before this one.
        let offset = self.table.end.wrapping_sub(self.base) as u32;
        match &mut self.table.groups {
            Groups::Narrow(groups) => set(groups, group, slot, self.base, offset as u16),
            Groups::Wide(groups) => set(groups, group, slot, self.base, offset),
        }
        self.len = self.len.saturating_add(1);
        self.table.end = self.table.end.saturating_add(len.into());
    }

    /// The table. Blocks that were not pushed are empty and lie at its end.
    pub fn finish(mut self) -> JumpTable<P> {
        self.table.blocks = self.table.blocks.min(self.len);
        self.table
    }
}

/// Writes one block's offset, and with the first one the group's.
#[inline]
fn set<T>(groups: &mut [Group<T>], group: usize, slot: usize, base: Bytes, offset: T) {
    if let Some(group) = groups.get_mut(group) {
        group.base = base;
        if let Some(entry) = group.offsets.get_mut(slot) {
            *entry = offset;
        }
    }
}
