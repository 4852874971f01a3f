// SPDX-License-Identifier: GPL-2.0-only

//! A device's reserve: the buffer with which it makes progress when there is no
//! memory.
//!
//! A read takes the reserve if it is idle and large enough, which costs
//! nothing; otherwise pages from the allocator; and if there are none, it waits
//! for the reserve, in `map`, as with a mempool. A read that holds the reserve
//! depends on nothing but the device below and a work item that waits for
//! neither I/O nor memory, so that it is given back. A read has its whole buffer
//! or none of it: two that have halves cannot wait for each other.
//!
//! Waiting in `map` is safe although the task may have bios queued that it has
//! not yet submitted: the block layer submits what a bio caused below before
//! any other bio of the task, so that none of the queued ones holds a reserve.

use super::pages::Pages;
use crate::bindings;
use kernel::{
    new_condvar, new_spinlock,
    prelude::*,
    sync::{Arc, CondVar, SpinLock},
};

/// The reserve of one device. Used in task context only.
#[pin_data]
pub(crate) struct Reserve {
    #[pin]
    idle: SpinLock<Option<Pages>>,
    #[pin]
    returned: CondVar,
    bytes: usize,
}

/// A buffer for one read: pages of its own, or the reserve, to which it goes
/// back when it is dropped.
pub(crate) struct Buffer {
    /// Something until the buffer is dropped.
    pages: Option<Pages>,
    lender: Option<Arc<Reserve>>,
}

impl Buffer {
    /// The first page of a buffer that holds `bytes` bytes at least.
    pub(super) fn page(&self, bytes: usize) -> Option<*mut bindings::page> {
        let pages = self.pages.as_ref()?;
        (bytes <= pages.len()).then_some(pages.as_page())
    }

    /// The first `len` bytes.
    ///
    /// # Safety
    ///
    /// Until the slice is gone, nothing reads into the buffer, and what was read
    /// into its first `len` bytes has arrived.
    pub(super) unsafe fn as_slice(&self, len: usize) -> &[u8] {
        let pages = self.pages.as_ref();
        // SAFETY: By the requirement of this function.
        pages.map_or(&[], |pages| unsafe { pages.as_slice(len) })
    }

    /// How many bytes fit.
    pub(crate) fn len(&self) -> usize {
        self.pages.as_ref().map_or(0, Pages::len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(pages), Some(reserve)) = (self.pages.take(), self.lender.take()) {
            *reserve.idle.lock() = Some(pages);
            reserve.returned.notify_one();
        }
    }
}

impl Reserve {
    /// Allocates a reserve of `bytes` bytes at least; may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(bytes: usize) -> Result<Arc<Self>> {
        let pages = Pages::new(Pages::order(bytes))?;
        let bytes = pages.len();
        Arc::pin_init(
            pin_init!(Self {
                idle <- new_spinlock!(Some(pages)),
                returned <- new_condvar!(),
                bytes,
            }),
            GFP_KERNEL,
        )
    }

    /// A buffer of `want` bytes; if there is none, a smaller one, of `least` bytes
    /// at least, which is not more than the reserve holds. `None` if the read
    /// would have to wait and may not.
    pub(crate) fn buffer(
        self: &Arc<Self>,
        want: usize,
        least: usize,
        wait: bool,
    ) -> Option<Buffer> {
        if want <= self.bytes {
            if let Some(pages) = self.idle.lock().take() {
                return Some(self.lend(pages));
            }
        }
        // From the best fit down: a smaller buffer makes a shorter read.
        let mut orders = (Pages::order(least)..=Pages::order(want)).rev();
        if let Some(pages) = orders.find_map(Pages::try_new) {
            return Some(Buffer {
                pages: Some(pages),
                lender: None,
            });
        }
        let mut idle = self.idle.lock();
        loop {
            if let Some(pages) = idle.take() {
                drop(idle);
                return Some(self.lend(pages));
            }
            if !wait {
                return None;
            }
            self.returned.wait(&mut idle);
        }
    }

    fn lend(self: &Arc<Self>, pages: Pages) -> Buffer {
        Buffer {
            pages: Some(pages),
            lender: Some(self.clone()),
        }
    }
}
