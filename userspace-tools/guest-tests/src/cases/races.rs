// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Everything that can be done to a device, by several at once, while it is read.

use std::thread;

use anyhow::{anyhow, ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::{node, Dm, Id, Target};
use overlaybd_format::status::{LsmtStatus, ZfileStatus};
use overlaybd_format::zfile::Algorithm;
use rustix::io::Errno;

use crate::ctx::{number, output, Ctx, Device, SECTOR};
use crate::harness::Case;
use crate::read::{self, Buffer, Direct, Mode};
use crate::rig::load::{Load, Read};
use crate::rig::lower::Lower;
use crate::rig::sample::{self, Form};
use crate::rig::Zfile;
use crate::rng::Rng;

pub fn cases() -> Vec<Case> {
    vec![Case::new("races.everything_at_once", everything_at_once)]
}

/// Of each of those who do something, and on each device, unless the environment has another number.
const OPERATIONS: u64 = 60;
const VARIABLE: &str = "OVBD_OPERATIONS";
const SIZE: usize = 1 << 20;
const BLOCK: u64 = 32 << 10;

/// A device and the table that it must always show.
struct Subject {
    device: Device,
    table: Vec<Target>,
}

impl Subject {
    fn new(ctx: &mut Ctx, device: Device) -> Result<Self> {
        let table = ctx.dm()?.table(Id::Dev(device.dev.0))?;
        Ok(Self { device, table })
    }

    fn id(&self) -> Id<'_> {
        Id::Dev(self.device.dev.0)
    }

    fn ask(&self, dm: &Dm) -> Result<()> {
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

    fn reset(&self, dm: &Dm) -> Result<()> {
        Ok(dm.message(self.id(), 0, "reset_stats")?)
    }

    /// Opens it, reads a sector, closes it.
    fn open(&self, rng: &mut Rng) -> Result<()> {
        let sector = rng.within(0..self.table[0].length);
        Direct::open(&self.device.path)?.read(sector * SECTOR, 512)?;
        Ok(())
    }

    /// Another device with the same table comes, is read, and goes.
    fn twin(&self, dm: &Dm, rng: &mut Rng) -> Result<()> {
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
        let sector = rng.within(0..self.table[0].length);
        let bytes = |device: &Device| Direct::open(&device.path)?.read(sector * SECTOR, 512);
        ensure!(bytes(&twin)? == bytes(&self.device)?, "sector {sector}");
        Ok(())
    }

    /// Waits for what the readers did not wait for: the kernel's reads ahead of them.
    fn drain(&self, dm: &Dm) -> Result<()> {
        let dev = self.device.dev.0;
        dm.suspend(dev)?;
        dm.resume(dev, &Udev::begin())?;
        Ok(())
    }

    /// Suspends it, with or without another table, and lets it go on.
    fn change(&self, dm: &Dm, rng: &mut Rng) -> Result<()> {
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

fn no_errors(status: &ZfileStatus) -> Result<()> {
    let errors = status.crc_errors + status.decompress_errors + status.io_errors;
    ensure!(errors == 0, "{status}");
    Ok(())
}

/// What one of those who do something does, to each device in turn.
type Operation = fn(&Subject, &Dm, &mut Rng) -> Result<()>;

const DEEDS: [Operation; 6] = [
    |subject, dm, _| subject.ask(dm),
    |subject, dm, _| subject.reset(dm),
    |subject, _, rng| subject.open(rng),
    |subject, dm, rng| subject.twin(dm, rng),
    |_, _, _| shrink(),
    |_, _, _| unload(),
];

/// The module is in use, and stays.
fn unload() -> Result<()> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits();
    match rustix::system::delete_module(c"dm_overlaybd", nonblock as i32) {
        Err(Errno::WOULDBLOCK) => Ok(()),
        other => Err(anyhow!("unloading a module in use: {other:?}")),
    }
}

/// Takes away what is cached, in pages and in blocks.
fn shrink() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop_caches")
}

/// Does an operation so many times; each has a handle of its own.
fn repeat(times: u64, operation: Operation, subjects: &[&Subject], mut rng: Rng) -> Result<()> {
    let dm = Dm::open()?;
    for _ in 0..times {
        for subject in subjects {
            operation(subject, &dm, &mut rng)?;
        }
    }
    Ok(())
}

fn everything_at_once(ctx: &mut Ctx) -> Result<()> {
    let times = number(VARIABLE, OPERATIONS)?;
    let content = sample::content(SIZE, ctx.rng());
    let layer = sample::layer(&content, &[])?;
    let (size, sectors) = (layer.len() as u64, SIZE as u64 / SECTOR);
    let zfile = Zfile::new(
        ctx,
        Lower::NullTimer,
        Form::new(Algorithm::Zstd, BLOCK as u32),
        layer,
    )?;
    let below = format!("1 {} 0 {size}", zfile.device.dev);
    let lsmt = ctx.target(sectors, "lsmt", &below)?;
    let subjects = [
        Subject::new(ctx, zfile.device.clone())?,
        Subject::new(ctx, lsmt.clone())?,
    ];
    let [lower, upper] = &subjects;
    let both = [lower, upper];

    let mut rng = ctx.rng().fork();
    let mut rngs: Vec<Rng> = (0..DEEDS.len() + 2).map(|_| ctx.rng().fork()).collect();
    let padded = zfile.padded();
    let image = read::Device::open(&lsmt.path, &content)?;
    let file = read::Device::open(zfile.path(), &padded)?;
    let readers: [Read<'_>; 4] = [
        &|rng| image.random(Mode::Direct, 1, rng),
        &|rng| image.random(Mode::Buffered, 1, rng),
        &|rng| file.random(Mode::Direct, 1, rng),
        &|rng| file.random(Mode::Buffered, 1, rng),
    ];
    Load::with(&mut rng, &readers, |load| {
        load.more(1)?;
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for deed in DEEDS {
                let rng = rngs.pop().context("randomness")?;
                threads.push(scope.spawn(move || repeat(times, deed, &both, rng)));
            }
            for subject in both {
                let rng = rngs.pop().context("randomness")?;
                let change: Operation = |subject, dm, rng| subject.change(dm, rng);
                threads.push(scope.spawn(move || repeat(times, change, &[subject], rng)));
            }
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
        })?;
        // Everybody is still there.
        load.more(2)
    })?;
    counts_are_right(ctx, &subjects, &zfile)?;
    drop((image, file));
    ctx.remove(&lsmt)?;
    ctx.remove(&zfile.device)?;
    // No bio and no table holds on to anything.
    output(&["rmmod", "dm_overlaybd"]).map(drop)
}

/// Counters that were set to 0 by some while others counted are right again with the next one.
fn counts_are_right(ctx: &mut Ctx, subjects: &[Subject; 2], zfile: &Zfile) -> Result<()> {
    for subject in subjects.iter().rev() {
        subject.drain(ctx.dm()?)?;
        subject.reset(ctx.dm()?)?;
    }
    let fresh = zfile.status(ctx)?;
    ensure!(fresh.read_sectors == 0 && fresh.cache_hits == 0, "{fresh}");
    no_errors(&fresh)?;
    let padded = zfile.padded();
    let mut buffer = Buffer::new(BLOCK as usize, 0);
    let device = read::Device::open(zfile.path(), &padded)?;
    let blocks = zfile.content.len() as u64 / BLOCK;
    for block in 0..blocks {
        device.read(Mode::Direct, block * BLOCK, buffer.all())?;
    }
    let status = zfile.status(ctx)?;
    ensure!(
        status.decompressed_bytes == blocks * BLOCK,
        "{blocks} blocks: {status}"
    );
    Ok(())
}
