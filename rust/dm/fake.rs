// SPDX-License-Identifier: GPL-2.0-only

//! A target for KUnit's tests, which are dm core and the device below for it.

use super::{
    bio::{EndedBio, Mapped, MappedBio, Status},
    construct::{Arguments, Constructor, Refusal},
    limits::Limits,
    read::{InFlight, Reader},
    segments::Segments,
    status::{StatusKind, StatusWriter},
    target::{DeviceVisitor, Target, NOWAIT},
    work::WorkQueue,
};
use core::{fmt::Write as _, pin::Pin};
use kernel::{
    ffi::c_int,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc,
    },
};

/// What a [`Fake`] has been asked to do.
pub(super) struct Seen {
    /// How many there are.
    pub(super) alive: Atomic<u32>,
    /// How many bios were lost.
    pub(super) lost: Atomic<u32>,
    /// How often each part was worked on: four bits each.
    pub(super) parts: Atomic<u32>,
    /// How many reads were finished.
    pub(super) finished: Atomic<u32>,
}

impl Seen {
    pub(super) fn new() -> Result<Arc<Self>> {
        let seen = Self {
            alive: Atomic::new(0),
            lost: Atomic::new(0),
            parts: Atomic::new(0),
            finished: Atomic::new(0),
        };
        Ok(Arc::new(seen, GFP_KERNEL)?)
    }
}

/// A target that counts what it is asked to do.
pub(super) struct Fake {
    seen: Arc<Seen>,
    queue: WorkQueue,
}

impl Fake {
    pub(super) fn new(seen: &Arc<Seen>) -> Result<Pin<KBox<Self>>> {
        let queue = WorkQueue::new(c"dm-overlaybd-kunit")?;
        seen.alive.fetch_add(1, ordering::Relaxed);
        let seen = seen.clone();
        Ok(KBox::pin(Self { seen, queue }, GFP_KERNEL)?)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.seen.alive.fetch_sub(1, ordering::Relaxed);
    }
}

#[vtable]
impl Target for Fake {
    const NAME: &'static CStr = c"overlaybd-kunit";
    const VERSION: [u32; 3] = [1, 20, 3];
    const FEATURES: u64 = NOWAIT;

    type PerBio = InFlight<Self>;
    type Shared = Seen;

    /// Of one word.
    fn construct(
        _ti: &mut Constructor<'_>,
        arguments: Arguments<'_>,
        shared: &Arc<Seen>,
    ) -> Result<Pin<KBox<Self>>, Refusal> {
        if arguments.words().count() != 1 {
            return Err(Refusal::invalid(c"Not one word"));
        }
        Ok(Self::new(shared)?)
    }

    /// Ends reads at once, and fails all else.
    fn map<'a>(&'a self, bio: MappedBio<'a, Self>) -> Mapped<'a> {
        match bio.into_read() {
            Ok(read) => read.end(Status::AGAIN),
            Err(other) => other.kill(),
        }
    }

    fn ended(&self, bio: EndedBio<'_>) {
        self.seen
            .lost
            .fetch_add(u32::from(bio.is_lost()), ordering::Relaxed);
    }

    fn status(&self, _kind: StatusKind, out: &mut StatusWriter<'_>) -> core::fmt::Result {
        out.write_str(",well;")
    }

    fn message(&self, arguments: Arguments<'_>) -> Result {
        arguments.expect_reset_stats()
    }

    fn iterate_devices(&self, _visit: &mut DeviceVisitor<'_>) -> c_int {
        7
    }

    fn io_hints(&self, limits: &mut Limits<'_>) {
        limits.detach(8192);
    }
}

impl Reader for Fake {
    /// The number of parts.
    type Job = u32;

    fn queue(&self) -> &WorkQueue {
        &self.queue
    }

    fn parts(&self, job: &u32) -> u32 {
        *job
    }

    fn process(&self, _job: &u32, _data: &[u8], _bio: Segments<'_>, part: u32) {
        self.seen
            .parts
            .fetch_add(1 << (4 * part), ordering::Relaxed);
    }

    fn finish(&self, _job: &u32, below: Status) -> Status {
        self.seen.finished.fetch_add(1, ordering::Relaxed);
        below
    }
}
