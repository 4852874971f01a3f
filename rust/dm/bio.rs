// SPDX-License-Identifier: GPL-2.0-only

//! Bios as a target's `map` sees them.
//!
//! [`Target::map`](super::target::Target::map) is given a [`MappedBio`] and has
//! to return a [`Mapped`], which there is one way to get: to consume the bio.
//! So no bio is lost, ended twice, or touched after its end.

use super::{
    device::Device,
    segments::Segments,
    target::{target_of, Target},
};
use crate::bindings;
use core::{marker::PhantomData, ptr::NonNull};
use kernel::ffi::c_int;

/// How a bio ended: `blk_status_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Status(bindings::blk_status_t);

impl Status {
    /// Success.
    pub(crate) const OK: Self = Self(0);
    /// The image is broken where it was read: `EIO`.
    pub(crate) const IO_ERROR: Self = Self(bindings::BLK_STS_IOERR);

    /// What is asked for cannot be had without waiting: `EAGAIN`.
    pub(crate) const AGAIN: Self = Self(bindings::BLK_STS_AGAIN);

    pub(super) const fn from_raw(raw: bindings::blk_status_t) -> Self {
        Self(raw)
    }

    pub(super) const fn into_raw(self) -> bindings::blk_status_t {
        self.0
    }

    /// The errno that the submitter gets to see: 0, or negative.
    pub(crate) fn errno(self) -> c_int {
        // SAFETY: It only looks up a number.
        unsafe { bindings::blk_status_to_errno(self.0) }
    }
}

/// Proof that `map` disposed of its bio, and how: `DM_MAPIO_*`.
pub(crate) struct Mapped<'a> {
    disposition: c_int,
    _bio: PhantomData<&'a mut ()>,
}

impl Mapped<'_> {
    pub(super) fn into_raw(self) -> c_int {
        self.disposition
    }

    /// The target owns the bio now, or has ended it.
    pub(super) const SUBMITTED: Self = Self {
        disposition: bindings::DM_MAPIO_SUBMITTED as c_int,
        _bio: PhantomData,
    };
    const REMAPPED: Self = Self {
        disposition: bindings::DM_MAPIO_REMAPPED as c_int,
        _bio: PhantomData,
    };
    const KILLED: Self = Self {
        disposition: bindings::DM_MAPIO_KILL as c_int,
        _bio: PhantomData,
    };
}

/// A bio of a target that has ended, successfully or not.
pub(crate) struct EndedBio<'a> {
    bio: &'a bindings::bio,
    status: Status,
}

impl<'a> EndedBio<'a> {
    pub(super) fn new(bio: &'a bindings::bio, status: Status) -> Self {
        Self { bio, status }
    }

    /// Whether the bio failed, and that is somebody's loss.
    ///
    /// Not if nobody waits for the data: who needs them will read them again, and a suspended
    /// device fails all readahead. And not if its submitter has only been told to come again.
    pub(crate) fn is_lost(&self) -> bool {
        self.status != Status::OK
            && self.status != Status::AGAIN
            && self.bio.bi_opf & bindings::DM_OVBD_REQ_RAHEAD == 0
    }
}

/// A bio that a target has to map.
///
/// # Invariants
///
/// - `bio` is the clone that dm core passed to a `map` call of `ti`, which has
///   not returned for `'a`, and is owned by this value.
/// - `ti` holds a `T`.
pub(crate) struct MappedBio<'a, T: Target> {
    ti: NonNull<bindings::dm_target>,
    bio: NonNull<bindings::bio>,
    _target: PhantomData<&'a T>,
}

