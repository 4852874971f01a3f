// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Queue limits: what restricts the device below does not restrict reads of a zfile, which reads
//! below by requests of its own.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::DevNo;
use overlaybd_format::zfile::Algorithm;

use crate::ctx::{output, Ctx, Device, SECTOR};
use crate::forge;
use crate::harness::Case;
use crate::read;
use crate::rig::lower::{self, Lower};
use crate::rig::sample::{self, Form};
use crate::rig::{Zfile, OFFSET};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("limits.of_a_disk_below", of_a_disk_below),
        Case::new("limits.of_stripes_below", of_stripes_below),
        Case::new("limits.offsets_below", offsets_below),
        Case::new("limits.at_once", at_once),
    ]
}

const BLOCK: u32 = 16 << 10;
const FORM: Form = Form::new(Algorithm::Lz4, BLOCK);
const SIZE: usize = 300_000;

fn limit(dev: DevNo, name: &str) -> Result<i64> {
    let path = format!("/sys/dev/block/{dev}/{name}");
    let text = fs::read_to_string(&path).context(path)?;
    Ok(text.trim().parse()?)
}

/// Fails unless the limits of a zfile are its own, and it can be read.
fn expect_free(ctx: &mut Ctx, zfile: &Zfile) -> Result<()> {
    for (name, expected) in [
        ("queue/logical_block_size", 512),
        ("queue/physical_block_size", BLOCK.into()),
        ("queue/minimum_io_size", BLOCK.into()),
        ("queue/optimal_io_size", BLOCK.into()),
        ("queue/chunk_sectors", 0),
        ("queue/virt_boundary_mask", 0),
        ("queue/dma_alignment", 511),
        ("queue/max_segments", u16::MAX.into()),
        ("queue/max_segment_size", u32::MAX.into()),
        ("alignment_offset", 0),
    ] {
        let found = limit(zfile.device.dev, name)?;
        ensure!(found == expected, "{name} is {found}, expected {expected}");
    }
    read::check(zfile.path(), zfile.content.clone(), ctx.rng())
}

/// A disk with large blocks that takes short requests, without gaps, only.
fn of_a_disk_below(ctx: &mut Ctx) -> Result<()> {
    let options = [
        ("blocksize", "4096"),
        ("virt_boundary", "1"),
        ("max_sectors", "64"),
    ];
    let disk = lower::null_blk(ctx, 4 << 20, &options)?;
    let content = sample::content(SIZE, ctx.rng());
    let zfile = Zfile::on(ctx, &disk, FORM, content)?;
    let boundary = limit(zfile.lower.dev, "queue/virt_boundary_mask")?;
    ensure!(boundary != 0, "the disk takes gaps");
    expect_free(ctx, &zfile)
}

/// What does not compress is stored longer than it is, so that a read below would be longer than its
/// device takes: who does not wait gets what is not split there, and the rest in another read.
fn at_once(ctx: &mut Ctx) -> Result<()> {
    const LENGTH: usize = 32 << 10;
    let disk = lower::null_blk(ctx, 4 << 20, &[("max_sectors", "64")])?;
    let content = forge::content(8 * LENGTH, ctx.rng());
    let zfile = Zfile::on(ctx, &disk, Form::new(Algorithm::Lz4, 4 << 10), content)?;
    let longest = limit(zfile.lower.dev, "queue/max_sectors_kb")?;
    ensure!(longest << 10 == LENGTH as i64, "{longest} KiB");
    let device = read::Device::open(zfile.path(), &zfile.content)?;
    for number in 0..8 {
        let offset = (number * LENGTH) as u64;
        let answered = device.at_once(offset, LENGTH)?;
        ensure!(answered, "no answer at {offset}");
    }
    Ok(())
}

/// A device in whose reads no stripe must be crossed.
fn of_stripes_below(ctx: &mut Ctx) -> Result<()> {
    let sectors = (4 << 20) / SECTOR;
    let mut table = format!("0 {} striped 2 32", 2 * sectors);
    for _ in 0..2 {
        let disk = lower::null_blk(ctx, 4 << 20, &[])?;
        table.push_str(&format!(" {} 0", disk.display()));
    }
    let name = ctx.fresh();
    // The library only makes read-only devices.
    output(&["dmsetup", "create", &name, "--table", &table])?;
    let made = name.clone();
    ctx.defer("stripes", move || {
        output(&["dmsetup", "remove", "--retry", &made]).map(drop)
    });
    let stripes = Path::new("/dev/mapper").join(name);
    let content = sample::content(SIZE, ctx.rng());
    let zfile = Zfile::on(ctx, &stripes, FORM, content)?;
    let chunk = limit(zfile.lower.dev, "queue/chunk_sectors")?;
    ensure!(chunk != 0, "the stripes are no limit");
    expect_free(ctx, &zfile)
}

/// Files that begin within a physical block of what is below.
fn offsets_below(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(SIZE, ctx.rng());
    let inner = sample::zfile(&content, FORM)?;
    let disk = [&vec![0; (OFFSET * SECTOR) as usize], &inner[..]].concat();
    let outer = Zfile::new(ctx, Lower::Disk, FORM, disk)?;
    let below = outer.device.dev;
    let physical = limit(below, "queue/physical_block_size")?;
    ensure!(physical == i64::from(BLOCK), "{physical}");
    let params = format!("{below} {OFFSET} {}", inner.len());
    let zfile = ctx.target((SIZE as u64).div_ceil(SECTOR), "zfile", &params)?;
    let aligned = |device: &Device| -> Result<()> {
        let offset = limit(device.dev, "alignment_offset")?;
        ensure!(offset == 0, "alignment_offset is {offset}");
        Ok(())
    };
    aligned(&zfile)?;
    read::check_once(&zfile.path, content.clone())?;

    let content = &content[..SIZE / 512 * 512];
    let layer = sample::layer(content, &[])?;
    let disk = [&vec![0; (OFFSET * SECTOR) as usize], &layer[..]].concat();
    let outer = Zfile::new(ctx, Lower::NullTimer, FORM, disk)?;
    let params = format!("1 {} {OFFSET} {}", outer.device.dev, layer.len());
    let lsmt = ctx.target(content.len() as u64 / SECTOR, "lsmt", &params)?;
    aligned(&lsmt)?;
    read::check_once(&lsmt.path, content.to_vec())
}
