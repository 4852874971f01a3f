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
//! 3. [`Reader::process`] is called for each part of the read. If there are several
//!    parts and CPUs, several workers take one part after the other, so that one that
//!    is late, or has the next read to send as well, does less. Who has not begun when
//!    the first worker finds nothing left to do is called off: of the CPUs that do something
//!    else, a read waits for the first worker's at most. The worker that finishes last gives
//!    the buffer back and ends the bio.
//!
//! Until then, a work item waits for neither I/O nor memory. Whose bio it is may do so when it
//! ends.

use super::{
    bio::{Mapped, ReadBio, Status},
    device::Device,
    reserve::Buffer,
    segments::Segments,
    target::Target,
    work::{online_cpus, WorkQueue},
};
use crate::bindings;
use core::{
    mem::{offset_of, size_of, MaybeUninit},
    ptr::{self, null_mut},
};
use kernel::{
    ffi::c_void,
    sync::atomic::{ordering, Atomic},
    task::Task,
    types::Opaque,
};

/// How many parts a read may be split into.
pub(crate) const MAX_PARTS: u32 = 8;
/// How many workers a read may have.
const MAX_WORKERS: usize = 4;

/// A target that reads from below and computes what its bios get.
pub(crate) trait Reader: Target<PerBio = InFlight<Self>> {
    /// What `map` passes on to [`Reader::process`].
    type Job: Send + Sync;

    /// The queue for what cannot be done at once. Must not sleep: called wherever drivers end bios.
    fn queue(&self) -> &WorkQueue;

    /// Into how many parts a read is to be split: 1 to [`MAX_PARTS`]. Must not sleep, either.
    fn parts(&self, job: &Self::Job) -> u32;

    /// Fills the bio's part number `part` from `data`, which was read from below.
    /// Task context; may wait for the CPU, but not for I/O or memory.
    fn process(&self, job: &Self::Job, data: &[u8], bio: Segments<'_>, part: u32);

    /// Called once, after all parts, or after the read from below failed with
    /// `below`. Returns how the bio ends.
    fn finish(&self, job: &Self::Job, below: Status) -> Status;
}

/// What to read from below: whole logical blocks of the device there.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    /// First sector on the device.
    pub(crate) sector: u64,
    /// Length in bytes; more than 0, and at most the buffer's.
    pub(crate) bytes: u32,
}

/// A work item that works on a read.
#[repr(C)]
struct Worker<T: Reader> {
    /// The first field, so that a pointer to it is one to the worker.
    work: Opaque<bindings::work_struct>,
    read: *mut InFlight<T>,
    /// Its number.
    index: usize,
}

/// The state of a read, in the memory that dm core allocates along with a bio.
///
/// # Invariants
///
/// From [`ReadBio::fetch`] until the bio ends:
///
/// - `clone` is the bio that it belongs to, `target` its target, which outlives it.
/// - `lower` and `segment` are initialised, and in use until `lower` has ended.
/// - From then on `pending` counts the workers that have not finished. Those that are called
///   off finish with the first one. They share the read; the one that finishes last owns it.
/// - The first worker begins after all others are queued.
/// - Each part below `next` was taken by one worker.
pub(crate) struct InFlight<T: Reader> {
    target: *const T,
    clone: *mut bindings::bio,
    /// The task that called `map`; only compared.
    submitter: *mut bindings::task_struct,
    /// How `lower` ended.
    below: Status,
    /// The number of parts; 0 if there is nothing to work on.
    parts: u32,
    next: Atomic<u32>,
    /// How many workers there are.
    count: usize,
    pending: Atomic<u32>,
    /// The bio for the device below, and its one segment: the buffer.
    lower: MaybeUninit<bindings::bio>,
    segment: MaybeUninit<bindings::bio_vec>,
    /// How much of the buffer is read.
    bytes: u32,
    buffer: Buffer,
    job: T::Job,
    workers: [MaybeUninit<Worker<T>>; MAX_WORKERS],
}

