// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Memory at a chosen place within a page, as O_DIRECT cares about it.

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Bytes that begin `shift` bytes behind the start of a page.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// `length` bytes.
    pub fn new(length: usize, shift: usize) -> Self {
        let memory = vec![0u8; length + shift % PAGE + PAGE];
        let address = memory.as_ptr().addr();
        let start = address.next_multiple_of(PAGE) - address + shift % PAGE;
        Self {
            memory,
            start,
            length,
        }
    }

    /// All of it.
    pub fn all(&mut self) -> &mut [u8] {
        self.slice(self.length)
    }

    /// The first bytes.
    pub fn slice(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[self.start..][..length]
    }

    /// All of it, to look at.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lies_where_it_should() {
        for (length, shift) in [(1, 0), (4096, 512), (100_000, 4095), (512, 4096)] {
            let mut buffer = Buffer::new(length, shift);
            assert_eq!(buffer.all().len(), length);
            assert_eq!(buffer.all().as_ptr().addr() % PAGE, shift % PAGE);
        }
    }
}
