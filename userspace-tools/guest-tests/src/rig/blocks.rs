// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A zfile device block by block: which can be read, and which cannot.

use std::io;
use std::ops::Range;

use anyhow::{bail, ensure, Context as _, Result};
use rustix::io::Errno;

use super::{sample, Zfile};
use crate::ctx::SECTOR;
use crate::read::{Buffer, Device, Mode};

/// A zfile device and where each block lies below it.
pub struct Blocks<'a> {
    /// The device.
    pub device: Device<'a>,
    /// Where each block lies on the device below, bytes.
    extents: Vec<Range<u64>>,
    block_size: u64,
}

impl<'a> Blocks<'a> {
    /// `padded` is what the device must show, see [`Zfile::padded`].
    pub fn new(zfile: &Zfile, padded: &'a [u8]) -> Result<Self> {
        let start = zfile.lower.sector * SECTOR;
        let extents = sample::extents(&zfile.file)?;
        let moved = |extent: Range<u64>| extent.start + start..extent.end + start;
        Ok(Self {
            device: Device::open(zfile.path(), padded)?,
            extents: extents.into_iter().map(moved).collect(),
            block_size: zfile.form.block_size.into(),
        })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.extents.len()
    }

    /// Where a block lies below, bytes.
    pub fn extent(&self, block: usize) -> Range<u64> {
        self.extents.get(block).cloned().unwrap_or_default()
    }

    /// What is read below for a block: whole sectors.
    pub fn sectors(&self, block: usize) -> Range<u64> {
        let extent = self.extent(block);
        extent.start / SECTOR..extent.end.div_ceil(SECTOR)
    }

    /// Which part of the device a block is, bytes.
    pub fn content(&self, block: usize) -> Range<u64> {
        let start = block as u64 * self.block_size;
        start..(start + self.block_size).min(self.device.size())
    }

    /// Reads some of the device directly. `Ok(Err(…))`: there was an error; wrong bytes fail.
    pub fn read(&self, range: Range<u64>) -> Result<Result<(), Errno>> {
        let mut buffer = Buffer::new((range.end - range.start) as usize, 0);
        match self.device.read(Mode::Direct, range.start, buffer.all()) {
            Ok(()) => Ok(Ok(())),
            Err(error) => Ok(Err(errno(error)?)),
        }
    }

    /// Reads every block by itself: those for which `bad` returns an error must fail with it,
    /// the others must be right. Returns how many failed.
    pub fn check(&self, bad: impl Fn(usize) -> Option<Errno>) -> Result<u64> {
        let mut failed = 0;
        for block in 0..self.count() {
            self.check_one(block, bad(block))?;
            failed += u64::from(bad(block).is_some());
        }
        ensure!(failed < self.count() as u64, "no block is good");
        Ok(failed)
    }

    fn check_one(&self, block: usize, bad: Option<Errno>) -> Result<()> {
        let result = self
            .read(self.content(block))
            .with_context(|| format!("block {block}"))?;
        match (result, bad) {
            (Ok(()), None) => Ok(()),
            (Err(found), Some(expected)) if found == expected => Ok(()),
            _ => bail!(
                "block {block}, sectors {:?} below: {result:?}, expected {bad:?}",
                self.sectors(block)
            ),
        }
    }
}

/// The error number of a failed read; everything else is passed on.
pub fn errno(error: anyhow::Error) -> Result<Errno> {
    let of = |error: &io::Error| Errno::from_io_error(error);
    match error.root_cause().downcast_ref::<io::Error>().and_then(of) {
        Some(errno) => Ok(errno),
        None => Err(error),
    }
}

/// Whether two ranges have something in common.
pub fn meet(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_numbers_are_found_behind_explanations() {
        let error = anyhow::Error::from(io::Error::from(Errno::IO)).context("reading");
        assert_eq!(errno(error).unwrap(), Errno::IO);
        assert!(errno(anyhow::anyhow!("wrong bytes")).is_err());
    }

    #[test]
    fn ranges_meet() {
        assert!(meet(&(0..5), &(4..9)));
        assert!(!meet(&(0..5), &(5..9)));
        assert!(meet(&(3..4), &(0..9)));
    }
}
