// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The ways of reading that are measured.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use super::machine::open_direct;
use super::ring::Ring;
use crate::content::BLOCK;
use crate::rng::Rng;

const SEQUENTIAL: usize = 1 << 20;
const STREAM: usize = 128 << 10;
const SEED: u64 = 1;

/// A way of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Direct, front to back, 1 MiB a time.
    Sequential,
    /// Through the page cache, front to back, 128 KiB a time.
    Buffered,
    /// Direct, front to back, eight reads of 128 KiB at once.
    Deep,
    /// Direct, 4 KiB at random places, one after the other.
    Random1,
    /// The same, sixteen at once.
    Random16,
}

impl Test {
    /// Every way.
    pub const ALL: [Self; 5] = [
        Self::Sequential,
        Self::Buffered,
        Self::Deep,
        Self::Random1,
        Self::Random16,
    ];
    /// Those at random places.
    pub const RANDOM: [Self; 2] = [Self::Random1, Self::Random16];

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sequential => "seq",
            Self::Buffered => "buffered",
            Self::Deep => "qd8",
            Self::Random1 => "rand1",
            Self::Random16 => "rand16",
        }
    }
}

/// What reading took.
#[derive(Clone, Copy, Debug)]
pub struct Spent {
    /// Bytes that were read.
    pub bytes: u64,
    /// Time on the guest's clock.
    pub nanoseconds: u64,
}

/// Part of a device.
#[derive(Clone, Debug)]
pub struct Area {
    /// The device.
    pub path: PathBuf,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

impl Area {
    /// All of a device that has so many bytes.
    pub fn whole(path: PathBuf, length: u64) -> Self {
        Self {
            path,
            offset: 0,
            length,
        }
    }

    /// Reads the first `bytes`, or `random` blocks among them.
    pub fn read(&self, test: Test, bytes: u64, random: usize) -> Result<Spent> {
        let bytes = bytes.min(self.length);
        let places = |size: usize| (0..bytes / size as u64).map(|n| n * size as u64).collect();
        let blocks = || {
            let order = Rng::new(SEED).order(bytes / BLOCK as u64, random);
            order.into_iter().map(|n| n * BLOCK as u64).collect()
        };
        match test {
            Test::Sequential => self.one_by_one(
                open_direct(&self.path, false)?,
                SEQUENTIAL,
                places(SEQUENTIAL),
            ),
            Test::Buffered => {
                let file = File::open(&self.path)
                    .with_context(|| format!("cannot open {}", self.path.display()))?;
                self.one_by_one(file, STREAM, places(STREAM))
            }
            Test::Deep => self.at_once(8, STREAM, places(STREAM)),
            Test::Random1 => self.one_by_one(open_direct(&self.path, false)?, BLOCK, blocks()),
            Test::Random16 => self.at_once(16, BLOCK, blocks()),
        }
    }

    fn one_by_one(&self, file: File, size: usize, places: Vec<u64>) -> Result<Spent> {
        let mut buffer = Buffer::new(size);
        let start = Instant::now();
        for place in &places {
            file.read_exact_at(buffer.slice(size), self.offset + place)
                .with_context(|| format!("{}: cannot read at byte {place}", self.path.display()))?;
        }
        Ok(spent(start, places.len() * size))
    }

    fn at_once(&self, depth: usize, size: usize, places: Vec<u64>) -> Result<Spent> {
        let file = open_direct(&self.path, false)?;
        let mut ring = Ring::new(depth, size)?;
        let places: Vec<u64> = places.iter().map(|place| self.offset + place).collect();
        let start = Instant::now();
        ring.read(&file, &places)
            .with_context(|| format!("{}: cannot read", self.path.display()))?;
        Ok(spent(start, places.len() * size))
    }
}

fn spent(start: Instant, bytes: usize) -> Spent {
    Spent {
        bytes: bytes as u64,
        nanoseconds: start.elapsed().as_nanos() as u64,
    }
}

/// Memory that begins at a page, as direct access needs it.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// So many bytes.
    pub fn new(length: usize) -> Self {
        let memory = vec![1; length + BLOCK];
        let address = memory.as_ptr().addr();
        let start = address.next_multiple_of(BLOCK) - address;
        Self { memory, start }
    }

    /// The first `length` bytes.
    pub fn slice(&mut self, length: usize) -> &mut [u8] {
        &mut self.memory[self.start..][..length]
    }
}
