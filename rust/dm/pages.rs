// SPDX-License-Identifier: GPL-2.0-only

//! Buffers for reads from below: contiguous pages.
//!
//! A buffer is one allocation of the page allocator, contiguous in memory: a
//! bio of one segment reads into it, and a decompressor reads it in place, with
//! no mapping and no assembly of what straddles a page. It is a compound page:
//! drivers below may hold references of single pages while they read into them.

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    alloc::AllocError,
    page::{PAGE_SHIFT, PAGE_SIZE},
};

/// `2^order` contiguous pages.
///
/// # Invariants
///
/// `page` is the first of `2^order` pages that this value owns.
pub(crate) struct Pages {
    page: NonNull<bindings::page>,
    order: u32,
}

// SAFETY: Pages are not bound to a task.
unsafe impl Send for Pages {}
// SAFETY: A shared reference gives their address and, to who vouches that nothing writes to them
// meanwhile, their bytes.
unsafe impl Sync for Pages {}

impl Pages {
    /// The order of the smallest buffer with `bytes` bytes.
    pub(crate) const fn order(bytes: usize) -> u32 {
        let last_page = bytes.saturating_sub(1) >> PAGE_SHIFT;
        usize::BITS.wrapping_sub(last_page.leading_zeros())
    }

    /// Allocates in a constructor; may sleep.
    ///
    /// # Errors
    ///
    /// [`AllocError`] if there are no contiguous pages left.
    pub(crate) fn new(order: u32) -> Result<Self, AllocError> {
        Self::with_flags(order, bindings::DM_OVBD_GFP_CONSTRUCT)
    }

    /// One try, for the I/O path: neither sleeps, nor reclaims, nor warns.
    pub(crate) fn try_new(order: u32) -> Option<Self> {
        Self::with_flags(order, bindings::DM_OVBD_GFP_TRY).ok()
    }

    fn with_flags(order: u32, flags: bindings::gfp_t) -> Result<Self, AllocError> {
        // SAFETY: Orders that are too large get nothing; flags that may sleep are used in
        // constructors only.
        let page = unsafe { bindings::alloc_pages(flags | bindings::DM_OVBD_GFP_COMP, order) };
        // INVARIANT: The allocator gave us the pages.
        Ok(Self {
            page: NonNull::new(page).ok_or(AllocError)?,
            order,
        })
    }

    /// The length, in bytes.
    pub(crate) fn len(&self) -> usize {
        PAGE_SIZE.wrapping_shl(self.order)
    }

    pub(super) fn as_page(&self) -> *mut bindings::page {
        self.page.as_ptr()
    }

    /// The pages as bytes.
    ///
    /// # Safety
    ///
    /// Until the slice is gone, nothing reads into the pages, and what was read
    /// into its `len` bytes, at most [`Pages::len`], has arrived.
    pub(super) unsafe fn as_slice(&self, len: usize) -> &[u8] {
        // SAFETY: The pages are ours, in the linear map, and initialised up to `len`
        // by the requirement of this function.
        unsafe {
            let address = bindings::dm_ovbd_page_address(self.as_page());
            core::slice::from_raw_parts(address.cast::<u8>(), len.min(self.len()))
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: The pages are ours, and given up here.
        unsafe { bindings::__free_pages(self.as_page(), self.order) };
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_pages)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_the_least_that_holds_the_bytes() {
        assert_eq!(Pages::order(0), 0);
        assert_eq!(Pages::order(1), 0);
        for order in 0..8 {
            let bytes = PAGE_SIZE << order;
            assert_eq!(Pages::order(bytes), order);
            assert_eq!(Pages::order(bytes + 1), order + 1);
        }
        assert!(Pages::order(usize::MAX) > 40);
    }

    /// All of the pages can be written and read, from the first byte to the last.
    #[test]
    fn pages_are_contiguous_memory() -> Result<(), AllocError> {
        for order in [0, 1, 3] {
            let pages = Pages::new(order)?;
            assert_eq!(pages.len(), PAGE_SIZE << order);
            // SAFETY: The pages are ours.
            unsafe {
                let address = bindings::dm_ovbd_page_address(pages.as_page()).cast::<u8>();
                address.write_bytes(order as u8 + 1, pages.len());
            }
            for (wanted, found) in [
                (0, 0),
                (1, 1),
                (pages.len(), pages.len()),
                (pages.len() + 1, pages.len()),
            ] {
                // SAFETY: Nothing reads into the pages, and all of them were written.
                let slice = unsafe { pages.as_slice(wanted) };
                assert_eq!(slice.len(), found);
                assert!(slice.iter().all(|&byte| byte == order as u8 + 1));
            }
        }
        Ok(())
    }

    /// More than the allocator has ever in one piece.
    #[test]
    fn what_cannot_be_had_is_said() {
        assert!(Pages::try_new(10).is_none_or(|pages| pages.len() == PAGE_SIZE << 10));
    }
}
