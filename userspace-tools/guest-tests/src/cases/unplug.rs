// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A disk of the machine that is pulled out while it is read, and put in again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use overlaybd_format::zfile::Algorithm;

use super::lost::is_loss;
use crate::ctx::{target, Ctx, Disk, SECTOR};
use crate::harness::Case;
use crate::read::Mode;
use crate::rig::blocks::{errno, Blocks};
use crate::rig::load::{Load, Read};
use crate::rig::lower::{settled, Lower};
use crate::rig::sample::{self, Form};
use crate::rig::trace::{self, Trace, COMPLETE, REMAP};
use crate::rig::{until, Zfile};

pub fn cases() -> Vec<Case> {
    vec![Case::new("unplug.pulled_out_and_put_in", pulled_out)]
}

const SIZE: usize = (1 << 20) + 777;
const FORM: Form = Form::new(Algorithm::Zstd, 32 << 10);
/// The disk of [`Lower::Disk`].
const NAME: &str = "raw";
const RESCAN: &str = "/sys/bus/pci/rescan";

/// Every reader gets an error and none waits; nobody else's reads are touched; and with a table
/// that names the disk by its new number the device is what it was.
fn pulled_out(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(SIZE, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, FORM, content.clone())?;
    let other = Zfile::new(ctx, Lower::NullTimer, FORM, content)?;
    let padded = zfile.padded();
    let blocks = Blocks::new(&zfile, &padded)?;
    let others = Blocks::new(&other, &padded)?;
    let unaffected: Read<'_> = &|rng| others.device.random(Mode::Direct, 1, rng);
    ctx.defer("the disk", || put_in().map(drop));
    let mut disk = ctx.disk(NAME)?;
    // Of one reader each event is of the read that it waits for.
    for readers in [3, 1] {
        pull_out(ctx, &disk, &zfile, &blocks, (readers, unaffected))?;
        disk = put_in()?;
        let words = zfile.lower.words_on(disk.dev);
        let sectors = (SIZE as u64).div_ceil(SECTOR);
        ctx.load(&zfile.device, &[target(0, sectors, "zfile", &words)])?;
        blocks.check(|_| None).context("put in again")?;
    }
    Ok(())
}

/// Pulls it out under so many readers, beside another one. From the last that is heard of the disk
/// to the error of who reads it takes less than a second.
fn pull_out(
    ctx: &mut Ctx,
    disk: &Disk,
    zfile: &Zfile,
    blocks: &Blocks<'_>,
    (readers, unaffected): (usize, Read<'_>),
) -> Result<()> {
    let pulled = AtomicBool::new(false);
    let read: Read<'_> = &|rng| match blocks.device.random(Mode::Direct, 1, rng) {
        Ok(()) => Ok(()),
        Err(error) => {
            let before = !pulled.load(Ordering::Relaxed);
            ensure!(!before, "an error before it is pulled out: {error:#}");
            is_loss(errno(error)?)
        }
    };
    let mut all = vec![read; readers];
    all.push(unaffected);
    let slot = slot(&disk.path)?;
    let (below, above) = (trace::is(disk.dev), trace::is(zfile.device.dev));
    let complete = format!("{below} || ({above} && error != 0)");
    let trace = Trace::new(ctx, &[(REMAP, &below), (COMPLETE, &complete)])?;
    Load::with(ctx.rng(), &all, |load| {
        load.more(10)?;
        pulled.store(true, Ordering::Relaxed);
        fs::write(slot.join("remove"), "1").context("remove")?;
        load.more(10)
    })?;
    let result = blocks.read(blocks.content(3))?;
    is_loss(result.err().context("a disk that is gone was read")?)?;
    ensure!(zfile.status(ctx)?.io_errors > 0, "no error was counted");
    // A disk that is gone may refuse a read without an event: then it was asked last.
    let (dev, lines) = (zfile.device.dev, trace.lines()?);
    let delays = trace::delays(&lines, &[REMAP, COMPLETE], disk.dev, dev)?;
    ensure!(delays.len() >= 10 * readers, "{} errors", delays.len());
    let longest = delays.into_iter().fold(0.0, f64::max);
    ensure!(longest < 1.0, "{readers} readers: it took {longest} s");
    Ok(())
}

/// The folder of a disk's PCI device.
fn slot(disk: &Path) -> Result<PathBuf> {
    let name = disk.file_name().context("a disk")?;
    let device = Path::new("/sys/block").join(name).join("device");
    let virtio = device.canonicalize().context("the disk's device")?;
    Ok(virtio.parent().context("a bus")?.to_owned())
}

/// Puts the disk in again, if it is not there, under its name.
fn put_in() -> Result<Disk> {
    fs::write(RESCAN, "1").context(RESCAN)?;
    let mut found = None;
    until("the disk that was put in", Duration::from_secs(60), || {
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
            let node = Path::new("/dev").join(entry.file_name());
            if serial.trim() == NAME && node.exists() {
                found = Some(node);
            }
        }
        Ok(found.is_some())
    })?;
    let node = found.context("no disk")?;
    settled(&node)?;
    let link = Path::new("/dev/disk").join(NAME);
    fs::remove_file(&link).context("the disk's name")?;
    symlink(&node, &link).context("the disk's name")?;
    Disk::of(node)
}
