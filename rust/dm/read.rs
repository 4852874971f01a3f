// SPDX-License-Identifier: GPL-2.0-only

//! Reads from below on behalf of a bio.
//!
//! The life of a read:
//!
//! 1. `map` decides what to read and into which buffer, and consumes its bio by
//!    [`ReadBio::fetch`]. The state of the read lies in what dm core allocated
//!    along with the bio; the bio for the device below is part of it. Nothing
//!    else is allocated.
//! 2. The device below ends its bio, in any context. If that happened in the
//!    task that submitted, and it may sleep there (a ramdisk), the work goes on at
//!    once. Otherwise it is handed over to the work queue, once.
//! 3. [`Reader::process`] is called for each part of the read, on several CPUs
//!    if there are several parts. The part that finishes last gives the buffer
//!    back and ends the bio.
//!
//! A work item never waits for I/O or memory.

use super::{
    bio::{Mapped, ReadBio, Status},
    device::Device,
    reserve::Buffer,
    segments::Segments,
    target::Target,
    work::WorkQueue,
};
use crate::bindings;
use core::{
    mem::{offset_of, size_of, MaybeUninit},
    ptr::{addr_of_mut, null_mut},
};
use kernel::{
    ffi::c_void,
    sync::atomic::{ordering, Atomic},
    task::Task,
};

/// How many parts a read may be split into.
pub(crate) const MAX_PARTS: u32 = 4;

/// A target that reads from below and computes what its bios get.
pub(crate) trait Reader: Target<PerBio = InFlight<Self>> {
    /// What `map` passes on to [`Reader::process`].
    type Job: Send + Sync;

    /// The queue for what cannot be done at once.
    fn queue(&self) -> &WorkQueue;

    /// Into how many parts a read is to be split: 1 to [`MAX_PARTS`].
    fn parts(&self, job: &Self::Job) -> u32;

    /// Fills the bio's part number `part` from `data`, which was read from below.
    /// Task context; may wait for the CPU, but not for I/O or memory.
    fn process(&self, job: &Self::Job, data: &[u8], bio: Segments<'_>, part: u32);

    /// Called once, after all parts, or after the read from below failed with
    /// `below`. Returns how the bio ends.
    fn finish(&self, job: &Self::Job, below: Status) -> Status;
}

/// What to read from below: whole sectors, aligned to the logical block there.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// First sector of the device.
    pub(crate) sector: u64,
    /// Length in bytes; at most the buffer's.
    pub(crate) bytes: u32,
}

/// One part of a read, as a work item.
#[repr(C)]
struct Part<T: Reader> {
    work: bindings::work_struct,
    read: *mut InFlight<T>,
    index: u32,
}

/// The state of a read, in the memory that dm core allocates along with a bio.
///
/// # Invariants
///
/// From [`ReadBio::fetch`] until the bio ends:
///
/// - `clone` is the bio that it belongs to, `target` its target, which outlives it.
/// - All fields are initialised; of `parts` those that are queued.
/// - While `pending` is not 0, the parts that have not yet finished share the read;
///   whoever takes it to 0 owns it.
pub(crate) struct InFlight<T: Reader> {
    target: *const T,
    clone: *mut bindings::bio,
    /// The task that called `map`.
    submitter: *mut bindings::task_struct,
    pending: Atomic<u32>,
    /// The bio below, and its one segment: the buffer.
    lower: bindings::bio,
    segment: bindings::bio_vec,
    buffer: Buffer,
    job: T::Job,
    parts: [MaybeUninit<Part<T>>; MAX_PARTS as usize],
}

impl<'a, T: Reader> ReadBio<'a, T> {
    /// Reads `extent` of `device` into `buffer`, and then fills the bio from it.
    pub(crate) fn fetch(
        self,
        device: &Device,
        extent: Extent,
        buffer: Buffer,
        job: T::Job,
    ) -> Mapped<'a> {
        let Some(pages) = buffer.pages() else {
            return self.end(Status::IO_ERROR);
        };
        let page = pages.as_page();
        let clone = self.as_raw();
        // SAFETY: A clone of a `Reader` has so much memory in front of it, which nobody
        // else uses. It stays where it is until the bio has ended, which is after `lower`.
        unsafe {
            let read = bindings::dm_per_bio_data(clone, size_of::<InFlight<T>>());
            let read = read.cast::<InFlight<T>>();
            // INVARIANT: These are all fields but `parts`; `bio_init` and
            // `__bio_add_page` fill `lower` and `segment`.
            addr_of_mut!((*read).target).write(self.target());
            addr_of_mut!((*read).clone).write(clone);
            addr_of_mut!((*read).submitter).write(Task::current_raw());
            addr_of_mut!((*read).pending).write(Atomic::new(0));
            addr_of_mut!((*read).buffer).write(buffer);
            addr_of_mut!((*read).job).write(job);

            let lower = addr_of_mut!((*read).lower);
            let flags = (*clone).bi_opf & bindings::DM_OVBD_REQ_INHERIT;
            let opf = bindings::req_op_REQ_OP_READ | flags;
            bindings::bio_init(lower, null_mut(), addr_of_mut!((*read).segment), 1, opf);
            // Not by `bio_init`: `dm_submit_bio_remap` associates the bio with the
            // cgroup of the original one.
            (*lower).bi_bdev = device.bdev();
            (*lower).bi_ioprio = (*clone).bi_ioprio;
            (*lower).bi_iter.bi_sector = extent.sector;
            (*lower).bi_end_io = Some(InFlight::<T>::lower_end_io);
            (*lower).bi_private = read.cast::<c_void>();
            bindings::__bio_add_page(lower, page, extent.bytes, 0);
            bindings::dm_submit_bio_remap(clone, lower);
        }
        Mapped::SUBMITTED
    }
}

