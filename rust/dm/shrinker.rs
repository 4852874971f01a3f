// SPDX-License-Identifier: GPL-2.0-only

//! Caches that give memory back when it is short.

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    ffi::{c_ulong, c_void},
    prelude::*,
    sync::Arc,
    types::ForeignOwnable,
};

/// A cache. Both functions are called by whoever needs memory: they may not
/// allocate, and not wait for anything but the CPU.
pub(crate) trait Shrink: Send + Sync + 'static {
    /// How many objects could be freed.
    fn count(&self) -> usize;

    /// Frees up to `count` objects and returns how many it freed.
    fn scan(&self, count: usize) -> usize;
}

/// A cache that the kernel may shrink.
///
/// # Invariants
///
/// `shrinker` is registered; its `private_data` is an `Arc<T>`.
pub(crate) struct Shrinker<T: Shrink> {
    shrinker: NonNull<bindings::shrinker>,
    cache: Arc<T>,
}

// SAFETY: A shrinker may be freed by any task, and `Arc<T>` is `Send`.
unsafe impl<T: Shrink> Send for Shrinker<T> {}
// SAFETY: Nothing is done to the shrinker through a shared reference.
unsafe impl<T: Shrink> Sync for Shrinker<T> {}

impl<T: Shrink> Shrinker<T> {
    /// Registers `cache`; may sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn new(name: &CStr, cache: Arc<T>) -> Result<Self> {
        // SAFETY: `name` is a C string.
        let shrinker = unsafe { bindings::dm_ovbd_shrinker_alloc(name.as_char_ptr()) };
        let shrinker = NonNull::new(shrinker).ok_or(ENOMEM)?;
        // SAFETY: The shrinker is ours until it is registered. `drop` takes the reference
        // back after the last call.
        unsafe {
            (*shrinker.as_ptr()).count_objects = Some(Self::count);
            (*shrinker.as_ptr()).scan_objects = Some(Self::scan);
            (*shrinker.as_ptr()).private_data = cache.clone().into_foreign();
            bindings::shrinker_register(shrinker.as_ptr());
        }
        // INVARIANT: It was just registered.
        Ok(Self { shrinker, cache })
    }

    /// The cache.
    pub(crate) fn cache(&self) -> &T {
        &self.cache
    }

    /// # Safety
    ///
    /// Only called by the kernel, for a shrinker that [`Shrinker::new`] registered.
    unsafe extern "C" fn count(
        shrinker: *mut bindings::shrinker,
        _control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By the type's invariant.
        let cache = unsafe { Arc::<T>::borrow((*shrinker).private_data) };
        cache.count()
    }

    /// # Safety
    ///
    /// Only called by the kernel, for a shrinker that [`Shrinker::new`] registered;
    /// `control` is valid during the call.
    unsafe extern "C" fn scan(
        shrinker: *mut bindings::shrinker,
        control: *mut bindings::shrink_control,
    ) -> c_ulong {
        // SAFETY: By the type's invariant, and the requirements of this function.
        let (cache, count) = unsafe {
            let cache = Arc::<T>::borrow((*shrinker).private_data);
            (cache, (*control).nr_to_scan)
        };
        cache.scan(count)
    }
}

impl<T: Shrink> Drop for Shrinker<T> {
    fn drop(&mut self) {
        // SAFETY: By the type's invariant. `shrinker_free` waits for calls under way, after
        // which the reference that `new` made is ours again.
        unsafe {
            let cache: *mut c_void = (*self.shrinker.as_ptr()).private_data;
            bindings::shrinker_free(self.shrinker.as_ptr());
            drop(Arc::<T>::from_foreign(cache));
        }
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_shrinker)]
mod tests {
    use super::*;
    use core::ptr;
    use kernel::sync::atomic::{ordering, Atomic};

    const OBJECTS: usize = 5;

    /// Answers the same whoever asks: the kernel may, too. Says when it is gone.
    struct Cache(Arc<Atomic<bool>>);

    impl Shrink for Cache {
        fn count(&self) -> usize {
            OBJECTS
        }

        fn scan(&self, count: usize) -> usize {
            count.min(OBJECTS)
        }
    }

    impl Drop for Cache {
        fn drop(&mut self) {
            self.0.store(true, ordering::Relaxed);
        }
    }

    #[test]
    fn the_kernel_asks_the_cache_until_the_shrinker_is_gone() -> Result {
        let gone = Arc::new(Atomic::new(false), GFP_KERNEL)?;
        let cache = Arc::new(Cache(gone.clone()), GFP_KERNEL)?;
        let shrinker = Shrinker::new(c"dm-overlaybd-kunit", cache)?;
        let raw = shrinker.shrinker.as_ptr();
        // SAFETY: The shrinker is registered.
        let count = unsafe { Shrinker::<Cache>::count(raw, ptr::null_mut()) };
        assert_eq!(count, OBJECTS);
        for (wanted, freed) in [(0, 0), (3, 3), (9, OBJECTS)] {
            let mut control = bindings::shrink_control {
                nr_to_scan: wanted,
                ..Default::default()
            };
            // SAFETY: As above; `control` is valid during the call.
            let found = unsafe { Shrinker::<Cache>::scan(raw, &mut control) };
            assert_eq!(found, freed);
        }
        assert_eq!(shrinker.cache().count(), OBJECTS);
        assert!(!gone.load(ordering::Relaxed));
        drop(shrinker);
        assert!(gone.load(ordering::Relaxed));
        Ok(())
    }
}
