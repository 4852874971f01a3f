// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Broken blocks, and devices below that fail, lie or are slow: who needs the broken part gets an
//! error, everybody else gets their data, and the counters tell.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use overlaybd_format::status::{LsmtStatus, ZfileStatus};
use overlaybd_format::zfile::Algorithm;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::ctx::{target, Ctx, Device, Disk, SECTOR};
use crate::forge::{self, Codec, Zfile};
use crate::harness::{Case, KernelLog};
use crate::read::{self, Mode};
use crate::rig::load::Read;
use crate::rig::lower::Lower;
use crate::rig::queued::Queued;
use crate::rig::sample::Form;
use crate::rig::{self, stuck};

/// Bytes of the original: sixteen blocks.
const ORIGINAL: usize = 64 << 10;
const BLOCK: usize = 4096;
/// The block that is broken.
const BAD: usize = 6;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("faults.wrong_checksum", wrong_checksum),
        Case::new("faults.wrong_checksum_ignored", wrong_checksum_ignored),
        Case::new("faults.undecodable.lz4", |ctx| undecodable(ctx, Codec::Lz4)),
        Case::new("faults.undecodable.zstd", |ctx| {
            undecodable(ctx, Codec::Zstd)
        }),
        Case::new("faults.block_of_another_length", another_length),
        Case::new("faults.error_below", error_below),
        Case::new("faults.error_below_lsmt", error_below_lsmt),
        Case::new("faults.corruption_below", corruption_below),
        Case::new("faults.slow_below", slow_below),
        Case::new("faults.stuck_below", stuck_below),
        Case::new("faults.device_shrinks", device_shrinks),
    ]
}

/// A ZFile on a disk of its own.
struct Sample {
    content: Vec<u8>,
    zfile: Zfile,
    disk: Disk,
}

impl Sample {
    fn new(ctx: &mut Ctx, codec: Codec, verify: bool) -> Result<Self> {
        let content = forge::content(ORIGINAL, ctx.rng());
        Self::of(
            ctx,
            Zfile::new(&content, BLOCK as u32, codec, verify),
            content,
        )
    }

    fn of(ctx: &mut Ctx, zfile: Zfile, content: Vec<u8>) -> Result<Self> {
        let disk = ctx.image(&zfile.bytes())?;
        Ok(Self {
            content,
            zfile,
            disk,
        })
    }

    /// A device over it.
    fn device(&self, ctx: &mut Ctx, options: &str) -> Result<Device> {
        self.device_on(ctx, &self.disk.dev.to_string(), options)
    }

    fn device_on(&self, ctx: &mut Ctx, below: &str, options: &str) -> Result<Device> {
        let length = self.zfile.bytes().len();
        ctx.target(sectors(), "zfile", &format!("{below} 0 {length}{options}"))
    }

    /// Changes a byte of what is stored for the bad block.
    fn spoil(&self, at: usize) -> Result<()> {
        let (start, _) = self.zfile.block_place(BAD);
        let byte = self.zfile.blocks[BAD][at] ^ 0x55;
        self.disk.write((start + at) as u64, &[byte])
    }
}

fn sectors() -> u64 {
    ORIGINAL as u64 / SECTOR
}

fn open(path: &Path, flags: OFlags) -> Result<File> {
    File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .with_context(|| path.display().to_string())
}

/// Every block but the bad ones reads right, alone; the bad ones read as EIO, every time, and so
/// does a read that has one among others.
fn check(path: &Path, content: &[u8], bad: impl Fn(usize) -> bool) -> Result<()> {
    for flags in [OFlags::empty(), OFlags::DIRECT] {
        let file = open(path, flags)?;
        // Reading ahead would ask for neighbours.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
        let mut page = read::page();
        for (number, expected) in content.chunks(BLOCK).enumerate() {
            let got = file.read_exact_at(page.all(), (number * BLOCK) as u64);
            let what = || format!("{flags:?}, block {number}");
            if bad(number) {
                let errno = got.err().and_then(|e| Errno::from_io_error(&e));
                ensure!(errno == Some(Errno::IO), "{}: {errno:?}", what());
            } else {
                got.with_context(what)?;
                ensure!(page.all() == expected, "{}: wrong bytes", what());
            }
        }
    }
    Ok(())
}

fn status(ctx: &mut Ctx, device: &Device) -> Result<ZfileStatus> {
    Ok(ZfileStatus::parse(&ctx.status(device)?)?)
}

