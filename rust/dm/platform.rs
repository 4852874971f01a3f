// SPDX-License-Identifier: GPL-2.0-only

//! The kernel as the format code sees it: memory, checksums, and files that lie
//! on block devices.

use super::{
    codec,
    construct::{Below, Refusal},
    device::Device,
    log::dm_err,
};
use crate::{
    bindings,
    format::{Bytes, Element, OutOfMemory, Platform, ReadAt, SECTOR},
};
use kernel::{
    alloc::{flags::__GFP_NOWARN, Flags},
    prelude::*,
};

/// How constructors allocate: they say themselves what they could not have.
pub(crate) fn quietly() -> Flags {
    GFP_KERNEL | __GFP_NOWARN
}

/// The kernel. Used in constructors: allocates with `GFP_KERNEL`.
pub(crate) struct Kernel;

impl Platform for Kernel {
    // Not `KVVec`: kmalloc() would round a table of 640 KiB up to 1 MiB.
    type Vec<T: Element> = VVec<T>;

    fn alloc<T: Element>(len: usize) -> Result<VVec<T>, OutOfMemory> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(OutOfMemory)?;
        // SAFETY: It only looks at the state of memory.
        if !unsafe { bindings::dm_ovbd_memory_to_spare(bytes) } {
            return Err(OutOfMemory);
        }
        VVec::from_elem(T::default(), len, quietly()).map_err(|_| OutOfMemory)
    }

    fn crc32c(seed: u32, data: &[u8]) -> u32 {
        codec::crc32c(seed, data)
    }

    fn relax() {
        // SAFETY: Constructors may sleep.
        unsafe { bindings::dm_ovbd_cond_resched() };
    }
}

/// A file that lies on a block device from a sector on. For constructors.
///
/// Reads are rounded out to the device's logical blocks: the file may begin and
/// end within one, but the device does not.
pub(crate) struct File<'a> {
    device: &'a Device,
    /// First byte of the file on the device.
    start: Bytes,
}

/// How much a [`File`] reads at once, in bytes, unless a logical block is longer: what the page
/// allocator has in one piece.
const WINDOW: u64 = 32 * 1024;

impl<'a> File<'a> {
    /// The file of `length` bytes on `device` from sector `offset` on.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW`, with a line in the log, if the device ends before the file.
    pub(crate) fn new(
        target: &CStr,
        below: &Below<'_>,
        device: &'a Device,
        offset: u64,
        length: Bytes,
    ) -> Result<Self, Refusal> {
        let start = offset.saturating_mul(SECTOR);
        let end = start.saturating_add(length);
        if end <= device.bytes() {
            return Ok(Self { device, start });
        }
        dm_err!(
            target,
            "{below}: device ends at byte {}, the file at byte {end}",
            device.bytes()
        );
        Err(Refusal {
            reason: c"Device too small",
            errno: EOVERFLOW,
        })
    }

    /// Reads the beginning of `buf` from byte `at` of the device, and returns its
    /// length: what one window holds.
    fn read_window(&self, at: Bytes, buf: &mut [u8]) -> Result<usize> {
        let block = u64::from(self.device.logical_block_size()).max(SECTOR);
        let skip = at % block;
        let first = at - skip;
        let wanted = skip.checked_add(buf.len() as u64).ok_or(EOVERFLOW)?;
        let rounded = wanted.checked_next_multiple_of(block).ok_or(EOVERFLOW)?;
        let bytes = rounded.min(WINDOW.max(block));

        let mut data = KVec::<u8>::zeroed(bytes as usize, quietly())?;
        self.device.read(first / SECTOR, &mut data)?;
        let arrived = data.get(skip as usize..).ok_or(EIO)?;
        let len = arrived.len().min(buf.len());
        let (to, from) = (
            buf.get_mut(..len).ok_or(EIO)?,
            arrived.get(..len).ok_or(EIO)?,
        );
        to.copy_from_slice(from);
        Ok(len)
    }
}

impl ReadAt for File<'_> {
    type Error = Error;

    fn read_exact_at(&self, offset: Bytes, buf: &mut [u8]) -> Result {
        let mut at = self.start.checked_add(offset).ok_or(EOVERFLOW)?;
        let mut rest = buf;
        while !rest.is_empty() {
            let len = self.read_window(at, rest)?;
            at = at.checked_add(len as u64).ok_or(EOVERFLOW)?;
            rest = rest.get_mut(len..).ok_or(EIO)?;
        }
        Ok(())
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_platform)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_its_default_value() -> Result {
        for len in [0, 1, 4096, 1 << 20] {
            let memory = Kernel::alloc::<u64>(len).map_err(|_| ENOMEM)?;
            assert_eq!(memory.len(), len);
            assert!(memory.iter().all(|&number| number == 0));
        }
        Ok(())
    }

    /// Quietly: a splat would fail the run.
    #[test]
    fn more_than_there_is_is_refused() {
        for len in [1 << 44, usize::MAX / 8, usize::MAX] {
            assert!(Kernel::alloc::<u64>(len).is_err());
        }
    }
}
