// SPDX-License-Identifier: GPL-2.0-only

//! dm-overlaybd: OverlayBD images as block devices.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`zfile`], [`lsmt`] | the two device-mapper targets; no `unsafe` |
//! | [`dm`] | safe wrappers of the kernel; all of the `unsafe` |
//! | [`format`] | on-disk formats and table grammar, shared with userspace |
//! | [`bindings`] | C declarations |
//!
//! `Documentation/design.rst` has the life of a read and the reasons.

#![deny(unsafe_op_in_unsafe_fn)]

mod bindings;
mod dm;
// Userspace uses what is unused here.
#[allow(dead_code, unreachable_pub, unused_imports)]
#[path = "format/lib.rs"]
mod format;
#[forbid(unsafe_code)]
mod lsmt;
#[forbid(unsafe_code)]
mod zfile;

use dm::target::Registration;
use kernel::{prelude::*, sync::Arc};
use lsmt::Lsmt;
use zfile::Zfile;

module! {
    type: DmOverlaybd,
    name: "dm_overlaybd",
    authors: ["The dm-overlaybd developers"],
    description: "OverlayBD images: zfile and lsmt device-mapper targets",
    license: "GPL v2",
    alias: ["dm-zfile", "dm-lsmt"],
}

/// The module: its two targets, which are unregistered in the order of the fields.
#[pin_data]
struct DmOverlaybd {
    #[pin]
    zfile: Registration<Zfile>,
    #[pin]
    lsmt: Registration<Lsmt>,
}

impl kernel::InPlaceModule for DmOverlaybd {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let shared = Arc::pin_init(zfile::Shared::new(), GFP_KERNEL)?;
            let nothing = Arc::new((), GFP_KERNEL)?;
            Ok(try_pin_init!(Self {
                zfile <- Registration::new(module, shared),
                lsmt <- Registration::new(module, nothing),
            }? Error))
        })
    }
}
