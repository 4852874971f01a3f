// SPDX-License-Identifier: GPL-2.0-only

//! Reads of devices below that are gathered from pieces of a bio.
//!
//! dm core sends a bio that is cut once more for each piece. Pieces that follow
//! each other on a device below, though they do not in the bio, are one read
//! there: with layers that were written in order, as those of images are, that
//! makes a few reads of a bio of hundred fragments.
//!
//! The bios below are allocated if there is memory at once. If there is none, the
//! bio is cut to what was gathered until then; a target that could gather nothing
//! has its bio back, and sends the first piece of it on as it is.

use super::{
    bio::{Mapped, ReadBio, Status},
    device::Device,
    segments::{Cursor, Segments},
    target::Target,
};
use crate::bindings;
use core::{
    mem::{size_of, MaybeUninit},
    ptr::{self, null_mut},
};
use kernel::sync::atomic::{ordering, Atomic};

/// How many reads a bio may become.
const MAX_READS: u32 = 64;
/// How many of them pieces are added to: the last ones.
const OPEN: usize = 16;
/// For how many pieces like its first a read has room.
const ROOM: usize = 4;

/// What is left of a bio, in the memory that dm core allocates along with it.
///
/// # Invariants
///
/// From [`Gather::submit`] until the bio ends, `clone` is the bio, and `left` how many of
/// its reads have not ended; one more while they are being submitted.
pub(crate) struct Pending {
    clone: *mut bindings::bio,
    left: Atomic<u32>,
    /// How the first read that failed did.
    failure: Atomic<u32>,
}

/// A bio that is being taken apart, from its beginning on.
///
/// # Invariants
///
/// - `first` is a list of `count` bios, linked by `bi_next`, which are owned by this value and
///   not submitted; `last` is the last of them.
/// - `open` are bios of the list, or null.
/// - `cursor` is behind the first `sectors` sectors of `bio`.
pub(crate) struct Gather<'a, T: Target<PerBio = Pending>> {
    bio: ReadBio<'a, T>,
    cursor: Cursor<'a>,
    sectors: u32,
    first: *mut bindings::bio,
    last: *mut bindings::bio,
    count: u32,
    open: [*mut bindings::bio; OPEN],
    /// The item of `open` that the next read replaces.
    next: usize,
}

impl<'a, T: Target<PerBio = Pending>> ReadBio<'a, T> {
    /// Begins to take the bio apart.
    pub(crate) fn gather(self) -> Gather<'a, T> {
        // SAFETY: The bio is ours, and does not end before `Gather::submit`, nor before
        // the `map` call has returned if it is given back.
        let cursor = unsafe { Segments::from_raw(self.as_raw()) }.cursor(0);
        // INVARIANT: There are no bios yet.
        Gather {
            bio: self,
            cursor,
            sectors: 0,
            first: null_mut(),
            last: null_mut(),
            count: 0,
            open: [null_mut(); OPEN],
            next: 0,
        }
    }
}

impl<'a, T: Target<PerBio = Pending>> Gather<'a, T> {
    /// How much of the bio is left, in sectors.
    pub(crate) fn left(&self) -> u32 {
        self.bio.sectors().saturating_sub(self.sectors)
    }

    /// Fills the next `sectors` sectors with zeros.
    pub(crate) fn zero(&mut self, sectors: u32) {
        let sectors = sectors.min(self.left());
        self.cursor.zero(bytes(sectors));
        self.sectors = self.sectors.saturating_add(sectors);
    }

    /// Fills the next sector with `content`.
    pub(crate) fn write(&mut self, content: &[u8; 1 << bindings::SECTOR_SHIFT]) {
        if self.left() > 0 {
            self.cursor.write(content);
            self.sectors = self.sectors.saturating_add(1);
        }
    }

    /// Has the next `sectors` sectors read from `sector` of `device` on. Returns whether it
    /// could: otherwise there is no memory, or there are too many reads.
    pub(crate) fn read(&mut self, device: &'a Device, sector: u64, sectors: u32) -> bool {
        let sectors = sectors.min(self.left());
        if sectors == 0 {
            return true;
        }
        let mut vecs = 0_usize;
        self.cursor
            .clone()
            .each_vec(bytes(sectors), |_, _, _| vecs = vecs.saturating_add(1));
        let Some(read) = self.read_at(device, sector, vecs) else {
            return false;
        };
        self.cursor.each_vec(bytes(sectors), |page, offset, len| {
            // SAFETY: The read is ours and has room for `vecs` segments more, and the memory is
            // the bio's, which ends after the read.
            unsafe { bindings::__bio_add_page(read, page, len as u32, offset as u32) };
        });
        self.sectors = self.sectors.saturating_add(sectors);
        true
    }

