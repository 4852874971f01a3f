// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reading a device in every way that applications do, and comparing with what must be there.

mod buffer;
mod direct;
mod readers;
mod vectors;

use std::fs::File;
use std::io::{IoSliceMut, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;

use anyhow::{anyhow, bail, ensure, Context as _, Result};
use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

use crate::ctx::SECTOR;
use crate::rng::Rng;
pub use buffer::Buffer;
pub use direct::{Attempt, Direct};
pub use readers::Readers;
use vectors::Vectors;

/// Readers at the same time.
const THREADS: usize = 4;
/// Longest random read, bytes.
const LONG: u64 = 1 << 20;

/// Whether reads go through the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Through the page cache: any offset, length and address.
    Buffered,
    /// O_DIRECT: whole sectors.
    Direct,
}

impl Mode {
    /// What offsets and lengths have to be multiples of, on a device with blocks of `block` bytes.
    fn unit(self, block: u64) -> u64 {
        match self {
            Self::Buffered => 1,
            Self::Direct => block,
        }
    }
}

/// Reads `path` in every way, and compares with `content`, the rest of whose last sector must
/// read as zeros.
pub fn check(path: &Path, mut content: Vec<u8>, rng: &mut Rng) -> Result<()> {
    let sectors = (content.len() as u64).div_ceil(SECTOR);
    content.resize(usize::try_from(sectors * SECTOR)?, 0);
    let device = Device::open(path, &content)?;
    device.whole(Mode::Direct, 1 << 20)?;
    device.whole(Mode::Direct, 68 << 10)?;
    device.whole(Mode::Buffered, 128 << 10)?;
    let count = (sectors / 16).clamp(8, 64);
    drop_caches()?;
    for mode in [Mode::Buffered, Mode::Direct] {
        device
            .random(mode, count, rng)
            .with_context(|| format!("{mode:?}"))?;
    }
    device.vectored(count, rng).context("preadv")?;
    device
        .parallel(count / 2, rng)
        .context("parallel readers")?;
    device.at_the_end()
}

/// The same of a device whose logical blocks are `block` bytes.
pub fn check_blocks(path: &Path, content: Vec<u8>, block: u64, rng: &mut Rng) -> Result<()> {
    let mut device = Device::open(path, &content)?;
    device.block = block;
    device.whole(Mode::Direct, 1 << 20)?;
    device.random(Mode::Direct, 32, rng)?;
    device.random(Mode::Buffered, 32, rng)
}

/// Reads `path` once, in large pieces.
pub fn check_once(path: &Path, mut content: Vec<u8>) -> Result<()> {
    let sectors = (content.len() as u64).div_ceil(SECTOR);
    content.resize(usize::try_from(sectors * SECTOR)?, 0);
    Device::open(path, &content)?.whole(Mode::Direct, 1 << 20)
}

/// Memory for one page, where O_DIRECT wants it.
pub fn page() -> Buffer {
    Buffer::new(4096, 0)
}

/// Reads what is at `offset` of `path`, in both ways, and compares with `content`.
pub fn check_at(path: &Path, offset: u64, content: &[u8]) -> Result<()> {
    for flags in [OFlags::empty(), OFlags::DIRECT] {
        let file = File::options()
            .read(true)
            .custom_flags(flags.bits() as i32)
            .open(path)?;
        let mut buffer = Buffer::new(content.len(), 0);
        file.read_exact_at(buffer.all(), offset)
            .with_context(|| format!("reading {} bytes at {offset}", content.len()))?;
        compare(offset, buffer.bytes(), content)?;
    }
    Ok(())
}

/// Forgets what the page cache holds.
pub fn drop_caches() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "1").context("drop_caches")
}

/// Has the kernel take back what it can do without: the blocks that the module keeps, too.
pub fn drop_objects() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "2").context("drop_caches")
}

/// A device and what it must hold.
pub struct Device<'a> {
    content: &'a [u8],
    block: u64,
    buffered: File,
    direct: File,
}

