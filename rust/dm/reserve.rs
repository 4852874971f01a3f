// SPDX-License-Identifier: GPL-2.0-only

//! A device's buffers, and with them its reserve: the one with which it makes
//! progress when there is no memory.
//!
//! A read takes what is idle and large enough, which costs next to nothing;
//! otherwise pages from the allocator; and if there are none, it waits for the
//! reserve, in `map`, as with a mempool. A read that holds the reserve depends on
//! nothing but the device below and a work item that waits for neither I/O nor
//! memory before it has given it back. Who waits is served in turn. A read has its whole
//! buffer or none of it: two that have halves cannot wait for each other.
//!
//! A few single pages stay with the device when a read gives them back: kernels
//! that clear what they allocate would spend more on a page than on all the
//! rest of the way to the device below.
//!
//! Waiting in `map` is safe although the task may have bios queued that it has
//! not yet submitted: the block layer submits what a bio caused below before
//! any other bio of the task, so that none of the queued ones holds a reserve.

use super::pages::Pages;
use crate::bindings;
use kernel::{
    new_condvar, new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{Arc, CondVar, SpinLock},
};

/// How many single pages stay with a device.
const SPARE_PAGES: usize = 8;

/// The buffers of one device. Used in task context only.
#[pin_data]
pub(crate) struct Reserve {
    #[pin]
    idle: SpinLock<Idle>,
    #[pin]
    returned: CondVar,
    bytes: usize,
}

/// What no read has.
struct Idle {
    reserve: Option<Pages>,
    /// Never grows beyond its capacity.
    spare: KVec<Pages>,
    /// How many reads wait for the reserve, which is theirs.
    waiting: usize,
}

impl Idle {
    /// The reserve, for a read that has not waited.
    fn take_reserve(&mut self) -> Option<Pages> {
        if self.waiting > 0 {
            return None;
        }
        self.reserve.take()
    }
}

/// A buffer for one read; back with its device when it is dropped.
pub(crate) struct Buffer {
    /// Something until the buffer is dropped.
    pages: Option<Pages>,
    owner: Arc<Reserve>,
}

impl Buffer {
    /// The first page of a buffer that holds `bytes` bytes at least, which are some: drivers take
    /// a read of nothing for a long one.
    pub(super) fn page(&self, bytes: usize) -> Option<*mut bindings::page> {
        let pages = self.pages.as_ref()?;
        (1..=pages.len())
            .contains(&bytes)
            .then_some(pages.as_page())
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
        // What the device does not keep is freed after the lock is given back.
        let _surplus = self.pages.take().and_then(|pages| self.owner.put(pages));
    }
}

impl Reserve {
    /// Allocates a reserve of `bytes` bytes at least; may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(bytes: usize) -> Result<Arc<Self>> {
        let reserve = Pages::new(Pages::order(bytes))?;
        let bytes = reserve.len();
        let idle = Idle {
            reserve: Some(reserve),
            spare: KVec::with_capacity(SPARE_PAGES, GFP_KERNEL)?,
            waiting: 0,
        };
        Arc::pin_init(
            pin_init!(Self {
                idle <- new_spinlock!(idle),
                returned <- new_condvar!(),
                bytes,
            }),
            GFP_KERNEL,
        )
    }

    /// A buffer of `want` bytes; if there is none, a smaller one, of `least()` bytes
    /// at least, which is not more than the reserve holds. Calls `no_memory` before
    /// it takes the reserve, or waits for it; `None` if the read would have to wait and may not.
    pub(crate) fn buffer(
        self: &Arc<Self>,
        want: usize,
        least: impl FnOnce() -> usize,
        wait: bool,
        no_memory: impl FnOnce(),
    ) -> Option<Buffer> {
        let pages = self.take_idle(want).or_else(|| {
            // From the best fit down: a smaller buffer makes a shorter read.
            let mut orders = (Pages::order(least())..=Pages::order(want)).rev();
            orders.find_map(Pages::try_new)
        });
        Some(Buffer {
            pages: Some(match pages {
                Some(pages) => pages,
                None => {
                    no_memory();
                    self.wait_for_reserve(wait)?
                }
            }),
            owner: self.clone(),
        })
    }

    /// What is idle and holds `want` bytes.
    fn take_idle(&self, want: usize) -> Option<Pages> {
        if want > self.bytes {
            return None;
        }
        let mut idle = self.idle.lock();
        let spare = if want <= PAGE_SIZE {
            idle.spare.pop()
        } else {
            None
        };
        spare.or_else(|| idle.take_reserve())
    }

    /// The reserve, when it is idle and nobody else has waited for longer.
    fn wait_for_reserve(&self, wait: bool) -> Option<Pages> {
        let mut idle = self.idle.lock();
        let pages = idle.take_reserve();
        if pages.is_some() || !wait {
            return pages;
        }
        idle.waiting = idle.waiting.saturating_add(1);
        let pages = loop {
            self.returned.wait(&mut idle);
            if let Some(pages) = idle.reserve.take() {
                break pages;
            }
        };
        idle.waiting = idle.waiting.saturating_sub(1);
        Some(pages)
    }

    /// Takes a buffer back; returns it if it is not to be kept.
    fn put(&self, pages: Pages) -> Option<Pages> {
        let mut idle = self.idle.lock();
        // Whichever buffer of that length comes first: they are all alike.
        if pages.len() == self.bytes && idle.reserve.is_none() {
            idle.reserve = Some(pages);
            // Hardly ever, and to look for somebody costs more than all the rest of this.
            if idle.waiting > 0 {
                self.returned.notify_one();
            }
            return None;
        }
        if pages.len() == PAGE_SIZE {
            return idle
                .spare
                .push_within_capacity(pages)
                .err()
                .map(|full| full.0);
        }
        Some(pages)
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_reserve)]
mod tests {
    use super::*;

