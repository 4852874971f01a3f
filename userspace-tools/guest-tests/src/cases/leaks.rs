// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The same again and again, after which the kernel must have its memory back.

use anyhow::{bail, ensure, Result};
use ovbd::dm::{Id, Target};
use overlaybd_format::zfile::Algorithm;
use rustix::io::Errno;

use super::lsmt;
use crate::ctx::{output, target, Ctx, SECTOR};
use crate::forge::{self, Codec, Layer, Zfile};
use crate::harness::Case;
use crate::read::Direct;
use crate::rig;
use crate::rig::accounts::nothing_is_lost;
use crate::rig::lower::Lower;
use crate::rig::sample::Form;
use crate::rig::trace::Trace;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("leaks.tables", tables),
        Case::new("leaks.refused_tables", refused_tables),
        Case::new("leaks.devices", devices),
        Case::new("leaks.failed_reads", failed_reads),
        Case::new("leaks.module", module),
        Case::new("leaks.last_device", last_device),
    ]
}

/// Lines of each kind in a table: to make them costs much less than to exchange tables.
const LINES: u64 = 24;

const SIZE: usize = 64 << 10;
const BLOCK: u32 = 16 << 10;
/// Length of a ZFile's header, bytes.
const RECORD: usize = 512;

/// A table with a ZFile of `content`.
fn zfile(ctx: &mut Ctx, content: &[u8], codec: Codec) -> Result<Target> {
    let file = Zfile::new(content, BLOCK, codec, true).bytes();
    let disk = ctx.image(&file)?;
    let params = format!("{} 0 {}", disk.dev, file.len());
    Ok(target(0, SIZE as u64 / SECTOR, "zfile", &params))
}

/// Layers of which one shares the last sector of its data with its index.
fn layers(content: &[u8]) -> [Layer; 2] {
    let mut lower = Layer::new(SIZE as u64).data(0, &content[..SIZE / 2]);
    lower.data.truncate(SIZE / 2 - 100);
    let index = lower.index.clone();
    let upper = Layer::new(SIZE as u64).data(64, &content[SIZE / 2..]);
    [lower.with_index(index), upper]
}

/// A line for each target and codec.
fn one_of_each(ctx: &mut Ctx, content: &[u8]) -> Result<Vec<Target>> {
    let (params, sectors) = lsmt::forged(ctx, &layers(content))?;
    Ok(vec![
        zfile(ctx, content, Codec::Lz4)?,
        zfile(ctx, content, Codec::Zstd)?,
        target(0, sectors, "lsmt", &params),
    ])
}

/// A table of many such lines.
fn many_of_each(ctx: &mut Ctx, content: &[u8]) -> Result<Vec<Target>> {
    let lines = one_of_each(ctx, content)?;
    let all = (0..LINES).flat_map(|_| lines.clone()).enumerate();
    let moved = |(number, line): (usize, Target)| Target {
        start: number as u64 * line.length,
        ..line
    };
    Ok(all.map(moved).collect())
}

/// A table takes the place of the one that was loaded before it and never became live.
fn tables(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let table = many_of_each(ctx, &content)?;
    let device = ctx.device()?;
    let dm = ctx.dm()?;
    nothing_is_lost(24, LINES, || Ok(dm.load(device.dev.0, &table)?))
}

/// Constructors that give up half-way, each at another place.
fn refused_tables(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let right = one_of_each(ctx, &content)?;
    // All that is there is made before the length is compared.
    let mut tables: Vec<Target> = right
        .iter()
        .map(|table| Target {
            length: table.length + 1,
            ..table.clone()
        })
        .collect();
    let mut bad_index = Zfile::new(&content, BLOCK, Codec::Lz4, true);
    if let Some(last) = bad_index.index.last_mut() {
        *last += 1;
    }
    let bad_index = bad_index.bytes();
    let disk = ctx.image(&bad_index)?;
    let params = format!("{} 0 {}", disk.dev, bad_index.len());
    tables.push(target(0, SIZE as u64 / SECTOR, "zfile", &params));
    let [lower, mut upper] = layers(&content);
    upper.index[0].place = 1 << 30;
    let (params, sectors) = lsmt::forged(ctx, &[lower, upper])?;
    tables.push(target(0, sectors, "lsmt", &params));

    let device = ctx.device()?;
    let dm = ctx.dm()?;
    nothing_is_lost(250, 1, || {
        for table in &tables {
            let Err(error) = dm.load(device.dev.0, std::slice::from_ref(table)) else {
                bail!("taken: {table:?}");
            };
            ensure!(error.errno() == Some(Errno::INVAL), "{error}");
        }
        Ok(())
    })
}

