// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Counters, to the unit: what each read adds to them says what the target did for it.

use anyhow::{ensure, Result};
use ovbd::dm::Id;
use overlaybd_format::status::{LsmtStatus, ZfileStatus};
use overlaybd_format::zfile::Algorithm;

use crate::ctx::{Ctx, Device, SECTOR};
use crate::forge::{self, Codec, Layer, Zfile};
use crate::golden::MARKER;
use crate::harness::Case;
use crate::read::Direct;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("counters.zfile.lz4", |ctx| zfile(ctx, Codec::Lz4)),
        Case::new("counters.zfile.zstd", |ctx| zfile(ctx, Codec::Zstd)),
        Case::new("counters.lsmt", lsmt),
    ]
}

const BLOCK: usize = 4096;
/// Two blocks and a part of one.
const SIZE: usize = 10_000;
const SECTORS: u64 = 20;
/// Where files begin, sectors.
const AT: u64 = 3;

/// A disk with a file at sector `AT`, as the words of a table.
fn disk(ctx: &mut Ctx, file: &[u8]) -> Result<String> {
    let ahead = vec![MARKER; (AT * SECTOR) as usize];
    let disk = ctx.image(&[&ahead, file].concat())?;
    Ok(format!("{} {AT} {}", disk.dev, file.len()))
}

fn reset(ctx: &mut Ctx, device: &Device) -> Result<()> {
    Ok(ctx.dm()?.message(Id::Dev(device.dev.0), 0, "reset_stats")?)
}

/// The content of a read, which may go beyond the end of the last sector's data.
fn expected(content: &[u8], offset: usize, length: usize) -> Vec<u8> {
    let rest = content.get(offset..).unwrap_or_default();
    let mut bytes = rest[..length.min(rest.len())].to_vec();
    bytes.resize(length, 0);
    bytes
}

fn zfile(ctx: &mut Ctx, codec: Codec) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let file = Zfile::new(&content, BLOCK as u32, codec, true);
    let words = disk(ctx, &file.bytes())?;
    let device = ctx.target(SECTORS, "zfile", &words)?;
    let fresh = ZfileStatus {
        algorithm: match codec {
            Codec::Lz4 => Algorithm::Lz4,
            Codec::Zstd => Algorithm::Zstd,
        },
        block_size: BLOCK as u64,
        blocks: 3,
        size: SIZE as u64,
        read_sectors: 0,
        decompressed_bytes: 0,
        cache_hits: 0,
        reserve_waits: 0,
        crc_errors: 0,
        decompress_errors: 0,
        io_errors: 0,
    };
    let mut status = fresh;
    let reads = Direct::open(&device.path)?;
    // Offset and length of a read, the blocks that it brings, hits in the cache.
    for (offset, length, blocks, hits) in [
        (0, BLOCK, 0..1, 0),
        (BLOCK, SIZE.next_multiple_of(512) - BLOCK, 1..3, 0),
        // Whole blocks are not kept; parts are.
        (512, 512, 0..1, 0),
        (1024, 2048, 0..0, 1),
        (9728, 512, 2..3, 0),
        (8192, 512, 0..0, 1),
        // Of two blocks one is not there; each that is is a hit.
        (3584, 1024, 1..2, 1),
        (3584, 1024, 0..0, 2),
    ] {
        let read = reads.read(offset as u64, length)?;
        ensure!(
            read == expected(&content, offset, length),
            "wrong bytes at {offset}"
        );
        if !blocks.is_empty() {
            let first = file.block_place(blocks.start).0 as u64;
            let (start, stored) = file.block_place(blocks.end - 1);
            let last = (start + stored) as u64;
            status.read_sectors += last.div_ceil(SECTOR) - first / SECTOR;
            let end = SIZE.min(blocks.end * BLOCK);
            status.decompressed_bytes += (end - blocks.start * BLOCK) as u64;
        }
        status.cache_hits += hits;
        let found = ctx.status(&device)?;
        ensure!(
            found == status.to_string(),
            "after {length} bytes at {offset}: {found}\nexpected {status}"
        );
    }
    reset(ctx, &device)?;
    let found = ctx.status(&device)?;
    ensure!(found == fresh.to_string(), "after reset_stats: {found}");
    Ok(())
}

fn lsmt(ctx: &mut Ctx) -> Result<()> {
    let data = forge::content(6 * 512, ctx.rng());
    let mut layer = Layer::new(SIZE as u64)
        .data(2, &data[..1536])
        .zeros(5, 3)
        .data(10, &data[1536..]);
    // The last sector of the data is not full: index bytes follow.
    layer.data.truncate(5 * 512 + 100);
    let index = layer.index.clone();
    let layer = layer.with_index(index);
    let mut content = vec![0; (SECTORS * SECTOR) as usize];
    content[1024..2560].copy_from_slice(&data[..1536]);
    content[5120..6244].copy_from_slice(&data[1536..2660]);
    let words = disk(ctx, &layer.bytes())?;
    let device = ctx.target(SECTORS, "lsmt", &format!("1 {words}"))?;
    let fresh = LsmtStatus {
        layers: 1,
        // Zeros, data, zeros, data, zeros.
        extents: 5,
        size: SECTORS,
        reads: 0,
        zero_sectors: 0,
        tail_sectors: 0,
        io_errors: 0,
    };
    let mut status = fresh;
    let reads = Direct::open(&device.path)?;
    // First sector and number of sectors of a read, the reads it becomes, sectors of zeros,
    // sectors from memory.
    for (first, count, parts, zeros, tails) in [
        (0, 1, 1, 1, 0),
        (2, 3, 1, 0, 0),
        (1, 3, 2, 1, 0),
        (10, 3, 2, 0, 1),
        (12, 1, 1, 0, 1),
        (0, 20, 6, 2 + 5 + 7, 1),
    ] {
        let (offset, length) = (first * 512, count * 512);
        let read = reads.read(offset as u64, length)?;
        ensure!(
            read == expected(&content, offset, length),
            "wrong bytes at sector {first}"
        );
        status.reads += parts;
        status.zero_sectors += zeros;
        status.tail_sectors += tails;
        let found = ctx.status(&device)?;
        ensure!(
            found == status.to_string(),
            "after {count} sectors at {first}: {found}\nexpected {status}"
        );
    }
    reset(ctx, &device)?;
    let found = ctx.status(&device)?;
    ensure!(found == fresh.to_string(), "after reset_stats: {found}");
    Ok(())
}
