// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Requests of every shape: memory in pieces of any length at any sector of a page, from 512
//! bytes to many MiB, at any sector of a block; over devices that end their reads in every
//! context.

mod arena;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use overlaybd_format::zfile::Algorithm;

use crate::ctx::{Ctx, Device, SECTOR};
use crate::harness::Case;
use crate::read::{self, Mode};
use crate::rig::load::Load;
use crate::rig::lower::Lower;
use crate::rig::map::{Map, Paging};
use crate::rig::sample::{self, Form};
use crate::rig::{self, Zfile};
use arena::{every_piece, fitting, span, tiny_pieces, Arena, Piece};

/// Long enough for every piece behind any sector of a block; no whole number of sectors.
const SIZE: usize = (1 << 20) + 64 * 1024 + 777;
/// For requests of many MiB.
const LARGE: usize = 9 << 20;

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Form::all()
        .into_iter()
        .filter(|form| form.checksums || form.block_size == 4096)
        .map(|form| {
            Case::new(format!("shapes.segments.{form}"), move |ctx| {
                segments(ctx, form)
            })
        })
        .collect();
    for lower in Lower::ALL {
        let name = format!("shapes.over.{}", lower.name());
        cases.push(Case::new(name, move |ctx| over(ctx, lower)));
    }
    cases.extend([
        Case::new("shapes.segments.lsmt", segments_of_lsmt),
        Case::new("shapes.sizes", sizes),
        Case::new("shapes.readahead", readahead),
        Case::new("shapes.mapped", mapped),
        Case::new("shapes.queue_depths", queue_depths),
    ]);
    cases
}

fn sectors(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|sector| sector * SECTOR)
}

/// Every piece, at every sector of a page's length and on both sides of a block's end.
fn segments(ctx: &mut Ctx, form: Form) -> Result<()> {
    let content = sample::content(SIZE, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form, content)?;
    let padded = zfile.padded();
    let device = read::Device::open(zfile.path(), &padded)?;
    let block = u64::from(form.block_size);
    let offsets: Vec<u64> = sectors(8)
        .chain([block - SECTOR, block, 2 * block + SECTOR])
        .collect();
    check_pieces(&device, &offsets)
}

fn segments_of_lsmt(ctx: &mut Ctx) -> Result<()> {
    let (device, content) = lsmt(ctx, Lower::Disk, Form::new(Algorithm::Lz4, 16 << 10))?;
    let device = read::Device::open(&device.path, &content)?;
    let offsets: Vec<u64> = sectors(24).collect();
    check_pieces(&device, &offsets)
}

/// Reads every piece, and very many small ones, at `offsets`, into pages of both kinds.
fn check_pieces(device: &read::Device<'_>, offsets: &[u64]) -> Result<()> {
    // As many as one call takes: more than the 256 segments of a bio.
    let lists = [every_piece(), tiny_pieces(1024)];
    for paging in [Paging::Small, Paging::Huge] {
        for pieces in &lists {
            let mut arena = Arena::new(paging, span(pieces))?;
            for &offset in offsets {
                let pieces = fitting(pieces, device.size() - offset);
                arena
                    .read(device, offset, pieces)
                    .with_context(|| format!("{paging:?} pages"))?;
            }
            let pieces = fitting(pieces, 64 << 10);
            let length: usize = pieces.iter().map(|piece| piece.length).sum();
            arena.read(device, device.size() - length as u64, pieces)?;
        }
    }
    Ok(())
}

/// An lsmt device over a zfile device, with holes of every length, and what it must show.
fn lsmt(ctx: &mut Ctx, lower: Lower, form: Form) -> Result<(Device, Vec<u8>)> {
    let mut content = sample::content(1 << 20, ctx.rng());
    let mut holes = Vec::new();
    let mut at = 0;
    let end = content.len() as u64 / SECTOR;
    while at + 80 < end {
        let start = at + ctx.rng().length(40);
        at = start + ctx.rng().length(40);
        holes.push(start..at);
        content[(start * SECTOR) as usize..(at * SECTOR) as usize].fill(0);
    }
    let layer = sample::layer(&content, &holes)?;
    let size = layer.len();
    let zfile = Zfile::new(ctx, lower, form, layer)?;
    let params = format!("1 {} 0 {size}", zfile.device.dev);
    let device = ctx.target(end, "lsmt", &params)?;
    Ok((device, content))
}