impl<'a, T: Target> MappedBio<'a, T> {
    /// # Safety
    ///
    /// `ti` and `bio` are the arguments of a `map` call that has not returned for
    /// `'a`, and `ti` was made by `T`'s constructor.
    pub(super) unsafe fn from_raw(ti: *mut bindings::dm_target, bio: *mut bindings::bio) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            // SAFETY: dm core passes no null pointers.
            ti: unsafe { NonNull::new_unchecked(ti) },
            // SAFETY: As above.
            bio: unsafe { NonNull::new_unchecked(bio) },
            _target: PhantomData,
        }
    }

    /// The bio as a read with data, or itself if it is anything else.
    pub(crate) fn into_read(self) -> Result<ReadBio<'a, T>, Self> {
        // SAFETY: The bio is ours, by the type's invariant.
        let opf = unsafe { self.bio.as_ref().bi_opf };
        if opf & bindings::DM_OVBD_REQ_OP_MASK == bindings::req_op_REQ_OP_READ {
            // INVARIANT: It was just checked.
            Ok(ReadBio(self))
        } else {
            Err(self)
        }
    }

    /// Fails the bio: `EIO`.
    pub(crate) fn kill(self) -> Mapped<'a> {
        Mapped::KILLED
    }
}

/// A read that a target has to map.
///
/// # Invariants
///
/// The operation of the bio is `REQ_OP_READ`.
pub(crate) struct ReadBio<'a, T: Target>(MappedBio<'a, T>);

impl<'a, T: Target> ReadBio<'a, T> {
    pub(super) fn as_raw(&self) -> *mut bindings::bio {
        self.0.bio.as_ptr()
    }

    pub(super) fn target(&self) -> *const T {
        // SAFETY: `ti` holds a `T` until `map` has returned, by the invariant of `MappedBio`.
        unsafe { target_of(self.0.ti.as_ptr()) }
    }

    fn iter(&self) -> bindings::bvec_iter {
        // SAFETY: The bio is ours, by the invariant of `MappedBio`.
        unsafe { (*self.as_raw()).bi_iter }
    }

    /// The first sector, relative to the target's.
    pub(crate) fn sector(&self) -> u64 {
        // SAFETY: `ti` is valid, by the invariant of `MappedBio`.
        let begin = unsafe { self.0.ti.as_ref().begin };
        // dm core passes no bio that starts before its target.
        let iter = self.iter();
        iter.bi_sector.wrapping_sub(begin)
    }

    /// The length, in sectors.
    pub(crate) fn sectors(&self) -> u32 {
        let iter = self.iter();
        iter.bi_size >> bindings::SECTOR_SHIFT
    }

    /// Cuts the bio to its first `sectors` sectors, 1 at least; dm core sends
    /// the rest in another bio.
    ///
    /// None of what `dm_accept_partial_bio()` would stop the machine for can
    /// happen here: a read is never sent to several targets, is no zone
    /// operation and no atomic write, and `sectors` is compared first.
    pub(crate) fn accept(&mut self, sectors: u32) {
        if (1..self.sectors()).contains(&sectors) {
            // SAFETY: The bio is a read that is being mapped, and longer than `sectors`.
            unsafe { bindings::dm_accept_partial_bio(self.as_raw(), sectors) };
        }
    }

    /// Fails the bio: `EIO`.
    pub(crate) fn kill(self) -> Mapped<'a> {
        self.0.kill()
    }

    /// Sends the bio on to `sector` of `device`.
    pub(crate) fn remap(self, device: &'a Device, sector: u64) -> Mapped<'a> {
        // SAFETY: The bio is ours, the block device is open.
        unsafe { bindings::dm_ovbd_bio_remap(self.as_raw(), device.bdev(), sector) };
        Mapped::REMAPPED
    }

    /// The memory that the read wants to be filled.
    pub(crate) fn segments(&self) -> Segments<'_> {
        // SAFETY: The bio is ours, and not ended before this borrow of `self`.
        unsafe { Segments::from_raw(self.as_raw()) }
    }

    /// Whether the submitter would rather wait than see `EAGAIN`.
    pub(crate) fn may_wait(&self) -> bool {
        // SAFETY: The bio is ours, by the invariant of `MappedBio`.
        unsafe { (*self.as_raw()).bi_opf & bindings::DM_OVBD_REQ_NOWAIT == 0 }
    }

    /// Whether nobody waits for the data yet: a failure is not one that anybody
    /// will see, and who needs the data will read them again.
    pub(crate) fn is_readahead(&self) -> bool {
        // SAFETY: The bio is ours, by the invariant of `MappedBio`.
        unsafe { (*self.as_raw()).bi_opf & bindings::DM_OVBD_REQ_RAHEAD != 0 }
    }

    /// Ends the bio; with success only after its [`segments`](Self::segments) are
    /// filled.
    pub(crate) fn end(self, status: Status) -> Mapped<'a> {
        // SAFETY: The bio is ours, and given up here.
        unsafe { bindings::dm_ovbd_bio_end(self.as_raw(), status.into_raw()) };
        Mapped::SUBMITTED
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_bio)]
mod tests {
    use super::*;
    use crate::dm::fake::Fake;
    use kernel::prelude::*;

