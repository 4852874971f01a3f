// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the tests share: platforms, files that misbehave, samples, golden files.
#![allow(dead_code)] // each test uses some of it

pub mod golden;
pub mod sample;

use std::cell::{Cell, RefCell};
use std::ops::Range;

use overlaybd_format::{Element, OutOfMemory, Platform, ReadAt};

/// Bytes in a sector.
pub const SECTOR: usize = 512;

/// The standard library's memory, and a CRC-32C library that inverts.
pub struct Std;

impl Platform for Std {
    type Vec<T: Element> = Vec<T>;

    fn alloc<T: Element>(len: usize) -> Result<Vec<T>, OutOfMemory> {
        let mut vec = Vec::new();
        vec.try_reserve_exact(len).map_err(|_| OutOfMemory)?;
        vec.resize(len, T::default());
        Ok(vec)
    }

    fn crc32c(seed: u32, data: &[u8]) -> u32 {
        !crc32c::crc32c_append(!seed, data)
    }
}

thread_local! {
    /// Allocations that [`Scarce`] still grants.
    static GRANTED: Cell<usize> = const { Cell::new(0) };
    /// The most bytes that it grants at once.
    static LIMIT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// [`Std`] with little memory.
pub struct Scarce;

impl Scarce {
    /// Lets the next `count` allocations succeed, and none after them.
    pub fn grant(count: usize) {
        GRANTED.set(count);
        LIMIT.set(usize::MAX);
    }

    /// Panics at an allocation of more than `bytes`, however many succeed.
    pub fn limit(bytes: usize) {
        GRANTED.set(usize::MAX);
        LIMIT.set(bytes);
    }
}

impl Platform for Scarce {
    type Vec<T: Element> = Vec<T>;

    fn alloc<T: Element>(len: usize) -> Result<Vec<T>, OutOfMemory> {
        let bytes = len * size_of::<T>();
        assert!(bytes <= LIMIT.get(), "asked for {bytes} bytes");
        let rest = GRANTED.get().checked_sub(1).ok_or(OutOfMemory)?;
        GRANTED.set(rest);
        Std::alloc(len)
    }

    fn crc32c(seed: u32, data: &[u8]) -> u32 {
        Std::crc32c(seed, data)
    }
}

/// A file that records what is read, and fails from the `fail`th read on.
pub struct Watched<'a> {
    pub bytes: &'a [u8],
    pub reads: RefCell<Vec<Range<u64>>>,
    pub fail: usize,
}

impl<'a> Watched<'a> {
    pub fn new(bytes: &'a [u8], fail: usize) -> Self {
        let reads = RefCell::default();
        Self { bytes, reads, fail }
    }
}

/// What [`Watched`] fails with.
#[derive(Debug, PartialEq, Eq)]
pub struct Broken;

impl ReadAt for Watched<'_> {
    type Error = Broken;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Broken> {
        let mut reads = self.reads.borrow_mut();
        if reads.len() >= self.fail {
            return Err(Broken);
        }
        reads.push(offset..offset + buf.len() as u64);
        self.bytes.read_exact_at(offset, buf).map_err(|_| Broken)
    }
}