impl<'a> Device<'a> {
    /// Opens it; `content` is all of it, whole sectors.
    pub fn open(path: &Path, content: &'a [u8]) -> Result<Self> {
        let open = |flags: OFlags| {
            File::options()
                .read(true)
                .custom_flags(flags.bits() as i32)
                .open(path)
                .with_context(|| path.display().to_string())
        };
        let mut buffered = open(OFlags::empty())?;
        let size = buffered.seek(SeekFrom::End(0))?;
        ensure!(
            size == content.len() as u64,
            "{} has {size} bytes, expected {}",
            path.display(),
            content.len()
        );
        Ok(Self {
            content,
            block: SECTOR,
            buffered,
            direct: open(OFlags::DIRECT)?,
        })
    }

    /// The open node.
    pub fn file(&self, mode: Mode) -> &File {
        match mode {
            Mode::Buffered => &self.buffered,
            Mode::Direct => &self.direct,
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.content.len() as u64
    }

    /// What must be at `offset`.
    pub fn expected(&self, offset: u64, length: usize) -> &[u8] {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(length);
        self.content.get(start..end).unwrap_or_default()
    }

    /// From the beginning to the end.
    pub fn whole(&self, mode: Mode, chunk: usize) -> Result<()> {
        let mut buffer = Buffer::new(chunk, 0);
        let mut offset = 0;
        while offset < self.size() {
            let length = chunk.min(usize::try_from(self.size() - offset)?);
            self.read(mode, offset, buffer.slice(length))
                .with_context(|| format!("{mode:?}, in pieces of {chunk}"))?;
            offset += length as u64;
        }
        Ok(())
    }

    /// Anywhere, any length, into memory of any alignment.
    pub fn random(&self, mode: Mode, count: u64, rng: &mut Rng) -> Result<()> {
        let unit = mode.unit(self.block);
        for _ in 0..count {
            let offset = rng.within(0..self.size()) / unit * unit;
            let room = (self.size() - offset).min(LONG);
            let length = (rng.length(room).div_ceil(unit) * unit).min(room);
            let shift = rng.within(0..4096) / unit * unit;
            let mut buffer = Buffer::new(usize::try_from(length)?, usize::try_from(shift)?);
            self.read(mode, offset, buffer.all())?;
        }
        Ok(())
    }

    /// Reads at `offset`, all of `into`.
    pub fn read(&self, mode: Mode, offset: u64, into: &mut [u8]) -> Result<()> {
        // A pattern that must be overwritten.
        into.fill(0x5a);
        let length = into.len();
        self.file(mode)
            .read_exact_at(into, offset)
            .with_context(|| format!("reading {length} bytes at {offset}"))?;
        compare(offset, into, self.expected(offset, length))
    }

    /// Reads `length` bytes at `offset`, with O_DIRECT, unless that would have to wait: whether
    /// there was an answer, all of it or a part.
    pub fn at_once(&self, offset: u64, length: usize) -> Result<bool> {
        let mut buffer = Buffer::new(length, 0);
        let mut slices = [IoSliceMut::new(buffer.all())];
        match rustix::io::preadv2(&self.direct, &mut slices, offset, ReadWriteFlags::NOWAIT) {
            Ok(got) => {
                compare(offset, &buffer.bytes()[..got], self.expected(offset, got))?;
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(other) => Err(other).context("without waiting"),
        }
    }

    /// Into several pieces of memory at once, with O_DIRECT, so that they become the segments of
    /// bios: from a sector to several pages long, at any sector within a page.
    pub fn vectored(&self, count: u64, rng: &mut Rng) -> Result<()> {
        for _ in 0..count {
            let offset = rng.within(0..self.size()) / SECTOR * SECTOR;
            let room = (self.size() - offset) / SECTOR;
            let mut vectors = Vectors::new(room, rng);
            let length = vectors.length();
            let mut slices: Vec<IoSliceMut> = vectors.slices();
            let got = rustix::io::preadv(&self.direct, &mut slices, offset)
                .with_context(|| format!("reading {length} bytes at {offset}"))?;
            ensure!(got == length, "{got} of {length} bytes at {offset}");
            let what = || format!("pieces of {:?} bytes", vectors.lengths());
            let expected = self.expected(offset, length);
            compare(offset, &vectors.gather(), expected).with_context(what)?;
            vectors.check_guards().with_context(what)?;
        }
        Ok(())
    }

    /// Several readers, each with random reads of both kinds.
    pub fn parallel(&self, count: u64, rng: &mut Rng) -> Result<()> {
        let seeds: Vec<Rng> = (0..THREADS).map(|_| rng.fork()).collect();
        thread::scope(|scope| {
            let readers: Vec<_> = seeds
                .into_iter()
                .enumerate()
                .map(|(number, mut rng)| {
                    scope.spawn(move || match number % 2 {
                        0 => self.random(Mode::Direct, count, &mut rng),
                        _ => self.random(Mode::Buffered, count, &mut rng),
                    })
                })
                .collect();
            for reader in readers {
                reader.join().map_err(|_| anyhow!("a reader panicked"))??;
            }
            Ok(())
        })
    }

    /// Nothing lies behind the end.
    pub fn at_the_end(&self) -> Result<()> {
        for mode in [Mode::Buffered, Mode::Direct] {
            let mut buffer = Buffer::new(4096, 0);
            let got = self.file(mode).read_at(buffer.all(), self.size());
            ensure!(
                matches!(got, Ok(0)),
                "{mode:?} read at the end of the device: {got:?}"
            );
        }
        Ok(())
    }
}

/// Says where bytes that were read at `offset` differ.
pub fn compare(offset: u64, got: &[u8], expected: &[u8]) -> Result<()> {
    ensure!(
        got.len() == expected.len(),
        "{} bytes at {offset}, but the content has {} there",
        got.len(),
        expected.len()
    );
    if got == expected {
        return Ok(());
    }
    let differs = |(got, expected): (&u8, &u8)| got != expected;
    let first = got.iter().zip(expected).position(differs).unwrap_or(0);
    let count = got
        .iter()
        .zip(expected)
        .filter(|&pair| differs(pair))
        .count();
    let some = |bytes: &[u8]| -> String {
        let shown = bytes.iter().skip(first).take(16);
        shown.map(|byte| format!("{byte:02x} ")).collect()
    };
    let at = offset + first as u64;
    bail!(
        "wrong bytes: {count} of the {} read at {offset} differ, the first at {at} (sector {}, byte {}):\n\
         got      {}\nexpected {}",
        got.len(),
        at / SECTOR,
        at % SECTOR,
        some(got),
        some(expected)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_file<T>(bytes: &[u8], test: impl FnOnce(&Path) -> T) -> T {
        let path = std::env::temp_dir().join(format!("guest-tests-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let result = test(&path);
        std::fs::remove_file(&path).unwrap();
        result
    }

    #[test]
    fn a_difference_is_told() {
        let mut wrong = vec![7; 2048];
        wrong[1030] = 8;
        let error = compare(512, &wrong, &[7; 2048]).unwrap_err().to_string();
        assert!(
            error.contains("the first at 1542 (sector 3, byte 6)"),
            "{error}"
        );
        assert!(compare(0, &[1, 2], &[1]).is_err());
    }

    #[test]
    fn every_way_of_reading_finds_one_wrong_byte() {
        let right: Vec<u8> = (0..64 * 1024u32).map(|i| (i % 251) as u8).collect();
        let mut wrong = right.clone();
        wrong[40_000] ^= 1;
        with_file(&wrong, |path| {
            let device = Device::open(path, &right).unwrap();
            assert!(device.whole(Mode::Buffered, 4096).is_err());
            let mut rng = Rng::for_test("wrong byte");
            assert!(device.random(Mode::Buffered, 2000, &mut rng).is_err());
            assert!(Device::open(path, &right[1..]).is_err());
            let device = Device::open(path, &wrong).unwrap();
            device.random(Mode::Buffered, 200, &mut rng).unwrap();
            device.at_the_end().unwrap();
        });
    }
}
