// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Devices and module from beginning to end: what is in use stays, and goes when it is not.

use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::Id;
use overlaybd_format::zfile::Algorithm;

use crate::ctx::{output, target, Ctx, SECTOR};
use crate::forge::{Extent, Layer};
use crate::harness::Case;
use crate::read::{self, Mode};
use crate::rig::load::{Load, Read};
use crate::rig::lower::{null_blk, Lower};
use crate::rig::queued::Queued;
use crate::rig::sample::{self, Form};
use crate::rig::{until, Linear, Zfile, OFFSET};
use crate::rng::Rng;

const SIZE: usize = (512 << 10) + 333;
const FORM: Form = Form::new(Algorithm::Lz4, 16 << 10);

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("lifecycle.module_in_use_stays", module_in_use_stays),
        Case::new("lifecycle.killed_loader", killed_loader),
        Case::new("lifecycle.deferred_remove", deferred_remove),
        Case::new("lifecycle.exchange_without_flush", exchange_without_flush),
        Case::new("lifecycle.reads_that_may_not_wait", reads_that_may_not_wait),
        Case::new("lifecycle.a_disk_that_would_have_to_wait", narrow_disk),
    ]
}

fn device(ctx: &mut Ctx, lower: Lower) -> Result<Zfile> {
    let content = sample::content(SIZE, ctx.rng());
    Zfile::new(ctx, lower, FORM, content)
}

/// It cannot be unloaded while a table stands on it, and can be afterwards.
fn module_in_use_stays(ctx: &mut Ctx) -> Result<()> {
    let zfile = device(ctx, Lower::Disk)?;
    let refused = output(&["rmmod", "dm_overlaybd"]);
    ensure!(refused.is_err(), "a module in use was unloaded");
    read::check_once(zfile.path(), zfile.content.clone())?;
    ctx.remove(&zfile.device)?;
    output(&["rmmod", "dm_overlaybd"]).map(drop)
}

/// Who loads a table and is killed meanwhile does not read a long index to its end first.
fn killed_loader(ctx: &mut Ctx) -> Result<()> {
    /// Entries of an index of 8 MiB, and the reads that it takes.
    const ENTRIES: u64 = 1 << 19;
    const READS: usize = 256;
    let entry = |n| Extent {
        start: 2 * n,
        length: 1,
        place: 8,
        zeroed: false,
    };
    let layer = Layer::new(2 * ENTRIES * SECTOR)
        .data(0, &[1; SECTOR as usize])
        .with_index((0..ENTRIES).map(entry).collect())
        .bytes();
    let lower = Lower::NullSoftirq.with(ctx, 0, &layer)?;
    let slow = Linear::new(ctx, &lower)?;
    slow.become_a(ctx, "delay", " 100")?;
    let queued = Queued::new(ctx, slow.device.dev)?;
    let table = format!(
        "0 {} lsmt 1 {}",
        2 * ENTRIES,
        lower.words_on(slow.device.dev)
    );
    let name = ctx.fresh();
    let made = name.clone();
    ctx.defer("device without a table", move || {
        output(&["dmsetup", "remove", "--retry", &made]).map(drop)
    });
    let mut loader = Command::new("dmsetup")
        .args(["create", "--readonly", &name, "--table", &table])
        .spawn()
        .context("dmsetup")?;
    until("the index is being read", Duration::from_secs(60), || {
        Ok(queued.reads()?.len() >= 8)
    })?;
    loader.kill()?;
    loader.wait()?;
    let reads = queued.reads()?.len();
    ensure!(reads < READS / 2, "{reads} reads");
    Ok(())
}

/// An open device that is to be removed can be read until it is closed.
fn deferred_remove(ctx: &mut Ctx) -> Result<()> {
    let zfile = device(ctx, Lower::Disk)?;
    let padded = zfile.padded();
    let open = read::Device::open(zfile.path(), &padded)?;
    let name = zfile.device.name.clone();
    let dm = ctx.dm()?;
    dm.remove_deferred(Id::Name(&name), &Udev::begin())?;
    let info = dm.info(Id::Name(&name))?.context("gone while open")?;
    ensure!(info.deferred_remove && info.open_count > 0, "{info:?}");
    open.whole(Mode::Direct, 64 << 10)?;
    drop(open);
    until("it is removed", Duration::from_secs(20), || {
        Ok(dm.info(Id::Name(&name))?.is_none())
    })?;
    ctx.forget(&zfile.device);
    Ok(())
}

