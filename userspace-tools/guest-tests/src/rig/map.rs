// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Memory that the kernel maps: of pages of a chosen size, and files read through memory.
#![allow(unsafe_code)]

use std::fs::File;

use anyhow::{ensure, Context as _, Result};
use memmap2::{Advice, Mmap, MmapMut, MmapOptions};

/// How memory lies in the machine, and so how long the segments of a bio may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Pages of 4096 bytes, wherever.
    Small,
    /// Pages of 2 MiB, so that what crosses pages of 4096 bytes is one segment.
    Huge,
}

const HUGE: usize = 2 << 20;

/// The beginning of a file, mapped for reading. A page that cannot be read ends the program.
pub struct Map(Mmap);

impl Map {
    /// Maps `length` bytes of a file that nobody writes to, as long as it is mapped.
    pub fn new(file: &File, length: usize) -> Result<Self> {
        // SAFETY: What is mapped does not change.
        let map = unsafe { MmapOptions::new().len(length).map(file)? };
        Ok(Self(map))
    }

    /// What the file holds.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Memory of a chosen kind.
pub struct Memory {
    mapping: MmapMut,
    /// Where it begins in the mapping.
    skip: usize,
    length: usize,
}

impl Memory {
    /// `length` bytes of zeros, and whole huge pages if it is that.
    pub fn new(paging: Paging, length: usize) -> Result<Self> {
        let (unit, advice) = match paging {
            Paging::Small => (4096, Advice::NoHugePage),
            Paging::Huge => (HUGE, Advice::HugePage),
        };
        let length = length.next_multiple_of(unit);
        let mapping = MmapMut::map_anon(length + unit)?;
        mapping.advise(advice)?;
        let start = mapping.as_ptr().addr();
        let skip = start.next_multiple_of(unit) - start;
        let mut memory = Self {
            mapping,
            skip,
            length,
        };
        memory.bytes_mut().fill(0);
        let huge = huge_kib(start)?;
        let whole = usize::try_from(huge)? >= length / 1024;
        ensure!(
            if paging == Paging::Huge {
                whole
            } else {
                huge == 0
            },
            "{huge} of {length} bytes lie in huge pages, wanted {paging:?} ones"
        );
        Ok(memory)
    }

    /// `length` bytes of zeros, of which each page is taken when it is written to.
    pub fn untouched(length: usize) -> Result<Self> {
        let mapping = MmapOptions::new()
            .len(length)
            .no_reserve_swap()
            .map_anon()?;
        Ok(Self {
            mapping,
            skip: 0,
            length,
        })
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.mapping[self.skip..self.skip + self.length]
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.mapping[self.skip..self.skip + self.length]
    }
}

/// KiB of huge pages in the mapping that begins at `address`.
fn huge_kib(address: usize) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps")?;
    let mut lines = text
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{address:x}-")));
    let line = lines.find_map(|line| line.strip_prefix("AnonHugePages:"));
    let number = line.context("the mapping is not in smaps")?.trim();
    Ok(number.trim_end_matches("kB").trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_as_long_as_it_says() {
        for length in [1, 4096, 100_000] {
            let mut memory = Memory::new(Paging::Small, length).unwrap();
            memory.bytes_mut().fill(7);
            assert!(memory.bytes().len() >= length);
            assert!(memory.bytes().iter().all(|&byte| byte == 7));
        }
    }
}