impl<'a, T: Reader> ReadBio<'a, T> {
    /// Reads `extent` of `device` into `buffer`, and then fills the bio from it.
    pub(crate) fn fetch(
        self,
        device: &'a Device,
        extent: Extent,
        buffer: Buffer,
        job: T::Job,
    ) -> Mapped<'a> {
        let Some(page) = buffer.page(extent.bytes as usize) else {
            return self.end(Status::IO_ERROR);
        };
        let clone = self.as_raw();
        // What lies in front of the clone is aligned as the clone is, and not more.
        const { assert!(align_of::<InFlight<T>>() <= align_of::<bindings::bio>()) };
        // SAFETY: A clone of a `Reader` has so much memory in front of it, which is not
        // used for anything else, and stays where it is until the clone has ended.
        let slot = unsafe {
            let data = bindings::dm_per_bio_data(clone, size_of::<InFlight<T>>());
            &mut *data.cast::<MaybeUninit<InFlight<T>>>()
        };
        // INVARIANT: `lower` and `segment` are initialised below.
        let read = ptr::from_mut(slot.write(InFlight {
            target: self.target(),
            clone,
            submitter: Task::current_raw(),
            below: Status::OK,
            parts: 0,
            next: Atomic::new(0),
            count: 0,
            pending: Atomic::new(0),
            lower: MaybeUninit::uninit(),
            segment: MaybeUninit::uninit(),
            bytes: extent.bytes,
            buffer,
            job,
            workers: [const { MaybeUninit::uninit() }; MAX_WORKERS],
        }));
        // Pointers from here on, and no references to all of it: parts are the block layer's.
        // SAFETY: The read was just written.
        let (lower, segment) = unsafe {
            (
                (&raw mut (*read).lower).cast::<bindings::bio>(),
                (&raw mut (*read).segment).cast::<bindings::bio_vec>(),
            )
        };
        // SAFETY: The clone is ours.
        let (opf, ioprio) = unsafe { ((*clone).bi_opf, (*clone).bi_ioprio) };
        let opf = bindings::req_op_REQ_OP_READ | opf & bindings::DM_OVBD_REQ_INHERIT;
        // SAFETY: `lower`, and `segment` with room for 1, stay in place until it has ended.
        unsafe { bindings::bio_init(lower, null_mut(), segment, 1, opf) };
        // SAFETY: `lower` was just initialised, and is ours until it is submitted.
        let bio = unsafe { &mut *lower };
        // Not by `bio_init`, which would associate the bio with the cgroup of this task:
        // `dm_submit_bio_remap` associates it with that of the original bio.
        bio.bi_bdev = device.bdev();
        bio.bi_ioprio = ioprio;
        bio.bi_iter.bi_sector = extent.sector;
        bio.bi_end_io = Some(InFlight::<T>::lower_end_io);
        bio.bi_private = read.cast::<c_void>();
        // SAFETY: There is room for 1 segment, and the buffer holds `extent.bytes`.
        unsafe { bindings::__bio_add_page(lower, page, extent.bytes, 0) };
        // SAFETY: `clone` is being mapped, and `lower` is complete. The read belongs to
        // `lower_end_io` from here on.
        unsafe { bindings::dm_submit_bio_remap(clone, lower) };
        Mapped::SUBMITTED
    }
}

impl<T: Reader> InFlight<T> {
    /// # Safety
    ///
    /// Only called by the block layer, once, for a bio that [`ReadBio::fetch`] submitted.
    unsafe extern "C" fn lower_end_io(lower: *mut bindings::bio) {
        // SAFETY: The bio has ended, and is not used after this, although it is part of the read,
        // which is what `fetch` stored.
        let (below, read) = unsafe {
            bindings::bio_uninit(lower);
            let read = (*lower).bi_private.cast::<Self>();
            (Status::from_raw((*lower).bi_status), read)
        };
        // SAFETY: Nobody else uses the read until it has workers; its target outlives it.
        let (target, job, submitter) =
            unsafe { (&*(*read).target, &(*read).job, (*read).submitter) };
        let parts = match below {
            Status::OK => target.parts(job).clamp(1, MAX_PARTS),
            _ => 0,
        };
        let count = online_cpus().clamp(1, MAX_WORKERS);
        let count = count.min(parts.max(1) as usize);
        // SAFETY: It only looks at the current task.
        let here = unsafe { bindings::dm_ovbd_may_work_here(submitter) };
        // The first worker needs no work item if it is run here.
        let first = usize::from(here);
        // SAFETY: The read is ours until the workers from `first` up to `count` are queued, none of
        // which was run.
        unsafe {
            (*read).below = below;
            (*read).parts = parts;
            Self::prepare(read, first, count);
            Self::queue(read, first, count, target.queue());
            if here {
                Self::run(read, 0);
            }
        }
    }