/// One device of each block size over a kind of device, read in every way.
fn over(ctx: &mut Ctx, lower: Lower) -> Result<()> {
    for form in Form::some() {
        let content = sample::content(SIZE / 4, ctx.rng());
        let zfile = Zfile::new(ctx, lower, form, content.clone())?;
        read::check(zfile.path(), content, ctx.rng()).with_context(|| form.to_string())?;
        let padded = zfile.padded();
        let device = read::Device::open(zfile.path(), &padded)?;
        let pieces = every_piece();
        let mut arena = Arena::new(Paging::Small, span(&pieces))?;
        for _ in 0..4 {
            let offset = ctx.rng().within(0..device.size() / SECTOR) * SECTOR;
            arena
                .read(&device, offset, fitting(&pieces, device.size() - offset))
                .with_context(|| form.to_string())?;
        }
        drop(device);
        ctx.remove(&zfile.device)?;
    }
    let (device, content) = lsmt(ctx, lower, Form::new(Algorithm::Zstd, 32 << 10))?;
    read::check(&device.path, content, ctx.rng()).context("lsmt")
}

/// Contiguous requests from a sector to 8 MiB, a sector less and a sector more than a power of
/// two, at offsets that no block begins at.
fn sizes(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(LARGE, ctx.rng());
    for (form, paging) in [
        (Form::new(Algorithm::Lz4, 4 << 10), Paging::Small),
        (Form::new(Algorithm::Zstd, 64 << 10), Paging::Huge),
    ] {
        let zfile = Zfile::new(ctx, Lower::Disk, form, content.clone())?;
        let padded = zfile.padded();
        let device = read::Device::open(zfile.path(), &padded)?;
        let mut arena = Arena::new(paging, LARGE)?;
        for shift in 0..=14 {
            for sectors in [(1 << shift) - 1, 1 << shift, (1 << shift) + 1] {
                let start = ctx.rng().index(8) * SECTOR as usize;
                let length = sectors * SECTOR as usize;
                let offset = ctx.rng().within(0..(LARGE - length) as u64 / SECTOR) * SECTOR;
                if length > 0 {
                    arena.read(&device, offset, &[Piece { start, length }])?;
                }
            }
        }
        drop(device);
        ctx.remove(&zfile.device)?;
    }
    Ok(())
}

/// Through the page cache, with no readahead, little and much.
fn readahead(ctx: &mut Ctx) -> Result<()> {
    let form = Form::new(Algorithm::Lz4, 32 << 10);
    let content = sample::content(4 << 20, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form, content)?;
    let device = read::Device::open(zfile.path(), &zfile.content)?;
    let name = zfile.path().file_name().context("device")?;
    let setting = Path::new("/sys/block").join(name);
    let setting = setting.join("queue/read_ahead_kb");
    for kib in ["0", "4", "128", "4096"] {
        fs::write(&setting, kib).with_context(|| setting.display().to_string())?;
        for chunk in [4096, 96 << 10] {
            read::drop_caches()?;
            device.whole(Mode::Buffered, chunk)?;
        }
        read::drop_caches()?;
        device
            .random(Mode::Buffered, 50, ctx.rng())
            .with_context(|| format!("read_ahead_kb {kib}"))?;
    }
    Ok(())
}

/// Through memory: faults come one page at a time, and not in order.
fn mapped(ctx: &mut Ctx) -> Result<()> {
    let form = Form::new(Algorithm::Zstd, 16 << 10);
    let content = sample::content(SIZE, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form, content)?;
    let padded = zfile.padded();
    let device = read::Device::open(zfile.path(), &padded)?;
    // Pages behind the end of the device cannot be had: only whole ones are mapped.
    let length = padded.len() / 4096 * 4096;
    for backwards in [false, true] {
        read::drop_caches()?;
        let map = Map::new(device.file(Mode::Buffered), length)?;
        for step in 0..length / 4096 {
            let page = if backwards {
                length / 4096 - 1 - step
            } else {
                step * 17 % (length / 4096)
            };
            let range = page * 4096..(page + 1) * 4096;
            read::compare(
                range.start as u64,
                &map.bytes()[range.clone()],
                &padded[range],
            )?;
        }
        read::compare(0, map.bytes(), &padded[..length])?;
    }
    Ok(())
}

/// Direct readers, one and many at a time.
fn queue_depths(ctx: &mut Ctx) -> Result<()> {
    let form = Form::new(Algorithm::Lz4, 64 << 10);
    let content = sample::content(4 << 20, ctx.rng());
    for lower in [Lower::Disk, Lower::NullTimer] {
        let zfile = Zfile::new(ctx, lower, form, content.clone())?;
        let device = read::Device::open(zfile.path(), &zfile.content)?;
        let read: rig::load::Read<'_> = &|rng| device.random(Mode::Direct, 1, rng);
        for depth in [1, 2, 4, 8, 16, 32] {
            Load::with(ctx.rng(), &vec![read; depth], |load| load.more(8))
                .with_context(|| format!("{lower:?}, {depth} readers"))?;
        }
    }
    Ok(())
}
