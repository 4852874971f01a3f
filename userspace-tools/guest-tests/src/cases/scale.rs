// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Much of everything: layers, extents, sizes.

use std::fs;

use anyhow::{ensure, Context as _, Result};
use overlaybd_format::status::LsmtStatus;
use overlaybd_format::zfile::Algorithm;

use super::lsmt;
use crate::ctx::{target, Ctx, Device, SECTOR};
use crate::forge::streams;
use crate::forge::{self, Codec, Extent, Layer, Zfile};
use crate::harness::Case;
use crate::read;
use crate::rig::sample::{self, Form};
use crate::rng::Rng;

/// Length of a ZFile's header, bytes.
const RECORD: usize = 512;

/// The most layers that an image may have.
const LAYERS: usize = 255;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("scale.layers_255", layers_255),
        Case::new("scale.layers_255_of_nothing", layers_of_nothing),
        Case::new("scale.a_million_extents", a_million_extents),
        Case::new("scale.a_million_extents_in_255_layers", a_million_in_layers),
        Case::new("scale.size_of_2_50_sectors", size_of_2_50_sectors),
        Case::new("scale.longest_extents", longest_extents),
        Case::new("scale.blocks_2_27", blocks_2_27),
        Case::new("scale.bytes_a_block", bytes_a_block),
        Case::new("scale.bytes_an_extent", bytes_an_extent),
    ]
}

/// A layer with a few extents at random places of a disk of `sectors`.
fn random_layer(sectors: u64, extents: u64, rng: &mut Rng) -> Layer {
    let mut layer = Layer::new(sectors * SECTOR);
    let mut next = 0;
    for left in (1..=extents).rev() {
        // Leaves room for the others.
        let start = rng.within(next..next + (sectors - next) / (left + 1) + 1);
        let length = rng.length(8).min(sectors - start);
        if length == 0 {
            break;
        }
        layer = if rng.index(4) == 0 {
            layer.zeros(start, length)
        } else {
            layer.data(start, &forge::content((length * SECTOR) as usize, rng))
        };
        next = start + length;
    }
    layer
}

fn layers_255(ctx: &mut Ctx) -> Result<()> {
    let sectors = 2048;
    let layers: Vec<_> = (0..LAYERS)
        .map(|_| random_layer(sectors, 12, ctx.rng()))
        .collect();
    let mut content = vec![0; (sectors * SECTOR) as usize];
    for layer in &layers {
        layer.apply(&mut content);
    }
    let device = lsmt::of_forged(ctx, &layers)?;
    let status = LsmtStatus::parse(&ctx.status(&device)?)?;
    ensure!(status.layers == LAYERS as u64, "{status:?}");
    read::check(&device.path, content, ctx.rng())?;
    let (params, sectors) = lsmt::forged(ctx, &vec![Layer::new(4096); LAYERS + 1])?;
    ctx.refused(sectors, "lsmt", &params)?
        .expect(rustix::io::Errno::INVAL, "Invalid layer count")
}

fn layers_of_nothing(ctx: &mut Ctx) -> Result<()> {
    let device = lsmt::of_forged(ctx, &vec![Layer::new(1 << 20); LAYERS])?;
    read::check(&device.path, vec![0; 1 << 20], ctx.rng())
}

/// A layer with `count` extents of one sector on every other sector from `first` on. They all have
/// the same few sectors as data, which no rule forbids.
fn comb(count: u64, first: u64, step: u64, data: &[u8]) -> Layer {
    let places = data.len() as u64 / SECTOR;
    let mut layer = Layer::new((first + count * step) * SECTOR);
    layer.data = data.to_vec();
    let extent = |n| Extent {
        start: first + n * step,
        length: 1,
        place: 8 + n % places,
        zeroed: false,
    };
    layer.with_index((0..count).map(extent).collect())
}

/// What must be at `sector` of such a layer.
fn comb_sector(sector: u64, count: u64, step: u64, data: &[u8]) -> Vec<u8> {
    let (n, rest) = (sector / step, sector % step);
    if rest != 0 || n >= count {
        return vec![0; SECTOR as usize];
    }
    let at = (n * SECTOR) as usize % data.len();
    data[at..at + SECTOR as usize].to_vec()
}

fn a_million_extents(ctx: &mut Ctx) -> Result<()> {
    let (count, step) = (1_000_000, 2);
    // An odd number of sectors, so that no two neighbours in the file are neighbours on the disk.
    let data = forge::content(17 * SECTOR as usize, ctx.rng());
    let layer = comb(count, 0, step, &data);
    let device = lsmt::of_forged(ctx, std::slice::from_ref(&layer))?;
    let status = LsmtStatus::parse(&ctx.status(&device)?)?;
    ensure!(status.extents >= count, "{status:?}");
    for _ in 0..50 {
        let first = ctx.rng().within(0..count * step - 64);
        let content: Vec<u8> = (first..first + 64)
            .flat_map(|sector| comb_sector(sector, count, step, &data))
            .collect();
        read::check_at(&device.path, first * SECTOR, &content)?;
    }
    Ok(())
}

