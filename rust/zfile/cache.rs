// SPDX-License-Identifier: GPL-2.0-only

//! Decompressed blocks of which a part was asked for, in case the rest is
//! asked for next.
//!
//! One cache serves all devices: 32 sets of 8 blocks, that is 16 MiB of 64 KiB
//! blocks at most. Neighbouring blocks fall into different sets, so that 256
//! blocks of a device in a row fit. Memory is only taken when it is there, and
//! the kernel's shrinkers take it back. Pages that the page cache will hold
//! anyway, those of whole blocks, are not kept here.

use crate::dm::shrinker::Shrink;
use kernel::{
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        Arc, SpinLock,
    },
};

const SETS: usize = 32;
const WAYS: usize = 8;

/// Which block of which device.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    /// Number of the device, given once and never again.
    pub(super) device: u64,
    /// Number of the block.
    pub(super) block: u64,
}

/// A decompressed block.
pub(super) type Block = Arc<KVec<u8>>;

struct Entry {
    key: Key,
    block: Block,
    /// When it was last asked for, on the set's clock.
    used: u64,
}

#[derive(Default)]
struct Set {
    ways: [Option<Entry>; WAYS],
    clock: u64,
}

/// The cache. Used in task context only.
#[pin_data]
pub(super) struct Cache {
    #[pin]
    sets: [SpinLock<Set>; SETS],
    blocks: Atomic<usize>,
    /// The set at which the next eviction begins, so that all sets give alike.
    next: Atomic<usize>,
}

impl Cache {
    pub(super) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            sets <- pin_init::pin_init_array_from_fn(|_| new_spinlock!(Set::default())),
            blocks: Atomic::new(0),
            next: Atomic::new(0),
        })
    }

    fn set(&self, key: Key) -> Option<&SpinLock<Set>> {
        let index = key.block.wrapping_add(key.device.wrapping_mul(7)) % SETS as u64;
        self.sets.get(index as usize)
    }

    /// The block, if it is there.
    pub(super) fn get(&self, key: Key) -> Option<Block> {
        let mut set = self.set(key)?.lock();
        set.clock = set.clock.wrapping_add(1);
        let now = set.clock;
        let entry = set
            .ways
            .iter_mut()
            .flatten()
            .find(|entry| entry.key == key)?;
        entry.used = now;
        Some(entry.block.clone())
    }

    /// Keeps `block`, in place of the one of its set that was not asked for the
    /// longest.
    pub(super) fn insert(&self, key: Key, block: Block) {
        let Some(set) = self.set(key) else {
            return;
        };
        let mut set = set.lock();
        set.clock = set.clock.wrapping_add(1);
        let used = set.clock;
        let way = set.ways.iter_mut().min_by_key(|way| match way {
            // Two readers may have decompressed the same block at the same time.
            Some(entry) if entry.key == key => 0,
            Some(entry) => entry.used,
            None => 0,
        });
        let Some(way) = way else {
            return;
        };
        let evicted = way.replace(Entry { key, block, used });
        if evicted.is_none() {
            self.blocks.fetch_add(1, ordering::Relaxed);
        }
        drop(set);
        drop(evicted);
    }

    /// Drops up to `limit` of the blocks that `unwanted` picks; returns how many.
    fn evict(&self, limit: usize, unwanted: impl Fn(Key) -> bool) -> usize {
        let mut evicted = 0;
        let first = self.next.fetch_add(1, ordering::Relaxed) % SETS;
        for set in self.sets.iter().cycle().skip(first).take(SETS) {
            if evicted >= limit {
                break;
            }
            let mut set = set.lock();
            for way in &mut set.ways {
                if evicted < limit && way.as_ref().is_some_and(|entry| unwanted(entry.key)) {
                    *way = None;
                    evicted += 1;
                }
            }
        }
        self.blocks.fetch_sub(evicted, ordering::Relaxed);
        evicted
    }

    /// Drops all blocks of a device.
    pub(super) fn forget(&self, device: u64) {
        self.evict(usize::MAX, |key| key.device == device);
    }
}

impl Shrink for Cache {
    fn count(&self) -> usize {
        self.blocks.load(ordering::Relaxed)
    }

    fn scan(&self, count: usize) -> usize {
        self.evict(count, |_| true)
    }
}
