// SPDX-License-Identifier: GPL-2.0-only

//! The work queue on which targets finish reads.
//!
//! With many reads in flight, a device below completes several in a row on one
//! CPU. To wake a thread for each costs as much as a good part of the work, if
//! that is small. So the first small item wakes a thread, and those that follow
//! until it is done join it, in a *lane*: there is one for each CPU. Small items of
//! different CPUs, and all that are not small, run in parallel.

use crate::bindings;
use core::{
    mem::offset_of,
    ptr::{self, NonNull},
};
use kernel::{
    prelude::*,
    sync::atomic::{ordering, Atomic},
    types::Opaque,
};

/// How many small items may wait in a lane: the next ones go their own way, lest
/// one CPU works while others idle.
const LANE_MAX: u32 = 16;

/// How many times in a row a lane is emptied before other items have their turn.
const LANE_ROUNDS: usize = 8;

/// A piece of work, embedded in what it works on.
#[repr(C)]
pub(super) struct WorkItem {
    /// The first field, so that a pointer to it is one to the item.
    work: Opaque<bindings::work_struct>,
    /// The item that came before it, while it is in a lane.
    next: *mut WorkItem,
}

/// What a work item calls, with a pointer to its own `work_struct`.
pub(super) type WorkFn = unsafe extern "C" fn(*mut bindings::work_struct);

impl WorkItem {
    /// Memory for an item; see [`init`](Self::init).
    pub(super) const fn uninit() -> Self {
        const { assert!(offset_of!(Self, work) == 0) };
        Self {
            work: Opaque::uninit(),
            next: ptr::null_mut(),
        }
    }

    /// Makes it an item that calls `func`; not while it is queued.
    pub(super) fn init(&mut self, func: WorkFn) {
        // SAFETY: There is room for a `work_struct`, and it is not queued.
        unsafe { bindings::dm_ovbd_init_work(self.work.get(), Some(func)) };
    }

    /// Calls the item's function.
    ///
    /// # Safety
    ///
    /// `item` is initialised, and not queued; it may be gone after the call.
    unsafe fn run(item: *mut Self) {
        let work = item.cast::<bindings::work_struct>();
        // SAFETY: By the requirement of this function.
        unsafe {
            if let Some(func) = (*work).func {
                func(work);
            }
        }
    }
}

/// No item waits, and nobody works on the lane.
const IDLE: *mut WorkItem = ptr::null_mut();
/// No item waits behind those that are being worked on.
const BUSY: *mut WorkItem = ptr::without_provenance_mut(1);

/// Small items that share one thread.
///
/// # Invariants
///
/// - `head` is [`IDLE`], [`BUSY`], or the item that came last, from which `next`
///   leads to those before it and ends with `IDLE` or `BUSY`.
/// - `work` is queued or running unless `head` is `IDLE`; whoever replaces `IDLE`
///   queues it.
#[repr(C)]
#[pin_data]
struct Lane {
    /// The first field, so that a pointer to it is one to the lane.
    #[pin]
    work: Opaque<bindings::work_struct>,
    head: Atomic<*mut WorkItem>,
    /// How many items wait, about.
    waiting: Atomic<u32>,
    queue: NonNull<bindings::workqueue_struct>,
}

impl Lane {
    fn new(queue: NonNull<bindings::workqueue_struct>) -> impl PinInit<Self> {
        const { assert!(offset_of!(Self, work) == 0) };
        // INVARIANT: The lane is idle.
        pin_init!(Self {
            // SAFETY: The slot is memory for a `work_struct` that stays in place.
            work <- Opaque::ffi_init(|slot| unsafe {
                bindings::dm_ovbd_init_work(slot, Some(Self::run))
            }),
            head: Atomic::new(IDLE),
            waiting: Atomic::new(0),
            queue,
        })
    }

    fn queue(&self) {
        // SAFETY: The queue is destroyed before its lanes are. The work item is
        // initialised, and may be queued while its function returns.
        unsafe { bindings::dm_ovbd_queue_work(self.queue.as_ptr(), self.work.get()) };
    }