/// The same million, each layer with its part, dealt out in turn.
fn a_million_in_layers(ctx: &mut Ctx) -> Result<()> {
    let (count, layers) = (1_000_000 / LAYERS as u64, LAYERS as u64);
    let data = forge::content(17 * SECTOR as usize, ctx.rng());
    let disk = count * layers * SECTOR;
    let stack: Vec<_> = (0..layers)
        .map(|first| {
            let mut layer = comb(count, first, layers, &data);
            layer.put_both(48, &disk.to_le_bytes());
            layer
        })
        .collect();
    let device = lsmt::of_forged(ctx, &stack)?;
    for _ in 0..50 {
        let first = ctx.rng().within(0..count * layers - 64);
        let content: Vec<u8> = (first..first + 64)
            .flat_map(|sector| comb_sector(sector / layers, count, 1, &data))
            .collect();
        read::check_at(&device.path, first * SECTOR, &content)?;
    }
    Ok(())
}

/// The largest disk that the format knows is larger than what a block device may have; the largest
/// that the kernel takes works to its end.
fn size_of_2_50_sectors(ctx: &mut Ctx) -> Result<()> {
    let bytes = forge::content(4096, ctx.rng());
    for sectors in [1u64 << 32, 1 << 40, (1 << 50) - 1, 1 << 50] {
        let last = sectors - 9;
        let layer = Layer::new(sectors * SECTOR)
            .data(5, &bytes)
            .data(last, &bytes);
        let device = lsmt::of_forged(ctx, &[layer])?;
        for at in [5, last] {
            read::check_at(&device.path, at * SECTOR, &bytes)
                .with_context(|| format!("sector {at} of {sectors}"))?;
        }
        for at in [0, 100, sectors / 2, sectors - 1] {
            read::check_at(&device.path, at * SECTOR, &[0; 512])
                .with_context(|| format!("sector {at} of {sectors}"))?;
        }
    }
    Ok(())
}

fn longest_extents(ctx: &mut Ctx) -> Result<()> {
    let longest = 16383;
    let bytes = forge::content(longest * SECTOR as usize, ctx.rng());
    let layer = Layer::new(32 << 20)
        .data(1, &bytes)
        .zeros(16384, 16383)
        .data(2 * 16384, &bytes);
    let mut content = vec![0; 32 << 20];
    layer.apply(&mut content);
    let device = lsmt::of_forged(ctx, &[layer])?;
    read::check(&device.path, content, ctx.rng())
}

/// Who has vmalloc's memory for tables, as `/proc/vmallocinfo` has it: the module, or, where the
/// compiler has not made jumps of the calls on the way, the kernel's `vrealloc_node_align` or its
/// wrapper for Rust. Nobody else in the guest calls these.
const HOLDERS: [&str; 2] = ["[dm_overlaybd]", "vrealloc_node_align"];

/// What there is of that memory, bytes: tables are there, to the page. `VmallocUsed` in
/// `/proc/meminfo` is some pages off for each CPU.
fn in_tables() -> Result<u64> {
    let areas = fs::read_to_string("/proc/vmallocinfo")?;
    let ours = areas
        .lines()
        .filter(|line| HOLDERS.iter().any(|holder| line.contains(holder)));
    let pages = ours.filter_map(|line| line.split(" pages=").nth(1)?.split(' ').next());
    let pages = pages.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(pages * PAGE)
}

const PAGE: u64 = 4096;

/// Compares what the tables of `large`, with `count` entries, take with `count` times `tenths`
/// tenths of a byte. A device that is there before has made all that devices share.
fn takes(
    ctx: &mut Ctx,
    kind: &str,
    small: &(u64, String),
    large: &(u64, String),
    count: u64,
    tenths: u64,
) -> Result<()> {
    let shares = ctx.target(small.0, kind, &small.1)?;
    let before = in_tables()?;
    let device = ctx.target(large.0, kind, &large.1)?;
    let taken = in_tables()?.saturating_sub(before);
    let promised = count * tenths / 10;
    ensure!(
        (promised * 9 / 10..=promised.next_multiple_of(PAGE)).contains(&taken),
        "{taken} bytes for {count} entries of {tenths} tenths of a byte each"
    );
    ctx.remove(&device)?;
    ctx.remove(&shares)
}

/// A ZFile of `size` bytes for a table.
fn zfile_table(ctx: &mut Ctx, file: &[u8], size: u64) -> Result<(u64, String)> {
    let disk = ctx.image(file)?;
    let params = format!("{} 0 {}", disk.dev, file.len());
    Ok((size / SECTOR, params))
}