/// The device below a zfile is exchanged under an lsmt that is read, with and without waiting
/// for what is in flight. The old one is free then.
fn exchange_without_flush(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(1 << 20, ctx.rng());
    let layer = sample::layer(&content, &[])?;
    let file = sample::zfile(&layer, FORM)?;
    let places = [
        Lower::Disk.with(ctx, OFFSET, &file)?,
        Lower::NullTimer.with(ctx, OFFSET + 4, &file)?,
    ];
    let sectors = layer.len() as u64 / SECTOR;
    let zfile = ctx.target(sectors, "zfile", &places[0].words())?;
    let lsmt = format!("1 {} 0 {}", zfile.dev, layer.len());
    let lsmt = ctx.target((1 << 20) / SECTOR, "lsmt", &lsmt)?;
    let device = read::Device::open(&lsmt.path, &content)?;
    let direct: Read<'_> = &|rng| device.random(Mode::Direct, 1, rng);
    let buffered: Read<'_> = &|rng| device.random(Mode::Buffered, 1, rng);
    let mut rng = ctx.rng().fork();
    Load::with(&mut rng, &[direct, direct, buffered], |load| {
        for round in 1..=24 {
            read::drop_caches()?;
            load.more(2)?;
            let place = &places[round % 2];
            let flush = if round % 4 < 2 {
                "--nolockfs"
            } else {
                "--noflush"
            };
            output(&["dmsetup", "suspend", flush, &zfile.name])?;
            ctx.load(&zfile, &[target(0, sectors, "zfile", &place.words())])?;
            let table = ctx.table(&zfile)?;
            ensure!(table == place.words(), "{table}");
        }
        Ok(())
    })
}

/// Reads without waiting: whether there was an answer.
fn read_at_once(device: &read::Device<'_>, rng: &mut Rng) -> Result<bool> {
    let sector = rng.within(0..device.size() / SECTOR);
    let length = rng.length((device.size() / SECTOR - sector).min(512)) * SECTOR;
    let offset = sector * SECTOR;
    device.at_once(offset, length as usize)
}

/// What may not wait gets its bytes or is told to come again, and never anything else.
fn reads_that_may_not_wait(ctx: &mut Ctx) -> Result<()> {
    for lower in [Lower::Disk, Lower::RamDisk, Lower::NullTimer] {
        let zfile = device(ctx, lower)?;
        let padded = zfile.padded();
        let device = read::Device::open(zfile.path(), &padded)?;
        let read: Read<'_> = &|rng| read_at_once(&device, rng).map(drop);
        Load::with(ctx.rng(), &[read; 8], |load| load.more(40))
            .with_context(|| format!("{lower:?}"))?;
        let status = zfile.status(ctx)?;
        ensure!(status.io_errors == 0, "{status}");
        ensure!(status.read_sectors > 0, "no read ever succeeded: {status}");
    }
    Ok(())
}

/// A disk that takes one request at a time tells those to come again that may not wait for it;
/// that is no error, and not counted as one.
fn narrow_disk(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(SIZE, ctx.rng());
    let narrow = [
        ("irqmode", "2"),
        ("completion_nsec", "2000000"),
        ("submit_queues", "1"),
        ("hw_queue_depth", "1"),
    ];
    let disk = null_blk(ctx, 2 * SIZE, &narrow)?;
    let zfile = Zfile::on(ctx, &disk, FORM, content)?;
    let padded = zfile.padded();
    let device = read::Device::open(zfile.path(), &padded)?;
    let turned_away = AtomicU64::new(0);
    let read: Read<'_> = &|rng| {
        let answered = read_at_once(&device, rng)?;
        turned_away.fetch_add(u64::from(!answered), Ordering::Relaxed);
        Ok(())
    };
    Load::with(ctx.rng(), &[read; 4], |load| load.more(40))?;
    ensure!(
        turned_away.into_inner() > 0,
        "nobody was told to come again"
    );
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == 0, "{status}");
    Ok(())
}