    /// A read that `vecs` segments can be added to, and that goes on at `sector` of `device`.
    fn read_at(&mut self, device: &Device, sector: u64, vecs: usize) -> Option<*mut bindings::bio> {
        let found = self.open.iter().position(|&read| {
            // SAFETY: What is open is null or ours, by the type's invariant.
            unsafe { read.as_ref() }.is_some_and(|read| {
                let length = u64::from(read.bi_iter.bi_size >> bindings::SECTOR_SHIFT);
                let end = read.bi_iter.bi_sector.wrapping_add(length);
                read.bi_bdev == device.bdev() && end == sector
            })
        });
        let slot = found.unwrap_or(self.next);
        let mut room = vecs.saturating_mul(ROOM);
        if found.is_some() {
            let read = self.open.get(slot).copied()?;
            // SAFETY: It was just found.
            let (taken, most) = unsafe { ((*read).bi_vcnt, (*read).bi_max_vecs) };
            if usize::from(most.saturating_sub(taken)) >= vecs {
                return Some(read);
            }
            room = room.max(usize::from(most).saturating_mul(2));
        } else {
            self.next = self.next.wrapping_add(1) % OPEN;
        }
        let most = bindings::BIO_MAX_VECS as usize;
        if vecs > most || self.count >= MAX_READS {
            return None;
        }
        let read = self.allocate(room.min(most) as u16)?;
        // SAFETY: It was just allocated.
        unsafe {
            (*read).bi_bdev = device.bdev();
            (*read).bi_iter.bi_sector = sector;
        }
        *self.open.get_mut(slot)? = read;
        Some(read)
    }

    /// A bio with room for `vecs` segments, which is the last of the list.
    fn allocate(&mut self, vecs: u16) -> Option<*mut bindings::bio> {
        let clone = self.bio.as_raw();
        // SAFETY: The bio is ours.
        let (opf, ioprio) = unsafe { ((*clone).bi_opf, (*clone).bi_ioprio) };
        let opf = bindings::req_op_REQ_OP_READ | opf & bindings::DM_OVBD_REQ_INHERIT;
        // SAFETY: There are no requirements.
        let read = unsafe { bindings::dm_ovbd_bio_alloc(vecs, opf, bindings::DM_OVBD_GFP_TRY) };
        // SAFETY: If it is not null, it is ours.
        unsafe { read.as_mut() }?.bi_ioprio = ioprio;
        // INVARIANT: The list ends with the new bio, whose `bi_next` is null.
        if self.first.is_null() {
            self.first = read;
        } else {
            // SAFETY: The list is not empty, by the type's invariant.
            unsafe { (*self.last).bi_next = read };
        }
        self.last = read;
        self.count = self.count.saturating_add(1);
        Some(read)
    }

    /// Cuts the bio to what was gathered, and sends that on. Returns the bio if that is nothing.
    pub(crate) fn submit(mut self) -> Result<Mapped<'a>, ReadBio<'a, T>> {
        if self.sectors == 0 {
            return Err(self.bio);
        }
        self.bio.accept(self.sectors);
        let clone = self.bio.as_raw();
        // What lies in front of the clone is aligned as the clone is, and not more.
        const { assert!(align_of::<Pending>() <= align_of::<bindings::bio>()) };
        // SAFETY: A clone of the target has so much memory in front of it, which is not
        // used for anything else, and stays where it is until the clone has ended.
        let slot = unsafe {
            let data = bindings::dm_per_bio_data(clone, size_of::<Pending>());
            &mut *data.cast::<MaybeUninit<Pending>>()
        };
        // INVARIANT: No read is submitted yet.
        let pending = ptr::from_mut(slot.write(Pending {
            clone,
            left: Atomic::new(self.count.saturating_add(1)),
            failure: Atomic::new(0),
        }));
        let mut read = self.first;
        while !read.is_null() {
            // SAFETY: The read is ours, by the type's invariant, and complete. It belongs to
            // `end_io` once it is submitted; the clone is being mapped, and does not end before
            // the last `done`.
            unsafe {
                let next = (*read).bi_next;
                (*read).bi_next = null_mut();
                (*read).bi_private = pending.cast();
                (*read).bi_end_io = Some(Pending::end_io);
                bindings::dm_submit_bio_remap(clone, read);
                read = next;
            }
        }
        // SAFETY: This is what `left` has beyond the number of reads.
        unsafe { Pending::done(pending, Status::OK) };
        Ok(Mapped::SUBMITTED)
    }
}

