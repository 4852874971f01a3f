// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the tests share: a platform on the standard library, and golden files.
#![allow(dead_code)] // each test uses some of it

pub mod golden;
pub mod sample;

use overlaybd_format::{Element, OutOfMemory, Platform};

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

/// Bytes of the platform's memory that an array takes.
pub const SECTOR: usize = 512;
