// SPDX-License-Identifier: GPL-2.0-only

//! Device-mapper for Rust: what the targets stand on.
//!
//! All `unsafe` code of the module is here; the targets have none.
//!
//! | module | what it wraps |
//! | --- | --- |
//! | [`target`] | `target_type`: the trait of a target, and its registration |
//! | [`construct`] | a `dm_target` under construction, its arguments |
//! | [`device`] | `dm_dev`: a device below |
//! | [`bio`] | a bio in `map`, and what may become of it |
//! | [`gather`] | reads below that are gathered from pieces of a bio |
//! | [`read`] | a read from below on behalf of a bio, from `map` to its end |
//! | [`reserve`], [`pages`] | the buffers of such reads |
//! | [`segments`] | the memory of a bio |
//! | [`codec`] | LZ4, zstd and CRC-32C |
//! | [`limits`], [`status`] | queue limits; status lines |
//! | [`platform`] | memory, checksums and files for the format code |
//! | [`log`], [`work`], [`counters`], [`ratelimit`], [`shrinker`] | small parts of the kernel that its crate does not have yet |

pub(crate) mod bio;
pub(crate) mod codec;
pub(crate) mod construct;
pub(crate) mod counters;
pub(crate) mod device;
#[cfg(CONFIG_KUNIT = "y")]
mod fake;
pub(crate) mod gather;
pub(crate) mod limits;
pub(crate) mod log;
pub(crate) mod pages;
pub(crate) mod platform;
pub(crate) mod ratelimit;
pub(crate) mod read;
pub(crate) mod reserve;
pub(crate) mod segments;
pub(crate) mod shrinker;
pub(crate) mod status;
pub(crate) mod target;
pub(crate) mod work;
