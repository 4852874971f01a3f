// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One broken block among many, in every way in which a compressed block can be broken: reads that
//! need it fail, others do not, memory that was not written is never shown, and the log says which
//! block it was, but not thousands of times.

use std::io;

use anyhow::{ensure, Context as _, Result};
use overlaybd_format::status::ZfileStatus;
use rustix::io::Errno;

use crate::ctx::{target, Ctx, Device, Disk, SECTOR};
use crate::forge::streams::{self, Stream};
use crate::forge::{self, Codec, Zfile};
use crate::golden::MARKER;
use crate::harness::{Case, KernelLog};
use crate::read::Direct;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("corrupt.lz4_streams", |ctx| {
            all_streams(ctx, Codec::Lz4, streams::lz4)
        }),
        Case::new("corrupt.zstd_streams", |ctx| {
            all_streams(ctx, Codec::Zstd, streams::zstd)
        }),
        Case::new("corrupt.no_old_memory_is_shown", no_old_memory),
        Case::new("corrupt.every_bit_counts", every_bit),
        Case::new("corrupt.the_log_is_not_flooded", no_flood),
    ]
}

const BLOCK: usize = 4096;
const BLOCKS: usize = 16;
/// The block that is broken.
const BAD: usize = 5;
/// What memory holds before it is read into: no content has it.
const OLD: &[u8; 16] = b"\xa5MUST NEVER SHOW";

/// A disk with room for any of the files here, and a device.
struct Bench {
    disk: Disk,
    device: Device,
}

impl Bench {
    fn new(ctx: &mut Ctx) -> Result<Self> {
        Ok(Self {
            disk: ctx.image(&vec![MARKER; (BLOCKS + 4) * BLOCK])?,
            device: ctx.device()?,
        })
    }

    /// Makes the device that of `zfile`.
    fn load(&self, ctx: &mut Ctx, zfile: &Zfile, options: &str) -> Result<Direct> {
        let bytes = zfile.bytes();
        let mut padded = bytes.clone();
        padded.resize((BLOCKS + 4) * BLOCK, MARKER);
        self.disk.write(0, &padded)?;
        let params = format!("{} 0 {}{options}", self.disk.dev, bytes.len());
        let sectors = (BLOCKS * BLOCK) as u64 / SECTOR;
        ctx.load(&self.device, &[target(0, sectors, "zfile", &params)])?;
        Ok(Direct::open(&self.device.path)?)
    }

    fn status(&self, ctx: &mut Ctx) -> Result<ZfileStatus> {
        Ok(ZfileStatus::parse(&ctx.status(&self.device)?)?)
    }

    /// The line in the log about the bad block.
    fn line(&self, zfile: &Zfile, problem: &str) -> String {
        let (at, _) = zfile.block_place(BAD);
        let (dev, below) = (self.device.dev, self.disk.dev);
        format!("zfile: {dev}: block {BAD} at byte {at} of {below}: {problem}")
    }
}

/// Compares a read with what it must give: nothing means EIO.
fn expect(read: io::Result<Vec<u8>>, expected: Option<&[u8]>) -> Result<()> {
    match (read, expected) {
        (Ok(bytes), Some(expected)) => ensure!(bytes == expected, "wrong bytes"),
        (Ok(_), None) => anyhow::bail!("read, but must fail"),
        (Err(error), None) => {
            let errno = Errno::from_io_error(&error);
            ensure!(errno == Some(Errno::IO), "{error}");
        }
        (Err(error), Some(_)) => return Err(error.into()),
    }
    Ok(())
}

/// A content, and each block of it in turn, as right neighbours of the bad one.
fn check_neighbours(reads: &Direct, content: &[u8]) -> Result<()> {
    for block in (0..BLOCKS).filter(|&block| block != BAD) {
        let at = block * BLOCK;
        expect(reads.read(at as u64, BLOCK), Some(&content[at..][..BLOCK]))
            .with_context(|| format!("block {block}"))?;
    }
    for (from, to) in [(0, BAD), (BAD + 1, BLOCKS)] {
        let (from, to) = (from * BLOCK, to * BLOCK);
        expect(reads.read(from as u64, to - from), Some(&content[from..to]))?;
    }
    Ok(())
}

/// Reads the bad block whole, a part of it, and among others.
fn check_bad(reads: &Direct, content: &[u8], bad: Option<&[u8]>) -> Result<()> {
    let at = BAD * BLOCK;
    expect(reads.read_over(at as u64, BLOCK, OLD), bad).context("whole")?;
    let part = bad.map(|bad| &bad[1024..1536]);
    expect(reads.read_over(at as u64 + 1024, 512, OLD), part).context("a part")?;
    let (from, to) = ((BAD - 1) * BLOCK, (BAD + 2) * BLOCK);
    let three = bad.map(|bad| [&content[from..at], bad, &content[at + BLOCK..to]].concat());
    expect(
        reads.read_over(from as u64, to - from, OLD),
        three.as_deref(),
    )
    .context("among others")
}

fn all_streams(ctx: &mut Ctx, codec: Codec, make: fn(&[u8]) -> Result<Vec<Stream>>) -> Result<()> {
    let content = forge::content(BLOCKS * BLOCK, ctx.rng());
    let right = Zfile::new(&content, BLOCK as u32, codec, true);
    let bench = Bench::new(ctx)?;
    for stream in make(&content[BAD * BLOCK..][..BLOCK])? {
        let mut zfile = right.clone();
        zfile.put_stream(BAD, &stream.bytes);
        one_stream(ctx, &bench, &zfile, &content, &stream)
            .with_context(|| stream.name.to_owned())?;
    }
    Ok(())
}