/// Devices that are read, in part from the cache, asked, and removed.
fn devices(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let table = many_of_each(ctx, &content)?;
    nothing_is_lost(3, LINES, || {
        let device = ctx.device_of(&table)?;
        let reads = Direct::open(&device.path)?;
        for line in &table {
            let start = line.start * SECTOR;
            for (offset, length) in [(0, SIZE), (512, 512), (1024, 512), (BLOCK.into(), 4096)] {
                reads.read(start + offset, length)?;
            }
            let dm = ctx.dm()?;
            dm.message(Id::Dev(device.dev.0), line.start, "reset_stats")?;
        }
        let status = ctx.dm()?.status(Id::Dev(device.dev.0))?;
        ensure!(status.len() == table.len(), "{status:?}");
        drop(reads);
        ctx.remove(&device)
    })
}

/// Reads that fail: below, and for what they find.
fn failed_reads(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let form = Form::new(Algorithm::Lz4, BLOCK);
    let (unreadable, linear) = rig::Zfile::over_linear(ctx, Lower::Disk, form, content.clone())?;
    linear.fail(ctx, &(0..unreadable.lower.device_sectors()?))?;
    let mut broken = Zfile::new(&content, BLOCK, Codec::Lz4, true).bytes();
    broken[RECORD + 10] ^= 1;
    let disk = ctx.image(&broken)?;
    let params = format!("{} 0 {}", disk.dev, broken.len());
    let broken = ctx.target(SIZE as u64 / SECTOR, "zfile", &params)?;
    let devices = [
        Direct::open(unreadable.path())?,
        Direct::open(&broken.path)?,
    ];
    nothing_is_lost(4, LINES, || {
        for device in devices.iter().cycle().take(2 * LINES as usize) {
            let result = device.read(0, SIZE);
            let error = result.as_ref().err().and_then(Errno::from_io_error);
            ensure!(
                error == Some(Errno::IO),
                "{:?}",
                result.map(|read| read.len())
            );
        }
        Ok(())
    })
}

/// The module itself, with all that its devices had in common.
fn module(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let table = many_of_each(ctx, &content)?;
    nothing_is_lost(4, 1, || {
        let device = ctx.device_of(&table)?;
        Direct::open(&device.path)?.read(512, 512)?;
        ctx.remove(&device)?;
        output(&["rmmod", "dm_overlaybd"]).map(drop)
    })
}

/// What devices have in common is free again when the last one is gone, although the module stays.
fn last_device(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let table = zfile(ctx, &content, Codec::Zstd)?;
    let large = format!("bytes_alloc >= {SIZE}");
    let events = [("kmem/kmalloc", large.as_str()), ("kmem/kfree", "")];
    let trace = Trace::new(ctx, &events)?;
    let device = ctx.device_of(std::slice::from_ref(&table))?;
    ctx.remove(&device)?;
    let lines = trace.lines()?;
    let word = |line: &str| -> Option<String> {
        let (_, rest) = line.split_once("ptr=")?;
        rest.split(' ').next().map(str::to_owned)
    };
    let of = |event: &str| {
        let lines = lines.iter().filter(|line| line.contains(event));
        lines.filter_map(|line| word(line)).collect::<Vec<_>>()
    };
    let (taken, freed) = (of(" kmalloc: "), of(" kfree: "));
    ensure!(taken.len() > 1, "no scratch memory: {taken:?}");
    let left = taken.iter().filter(|&place| !freed.contains(place)).count();
    ensure!(left == 0, "{left} of {} pieces are left", taken.len());
    Ok(())
}
