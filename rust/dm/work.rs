// SPDX-License-Identifier: GPL-2.0-only

//! The work queue on which targets finish reads.

use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;

/// A work queue whose items may run on any CPU, with a thread kept ready for
/// when there is no memory for another.
///
/// # Invariants
///
/// `queue` was allocated and is not yet destroyed.
pub(crate) struct WorkQueue {
    queue: NonNull<bindings::workqueue_struct>,
}

// SAFETY: A work queue may be used and destroyed by any task.
unsafe impl Send for WorkQueue {}
// SAFETY: As above; it synchronises itself.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// Allocates a queue; may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &CStr) -> Result<Self> {
        // SAFETY: `name` is a C string.
        let queue = unsafe { bindings::dm_ovbd_alloc_workqueue(name.as_char_ptr()) };
        // INVARIANT: It was just allocated.
        Ok(Self {
            queue: NonNull::new(queue).ok_or(ENOMEM)?,
        })
    }

    /// Queues `work` for this CPU, or the `nth` one after it: those that share a cache with
    /// that may run it.
    ///
    /// # Safety
    ///
    /// `work` is initialised, not queued, and valid until its function is called
    /// or it is cancelled.
    pub(super) unsafe fn queue(&self, work: *mut bindings::work_struct, nth: u32) {
        // SAFETY: By the type's invariant and the requirements of this function.
        unsafe { bindings::dm_ovbd_queue_work(self.queue.as_ptr(), work, nth) };
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. Waits for functions that are about to return.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}

/// How many CPUs are online now: 1 at least.
pub(crate) fn online_cpus() -> usize {
    // SAFETY: It only reads a number.
    let cpus = unsafe { bindings::dm_ovbd_online_cpus() };
    cpus.max(1) as usize
}

/// How many CPUs there may ever be online: 1 at least.
pub(crate) fn possible_cpus() -> usize {
    // SAFETY: It only reads a number.
    let cpus = unsafe { bindings::dm_ovbd_possible_cpus() };
    cpus.max(1) as usize
}

/// The CPU that this runs on, at the moment.
pub(crate) fn this_cpu() -> usize {
    // SAFETY: It only reads a number.
    let cpu = unsafe { bindings::dm_ovbd_this_cpu() };
    cpu as usize
}

#[kernel::macros::kunit_tests(dm_overlaybd_work)]
mod tests {
    use super::*;
    use kernel::{
        sync::atomic::{ordering, Atomic},
        types::Opaque,
    };

    #[repr(C)]
    struct Item {
        /// The first field, so that a pointer to it is one to the item.
        work: Opaque<bindings::work_struct>,
        runs: Atomic<u32>,
    }

    /// # Safety
    ///
    /// Only called by a work queue, for the work of an [`Item`].
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: The work is the first field of an item, which is there until the queue is gone.
        let item = unsafe { &*work.cast::<Item>() };
        item.runs.fetch_add(1, ordering::Relaxed);
    }

    /// Wherever it is queued, and also if there are not so many CPUs, it has run when the queue
    /// is gone.
    #[test]
    fn what_is_queued_runs_once() -> Result {
        const ITEMS: u32 = 9;
        let mut items = KVec::with_capacity(ITEMS as usize, GFP_KERNEL)?;
        for _ in 0..ITEMS {
            let item = Item {
                work: Opaque::uninit(),
                runs: Atomic::new(0),
            };
            items.push(item, GFP_KERNEL)?;
        }
        let queue = WorkQueue::new(c"dm-overlaybd-kunit")?;
        for (item, nth) in items.iter().zip(0..) {
            let work = item.work.get();
            // SAFETY: The item neither moves nor goes away before the queue.
            unsafe {
                bindings::dm_ovbd_init_work(work, Some(run));
                queue.queue(work, nth);
            }
        }
        drop(queue);
        assert!(items
            .iter()
            .all(|item| item.runs.load(ordering::Relaxed) == 1));
        assert!(online_cpus() >= 1);
        Ok(())
    }
}