impl<T: Reader> InFlight<T> {
    /// # Safety
    ///
    /// Only called by the block layer, once, for a bio that [`ReadBio::fetch`] submitted.
    unsafe extern "C" fn lower_end_io(lower: *mut bindings::bio) {
        // SAFETY: `fetch` set `bi_private`; the read is ours again.
        unsafe {
            let read = (*lower).bi_private.cast::<Self>();
            bindings::bio_uninit(lower);
            let parts = if (*lower).bi_status == Status::OK.into_raw() {
                (*(*read).target).parts(&(*read).job).clamp(1, MAX_PARTS)
            } else {
                1
            };
            (*read).pending.store(parts, ordering::Relaxed);
            let submitter = (*read).submitter;
            let here = submitter == Task::current_raw() && !bindings::dm_ovbd_in_atomic();
            Self::hand_over(read, u32::from(here), parts);
            if here {
                Self::run(read, 0);
            }
        }
    }

    /// Queues the parts from number `first` up to `end`.
    ///
    /// # Safety
    ///
    /// `read` is ours, and `pending` counts the parts. After the call only the parts
    /// before `first` are.
    unsafe fn hand_over(read: *mut Self, first: u32, end: u32) {
        // SAFETY: The target outlives the read. Part `index` is pending, which keeps the
        // read alive, until it is queued; it is not touched after that.
        unsafe {
            let queue = (*(*read).target).queue();
            let parts = addr_of_mut!((*read).parts).cast::<Part<T>>();
            for index in first..end {
                let part = parts.add(index as usize);
                addr_of_mut!((*part).read).write(read);
                addr_of_mut!((*part).index).write(index);
                bindings::dm_ovbd_init_work(addr_of_mut!((*part).work), Some(Self::work));
                queue.queue(addr_of_mut!((*part).work));
            }
        }
    }

    /// # Safety
    ///
    /// Only called by a work queue, for a work item that [`InFlight::hand_over`] queued.
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        const { assert!(offset_of!(Part<T>, work) == 0) };
        let part = work.cast::<Part<T>>();
        // SAFETY: The work item is the first field of a `Part` that is pending.
        unsafe { Self::run((*part).read, (*part).index) };
    }

    /// Does part number `index`, and ends the bio if it was the last one to finish.
    ///
    /// # Safety
    ///
    /// The part is pending, and run by nobody else. `read` is not used after the call.
    unsafe fn run(read: *mut Self, index: u32) {
        // SAFETY: The part keeps the read alive and shared until it is counted down. The
        // bio below has ended: its pages are filled and nobody writes to them.
        unsafe {
            let target = &*(*read).target;
            let below = Status::from_raw((*read).lower.bi_status);
            if below == Status::OK {
                let data = (*read).buffer.pages().map_or(&[][..], |pages| {
                    pages.as_slice((*read).segment.bv_len as usize)
                });
                let bio = Segments::from_raw((*read).clone);
                target.process(&(*read).job, data, bio, index);
            }
            if (*read).pending.fetch_sub(1, ordering::Full) == 1 {
                Self::end(read, below);
            }
        }
    }

    /// Ends the bio.
    ///
    /// # Safety
    ///
    /// `read` is ours, all parts have finished. Its memory is gone after the call.
    unsafe fn end(read: *mut Self, below: Status) {
        // SAFETY: By the requirement of this function. Target and read live until the
        // bio has ended, which is the last thing that happens.
        unsafe {
            let target = &*(*read).target;
            let clone = (*read).clone;
            let status = target.finish(&(*read).job, below);
            addr_of_mut!((*read).job).drop_in_place();
            addr_of_mut!((*read).buffer).drop_in_place();
            (*clone).bi_status = status.into_raw();
            bindings::bio_endio(clone);
        }
    }
}
