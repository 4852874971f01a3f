// SPDX-License-Identifier: GPL-2.0-only

//! Counters that cost a read nothing to speak of: one of each for each CPU.

use crate::bindings;
use core::ptr::NonNull;
use kernel::{alloc::AllocError, prelude::*};

/// `N` counters.
///
/// # Invariants
///
/// `counters` are `N` counters for each CPU.
pub(crate) struct Counters<const N: usize> {
    counters: NonNull<u64>,
}

// SAFETY: Per-CPU memory belongs to no task.
unsafe impl<const N: usize> Send for Counters<N> {}
// SAFETY: Every CPU adds to counters of its own, in one instruction or without being interrupted;
// what others read or reset meanwhile is torn at worst, where a word has 32 bits, and no address.
unsafe impl<const N: usize> Sync for Counters<N> {}

impl<const N: usize> Counters<N> {
    /// Allocates counters that are 0; may sleep.
    pub(crate) fn new() -> Result<Self, AllocError> {
        // SAFETY: There are no requirements.
        let counters = unsafe { bindings::dm_ovbd_counters_alloc(N as u32) };
        // INVARIANT: They were just allocated.
        Ok(Self {
            counters: NonNull::new(counters).ok_or(AllocError)?,
        })
    }

    /// Adds `value` to counter `index`.
    pub(crate) fn add(&self, index: usize, value: u64) {
        if index < N {
            // SAFETY: There are `N` counters, by the type's invariant.
            unsafe { bindings::dm_ovbd_counter_add(self.counters.as_ptr(), index as u32, value) };
        }
    }

    /// What all CPUs added to each counter.
    pub(crate) fn sums(&self) -> [u64; N] {
        core::array::from_fn(|index| {
            // SAFETY: There are `N` counters, by the type's invariant.
            unsafe { bindings::dm_ovbd_counter_sum(self.counters.as_ptr(), index as u32) }
        })
    }

    /// Sets all counters to 0. Of a CPU that adds to one at the same time, what that had until then may
    /// survive.
    pub(crate) fn reset(&self) {
        for index in 0..N {
            // SAFETY: There are `N` counters, by the type's invariant.
            unsafe { bindings::dm_ovbd_counter_reset(self.counters.as_ptr(), index as u32) };
        }
    }
}

impl<const N: usize> Drop for Counters<N> {
    fn drop(&mut self) {
        // SAFETY: They are ours, and given up here.
        unsafe { bindings::dm_ovbd_counters_free(self.counters.as_ptr()) };
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_counters)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_up_and_reset_one_by_one() -> Result {
        let counters = Counters::<3>::new()?;
        assert_eq!(counters.sums(), [0; 3]);
        for _ in 0..1000 {
            counters.add(0, 1);
            counters.add(2, 1 << 40);
        }
        assert_eq!(counters.sums(), [1000, 0, 1000 << 40]);
        counters.add(1, u64::MAX);
        counters.add(1, 3);
        assert_eq!(counters.sums(), [1000, 2, 1000 << 40]);
        counters.reset();
        assert_eq!(counters.sums(), [0; 3]);
        Ok(())
    }

    #[test]
    fn a_counter_that_is_not_there_is_nobody_elses() -> Result {
        let (first, second) = (Counters::<1>::new()?, Counters::<1>::new()?);
        first.add(1, 5);
        first.add(usize::MAX, 5);
        second.add(0, 2);
        assert_eq!((first.sums(), second.sums()), ([0], [2]));
        Ok(())
    }
}
