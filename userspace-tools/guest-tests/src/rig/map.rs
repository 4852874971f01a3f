// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Memory that the kernel maps: of pages of a chosen size, and files read through memory.
#![allow(unsafe_code)]

use std::fs::File;
use std::ptr::{null_mut, NonNull};

use anyhow::{ensure, Context as _, Result};
use rustix::mm::{madvise, mmap, mmap_anonymous, munmap, Advice, MapFlags, ProtFlags};

/// How memory lies in the machine, and so how long the segments of a bio may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paging {
    /// Pages of 4096 bytes, wherever.
    Small,
    /// Pages of 2 MiB, so that what crosses pages of 4096 bytes is one segment.
    Huge,
}

const HUGE: usize = 2 << 20;

/// A mapping.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(start: *mut core::ffi::c_void, length: usize) -> Result<Self> {
        Ok(Self {
            start: NonNull::new(start.cast()).context("mapped at address 0")?,
            length,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours, and nothing borrows it any more.
        let result = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        debug_assert!(result.is_ok(), "{result:?}");
    }
}

/// The beginning of a file, mapped for reading. A page that cannot be read ends the program.
pub struct Map(Mapping);

impl Map {
    /// Maps `length` bytes of a file that nobody writes to, as long as it is mapped.
    pub fn new(file: &File, length: usize) -> Result<Self> {
        let (access, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: A new mapping, where the kernel likes, changes no other memory.
        let start = unsafe { mmap(null_mut(), length, access, flags, file, 0)? };
        Ok(Self(Mapping::new(start, length)?))
    }

    /// What the file holds.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: The mapping has `length` bytes, can be read, and does not change.
        unsafe { std::slice::from_raw_parts(self.0.start.as_ptr(), self.0.length) }
    }
}

/// Memory of a chosen kind.
pub struct Memory {
    mapping: Mapping,
    /// Where it begins in the mapping.
    skip: usize,
    length: usize,
}

impl Memory {
    /// `length` bytes of zeros, and whole huge pages if it is that.
    pub fn new(paging: Paging, length: usize) -> Result<Self> {
        let (unit, advice) = match paging {
            Paging::Small => (4096, Advice::LinuxNoHugepage),
            Paging::Huge => (HUGE, Advice::LinuxHugepage),
        };
        let length = length.next_multiple_of(unit);
        let room = length + unit;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: A new mapping, where the kernel likes, changes no other memory.
        let start = unsafe { mmap_anonymous(null_mut(), room, access, MapFlags::PRIVATE)? };
        let mapping = Mapping::new(start, room)?;
        // SAFETY: The advice is about pages to come, not about what is in memory.
        unsafe { madvise(start, room, advice)? };
        let skip = start.addr().next_multiple_of(unit) - start.addr();
        let mut memory = Self {
            mapping,
            skip,
            length,
        };
        memory.bytes_mut().fill(0);
        let huge = huge_kib(start.addr())?;
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
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: A new mapping, where the kernel likes, changes no other memory.
        let start = unsafe { mmap_anonymous(null_mut(), length, access, flags)? };
        Ok(Self {
            mapping: Mapping::new(start, length)?,
            skip: 0,
            length,
        })
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: The mapping has `length` bytes from `skip` on, and lives as long as `self`.
        unsafe {
            std::slice::from_raw_parts(self.mapping.start.as_ptr().add(self.skip), self.length)
        }
    }

    /// All of it.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.mapping.start.as_ptr();
        // SAFETY: As above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(start.add(self.skip), self.length) }
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