    /// Takes `item`, unless too many wait already; returns whether it did.
    ///
    /// # Safety
    ///
    /// As for [`WorkQueue::queue`].
    unsafe fn take(&self, item: *mut WorkItem) -> bool {
        if self.waiting.load(ordering::Relaxed) >= LANE_MAX {
            return false;
        }
        self.waiting.fetch_add(1, ordering::Relaxed);
        let mut head = self.head.load(ordering::Relaxed);
        loop {
            // SAFETY: The item is ours until it is the head.
            unsafe { (*item).next = head };
            match self.head.cmpxchg(head, item, ordering::Full) {
                Ok(_) => break,
                Err(now) => head = now,
            }
        }
        // From here on, the item and what it works on may be gone, unless the lane was
        // idle: then nobody works on the lane before it is queued here.
        if head == IDLE {
            self.queue();
        }
        true
    }

    /// # Safety
    ///
    /// Only called by a work queue, for the work item of a lane.
    unsafe extern "C" fn run(work: *mut bindings::work_struct) {
        // SAFETY: The work item is the first field of a lane, which outlives the queue.
        let lane = unsafe { &*work.cast::<Self>() };
        for _ in 0..LANE_ROUNDS {
            // INVARIANT: What waited is ours now, and this work item is running.
            lane.run_all(lane.head.xchg(BUSY, ordering::Full));
            // INVARIANT: Nothing waits, and nothing of the lane is done after this.
            if lane.head.cmpxchg(BUSY, IDLE, ordering::Full).is_ok() {
                return;
            }
        }
        lane.queue();
    }

    /// Runs what was taken off the lane, in the order in which it came.
    fn run_all(&self, last: *mut WorkItem) {
        let (mut item, mut first) = (last, IDLE);
        while item != IDLE && item != BUSY {
            // SAFETY: The item waits, and nobody else has it, by the type's invariant.
            let before = unsafe { ptr::replace(&raw mut (*item).next, first) };
            first = item;
            item = before;
        }
        while first != IDLE {
            // SAFETY: As above.
            let next = unsafe { (*first).next };
            self.waiting.fetch_sub(1, ordering::Relaxed);
            // SAFETY: The item is initialised, and was taken off the lane.
            unsafe { WorkItem::run(first) };
            first = next;
        }
    }
}

/// A work queue whose items may run on any CPU, with a thread kept ready for
/// when there is no memory for another.
///
/// # Invariants
///
/// `queue` was allocated and is not yet destroyed.
pub(crate) struct WorkQueue {
    queue: NonNull<bindings::workqueue_struct>,
    /// One for each CPU that was online.
    lanes: KVec<Pin<KBox<Lane>>>,
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
        let mut this = Self {
            queue: NonNull::new(queue).ok_or(ENOMEM)?,
            lanes: KVec::new(),
        };
        for _ in 0..online_cpus() {
            let lane = KBox::pin_init(Lane::new(this.queue), GFP_KERNEL)?;
            this.lanes.push(lane, GFP_KERNEL)?;
        }
        Ok(this)
    }

    /// Queues `item`.
    ///
    /// # Safety
    ///
    /// `item` is initialised, not queued, and valid until its function is called.
    pub(super) unsafe fn queue(&self, item: *mut WorkItem) {
        // SAFETY: By the type's invariant and the requirements of this function.
        unsafe { bindings::dm_ovbd_queue_work(self.queue.as_ptr(), item.cast()) };
    }

    /// Queues `item`, which is done sooner than a thread is woken: see above.
    ///
    /// # Safety
    ///
    /// As for [`queue`](Self::queue).
    pub(super) unsafe fn queue_small(&self, item: *mut WorkItem) {
        // SAFETY: It only reads a number; to be moved to another CPU does not matter.
        let cpu = unsafe { bindings::dm_ovbd_cpu() } as usize;
        let lane = self.lanes.get(cpu % self.lanes.len().max(1));
        // SAFETY: By the requirements of this function.
        unsafe {
            if !lane.is_some_and(|lane| lane.take(item)) {
                self.queue(item);
            }
        }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. Waits for functions that are about to return;
        // the lanes are dropped after that.
        unsafe { bindings::destroy_workqueue(self.queue.as_ptr()) };
    }
}

/// How many CPUs are online now: 1 at least.
pub(crate) fn online_cpus() -> usize {
    // SAFETY: It only reads a number.
    let cpus = unsafe { bindings::dm_ovbd_online_cpus() };
    cpus.max(1) as usize
}
