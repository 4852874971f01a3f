// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What lies in files: reading, checking and writing layers.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`source`], [`zsource`], [`disk`] | bytes of files, of what is compressed in them, of the disk that layers make |
//! | [`blob`], [`stack`] | opening a file of any kind, and the layers of an image |
//! | [`device`] | where a file ends on a block device |
//! | [`codec`], [`digest`] | compressing blocks; checksums of blobs |
//! | [`atomic`], [`output`] | files that appear complete; the tar wrapper |
//! | [`zwriter`], [`layer`] | writing ZFiles and LSMT layers |
//! | [`changes`], [`mkfs`], [`build`], [`recipe`] | making layers of disks and folders, and images of them |
//! | [`verify`], [`extract`] | checking files, unpacking them |
//! | [`inspect`], [`picture`] | showing what is in files |

pub mod atomic;
pub mod blob;
pub mod build;
pub mod changes;
pub mod codec;
pub mod device;
pub mod digest;
pub mod disk;
mod error;
pub mod extract;
pub mod inspect;
pub mod layer;
pub mod mkfs;
pub mod output;
pub mod picture;
pub mod recipe;
pub mod size;
pub mod source;
pub mod stack;
pub mod verify;
pub mod zsource;
pub mod zwriter;

pub use error::{ImageError, Place};