/// As Documentation/admin-guide/device-mapper/dm-zfile.rst says.
fn bytes_a_block(ctx: &mut Ctx) -> Result<()> {
    for (block_size, count, tenths) in [(4 << 10, 1 << 18, 25), (64 << 10, 1 << 16, 45)] {
        let zeros = vec![0; block_size as usize];
        let one = sample::zfile(&zeros, Form::new(Algorithm::Lz4, block_size))?;
        let place = sample::extents(&one)?.swap_remove(0);
        let stored = one[place.start as usize..place.end as usize].to_vec();
        let mut zfile = Zfile::new(&zeros, block_size, Codec::Lz4, true);
        zfile.put_stored(0, stored);
        let small = zfile_table(ctx, &zfile.bytes(), block_size.into())?;
        zfile.repeat(count);
        let size = count as u64 * u64::from(block_size);
        let large = zfile_table(ctx, &zfile.bytes(), size)?;
        takes(ctx, "zfile", &small, &large, count as u64, tenths)?;
    }
    Ok(())
}

/// A ZFile of 2^27 blocks, which is 512 GiB, on a device that shows a few sectors over and over: all
/// of its index is there, and has to be read. It takes the memory that is promised, and any block of
/// it can be read.
fn blocks_2_27(ctx: &mut Ctx) -> Result<()> {
    const BLOCK: u64 = 4096;
    const COUNT: u64 = 1 << 27;
    let streams: Vec<_> = (0..SECTOR)
        .map(|block| streams::lz4_run(fill_of(block), BLOCK as usize))
        .collect();
    let stored = streams[0].len() as u64;
    let mut zfile = Zfile::new(&[0; BLOCK as usize], BLOCK as u32, Codec::Lz4, false);
    // From before there were digests, so that nobody has to compute that of 512 MiB.
    zfile.header[32] &= !0x10;
    zfile.trailer[32] &= !0x10;
    let end = RECORD as u64 + COUNT * stored;
    for (at, value) in [(40, end), (48, COUNT), (56, COUNT * BLOCK)] {
        forge::put(&mut zfile.trailer, at, &value.to_le_bytes());
    }
    // As many blocks as a sector has bytes are whole sectors.
    let data = streams.concat().repeat(64);
    let index = (stored as u32).to_le_bytes().repeat(1 << 18);
    let pieces = [
        (zfile.header.to_vec(), 1),
        (data, COUNT / SECTOR / 64),
        (index, COUNT >> 18),
        (zfile.trailer.to_vec(), 1),
    ];
    let (device, length) = repeated(ctx, &pieces)?;

    // Has what all devices share, so that it does not count.
    let one = Zfile::new(&[0; BLOCK as usize], BLOCK as u32, Codec::Lz4, true);
    let (sectors, params) = zfile_table(ctx, &one.bytes(), BLOCK)?;
    ctx.target(sectors, "zfile", &params)?;
    let before = in_tables()?;
    let params = format!("{} 0 {length}", device.dev);
    let device = ctx.target(COUNT * BLOCK / SECTOR, "zfile", &params)?;
    let (taken, promised) = (in_tables()?.saturating_sub(before), COUNT * 25 / 10);
    // vmalloc keeps a pointer of 8 bytes for each page, in memory that counts as its caller's.
    ensure!(
        (promised * 9 / 10..=promised + promised / 512).contains(&taken),
        "{taken} bytes, promised {promised}"
    );
    let some = [0; 40].map(|_| ctx.rng().within(0..COUNT));
    for block in some.into_iter().chain([0, 1, COUNT / 2, COUNT - 1]) {
        let content = vec![fill_of(block % SECTOR); BLOCK as usize];
        read::check_at(&device.path, block * BLOCK, &content)
            .with_context(|| format!("block {block}"))?;
    }
    Ok(())
}

/// What a block there is full of.
fn fill_of(block: u64) -> u8 {
    (block % 251) as u8
}

/// A device that shows pieces, whole sectors each, so many times; and its length in bytes.
fn repeated(ctx: &mut Ctx, pieces: &[(Vec<u8>, u64)]) -> Result<(Device, u64)> {
    let bytes: Vec<_> = pieces.iter().map(|(piece, _)| &piece[..]).collect();
    let disk = ctx.image(&bytes.concat())?;
    let (mut table, mut next, mut from) = (Vec::new(), 0, 0);
    for (piece, count) in pieces {
        let sectors = piece.len() as u64 / SECTOR;
        for _ in 0..*count {
            let params = format!("{} {from}", disk.dev);
            table.push(target(next, sectors, "linear", &params));
            next += sectors;
        }
        from += sectors;
    }
    Ok((ctx.device_of(&table)?, next * SECTOR))
}

/// As Documentation/admin-guide/device-mapper/dm-lsmt.rst says; gaps are entries, too.
fn bytes_an_extent(ctx: &mut Ctx) -> Result<()> {
    let (count, step) = (1 << 18, 2);
    let data = forge::content(17 * SECTOR as usize, ctx.rng());
    let [small, large] = [1, count].map(|count| {
        let (params, sectors) = lsmt::forged(ctx, &[comb(count, 0, step, &data)])?;
        anyhow::Ok((sectors, params))
    });
    takes(ctx, "lsmt", &small?, &large?, 2 * count, 125)
}