fn wrong_checksum(ctx: &mut Ctx) -> Result<()> {
    let sample = Sample::new(ctx, Codec::Lz4, true)?;
    let device = sample.device(ctx, "")?;
    read::check_once(&device.path, sample.content.clone())?;
    sample.spoil(1000)?;
    let mut log = KernelLog::open()?;
    for _ in 0..20 {
        check(&device.path, &sample.content, |block| block == BAD)?;
    }
    let status = status(ctx, &device)?;
    ensure!(
        status.crc_errors >= 40 && status.decompress_errors == 0 && status.io_errors == 0,
        "{status:?}"
    );
    // So many failures are not so many lines.
    let lines = log.new_lines();
    let told = lines.iter().filter(|line| line.contains("zfile")).count();
    ensure!((1..=20).contains(&told), "{told} lines: {lines:#?}");
    Ok(())
}

fn wrong_checksum_ignored(ctx: &mut Ctx) -> Result<()> {
    let mut sample = Sample::new(ctx, Codec::Lz4, true)?;
    let at = sample.zfile.blocks[BAD].len() - 1;
    // The stored checksum itself is wrong; the block is not.
    sample.spoil(at)?;
    let device = sample.device(ctx, " 1 ignore_crc")?;
    read::check(&device.path, sample.content.clone(), ctx.rng())?;
    // A literal is wrong: it is shown as it is.
    sample.spoil(at - 4)?;
    sample.content[(BAD + 1) * BLOCK - 1] ^= 0x55;
    read::check_once(&device.path, sample.content.clone())?;
    let status = status(ctx, &device)?;
    ensure!(status.crc_errors == 0, "{status:?}");
    Ok(())
}

/// Without checksums the decoder has to find it.
fn undecodable(ctx: &mut Ctx, codec: Codec) -> Result<()> {
    let sample = Sample::new(ctx, codec, false)?;
    // The first byte: LZ4's token, zstd's magic.
    sample.spoil(0)?;
    let device = sample.device(ctx, "")?;
    check(&device.path, &sample.content, |block| block == BAD)?;
    let status = status(ctx, &device)?;
    ensure!(
        status.decompress_errors >= 2 && status.crc_errors == 0,
        "{status:?}"
    );
    Ok(())
}

/// A block that decodes well, to fewer bytes than it must have, or to more.
fn another_length(ctx: &mut Ctx) -> Result<()> {
    for codec in [Codec::Lz4, Codec::Zstd] {
        for length in [BLOCK - 1, BLOCK + 1, 1] {
            let content = forge::content(ORIGINAL, ctx.rng());
            let mut zfile = Zfile::new(&content, BLOCK as u32, codec, true);
            let other = forge::content(length, ctx.rng());
            zfile.replace_block(BAD, &other, codec, true);
            let sample = Sample::of(ctx, zfile, content)?;
            let device = sample.device(ctx, "")?;
            check(&device.path, &sample.content, |block| block == BAD)
                .with_context(|| format!("{codec:?}, {length} bytes"))?;
            let status = status(ctx, &device)?;
            ensure!(status.decompress_errors > 0, "{status:?}");
        }
    }
    Ok(())
}

/// A device on which `count` sectors from `first` on cannot be read.
fn with_hole(ctx: &mut Ctx, disk: &Disk, total: u64, first: u64, count: u64) -> Result<Device> {
    let rest = first + count;
    ctx.device_of(&[
        target(0, first, "linear", &format!("{} 0", disk.dev)),
        target(first, count, "error", ""),
        target(
            rest,
            total - rest,
            "linear",
            &format!("{} {rest}", disk.dev),
        ),
    ])
}

fn error_below(ctx: &mut Ctx) -> Result<()> {
    let sample = Sample::new(ctx, Codec::Lz4, true)?;
    let total = (sample.zfile.bytes().len() as u64).div_ceil(SECTOR);
    let (start, length) = sample.zfile.block_place(BAD);
    let first = start as u64 / SECTOR + 2;
    let lower = with_hole(ctx, &sample.disk, total, first, 1)?;
    let device = sample.device_on(ctx, &lower.dev.to_string(), "")?;
    ensure!(
        length > 4 * SECTOR as usize,
        "the hole is not within the block"
    );
    check(&device.path, &sample.content, |block| block == BAD)?;
    let before = status(ctx, &device)?;
    ensure!(
        before.io_errors >= 2 && before.crc_errors == 0,
        "{before:?}"
    );
    // The device below is repaired: so is this one, with no more than that.
    let whole = target(0, total, "linear", &format!("{} 0", sample.disk.dev));
    ctx.load(&lower, &[whole])?;
    read::check(&device.path, sample.content.clone(), ctx.rng())?;
    let after = status(ctx, &device)?;
    ensure!(after.io_errors == before.io_errors, "{after:?}");
    Ok(())
}

