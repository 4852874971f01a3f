// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is done to a device.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{anyhow, ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::{node, Dm, Id, Target};
use overlaybd_format::status::{LsmtStatus, ZfileStatus};

use super::{unload, PATIENCE};
use crate::ctx::{Ctx, Device, SECTOR};
use crate::read::Direct;
use crate::rig::until;
use crate::rng::Rng;

/// The most that is read of a twin, sectors.
const LONGEST: u64 = 64;
/// Reads of a device that is to go.
const LAST_READS: usize = 3;

/// A device and the table that it must always show.
pub struct Subject {
    /// The device.
    pub device: Device,
    table: Vec<Target>,
}

impl Subject {
    /// The table is the one that it has now.
    pub fn new(ctx: &mut Ctx, device: Device) -> Result<Self> {
        let table = ctx.dm()?.table(Id::Dev(device.dev.0))?;
        Ok(Self { device, table })
    }

    fn id(&self) -> Id<'_> {
        Id::Dev(self.device.dev.0)
    }

    /// Table and status.
    pub fn ask(&self, dm: &Dm) -> Result<()> {
        let table = dm.table(self.id())?;
        ensure!(table == self.table, "{table:?}, expected {:?}", self.table);
        let status = dm.status(self.id())?;
        let line = status.first().context("no status")?;
        match line.kind.as_str() {
            "zfile" => no_errors(&ZfileStatus::parse(&line.params)?),
            _ => LsmtStatus::parse(&line.params)
                .map(drop)
                .map_err(Into::into),
        }
    }

    /// Sets its counters to 0.
    pub fn reset(&self, dm: &Dm) -> Result<()> {
        Ok(dm.message(self.id(), 0, "reset_stats")?)
    }

    /// Opens it, reads a sector, closes it.
    pub fn open(&self, rng: &mut Rng) -> Result<()> {
        let sector = rng.within(0..self.table[0].length);
        Direct::open(&self.device.path)?.read(sector * SECTOR, 512)?;
        Ok(())
    }

    /// Another device with the same table comes, is read, and goes.
    pub fn twin(&self, dm: &Dm, rng: &mut Rng) -> Result<()> {
        let name = format!("{}-twin", self.device.name);
        let dev = dm.create(&name, "")?.dev;
        let result = self.read_twin(dm, dev, rng);
        dm.remove(Id::Name(&name), &Udev::begin())?;
        node::forget(&name);
        result.context(name)
    }

    fn read_twin(&self, dm: &Dm, dev: u64, rng: &mut Rng) -> Result<()> {
        dm.load(dev, &self.table)?;
        dm.resume(dev, &Udev::begin())?;
        let twin = Device::new(self.device.name.clone(), dev);
        self.is_like(&Direct::open(&twin.path)?, rng)
    }

    /// Some of a twin is what it is here.
    fn is_like(&self, twin: &Direct, rng: &mut Rng) -> Result<()> {
        let total = self.table[0].length;
        let sector = rng.within(0..total);
        let length = rng.length((total - sector).min(LONGEST)) * SECTOR;
        let bytes = |device: &Direct| device.read(sector * SECTOR, length as usize);
        let here = Direct::open(&self.device.path)?;
        ensure!(bytes(twin)? == bytes(&here)?, "{length} bytes at {sector}");
        Ok(())
    }

    /// Another device with the same table is to go while it is read, and goes with its reader, who
    /// tries to unload the module at once.
    pub fn vanish(&self, dm: &Dm, rng: &mut Rng) -> Result<()> {
        let name = format!("{}-vanishing", self.device.name);
        let dev = dm.create(&name, "")?.dev;
        dm.load(dev, &self.table)?;
        dm.resume(dev, &Udev::begin())?;
        let twin = Device::new(name, dev);
        let open = Direct::open(&twin.path)?;
        doom(dm, &[&twin], move || self.is_like(&open, rng), unload)
    }

    /// Waits for what the readers did not wait for: the kernel's reads ahead of them.
    pub fn drain(&self, dm: &Dm) -> Result<()> {
        let dev = self.device.dev.0;
        dm.suspend(dev)?;
        dm.resume(dev, &Udev::begin())?;
        Ok(())
    }

    /// Suspends it, with or without another table, and lets it go on.
    pub fn change(&self, dm: &Dm, rng: &mut Rng) -> Result<()> {
        let dev = self.device.dev.0;
        match rng.index(3) {
            0 => dm.suspend(dev)?,
            1 => dm.load(dev, &self.table)?,
            _ => {
                dm.suspend(dev)?;
                dm.load(dev, &self.table)?;
            }
        }
        dm.resume(dev, &Udev::begin())?;
        Ok(())
    }
}

/// No block was wrong, and no read has failed.
pub fn no_errors(status: &ZfileStatus) -> Result<()> {
    let errors = status.crc_errors + status.decompress_errors + status.io_errors;
    ensure!(errors == 0, "{status}");
    Ok(())
}

/// Has `devices` removed when they are closed, while somebody does `read` with the first of them
/// again and again, a little longer, closes it, and does `last` at once. Returns when they are gone.
pub fn doom(
    dm: &Dm,
    devices: &[&Device],
    mut read: impl FnMut() -> Result<()> + Send,
    last: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let doomed = AtomicBool::new(false);
    thread::scope(|scope| {
        let doomed = &doomed;
        let reader = scope.spawn(move || {
            while !doomed.load(Ordering::Relaxed) {
                read()?;
            }
            (0..LAST_READS).try_for_each(|_| read())?;
            // The device, too.
            drop(read);
            last()
        });
        let told = devices.iter().try_for_each(|device| {
            let id = || Id::Name(&device.name);
            dm.remove_deferred(id(), &Udev::begin())?;
            let info = dm.info(id())?.context("gone while open")?;
            ensure!(info.deferred_remove && info.open_count > 0, "{info:?}");
            Ok(())
        });
        doomed.store(true, Ordering::Relaxed);
        let read = reader.join().map_err(|_| anyhow!("a reader panicked"))?;
        read.and(told)
    })?;
    for device in devices {
        until("it is removed", PATIENCE, || {
            Ok(dm.info(Id::Name(&device.name))?.is_none())
        })?;
        node::forget(&device.name);
    }
    Ok(())
}