    const BYTES: usize = 8 * PAGE_SIZE;

    #[test]
    fn a_reserve_is_lent_once_and_comes_back() -> Result {
        let owner = Reserve::new(BYTES - 1)?;
        for _ in 0..3 {
            let pages = owner.take_idle(BYTES).ok_or(ENOMEM)?;
            assert_eq!(pages.len(), BYTES);
            assert!(owner.take_idle(1).is_none());
            assert!(owner.wait_for_reserve(false).is_none());
            assert!(owner.put(pages).is_none());
            let pages = owner.wait_for_reserve(true).ok_or(ENOMEM)?;
            assert!(owner.wait_for_reserve(false).is_none());
            assert!(owner.put(pages).is_none());
        }
        assert!(owner.take_idle(BYTES + 1).is_none());
        Ok(())
    }

    #[test]
    fn who_waits_is_not_overtaken() -> Result {
        let owner = Reserve::new(BYTES)?;
        owner.idle.lock().waiting = 1;
        assert!(owner.take_idle(BYTES).is_none());
        assert!(owner.wait_for_reserve(false).is_none());
        owner.idle.lock().waiting = 0;
        assert!(owner.take_idle(BYTES).is_some());
        Ok(())
    }

    #[test]
    fn what_is_not_kept_is_given_back() -> Result {
        let owner = Reserve::new(BYTES)?;
        // As long as the reserve, which is there; of another length.
        assert!(owner.put(Pages::new(Pages::order(BYTES))?).is_some());
        assert!(owner.put(Pages::new(1)?).is_some());
        for _ in 0..SPARE_PAGES {
            assert!(owner.put(Pages::new(0)?).is_none());
        }
        assert!(owner.put(Pages::new(0)?).is_some());
        // The spare pages come first, for what fits them.
        for _ in 0..SPARE_PAGES {
            let pages = owner.take_idle(PAGE_SIZE).ok_or(ENOMEM)?;
            assert_eq!(pages.len(), PAGE_SIZE);
        }
        let pages = owner.take_idle(PAGE_SIZE).ok_or(ENOMEM)?;
        assert_eq!(pages.len(), BYTES);
        // In its place, another one of its length.
        let other = Pages::new(Pages::order(BYTES))?;
        assert!(owner.put(other).is_none());
        assert!(owner.put(pages).is_some());
        Ok(())
    }

    #[test]
    fn buffers_go_back_when_they_are_dropped() -> Result {
        let owner = Reserve::new(BYTES)?;
        let mut waited = false;
        let buffer = owner.buffer(BYTES, || BYTES, false, || waited = true);
        let buffer = buffer.ok_or(ENOMEM)?;
        assert!(!waited);
        assert_eq!(buffer.len(), BYTES);
        assert!(buffer.page(BYTES).is_some());
        assert!(buffer.page(BYTES + 1).is_none());
        assert!(buffer.page(0).is_none());
        assert!(owner.take_idle(BYTES).is_none());
        // It outlives its device.
        let taken = owner.clone();
        drop(owner);
        drop(buffer);
        assert!(taken.take_idle(BYTES).is_some());
        Ok(())
    }
}