fn error_below_lsmt(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(ORIGINAL, ctx.rng());
    let layer = forge::Layer::new(ORIGINAL as u64).data(0, &content);
    let bytes = layer.bytes();
    let disk = ctx.image(&bytes)?;
    let total = (bytes.len() as u64).div_ceil(SECTOR);
    // Data begin at sector 8.
    let first = 8 + (BAD * BLOCK) as u64 / SECTOR;
    let lower = with_hole(ctx, &disk, total, first, 8)?;
    let params = format!("1 {} 0 {}", lower.dev, bytes.len());
    let device = ctx.target(sectors(), "lsmt", &params)?;
    check(&device.path, &content, |block| block == BAD)?;
    let status = ctx.status(&device)?;
    let counted = LsmtStatus::parse(&status)?.io_errors;
    ensure!(counted > 0, "{status}");
    Ok(())
}

/// A device below that changes a byte of every read: no read is wrong, each is refused.
fn corruption_below(ctx: &mut Ctx) -> Result<()> {
    let sample = Sample::new(ctx, Codec::Lz4, true)?;
    let total = (sample.zfile.bytes().len() as u64).div_ceil(SECTOR);
    let whole = target(0, total, "linear", &format!("{} 0", sample.disk.dev));
    let lower = ctx.device_of(std::slice::from_ref(&whole))?;
    let device = sample.device_on(ctx, &lower.dev.to_string(), "")?;
    let liar = format!("{} 0 0 3600 5 corrupt_bio_byte 600 r 90 0", sample.disk.dev);
    ctx.load(&lower, &[target(0, total, "flakey", &liar)])?;
    check(&device.path, &sample.content, |_| true)?;
    let found = status(ctx, &device)?;
    ensure!(found.crc_errors > 0, "{found:?}");
    ctx.load(&lower, &[whole])?;
    read::check(&device.path, sample.content.clone(), ctx.rng())
}

/// A device below that answers late, and out of the order of the requests.
fn slow_below(ctx: &mut Ctx) -> Result<()> {
    let sample = Sample::new(ctx, Codec::Zstd, true)?;
    let total = (sample.zfile.bytes().len() as u64).div_ceil(SECTOR);
    let half = total / 2;
    let late = |start: u64, length: u64, milliseconds: u64| {
        let params = format!("{} {start} {milliseconds}", sample.disk.dev);
        target(start, length, "delay", &params)
    };
    let lower = ctx.device_of(&[late(0, half, 20), late(half, total - half, 5)])?;
    let device = sample.device_on(ctx, &lower.dev.to_string(), "")?;
    read::check(&device.path, sample.content.clone(), ctx.rng())
}

/// A device below that does not answer: whoever reads another device does not wait with those who
/// read this one, however many they are.
fn stuck_below(ctx: &mut Ctx) -> Result<()> {
    /// Many more than there are CPUs, or pages that a device keeps.
    const READERS: usize = 64;
    let form = Form::new(Algorithm::Lz4, BLOCK as u32);
    let content = forge::content(ORIGINAL, ctx.rng());
    let (first, linear) = rig::Zfile::over_linear(ctx, Lower::NullTimer, form, content.clone())?;
    let second = rig::Zfile::new(ctx, Lower::NullTimer, form, content)?;
    let one = read::Device::open(first.path(), &first.content)?;
    let other = read::Device::open(second.path(), &second.content)?;
    let block: Read<'_> = &|rng| {
        let offset = rng.index(ORIGINAL / BLOCK) * BLOCK;
        one.read(Mode::Direct, offset as u64, read::page().all())
    };
    let whole: Read<'_> = &|_| other.whole(Mode::Direct, BLOCK);
    let buffered: Read<'_> = &|_| {
        read::drop_caches()?;
        other.whole(Mode::Buffered, ORIGINAL)
    };
    let queued = Queued::new(ctx, linear.device.dev)?;
    let all = |_: &mut Ctx| Ok(queued.reads()?.len() >= READERS);
    stuck::beside(ctx, &linear, &[block; READERS], all, &[whole, buffered])
}

/// A device below that is shorter than when the table was loaded.
fn device_shrinks(ctx: &mut Ctx) -> Result<()> {
    let sample = Sample::new(ctx, Codec::Lz4, true)?;
    let total = (sample.zfile.bytes().len() as u64).div_ceil(SECTOR);
    let linear = |sectors| target(0, sectors, "linear", &format!("{} 0", sample.disk.dev));
    let lower = ctx.device_of(&[linear(total)])?;
    let device = sample.device_on(ctx, &lower.dev.to_string(), "")?;
    let (start, _) = sample.zfile.block_place(BAD);
    // The sector in which the block begins holds the end of the one before.
    ctx.load(&lower, &[linear((start as u64).div_ceil(SECTOR))])?;
    check(&device.path, &sample.content, |block| block >= BAD)?;
    ctx.load(&lower, &[linear(total)])?;
    read::check_once(&device.path, sample.content.clone())
}