impl Pending {
    /// # Safety
    ///
    /// Only called by the block layer, once, for a bio that [`Gather::submit`] submitted.
    unsafe extern "C" fn end_io(read: *mut bindings::bio) {
        // SAFETY: The bio has ended, and is given up here; `submit` stored there what it belongs
        // to, of which it was counted.
        unsafe {
            let pending = (*read).bi_private.cast::<Self>();
            let status = Status::from_raw((*read).bi_status);
            bindings::bio_put(read);
            Self::done(pending, status);
        }
    }

    /// Counts a read that has ended with `status`; the last one ends the bio.
    ///
    /// # Safety
    ///
    /// `pending` was made by [`Gather::submit`], and the caller has one of what is left. Its
    /// memory may be gone after the call.
    unsafe fn done(pending: *mut Self, status: Status) {
        // SAFETY: While something is left, the clone has not ended.
        let this = unsafe { &*pending };
        if status != Status::OK {
            let failure = status.into_raw().into();
            // The first failure counts; all of them are true.
            let _ = this.failure.cmpxchg(0, failure, ordering::Relaxed);
        }
        let clone = this.clone;
        if this.left.fetch_sub(1, ordering::Full) == 1 {
            let failure = this.failure.load(ordering::Relaxed);
            // SAFETY: This was the last one: the clone is ours, and given up here.
            unsafe { bindings::dm_ovbd_bio_end(clone, failure as bindings::blk_status_t) };
        }
    }
}

/// The length of `sectors` sectors.
fn bytes(sectors: u32) -> usize {
    (sectors as usize) << bindings::SECTOR_SHIFT
}

#[kernel::macros::kunit_tests(dm_overlaybd_gather)]
mod tests {
    use super::*;
    use kernel::prelude::*;

    /// What [`ended`] has seen: how often, and how the last one ended.
    struct Seen {
        times: u32,
        status: bindings::blk_status_t,
    }

    /// # Safety
    ///
    /// Only called by the block layer, for a bio whose `bi_private` is a [`Seen`] that nobody
    /// else uses.
    unsafe extern "C" fn ended(bio: *mut bindings::bio) {
        // SAFETY: By the requirement of this function.
        let seen = unsafe { &mut *(*bio).bi_private.cast::<Seen>() };
        seen.times += 1;
        // SAFETY: The bio has ended, and is there until it is put.
        seen.status = unsafe { (*bio).bi_status };
    }

    /// How a bio ends whose reads end one after the other with `statuses`.
    fn outcome(statuses: &[Status]) -> Result<Status> {
        let mut seen = Seen {
            times: 0,
            status: 0,
        };
        // SAFETY: There are no requirements.
        let clone = unsafe {
            let opf = bindings::req_op_REQ_OP_READ;
            bindings::dm_ovbd_bio_alloc(0, opf, bindings::DM_OVBD_GFP_TRY)
        };
        // SAFETY: If it is not null, it is ours.
        let bio = unsafe { clone.as_mut() }.ok_or(ENOMEM)?;
        bio.bi_private = (&raw mut seen).cast();
        bio.bi_end_io = Some(ended);
        let mut pending = Pending {
            clone,
            left: Atomic::new(statuses.len() as u32),
            failure: Atomic::new(0),
        };
        for (number, status) in statuses.iter().enumerate() {
            // SAFETY: As many are left as there are statuses.
            unsafe { Pending::done(&raw mut pending, *status) };
            let last = number + 1 == statuses.len();
            assert_eq!(seen.times, u32::from(last));
        }
        // SAFETY: The bio is ours again since it has ended.
        unsafe { bindings::bio_put(clone) };
        Ok(Status::from_raw(seen.status))
    }

    #[test]
    fn a_bio_ends_with_its_last_read_and_the_first_failure() -> Result {
        let (ok, failed, again) = (Status::OK, Status::IO_ERROR, Status::AGAIN);
        assert!(outcome(&[ok])? == ok);
        assert!(outcome(&[ok, ok, ok])? == ok);
        assert!(outcome(&[failed])? == failed);
        assert!(outcome(&[ok, again, ok])? == again);
        assert!(outcome(&[failed, ok, again])? == failed);
        assert!(outcome(&[again, failed])? == again);
        Ok(())
    }
}
