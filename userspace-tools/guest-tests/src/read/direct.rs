// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Single reads that may fail.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::buffer::Buffer;

/// A device that is read past the page cache, so that each read reaches its target.
pub struct Direct(File);

impl Direct {
    /// Opens `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECT.bits() as i32;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(Self(file))
    }

    /// Reads `length` bytes at `offset`, both whole sectors, into memory that holds `before` over
    /// and over until then.
    pub fn read_over(&self, offset: u64, length: usize, before: &[u8]) -> io::Result<Vec<u8>> {
        let mut buffer = Buffer::new(length, 0);
        for (to, from) in buffer.all().iter_mut().zip(before.iter().cycle()) {
            *to = *from;
        }
        self.0.read_exact_at(buffer.all(), offset)?;
        Ok(buffer.bytes().to_vec())
    }

    /// The same, whatever the memory holds.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.read_over(offset, length, &[0x5a])
    }
}
