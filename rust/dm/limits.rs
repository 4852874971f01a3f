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
    /// not bind the bios that it is given. How long a request may be stays, for below
    /// much longer ones would only be split again.
    pub(crate) fn detach(&mut self, block_size: u32) {
        let limits = &mut *self.0;
        limits.logical_block_size = bindings::SECTOR_SIZE;
        limits.physical_block_size = block_size;
        limits.io_min = block_size;
        limits.io_opt = block_size;
        limits.alignment_offset = 0;
        limits.chunk_sectors = 0;
        limits.flags &= !bindings::BLK_FLAG_MISALIGNED;
        // A clone that is never submitted cannot be polled for.
        limits.features &= !bindings::BLK_FEAT_POLL;
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

#[kernel::macros::kunit_tests(dm_overlaybd_limits)]
mod tests {
    use super::*;

    /// Of a device below that is odd in every way.
    fn odd() -> bindings::queue_limits {
        bindings::queue_limits {
            logical_block_size: 4096,
            physical_block_size: 4096,
            io_min: 12288,
            io_opt: 24576,
            alignment_offset: 1024,
            chunk_sectors: 24,
            flags: bindings::BLK_FLAG_MISALIGNED | 1,
            features: bindings::BLK_FEAT_POLL | 1,
            seg_boundary_mask: 0xfff,
            virt_boundary_mask: 0xfff,
            max_segments: 1,
            max_segment_size: 4096,
            max_sectors: 8,
            dma_alignment: 4095,
            ..Default::default()
        }
    }

    #[test]
    fn a_target_with_reads_of_its_own_has_limits_of_its_own() {
        let mut limits = odd();
        Limits(&mut limits).detach(65536);
        assert_eq!(limits.logical_block_size, 512);
        assert_eq!(limits.physical_block_size, 65536);
        assert_eq!((limits.io_min, limits.io_opt), (65536, 65536));
        assert_eq!((limits.alignment_offset, limits.chunk_sectors), (0, 0));
        assert_eq!((limits.flags, limits.features), (1, 1));
        assert_eq!(limits.seg_boundary_mask, usize::MAX);
        assert_eq!(limits.virt_boundary_mask, 0);
        assert_eq!(limits.max_segments, u16::MAX);
        assert_eq!(limits.max_segment_size, u32::MAX);
        assert_eq!((limits.max_sectors, limits.dma_alignment), (8, 511));
    }

    #[test]
    fn a_target_that_sends_reads_on_keeps_the_limits() {
        let mut limits = odd();
        Limits(&mut limits).clear_alignment();
        assert_eq!((limits.alignment_offset, limits.flags), (0, 1));
        let expected = odd();
        assert_eq!(limits.logical_block_size, expected.logical_block_size);
        assert_eq!(limits.features, expected.features);
        assert_eq!(limits.virt_boundary_mask, expected.virt_boundary_mask);
        assert_eq!(limits.max_segment_size, expected.max_segment_size);
    }
}
