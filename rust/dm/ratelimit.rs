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
