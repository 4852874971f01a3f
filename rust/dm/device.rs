// SPDX-License-Identifier: GPL-2.0-only

//! Devices below a target.

use crate::bindings;
use core::ptr::NonNull;
use kernel::{error::to_result, ffi::c_void, prelude::*};

/// A block device that a table line names, open for the life of the target.
///
/// A target keeps its devices in itself, and dm core drops the target before
/// the `dm_target` that the device is put back to. The type does not see to that: a target
/// that moved one to where it lives longer would break the invariant. It cannot replace one
/// while bios are on their way to it: they are only sent to devices that are borrowed for as long
/// as the target is.
///
/// # Invariants
///
/// - `device` was returned by `dm_get_device()` for `ti`, and not yet put.
/// - `ti` is valid until the target that holds this value is dropped.
pub(crate) struct Device {
    ti: NonNull<bindings::dm_target>,
    device: NonNull<bindings::dm_dev>,
}

// SAFETY: A `dm_dev` is not bound to a task; nothing in it changes while it is held.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// # Safety
    ///
    /// - `device` was returned by `dm_get_device()` for `ti`, and is put by nobody else.
    /// - The result is kept in the target of `ti`, or dropped in its constructor.
    pub(super) unsafe fn from_raw(
        ti: NonNull<bindings::dm_target>,
        device: *mut bindings::dm_dev,
    ) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            ti,
            // SAFETY: `dm_get_device` returns no null pointer with success.
            device: unsafe { NonNull::new_unchecked(device) },
        }
    }

    pub(super) fn as_raw(&self) -> *mut bindings::dm_dev {
        self.device.as_ptr()
    }

    pub(super) fn bdev(&self) -> *mut bindings::block_device {
        // SAFETY: `device` is valid, by the type's invariant.
        unsafe { self.device.as_ref().bdev }
    }

    /// `major:minor`, as tables show it.
    pub(crate) fn name(&self) -> &str {
        // SAFETY: dm core fills `name` with a C string that does not change.
        let name = unsafe { CStr::from_char_ptr(self.device.as_ref().name.as_ptr().cast()) };
        name.to_str().unwrap_or("?")
    }

    /// The device's size, in bytes: a multiple of its logical block size.
    pub(crate) fn bytes(&self) -> u64 {
        // SAFETY: The block device is open, by the type's invariant.
        unsafe { bindings::dm_ovbd_bdev_bytes(self.bdev()) }
    }

    /// The unit of its I/O, in bytes: a power of two, 512 at least.
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: The block device is open, by the type's invariant.
        unsafe { bindings::dm_ovbd_bdev_logical_block_size(self.bdev()) }
    }

    /// The length of its requests, in bytes: what is longer is split.
    pub(crate) fn max_bytes(&self) -> u64 {
        // SAFETY: The block device is open, by the type's invariant.
        unsafe { bindings::dm_ovbd_bdev_max_bytes(self.bdev()) }
    }

    /// Reads from `sector` on into `data` and waits for it. For constructors.
    ///
    /// `sector` and the length of `data` have to be multiples of the logical
    /// block; `data` is kmalloc'ed, so that it has an address for DMA.
    ///
    /// # Errors
    ///
    /// The error of the device, or `EINTR` if the task is being killed: a crafted file can have a
    /// constructor read for minutes.
    pub(crate) fn read(&self, sector: u64, data: &mut KVec<u8>) -> Result {
        // SAFETY: It only looks at the current task.
        if unsafe { bindings::dm_ovbd_fatal_signal_pending() } {
            return Err(EINTR);
        }
        let len = data.len();
        if len == 0 {
            // It has no address.
            return Ok(());
        }
        // SAFETY: The block device is open, by the type's invariant; `data` is memory
        // of kmalloc that nobody else uses until the call returns.
        to_result(unsafe {
            bindings::bdev_rw_virt(
                self.bdev(),
                sector,
                data.as_mut_ptr().cast::<c_void>(),
                len,
                bindings::req_op_REQ_OP_READ,
            )
        })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants.
        unsafe { bindings::dm_put_device(self.ti.as_ptr(), self.device.as_ptr()) };
    }
}
