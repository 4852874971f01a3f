// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What cannot be undercut: the kernel's own decompressor and checksum, over the very blocks of
//! an image. The module ovbd-limits runs them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use ovbd::image::source::{FileSource, Part, Std};
use overlaybd_format::zfile::{ZFile, BLOCK_CRC_LEN};

use super::machine::modprobe;
use crate::content::BLOCK;
use crate::pack::Item;
use crate::sample::Unit;

const DEVICE: &str = "/dev/ovbd-limits";
/// Blocks of a job.
const JOB: u64 = 256;

/// A job, with its number in the module's interface.
#[derive(Clone, Copy)]
pub enum Work {
    /// Decompress with LZ4.
    Lz4 = 0,
    /// Decompress with zstd.
    Zstd = 1,
    /// Checksum what is stored.
    Crc32c = 2,
    /// Copy what is stored.
    Copy = 3,
}

/// What was measured.
pub struct Limit {
    /// Of what.
    pub name: &'static str,
    /// How much.
    pub value: f64,
    /// Of what kind.
    pub unit: Unit,
}

/// Measures everything over the blocks of the ZFile `item` of `disk`.
pub fn measure(disk: &Path, item: &Item) -> Result<Vec<Limit>> {
    let stored = Stored::open(disk, item)?;
    let mut limits = Vec::new();
    for (name, work) in [
        ("lz4", Work::Lz4),
        ("crc32c", Work::Crc32c),
        ("memcpy", Work::Copy),
    ] {
        limits.push(Limit {
            name,
            value: stored.each(work)?,
            unit: Unit::Instructions,
        });
    }
    limits.push(Limit {
        name: "stored",
        value: item.length as f64 / stored.zfile.original_size() as f64,
        unit: Unit::Ratio,
    });
    Ok(limits)
}

/// A ZFile's blocks as they are stored.
pub struct Stored {
    file: File,
    base: u64,
    zfile: ZFile<Std>,
}

impl Stored {
    /// Those of the ZFile `item` of `disk`.
    pub fn open(disk: &Path, item: &Item) -> Result<Self> {
        modprobe(&["ovbd-limits"])?;
        let file = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
        let source = FileSource::open(disk)?;
        let part = Part::new(Arc::new(source), disk.to_owned(), item.offset, item.length);
        let zfile = ZFile::<Std>::open(&part, item.length)
            .with_context(|| format!("{} is no ZFile", item.name))?;
        Ok(Self {
            file,
            base: item.offset,
            zfile,
        })
    }

    /// Bytes of what is decompressed.
    pub fn original_size(&self) -> u64 {
        self.zfile.original_size()
    }

    /// Nanoseconds for `work` on every block, for each 4 KiB of output.
    pub fn each(&self, work: Work) -> Result<f64> {
        let blocks = self.original_size() as f64 / BLOCK as f64;
        Ok(self.run(work, 1)? as f64 / blocks)
    }

    /// Nanoseconds for `work` on every block, `rounds` times.
    pub fn run(&self, work: Work, rounds: u32) -> Result<u64> {
        self.jobs(work, rounds)?.run()
    }

    /// All blocks, ready for `work` to be done on them `rounds` times.
    pub fn jobs(&self, work: Work, rounds: u32) -> Result<Jobs> {
        let starts = (0..self.zfile.block_count()).step_by(JOB as usize);
        let job = |first: u64| {
            let end = (first + JOB).min(self.zfile.block_count());
            self.job(work, rounds, first, end)
        };
        Ok(Jobs(starts.map(job).collect::<Result<_>>()?))
    }

    /// The request for blocks `first` to `end`, `rounds` times.
    fn job(&self, work: Work, rounds: u32, first: u64, end: u64) -> Result<Vec<u8>> {
        let (lengths, mut bytes) = self.read(first, end)?;
        let count = lengths.len() as u32;
        let header = [work as u32, self.zfile.block_size(), count, rounds];
        let words = header.iter().chain(&lengths);
        let mut job: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        job.append(&mut bytes);
        Ok(job)
    }

    /// Blocks `first` to `end` as they are stored, back to back without checksums, and their
    /// lengths.
    fn read(&self, first: u64, end: u64) -> Result<(Vec<u32>, Vec<u8>)> {
        let crc = if self.zfile.verify() {
            BLOCK_CRC_LEN
        } else {
            0
        };
        let table = self.zfile.table();
        let mut lengths = Vec::new();
        let mut bytes = Vec::new();
        for block in first..end {
            let extent = table.extent(block..block + 1);
            let length = (extent.end - extent.start) as usize - crc as usize;
            let from = bytes.len();
            bytes.resize(from + length, 0);
            self.file
                .read_exact_at(&mut bytes[from..], self.base + extent.start)
                .with_context(|| format!("cannot read block {block}"))?;
            lengths.push(length as u32);
        }
        Ok((lengths, bytes))
    }
}

/// What the limits module is asked to do, one request after the other.
pub struct Jobs(Vec<Vec<u8>>);

impl Jobs {
    /// Nanoseconds for all of it.
    pub fn run(&self) -> Result<u64> {
        let mut device = OpenOptions::new()
            .read(true)
            .write(true)
            .open(DEVICE)
            .with_context(|| format!("cannot open {DEVICE}"))?;
        let mut sum = 0;
        for job in &self.0 {
            device
                .write_all(job)
                .with_context(|| format!("{DEVICE} refuses a job"))?;
            let mut nanoseconds = [0; 8];
            device
                .read_exact(&mut nanoseconds)
                .with_context(|| format!("cannot read {DEVICE}"))?;
            sum += u64::from_ne_bytes(nanoseconds);
        }
        Ok(sum)
    }
}
