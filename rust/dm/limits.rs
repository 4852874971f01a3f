// SPDX-License-Identifier: GPL-2.0-only

//! Queue limits that a target may adjust.

use crate::bindings;

/// The limits of a target's part of a device, stacked from the devices below.
pub(crate) struct Limits<'a>(&'a mut bindings::queue_limits);

impl<'a> Limits<'a> {
    /// # Safety
    ///
    /// `limits` is valid and used by nobody else for `'a`.
    pub(super) unsafe fn from_raw(limits: *mut bindings::queue_limits) -> Self {
        // SAFETY: By the requirement of this function.
        Self(unsafe { &mut *limits })
    }

    /// Presents 512-byte logical blocks and `block_size` (bytes, a power of two)
    /// as the unit that is cheap to read, whatever the devices below ask for.
    ///
    /// For a target that reads below by bios of its own: what binds those does
    /// not bind the bios that it is given.
    pub(crate) fn detach(&mut self, block_size: u32) {
        let limits = &mut *self.0;
        limits.logical_block_size = bindings::SECTOR_SIZE;
        limits.physical_block_size = block_size;
        limits.io_min = block_size;
        limits.io_opt = block_size;
        limits.alignment_offset = 0;
        limits.chunk_sectors = 0;
        limits.flags &= !bindings::BLK_FLAG_MISALIGNED;
        // A clone that is never submitted cannot be polled for, and its pages are
        // written by the CPU.
        limits.features &= !(bindings::BLK_FEAT_POLL | bindings::BLK_FEAT_PCI_P2PDMA);
        limits.seg_boundary_mask = usize::MAX;
        limits.virt_boundary_mask = 0;
        // dm-verity and dm-crypt ask for memory that is aligned to their blocks.
        limits.dma_alignment = bindings::SECTOR_SIZE.saturating_sub(1);
        limits.max_segments = u16::MAX;
        limits.max_segment_size = u32::MAX;
    }

    /// Forgets offsets of physical blocks, which differ from extent to extent
    /// when many devices are merged.
    pub(crate) fn clear_alignment(&mut self) {
        self.0.alignment_offset = 0;
        self.0.flags &= !bindings::BLK_FLAG_MISALIGNED;
    }
}