    /// Prepares the work items of `count` workers, [`MAX_WORKERS`] at most, but for those before
    /// number `first`.
    ///
    /// # Safety
    ///
    /// Nobody else uses `read`.
    unsafe fn prepare(read: *mut Self, first: usize, count: usize) {
        for index in first..count {
            // SAFETY: By the requirement of this function. The work item stays in place until it
            // has run or was called off.
            unsafe {
                let worker = (&raw mut (*read).workers).cast::<Worker<T>>().add(index);
                worker.write(Worker {
                    work: Opaque::uninit(),
                    read,
                    index,
                });
                let work = Opaque::cast_into(&raw const (*worker).work);
                bindings::dm_ovbd_init_work(work, Some(Self::work));
            }
        }
        // INVARIANT: None of the workers has finished.
        // SAFETY: By the requirement of this function.
        unsafe {
            (*read).count = count;
            (*read).pending.store(count as u32, ordering::Relaxed);
        }
    }

    /// Queues the workers from number `first` up to `end`, each for another CPU. The first one
    /// comes last: it calls others off, who have to be queued for that.
    ///
    /// # Safety
    ///
    /// These workers are prepared, and neither queued nor run. `read` is not used after
    /// the call, but for a worker before `first`.
    unsafe fn queue(read: *mut Self, first: usize, end: usize, queue: &WorkQueue) {
        for index in (first..end).rev() {
            // SAFETY: The worker is pending, which keeps the read alive, until it is queued.
            unsafe {
                let worker = (&raw mut (*read).workers).cast::<Worker<T>>().add(index);
                queue.queue(Opaque::cast_into(&raw const (*worker).work), index as u32);
            }
        }
    }

    /// # Safety
    ///
    /// Only called by a work queue, for the work item of a worker.
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        const { assert!(offset_of!(Worker<T>, work) == 0) };
        // SAFETY: The work item is the first field of a `Worker`, which is pending.
        let worker = unsafe { &*work.cast::<Worker<T>>() };
        // SAFETY: The worker is pending, and its work item runs once.
        unsafe { Self::run(worker.read, worker.index) };
    }

    /// Worker number `index`: takes parts until there are no more, and ends the bio if it is the
    /// last to finish.
    ///
    /// # Safety
    ///
    /// Called once for each worker that is pending, for the first after all others are queued.
    /// `read` is not used after the call.
    unsafe fn run(read: *mut Self, index: usize) {
        // SAFETY: While the worker is pending, the read is there, and shared.
        let this = unsafe { &*read };
        if this.parts > 0 {
            // SAFETY: The bio below has ended well: the buffer is filled, and not written to.
            let data = unsafe { this.buffer.as_slice(this.bytes as usize) };
            // SAFETY: The clone does not end while a worker is pending.
            let bio = unsafe { Segments::from_raw(this.clone) };
            // SAFETY: The target outlives the read.
            let target = unsafe { &*this.target };
            loop {
                // INVARIANT: The part was taken by nobody else.
                let part = this.next.fetch_add(1, ordering::Relaxed);
                if part >= this.parts {
                    break;
                }
                target.process(&this.job, data, bio, part);
            }
        }
        let called_off = match index {
            // SAFETY: All others are queued, and this worker is pending.
            0 => unsafe { this.call_off() },
            _ => 0,
        };
        let finished = called_off.saturating_add(1);
        if this.pending.fetch_sub(finished, ordering::Full) == finished {
            // SAFETY: These were the last workers.
            unsafe { Self::end(read) };
        }
    }

    /// Calls off all workers but the first that have not begun. Returns how many these are.
    ///
    /// # Safety
    ///
    /// They all were queued, and the first one is pending.
    unsafe fn call_off(&self) -> u32 {
        let queued = self.workers.iter().take(self.count).skip(1);
        let called_off = queued.filter(|worker| {
            // SAFETY: The worker is prepared, and stays in place until the read has ended. Its
            // work item is not queued once more, which this must not race with.
            unsafe { bindings::cancel_work(Opaque::cast_into(&raw const (*worker.as_ptr()).work)) }
        });
        called_off.count() as u32
    }

    /// Ends the bio.
    ///
    /// # Safety
    ///
    /// `read` is ours: all workers have finished. Its memory is gone after the call.
    unsafe fn end(read: *mut Self) {
        // SAFETY: By the requirement of this function.
        let this = unsafe { &*read };
        let clone = this.clone;
        // SAFETY: The target outlives the read.
        let status = unsafe { &*this.target }.finish(&this.job, this.below);
        // Gives the buffer back.
        // SAFETY: The read is ours, and not used any more.
        unsafe { ptr::drop_in_place(read) };
        // SAFETY: The clone is ours, and given up here; neither it nor the target is
        // touched after that.
        unsafe { bindings::dm_ovbd_bio_end(clone, status.into_raw()) };
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_read)]
mod tests {
    use super::*;
    use crate::dm::{
        fake::{Fake, Seen},
        reserve::Reserve,
    };
    use kernel::{page::PAGE_SIZE, prelude::*};