fn one_stream(
    ctx: &mut Ctx,
    bench: &Bench,
    zfile: &Zfile,
    content: &[u8],
    stream: &Stream,
) -> Result<()> {
    let mut log = KernelLog::open()?;
    let reads = bench.load(ctx, zfile, "")?;
    check_neighbours(&reads, content)?;
    check_bad(&reads, content, stream.content.as_deref())?;
    check_neighbours(&reads, content)?;
    let errors = if stream.content.is_some() { 0 } else { 3 };
    let status = bench.status(ctx)?;
    ensure!(
        (
            status.decompress_errors,
            status.crc_errors,
            status.io_errors
        ) == (errors, 0, 0),
        "{status}"
    );
    let line = bench.line(zfile, &format!("does not decompress to {BLOCK} bytes"));
    let lines = log.new_lines();
    let told = lines.iter().filter(|text| text.ends_with(&line)).count();
    ensure!(
        told as u64 == errors,
        "{told} times \"{line}\" in {lines:#?}"
    );
    Ok(())
}

/// A match of offset 0 copies what was in the memory before: whose memory? Whatever a decoder
/// makes of it, nothing that was read before may show.
fn no_old_memory(ctx: &mut Ctx) -> Result<()> {
    let old: Vec<u8> = OLD.iter().copied().cycle().take(BLOCK).collect();
    let mut content = forge::content(BLOCKS * BLOCK, ctx.rng());
    // Its bytes pass through the same memory.
    content[..BLOCK].copy_from_slice(&old);
    let mut zfile = Zfile::new(&content, BLOCK as u32, Codec::Lz4, true);
    zfile.put_stream(BAD, &streams::lz4_offset_zero(BLOCK));
    let bench = Bench::new(ctx)?;
    let reads = bench.load(ctx, &zfile, "")?;
    let at = (BAD * BLOCK) as u64;
    for (offset, length) in [(0, BLOCK), (512, 512), (0, 512), (BLOCK - 512, 2 * 512)] {
        for _ in 0..20 {
            expect(reads.read(0, 512), Some(&old[..512]))?;
            let Ok(bytes) = reads.read_over(at + offset as u64, length, OLD) else {
                continue;
            };
            let mut windows = bytes.windows(8);
            ensure!(
                !windows.any(|window| window == &OLD[..8]),
                "{length} bytes at {offset} of the block show what was in memory"
            );
        }
    }
    Ok(())
}

/// Any bit of what is stored for a block, its checksum included.
fn every_bit(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(BLOCKS * BLOCK, ctx.rng());
    for codec in [Codec::Lz4, Codec::Zstd] {
        let right = Zfile::new(&content, BLOCK as u32, codec, true);
        let (_, stored) = right.block_place(BAD);
        let bench = Bench::new(ctx)?;
        for round in 0..40 {
            let (byte, bit) = match round {
                // The ends of the compressed bytes, and of the checksum.
                0 => (0, 0),
                1 => (stored - 5, 7),
                2 => (stored - 4, 0),
                3 => (stored - 1, 7),
                _ => (ctx.rng().index(stored), ctx.rng().index(8)),
            };
            let mut zfile = right.clone();
            zfile.blocks[BAD][byte] ^= 1 << bit;
            flipped(ctx, &bench, &zfile, &content)
                .with_context(|| format!("{codec:?}, byte {byte}, bit {bit}"))?;
        }
    }
    Ok(())
}

fn flipped(ctx: &mut Ctx, bench: &Bench, zfile: &Zfile, content: &[u8]) -> Result<()> {
    let reads = bench.load(ctx, zfile, "")?;
    check_bad(&reads, content, None)?;
    check_neighbours(&reads, content)?;
    let status = bench.status(ctx)?;
    ensure!(
        (
            status.crc_errors,
            status.decompress_errors,
            status.io_errors
        ) == (3, 0, 0),
        "{status}"
    );
    // Unchecked, the block is another one or none, and the others are as before.
    let reads = bench.load(ctx, zfile, " 1 ignore_crc")?;
    let whole = reads.read((BAD * BLOCK) as u64, BLOCK);
    if let Err(error) = &whole {
        ensure!(Errno::from_io_error(error) == Some(Errno::IO), "{error}");
    }
    check_neighbours(&reads, content)?;
    let status = bench.status(ctx)?;
    ensure!(
        (status.crc_errors, status.decompress_errors) == (0, u64::from(whole.is_err())),
        "{status}"
    );
    Ok(())
}

/// Thousands of reads fail, and are counted; the log has the first few.
fn no_flood(ctx: &mut Ctx) -> Result<()> {
    const READS: u64 = 3000;
    let content = forge::content(BLOCKS * BLOCK, ctx.rng());
    let mut zfile = Zfile::new(&content, BLOCK as u32, Codec::Lz4, true);
    let bench = Bench::new(ctx)?;
    zfile.blocks[BAD][100] ^= 1;
    let (payload, crc) = zfile.blocks[BAD]
        .split_last_chunk()
        .context("no checksum")?;
    let (stored, computed) = (u32::from_le_bytes(*crc), forge::block_crc(payload));
    let mut log = KernelLog::open()?;
    let reads = bench.load(ctx, &zfile, "")?;
    for _ in 0..READS {
        expect(reads.read((BAD * BLOCK) as u64, BLOCK), None)?;
    }
    let status = bench.status(ctx)?;
    ensure!(status.crc_errors == READS, "{status}");
    let problem = format!("CRC {computed:#010x}, expected {stored:#010x}");
    let line = bench.line(&zfile, &problem);
    let lines = log.new_lines();
    ensure!(
        lines[0].ends_with(&line),
        "{:?}, expected \"{line}\"",
        lines[0]
    );
    // Ten in five seconds; nobody waits for minutes here.
    ensure!(lines.len() < 200, "{} lines in the log", lines.len());
    Ok(())
}
