// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Single reads that may fail.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use super::buffer::Buffer;

/// Bytes of a piece of memory in [`Direct::scatter`], and of the gap behind it: neither does a block
/// fit into a piece, nor do two pieces touch.
const PIECE: usize = 1536;
const GAP: usize = 512;

/// A read, and what its memory holds afterwards, whether it was read or not.
pub type Attempt = (io::Result<()>, Vec<u8>);

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
    pub fn attempt(&self, offset: u64, length: usize, before: &[u8]) -> Attempt {
        let mut buffer = filled(length, before);
        let result = self.0.read_exact_at(buffer.all(), offset);
        (result, buffer.bytes().to_vec())
    }

    /// The same into many small pieces of memory.
    pub fn scatter(&self, offset: u64, length: usize, before: &[u8]) -> Attempt {
        let count = length.div_ceil(PIECE);
        let mut buffer = filled(count * (PIECE + GAP), before);
        let mut left = length;
        let mut slices: Vec<_> = buffer.all().chunks_exact_mut(PIECE + GAP).collect();
        let mut slices: Vec<_> = slices
            .iter_mut()
            .map(|memory| {
                let piece = left.min(PIECE);
                left -= piece;
                IoSliceMut::new(&mut memory[..piece])
            })
            .collect();
        let result = match rustix::io::preadv(&self.0, &mut slices, offset) {
            Ok(got) if got == length => Ok(()),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error.into()),
        };
        let pieces = buffer.bytes().chunks_exact(PIECE + GAP);
        let mut bytes: Vec<u8> = pieces
            .flat_map(|memory| &memory[..PIECE])
            .copied()
            .collect();
        bytes.truncate(length);
        (result, bytes)
    }

    /// [`Direct::attempt`], for those who only look at what was read.
    pub fn read_over(&self, offset: u64, length: usize, before: &[u8]) -> io::Result<Vec<u8>> {
        let (result, bytes) = self.attempt(offset, length, before);
        result.map(|()| bytes)
    }

    /// The same, whatever the memory holds.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.read_over(offset, length, &[0x5a])
    }
}

/// Memory that holds `before` over and over.
fn filled(length: usize, before: &[u8]) -> Buffer {
    let mut buffer = Buffer::new(length, 0);
    for (to, from) in buffer.all().iter_mut().zip(before.iter().cycle()) {
        *to = *from;
    }
    buffer
}
