// SPDX-License-Identifier: GPL-2.0-only

//! Messages in device-mapper's style: `dm_overlaybd: TARGET: DEVICE: …`.

/// Prints an error: `dm_err!(NAME, "{}: …", device, …)`.
macro_rules! dm_err {
    ($target:expr, $($arg:tt)+) => {
        $crate::dm::log::error($target, ::core::format_args!($($arg)+))
    };
}

/// Prints a warning, as [`dm_err!`] does an error.
macro_rules! dm_warn {
    ($target:expr, $($arg:tt)+) => {
        $crate::dm::log::warn($target, ::core::format_args!($($arg)+))
    };
}

pub(crate) use {dm_err, dm_warn};

use core::fmt::Arguments;
use kernel::prelude::*;

/// See [`dm_err!`].
pub(crate) fn error(target: &CStr, message: Arguments<'_>) {
    pr_err!("{}: {}\n", target.to_str().unwrap_or("?"), message);
}

/// See [`dm_warn!`].
pub(crate) fn warn(target: &CStr, message: Arguments<'_>) {
    pr_warn!("{}: {}\n", target.to_str().unwrap_or("?"), message);
}
