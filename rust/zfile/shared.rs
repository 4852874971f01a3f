// SPDX-License-Identifier: GPL-2.0-only

//! What all zfile devices have in common: work queue, scratch memory, cache.

use super::cache::Cache;
use crate::dm::{
    codec::{self, Zstd},
    platform::quietly,
    segments::Span,
    shrinker::Shrinker,
    work::{self, WorkQueue},
};
use crate::format::zfile::{Algorithm, MAX_BLOCK_SIZE};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        lock::{mutex::MutexBackend, Guard},
        Arc, Mutex,
    },
};

/// Made when the target is registered; lives as long as the module.
#[pin_data]
pub(crate) struct Shared {
    pub(super) queue: WorkQueue,
    pub(super) cache: Shrinker<Cache>,
    /// One for each CPU that there may be.
    scratch: KVec<Pin<KBox<Mutex<Scratch>>>>,
    /// How many of them have memory, from the first on: one for each CPU that was online when the
    /// last device joined.
    ready: Atomic<usize>,
    #[pin]
    users: Mutex<Users>,
    next_device: Atomic<u64>,
}

/// Memory for decompressing one block. It is locked for no longer than that
/// takes, so that waiting for it is waiting for the CPU.
#[derive(Default)]
pub(super) struct Scratch {
    block: KVVec<u8>,
    zstd: Option<Zstd>,
}

/// How many devices need the scratch memory.
#[derive(Default)]
struct Users {
    all: usize,
    zstd: usize,
}

impl Shared {
    /// Allocates all but the scratch memory, which comes with the first device.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            let cpus = work::possible_cpus();
            let mut scratch = KVec::with_capacity(cpus, GFP_KERNEL)?;
            for _ in 0..cpus {
                let slot = KBox::pin_init(new_mutex!(Scratch::default()), GFP_KERNEL)?;
                scratch.push(slot, GFP_KERNEL)?;
            }
            let cache = Arc::pin_init(Cache::new(), GFP_KERNEL)?;
            Ok(try_pin_init!(Self {
                queue: WorkQueue::new(c"dm-zfile")?,
                cache: Shrinker::new(c"dm-zfile", cache)?,
                scratch,
                ready: Atomic::new(0),
                users <- new_mutex!(Users::default()),
                next_device: Atomic::new(0),
            }? Error))
        })
    }

    /// Some scratch memory: one that is free, or the next that becomes so.
    /// Task context.
    pub(super) fn scratch(&self) -> Option<Guard<'_, Scratch, MutexBackend>> {
        let slots = self.scratch.get(..self.ready.load(ordering::Acquire))?;
        let free = slots.iter().find_map(|slot| slot.try_lock());
        free.or_else(|| {
            // Not all who wait wait for the same one.
            let slot = work::this_cpu().checked_rem(slots.len())?;
            slots.get(slot).map(|slot| slot.lock())
        })
    }

    /// Allocates scratch memory for one more device.
    fn join(&self, algorithm: Algorithm) -> Result {
        let mut users = self.users.lock();
        let zstd = usize::from(algorithm == Algorithm::Zstd);
        let grown = self.grow(zstd == 1 || users.zstd > 0);
        if grown.is_ok() {
            users.all = users.all.saturating_add(1);
            users.zstd = users.zstd.saturating_add(zstd);
        }
        self.trim(&users);
        grown
    }

    /// Frees the scratch memory with the last device that needs it.
    fn leave(&self, algorithm: Algorithm) {
        let mut users = self.users.lock();
        let zstd = usize::from(algorithm == Algorithm::Zstd);
        users.all = users.all.saturating_sub(1);
        users.zstd = users.zstd.saturating_sub(zstd);
        self.trim(&users);
    }

    /// Allocates what is missing in the slots of CPUs that are online. Not while a slot is locked:
    /// the allocation may wait for a read that waits for the slot.
    fn grow(&self, zstd: bool) -> Result {
        let wanted = work::online_cpus().max(self.ready.load(ordering::Relaxed));
        let wanted = wanted.min(self.scratch.len());
        for slot in self.scratch.iter().take(wanted) {
            if slot.lock().block.is_empty() {
                let block = KVVec::zeroed(MAX_BLOCK_SIZE as usize, quietly())?;
                slot.lock().block = block;
            }
            if zstd && slot.lock().zstd.is_none() {
                let zstd = Zstd::new()?;
                slot.lock().zstd = Some(zstd);
            }
        }
        self.ready.store(wanted, ordering::Release);
        Ok(())
    }

    /// Frees what nobody needs.
    fn trim(&self, users: &Users) {
        for slot in &self.scratch {
            if users.zstd == 0 {
                slot.lock().zstd = None;
            }
            if users.all == 0 {
                slot.lock().block = KVVec::new();
            }
        }
        if users.all == 0 {
            self.ready.store(0, ordering::Relaxed);
        }
    }
}

impl Scratch {
    /// Decompresses a zstd frame into `to`.
    fn zstd(&mut self, source: &[u8], to: Span<'_>) -> Option<usize> {
        self.zstd.as_mut()?.decompress(source, to)
    }

    /// Decompresses a block of `len` bytes into the scratch memory.
    pub(super) fn decompress(
        &mut self,
        algorithm: Algorithm,
        source: &[u8],
        len: usize,
    ) -> Option<&[u8]> {
        let to = Span::from(self.block.get_mut(..len)?);
        let written = match algorithm {
            Algorithm::Lz4 => codec::lz4(source, to),
            Algorithm::Zstd => self.zstd.as_mut()?.decompress(source, to),
        };
        if written == Some(len) {
            self.block.get(..len)
        } else {
            None
        }
    }
}

/// One device's share.
pub(super) struct Member {
    shared: Arc<Shared>,
    algorithm: Algorithm,
    /// The device's number in the cache.
    device: u64,
}

impl Member {
    /// Joins with a device that needs `algorithm`; may sleep.
    pub(super) fn new(shared: &Arc<Shared>, algorithm: Algorithm) -> Result<Self> {
        shared.join(algorithm)?;
        Ok(Self {
            shared: shared.clone(),
            algorithm,
            device: shared.next_device.fetch_add(1, ordering::Relaxed),
        })
    }

    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Decompresses `source` into `to`. Returns the length of the output in
    /// bytes, or `None` if `source` is malformed or its output does not fit.
    pub(super) fn decompress(&self, source: &[u8], to: Span<'_>) -> Option<usize> {
        match self.algorithm {
            Algorithm::Lz4 => codec::lz4(source, to),
            Algorithm::Zstd => self.shared.scratch()?.zstd(source, to),
        }
    }
}

impl core::ops::Deref for Member {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.cache.cache().forget(self.device);
        self.shared.leave(self.algorithm);
    }
}
