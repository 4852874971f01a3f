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
    let pulled = AtomicBool::new(false);
    let read: Read<'_> = &|rng| match blocks.device.random(Mode::Direct, 1, rng) {
        Ok(()) => Ok(()),
        Err(error) => {
            let before = !pulled.load(Ordering::Relaxed);
            ensure!(!before, "an error before it is pulled out: {error:#}");
            is_loss(errno(error)?)
        }
    };
    let unaffected: Read<'_> = &|rng| others.device.random(Mode::Direct, 1, rng);
    let slot = slot(&zfile.lower.path)?;
    ctx.defer("the disk", || put_in().map(drop));
    Load::with(ctx.rng(), &[read, read, read, unaffected], |load| {
        load.more(10)?;
        pulled.store(true, Ordering::Relaxed);
        fs::write(slot.join("remove"), "1").context("remove")?;
        load.more(10)
    })?;
    let result = blocks.read(blocks.content(3))?;
    is_loss(result.err().context("a disk that is gone was read")?)?;
    ensure!(zfile.status(ctx)?.io_errors > 0, "no error was counted");

    let words = zfile.lower.words_on(put_in()?.dev);
    let sectors = (SIZE as u64).div_ceil(SECTOR);
    ctx.load(&zfile.device, &[target(0, sectors, "zfile", &words)])?;
    blocks.check(|_| None).context("put in again").map(drop)
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
