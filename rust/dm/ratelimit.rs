// SPDX-License-Identifier: GPL-2.0-only

//! A limit to what broken images and devices put into the log.

use crate::bindings;
use kernel::{prelude::*, types::Opaque};

/// Lets a few messages through at once, and then a few in each interval: the
/// kernel's default of 10 in 5 seconds.
#[pin_data]
pub(crate) struct RateLimit {
    #[pin]
    state: Opaque<bindings::ratelimit_state>,
}

// SAFETY: `___ratelimit` takes the state's own lock.
unsafe impl Send for RateLimit {}
// SAFETY: As above.
unsafe impl Sync for RateLimit {}

impl RateLimit {
    /// A limit of its own.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- Opaque::ffi_init(|state| {
                // SAFETY: `state` is valid for writes, and pinned: it holds a lock.
                unsafe { bindings::dm_ovbd_ratelimit_init(state) }
            }),
        })
    }

    /// Whether a message may be printed now.
    pub(crate) fn allows(&self) -> bool {
        // SAFETY: The state is initialised; the name is a C string.
        unsafe { bindings::___ratelimit(self.state.get(), c"dm-overlaybd".as_char_ptr()) != 0 }
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_ratelimit)]
mod tests {
    use super::*;

    /// However long it takes, it cannot be as long as so many messages would be.
    #[test]
    fn a_few_messages_are_allowed_and_not_a_flood() -> Result {
        let limits = [
            KBox::pin_init(RateLimit::new(), GFP_KERNEL)?,
            KBox::pin_init(RateLimit::new(), GFP_KERNEL)?,
        ];
        for limit in &limits {
            let allowed = (0..2000).filter(|_| limit.allows()).count();
            assert!((10..500).contains(&allowed));
        }
        Ok(())
    }
}
