// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The time of making in a new EROFS image.
//!
//! `mkfs.erofs -T` fixes it, and gives that time to every file, too. To keep the files' own times,
//! it is left out, and what the tool took from the host's clock is put right here.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use overlaybd_format::Platform;

use crate::image::source::Std;

/// Where the superblock begins.
const SUPERBLOCK: u64 = 1024;

/// The checksum covers the rest of the superblock's block.
const COVERED: usize = 4096 - SUPERBLOCK as usize;

/// Fields of the superblock.
mod sb {
    pub(super) const MAGIC: usize = 0;
    pub(super) const CHECKSUM: usize = 4;
    pub(super) const FEATURES: usize = 8;
    pub(super) const LOG_BLOCK_SIZE: usize = 12;
    pub(super) const BUILD_TIME: usize = 24;
    pub(super) const BUILD_TIME_NSEC: usize = 32;
    pub(super) const MAGIC_VALUE: u32 = 0xe0f5_e1e2;
    pub(super) const HAS_CHECKSUM: u32 = 1;
}

/// Sets the time of making to `seconds` since 1970.
///
/// # Errors
/// `InvalidData` for an image that our call of `mkfs.erofs` does not make.
pub(super) fn set_build_time(image: &File, seconds: i64) -> io::Result<()> {
    let mut bytes = [0; COVERED];
    image.read_exact_at(&mut bytes, SUPERBLOCK)?;
    let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
    if word(sb::MAGIC) != sb::MAGIC_VALUE || bytes[sb::LOG_BLOCK_SIZE] != 12 {
        let reason = "the superblock is not as mkfs.erofs makes it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    let has_checksum = word(sb::FEATURES) & sb::HAS_CHECKSUM != 0;
    put(&mut bytes, sb::BUILD_TIME, &seconds.to_le_bytes());
    put(&mut bytes, sb::BUILD_TIME_NSEC, &[0; 4]);
    if has_checksum {
        put(&mut bytes, sb::CHECKSUM, &[0; 4]);
        let checksum = Std::crc32c(!0, &bytes);
        put(&mut bytes, sb::CHECKSUM, &checksum.to_le_bytes());
    }
    image.write_all_at(&bytes, SUPERBLOCK)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
