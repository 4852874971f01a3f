// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Everything that can be done to a device, by several at once, while it is read.

mod subject;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context as _, Result};
use ovbd::dm::Dm;
use overlaybd_format::zfile::Algorithm;
use rustix::io::Errno;

use crate::ctx::{number, output, Ctx};
use crate::forge::Layer;
use crate::harness::Case;
use crate::read::{self, Buffer, Mode};
use crate::rig::load::{Load, Read};
use crate::rig::lower::Lower;
use crate::rig::queued::Queued;
use crate::rig::sample::{self, Form};
use crate::rig::stack::Stack;
use crate::rig::{self, until, Zfile};
use crate::rng::Rng;
use subject::{doom, no_errors, Subject};

pub fn cases() -> Vec<Case> {
    vec![Case::new("races.everything_at_once", everything_at_once)]
}

/// Of each of those who do something, and on each device, unless the environment has another number.
const OPERATIONS: u64 = 60;
const VARIABLE: &str = "OVBD_OPERATIONS";
/// Devices that go together with the module, so many times less.
const FEWER: u64 = 4;
const SIZE: usize = 1 << 20;
const BLOCK: u64 = 32 << 10;
const FORM: Form = Form::new(Algorithm::Zstd, BLOCK as u32);
const PATIENCE: Duration = Duration::from_secs(60);

/// What one of those who do something does, to each device in turn.
type Operation = fn(&Subject, &Dm, &mut Rng) -> Result<()>;

const DEEDS: [Operation; 7] = [
    |subject, dm, _| subject.ask(dm),
    |subject, dm, _| subject.reset(dm),
    |subject, _, rng| subject.open(rng),
    |subject, dm, rng| subject.twin(dm, rng),
    |subject, dm, rng| subject.vanish(dm, rng),
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

/// Unloads it if it is not in use; returns whether it is gone.
fn unloaded() -> Result<bool> {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits();
    match rustix::system::delete_module(c"dm_overlaybd", nonblock as i32) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(other) => Err(anyhow!("unloading: {other}")),
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

/// Half of it with a layer in one piece, the other half with layers in many, the reads of which are
/// gathered.
fn everything_at_once(ctx: &mut Ctx) -> Result<()> {
    let times = number(VARIABLE, OPERATIONS)?.div_ceil(2);
    let content = sample::content(SIZE, ctx.rng());
    let layer = Layer::new(SIZE as u64).data(0, &content);
    for stack in [Stack::new(vec![layer], SIZE), Stack::dealt(ctx)] {
        let zfile = Zfile::new(ctx, Lower::NullTimer, FORM, stack.file.clone())?;
        at_once(ctx, times, &stack, &zfile)?;
        for _ in 0..times.div_ceil(FEWER) {
            all_goes(ctx, &stack, &zfile)?;
        }
    }
    Ok(())
}

fn at_once(ctx: &mut Ctx, times: u64, stack: &Stack, zfile: &Zfile) -> Result<()> {
    let below = zfile.device.dev.to_string();
    let lsmt = ctx.target(stack.sectors(), "lsmt", &stack.words(&below, 0)?)?;
    let subjects = [
        Subject::new(ctx, zfile.device.clone())?,
        Subject::new(ctx, lsmt.clone())?,
    ];
    let [lower, upper] = &subjects;
    let both = [lower, upper];

    let mut rng = ctx.rng().fork();
    let mut rngs: Vec<Rng> = (0..DEEDS.len() + 2).map(|_| ctx.rng().fork()).collect();
    let padded = zfile.padded();
    let image = read::Device::open(&lsmt.path, &stack.content)?;
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
    counts_are_right(ctx, &subjects, zfile)?;
    if stack.layers.len() > 1 {
        is_gathered(ctx, stack, zfile, &image)?;
    }
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

/// Reads of the layers become fewer reads of what they lie on.
fn is_gathered(
    ctx: &mut Ctx,
    stack: &Stack,
    zfile: &Zfile,
    image: &read::Device<'_>,
) -> Result<()> {
    let queued = Queued::new(ctx, zfile.device.dev)?;
    let reads = queued.of(|| image.whole(Mode::Direct, SIZE))?.len();
    let extents = stack.extents(0).len();
    ensure!(reads * 4 < extents, "{extents} extents are {reads} reads");
    Ok(())
}

/// The last devices go with who reads them, and the module with the devices, while what it keeps is
/// asked for.
fn all_goes(ctx: &mut Ctx, stack: &Stack, zfile: &Zfile) -> Result<()> {
    let below = rig::device(ctx, &zfile.lower.words(), zfile.content.len())?;
    let words = stack.words(&below.dev.to_string(), 0)?;
    let image = ctx.target(stack.sectors(), "lsmt", &words)?;
    let mut rng = ctx.rng().fork();
    let open = read::Device::open(&image.path, &stack.content)?;
    let read = move || {
        open.random(Mode::Direct, 1, &mut rng)?;
        open.random(Mode::Buffered, 1, &mut rng)
    };
    let gone = AtomicBool::new(false);
    thread::scope(|scope| {
        let gone = &gone;
        let shrinker = scope.spawn(move || {
            while !gone.load(Ordering::Relaxed) {
                shrink()?;
            }
            anyhow::Ok(())
        });
        let at_once = || unloaded().map(drop);
        let result = doom(ctx.dm()?, &[&image, &below], read, at_once);
        // No bio and no table holds on to anything.
        let result = result.and_then(|()| until("it is unloaded", PATIENCE, unloaded));
        gone.store(true, Ordering::Relaxed);
        shrinker
            .join()
            .map_err(|_| anyhow!("a thread panicked"))??;
        result
    })?;
    ctx.forget(&image);
    ctx.forget(&below);
    Ok(())
}
