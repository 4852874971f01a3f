// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The OverlayBD on-disk formats: bytes in, values out.
//!
//! One source, built twice: by cargo as the crate `overlaybd-format` for the
//! tools, and by Kbuild as a module of the kernel module (`--cfg MODULE`). It
//! parses bytes that an attacker may have written, in ring 0, and therefore has
//! no `unsafe`, no recursion, no panicking path, no stack array over 512 bytes,
//! and takes memory only through [`Platform::alloc`], in amounts bounded by the
//! length of the file at hand.
//!
//! # Tour
//!
//! | module | what it knows |
//! | --- | --- |
//! | [`platform`] | what the crate needs from its user: memory, CRC-32C, reading |
//! | [`error`], [`rule`] | every reason for refusing a file, and how to word it |
//! | [`blob`] | what a file is: tar, then ZFile, then LSMT |
//! | [`tar`] | the tar wrapper that registries hold |
//! | [`zfile`] | the seekable compressed file; [`jump`]: its table of block offsets |
//! | [`lsmt`] | one layer of a block device: header, trailer, index |
//! | [`map`] | a stack of layers merged, with a lookup of a few dozen nanoseconds |
//! | [`table`], [`status`] | the words of the two device-mapper targets |
//!
//! A compressed layer is opened as [`zfile::ZFile`], what it decompresses to as
//! [`lsmt::Layer`]; the layers of an image, bottom first, make a [`map::Map`].
//! All that has been opened has passed every check of the format, which is what
//! keeps the code behind it short.
//!
//! # Units
//!
//! [`Bytes`] and [`Sectors`] say what a number counts. A *file* is whatever a
//! [`ReadAt`] reads: offsets in errors are offsets in it.
//!
//! # Naming the units of the format
//!
//! A ZFile has *blocks*; an LSMT index has *entries*; the merged view has
//! *extents*, which the map keeps as *segments* of less than 2^32 sectors.
#![cfg_attr(not(MODULE), no_std)]

pub mod blob;
pub mod error;
pub mod jump;
pub mod lsmt;
pub mod map;
pub mod platform;
pub mod rule;
pub mod status;
pub mod table;
pub mod tar;
pub mod zfile;

mod fields;
mod merge;
mod tournament;

pub use self::error::{Error, Invalid};
pub use self::platform::{Element, OutOfMemory, Platform, ReadAt};
pub use self::rule::Rule;

/// A number of bytes, or an offset in bytes.
pub type Bytes = u64;

/// A number of 512-byte sectors, or an offset in sectors.
pub type Sectors = u64;

/// Bytes in a sector.
pub const SECTOR: Bytes = 512;

/// Which of the two records of the same layout that enclose a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The record at the beginning of the file.
    Header,
    /// The record at its end.
    Trailer,
}
