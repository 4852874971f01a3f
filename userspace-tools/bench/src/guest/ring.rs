// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Several reads at once, through io_uring.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{opcode, types, IoUring};

use super::read::Buffer;

/// A ring with a buffer for each read that may be under way.
pub struct Ring {
    ring: IoUring,
    buffers: Vec<Buffer>,
    size: usize,
}

impl Ring {
    /// A ring for `depth` reads of `size` bytes.
    pub fn new(depth: usize, size: usize) -> io::Result<Self> {
        Ok(Self {
            ring: IoUring::new(depth as u32)?,
            buffers: (0..depth).map(|_| Buffer::new(size)).collect(),
            size,
        })
    }

    /// Reads at all `places` of `file`, as many at once as there are buffers. Returns when the
    /// last read has ended, also after an error.
    pub fn read(&mut self, file: &File, places: &[u64]) -> io::Result<()> {
        let mut places = places.iter();
        let mut free: Vec<usize> = (0..self.buffers.len()).collect();
        let mut result = Ok(());
        loop {
            while let (Some(slot), true) = (free.last().copied(), result.is_ok()) {
                let Some(place) = places.next() else { break };
                self.push(file, slot, *place)?;
                free.pop();
            }
            if free.len() == self.buffers.len() {
                return result;
            }
            self.ring.submit_and_wait(1)?;
            for done in self.ring.completion() {
                free.push(done.user_data() as usize);
                if done.result() != self.size as i32 {
                    result = Err(wrong(done.result()));
                }
            }
        }
    }

    fn push(&mut self, file: &File, slot: usize, place: u64) -> io::Result<()> {
        let buffer = self.buffers[slot].slice(self.size);
        let read = opcode::Read::new(
            types::Fd(file.as_raw_fd()),
            buffer.as_mut_ptr(),
            self.size as u32,
        )
        .offset(place)
        .build()
        .user_data(slot as u64);
        // SAFETY: The buffer belongs to this ring, is not used again before its read has ended,
        // and `read` returns only when all have. The file is open for as long.
        unsafe { self.ring.submission().push(&read) }.map_err(io::Error::other)
    }
}

fn wrong(result: i32) -> io::Error {
    if result < 0 {
        io::Error::from_raw_os_error(-result)
    } else {
        io::Error::other(format!("a read yielded {result} bytes only"))
    }
}