    const READ: bindings::blk_opf_t = bindings::req_op_REQ_OP_READ;
    const RAHEAD: bindings::blk_opf_t = bindings::DM_OVBD_REQ_RAHEAD;
    const NOWAIT: bindings::blk_opf_t = bindings::DM_OVBD_REQ_NOWAIT;

    /// Does `work` with a bio of 8 sectors from sector 1000 on, for a target that begins at 900.
    fn with<R>(opf: bindings::blk_opf_t, work: impl FnOnce(MappedBio<'_, Fake>) -> R) -> R {
        let mut ti = bindings::dm_target {
            begin: 900,
            ..Default::default()
        };
        let mut bio = bindings::bio {
            bi_opf: opf,
            bi_iter: bindings::bvec_iter {
                bi_sector: 1000,
                bi_size: 4096,
                ..Default::default()
            },
            ..Default::default()
        };
        // SAFETY: Nobody but `work` uses them. There is no target in `ti`, and nobody asks for it.
        work(unsafe { MappedBio::from_raw(&raw mut ti, &raw mut bio) })
    }

    #[test]
    fn only_reads_are_reads() {
        for (opf, is_read) in [
            (READ, true),
            (READ | RAHEAD | NOWAIT, true),
            (bindings::req_op_REQ_OP_WRITE, false),
            (bindings::req_op_REQ_OP_WRITE | RAHEAD, false),
            (bindings::req_op_REQ_OP_FLUSH, false),
            (bindings::req_op_REQ_OP_DISCARD, false),
            (bindings::req_op_REQ_OP_WRITE_ZEROES, false),
        ] {
            assert_eq!(with(opf, |bio| bio.into_read().is_ok()), is_read);
        }
    }

    #[test]
    fn reads_are_seen_as_the_target_counts() {
        for (opf, waits, readahead) in [
            (READ, true, false),
            (READ | NOWAIT, false, false),
            (READ | RAHEAD, true, true),
        ] {
            let seen = with(opf, |bio| {
                let read = bio.into_read().ok()?;
                assert_eq!((read.sector(), read.sectors()), (100, 8));
                Some((read.may_wait(), read.is_readahead()))
            });
            assert!(seen == Some((waits, readahead)));
        }
    }

    #[test]
    fn a_bio_is_killed_by_dm_core() {
        let killed = bindings::DM_MAPIO_KILL as c_int;
        assert_eq!(with(READ, |bio| bio.kill().into_raw()), killed);
        let read = with(READ, |bio| Some(bio.into_read().ok()?.kill().into_raw()));
        assert!(read == Some(killed));
    }

    #[test]
    fn what_somebody_waits_for_can_be_lost() {
        for (opf, status, is_lost) in [
            (READ, Status::OK, false),
            (READ, Status::AGAIN, false),
            (READ, Status::IO_ERROR, true),
            (READ | NOWAIT, Status::IO_ERROR, true),
            (READ | RAHEAD, Status::IO_ERROR, false),
            (bindings::req_op_REQ_OP_WRITE, Status::IO_ERROR, true),
        ] {
            let bio = bindings::bio {
                bi_opf: opf,
                ..Default::default()
            };
            assert_eq!(EndedBio::new(&bio, status).is_lost(), is_lost);
        }
    }

    #[test]
    fn submitters_see_errors() {
        assert_eq!(Status::OK.errno(), 0);
        assert_eq!(Status::IO_ERROR.errno(), EIO.to_errno());
        assert_eq!(Status::AGAIN.errno(), EAGAIN.to_errno());
    }
}