    /// What the submitter of a read sees: how often it has ended, and how.
    struct Ended {
        times: Atomic<u32>,
        status: Atomic<u32>,
    }

    /// # Safety
    ///
    /// Only called by the block layer, for a bio whose `bi_private` is an [`Ended`].
    unsafe extern "C" fn ended(bio: *mut bindings::bio) {
        // SAFETY: By the requirement of this function.
        let (ended, status) = unsafe { (&*(*bio).bi_private.cast::<Ended>(), (*bio).bi_status) };
        ended.status.store(status.into(), ordering::Relaxed);
        ended.times.fetch_add(1, ordering::Full);
    }

    /// Has a read of `parts` parts come from below with `below`, in the task that submitted it if
    /// that is `here`. Returns how often each part was worked on, four bits each.
    fn finish(here: bool, parts: u32, below: Status) -> Result<u32> {
        let seen = Seen::new()?;
        let target = Fake::new(&seen)?;
        let reserve = Reserve::new(PAGE_SIZE)?;
        let buffer = reserve.buffer(PAGE_SIZE, || PAGE_SIZE, true, || ());
        let submitter = Ended {
            times: Atomic::new(0),
            status: Atomic::new(0),
        };
        // SAFETY: There are no requirements.
        let clone = unsafe {
            let opf = bindings::req_op_REQ_OP_READ;
            bindings::dm_ovbd_bio_alloc(0, opf, bindings::DM_OVBD_GFP_TRY)
        };
        // SAFETY: If it is not null, it is ours.
        let bio = unsafe { clone.as_mut() }.ok_or(ENOMEM)?;
        bio.bi_private = (&raw const submitter).cast_mut().cast();
        bio.bi_end_io = Some(ended);
        let mut slot = KBox::new(MaybeUninit::<InFlight<Fake>>::uninit(), GFP_KERNEL)?;
        let read = ptr::from_mut((*slot).write(InFlight {
            target: &raw const *target,
            clone,
            submitter: if here {
                Task::current_raw()
            } else {
                null_mut()
            },
            below: Status::OK,
            parts: 0,
            next: Atomic::new(0),
            count: 0,
            pending: Atomic::new(0),
            lower: MaybeUninit::uninit(),
            segment: MaybeUninit::uninit(),
            bytes: PAGE_SIZE as u32,
            buffer: buffer.ok_or(ENOMEM)?,
            job: parts,
            workers: [const { MaybeUninit::uninit() }; MAX_WORKERS],
        }));
        // SAFETY: The read was just written, and belongs to `lower_end_io` from here on.
        unsafe {
            let lower = (&raw mut (*read).lower).cast::<bindings::bio>();
            bindings::bio_init(lower, null_mut(), null_mut(), 0, (*clone).bi_opf);
            (*lower).bi_private = read.cast();
            (*lower).bi_status = below.into_raw();
            InFlight::<Fake>::lower_end_io(lower);
        }
        while submitter.times.load(ordering::Acquire) == 0 {
            // SAFETY: The task may sleep.
            unsafe { bindings::dm_ovbd_cond_resched() };
        }
        // Nobody uses target or read any more; this waits for work functions to return.
        drop(target);
        drop(slot);
        assert_eq!(submitter.times.load(ordering::Relaxed), 1);
        assert_eq!(
            submitter.status.load(ordering::Relaxed),
            u32::from(below.into_raw())
        );
        assert_eq!(seen.finished.load(ordering::Relaxed), 1);
        // SAFETY: The bio is ours again since it has ended.
        unsafe { bindings::bio_put(clone) };
        // The buffer is back.
        assert!(reserve
            .buffer(PAGE_SIZE, || PAGE_SIZE, false, || ())
            .is_some());
        Ok(seen.parts.load(ordering::Relaxed))
    }

    /// However many workers there are, and whoever of them is called off.
    #[test]
    fn every_part_is_worked_on_once() -> Result {
        for _ in 0..20 {
            for here in [true, false] {
                for (parts, each) in [
                    (0, 0x1),
                    (1, 0x1),
                    (2, 0x11),
                    (7, 0x111_1111),
                    (MAX_PARTS, 0x1111_1111),
                    (u32::MAX, 0x1111_1111),
                ] {
                    assert_eq!(finish(here, parts, Status::OK)?, each);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn what_has_failed_is_not_worked_on() -> Result {
        for here in [true, false] {
            for below in [Status::IO_ERROR, Status::AGAIN] {
                assert_eq!(finish(here, MAX_PARTS, below)?, 0);
            }
        }
        Ok(())
    }
}
