// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Allocations and requests that fail because the debug kernel makes them fail, one place after
//! the other.

mod constructor;

use std::fs;
use std::path::PathBuf;

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::Id;
use overlaybd_format::zfile::Algorithm;
use rustix::io::Errno;

use super::lsmt;
use crate::ctx::{Ctx, SECTOR};
use crate::forge::{self, Layer};
use crate::harness::Case;
use crate::read::{self, Buffer, Device, Mode};
use crate::rig::blocks::{errno, Blocks};
use crate::rig::inject::{Injector, Outcomes, Wanted};
use crate::rig::load::{Load, Read};
use crate::rig::lower::Lower;
use crate::rig::sample::{self, Form};
use crate::rig::Zfile;

pub fn cases() -> Vec<Case> {
    let mut cases = constructor::cases();
    cases.extend([
        Case::new("inject.submitter", submitter),
        Case::new("inject.gather", gather),
        Case::new("inject.workers", workers),
        Case::new("inject.requests", requests),
        Case::new("inject.dust", dust),
    ]);
    cases
}

/// More places than this are a sweep that does not end.
const MOST_SITES: u32 = 2000;

/// As often, half of all allocations fail: each place is hit long before.
const MOST_ROUNDS: u32 = 40;

const CONTENT: usize = (1 << 20) + 4321;
const FORM: Form = Form::new(Algorithm::Lz4, 16 << 10);
/// Of one reader, bytes: longer than what a device's reserve can hold.
const LONG: usize = 512 << 10;

/// A block that is to be kept: its content, and what counts who uses it.
const KEPT: [Wanted; 2] = [
    ("krealloc", &["Vec<u8"], "read"),
    (
        "krealloc",
        &["Arc<", "process", "fill", "decompress_to_keep"],
        "read",
    ),
];

fn device(ctx: &mut Ctx, lower: Lower) -> Result<Zfile> {
    let content = sample::content(CONTENT, ctx.rng());
    Zfile::new(ctx, lower, FORM, content)
}

fn no_errors(ctx: &mut Ctx, zfile: &Zfile) -> Result<()> {
    let status = zfile.status(ctx)?;
    let errors = status.crc_errors + status.decompress_errors + status.io_errors;
    ensure!(errors == 0, "{status}");
    Ok(())
}

/// On the way down every read can do without any allocation.
fn submitter(ctx: &mut Ctx) -> Result<()> {
    let injector = Injector::new(ctx)?;
    // One whose reads end in the submitter, which then decompresses, too, and one with a queue.
    for lower in [Lower::RamDisk, Lower::NullSoftirq] {
        let zfile = device(ctx, lower)?;
        let padded = zfile.padded();
        let device = Device::open(zfile.path(), &padded)?;
        // A whole piece, and one that begins and ends within a block.
        let reads = [(0, LONG), (3 * SECTOR, LONG), (5 * SECTOR, SECTOR as usize)];
        let outcomes = without_memory(&injector, &device, &reads);
        let outcomes = outcomes.with_context(|| format!("{lower:?}"))?;
        outcomes.tell(ctx)?;
        if lower == Lower::RamDisk {
            outcomes.expect(&KEPT)?;
        }
        no_errors(ctx, &zfile)?;
    }
    Ok(())
}

/// Does each of `reads`, offset and length in bytes, again and again, and each time another
/// allocation fails: they all get their data. No block is in the cache before, else nothing would
/// have to be allocated.
fn without_memory(
    injector: &Injector,
    device: &Device<'_>,
    reads: &[(u64, usize)],
) -> Result<Outcomes> {
    let mut outcomes = Outcomes::default();
    for &(offset, length) in reads {
        let mut buffer = Buffer::new(length, 0);
        for nth in 1.. {
            ensure!(nth <= MOST_SITES, "no end after {nth} allocations");
            read::drop_objects()?;
            let (result, has_failed) =
                injector.nth(nth, || device.read(Mode::Direct, offset, buffer.all()))?;
            let sites = injector.sites()?;
            result.with_context(|| format!("allocation {nth}, {sites:?}"))?;
            if !has_failed {
                break;
            }
            outcomes.add(sites, "read");
        }
    }
    Ok(outcomes)
}

/// A read of many extents is taken apart as far as there is memory, and dm core does the rest.
fn gather(ctx: &mut Ctx) -> Result<()> {
    const EXTENTS: u64 = 90;
    let mut layers = [(); 3].map(|()| Layer::new(EXTENTS * SECTOR));
    for (extent, layer) in (0..EXTENTS).zip([0, 1, 2].into_iter().cycle()) {
        let bytes = forge::content(SECTOR as usize, ctx.rng());
        layers[layer] = layers[layer].clone().data(extent, &bytes);
    }
    let mut content = vec![0; (EXTENTS * SECTOR) as usize];
    layers.iter().for_each(|layer| layer.apply(&mut content));
    let lsmt = lsmt::of_forged(ctx, &layers)?;
    let injector = Injector::new(ctx)?;
    let device = Device::open(&lsmt.path, &content)?;
    without_memory(&injector, &device, &[(0, content.len())])?.tell(ctx)
}

/// Reads come to their ends with the right bytes while allocations fail in everybody who works
/// on them: all of them, and some.
fn workers(ctx: &mut Ctx) -> Result<()> {
    let zfile = device(ctx, Lower::NullTimer)?;
    let padded = zfile.padded();
    let device = Device::open(zfile.path(), &padded)?;
    let injector = Injector::new(ctx)?;
    let direct: Read<'_> = &|rng| device.random(Mode::Direct, 4, rng);
    let buffered: Read<'_> = &|rng| device.random(Mode::Buffered, 4, rng);
    // Only what is not in the cache takes memory for it.
    let emptied: Read<'_> = &|rng| {
        read::drop_objects()?;
        device.random(Mode::Direct, 4, rng)
    };
    let mut rng = ctx.rng().fork();
    let mut outcomes = Outcomes::default();
    Load::with(&mut rng, &[emptied, direct, buffered, buffered], |load| {
        let mut round = |percent| {
            read::drop_caches()?;
            injector.percent(percent)?;
            let result = load.more(6);
            injector.percent(0)?;
            result.with_context(|| format!("{percent} of a hundred fail"))?;
            outcomes.add(injector.sites()?, "read");
            anyhow::Ok(KEPT.iter().all(|site| outcomes.has(site)))
        };
        round(100)?;
        round(10)?;
        // The second allocation of a block is not tried where the first one has failed.
        for _ in 0..MOST_ROUNDS {
            if round(50)? {
                break;
            }
        }
        Ok(())
    })?;
    outcomes.tell(ctx)?;
    outcomes.expect(&KEPT)?;
    no_errors(ctx, &zfile)
}

const REQUESTS: &str = "/sys/kernel/debug/fail_make_request";

/// Requests to the device below fail now and then. Readers get that error or their bytes, it is
/// counted, and when it is over nothing is left of it.
fn requests(ctx: &mut Ctx) -> Result<()> {
    let zfile = device(ctx, Lower::NullSoftirq)?;
    let padded = zfile.padded();
    let blocks = Blocks::new(&zfile, &padded)?;
    let set = |name: &str, value: &str| {
        let path = PathBuf::from(REQUESTS).join(name);
        fs::write(&path, value).with_context(|| path.display().to_string())
    };
    let may_fail = format!("/sys/dev/block/{}/make-it-fail", zfile.lower.dev);
    ctx.defer("fail_make_request", || {
        Ok(fs::write(PathBuf::from(REQUESTS).join("probability"), "0")?)
    });
    set("verbose", "0")?;
    set("times", "-1")?;
    set("probability", "30")?;
    fs::write(&may_fail, "1").context(may_fail.clone())?;
    let (mut failed, mut right) = (0, 0);
    while failed < 20 || right < 20 {
        let block = ctx.rng().index(blocks.count());
        match blocks.read(blocks.content(block))? {
            Ok(()) => right += 1,
            Err(Errno::IO) => failed += 1,
            Err(other) => bail!("block {block}: {other:?}"),
        }
    }
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == failed, "{failed} failed: {status}");
    // Several at once: whose request it was gets the error, and everybody goes on.
    let read: Read<'_> = &|rng| match blocks.device.random(Mode::Direct, 1, rng) {
        Ok(()) => Ok(()),
        Err(error) => errno(error).and_then(|errno| {
            ensure!(errno == Errno::IO, "{errno:?}");
            Ok(())
        }),
    };
    Load::with(ctx.rng(), &[read; 4], |load| load.more(40))?;
    fs::write(&may_fail, "0")?;
    set("probability", "0")?;
    blocks.check(|_| None).context("recovered").map(drop)
}

/// Bad sectors that come and go under a live device.
fn dust(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(CONTENT, ctx.rng());
    let (zfile, linear) = Zfile::over_linear(ctx, Lower::Disk, FORM, content)?;
    linear.become_a(ctx, "dust", " 512")?;
    let padded = zfile.padded();
    let blocks = Blocks::new(&zfile, &padded)?;
    let dust = Id::Dev(linear.device.dev.0);
    let bad = blocks.sectors(blocks.count() / 2).start;
    ctx.dm()?.message(dust, 0, &format!("addbadblock {bad}"))?;
    // It is not bad before it is told to be.
    blocks.check(|_| None)?;
    ctx.dm()?.message(dust, 0, "enable")?;
    let needs = |block: usize| blocks.sectors(block).contains(&bad).then_some(Errno::IO);
    let failed = blocks.check(needs)?;
    ensure!(failed > 0, "no block was bad");
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == failed, "{failed} failed: {status}");
    ctx.dm()?
        .message(dust, 0, &format!("removebadblock {bad}"))?;
    blocks.check(|_| None).context("recovered")?;
    ctx.dm()?.message(dust, 0, "disable")?;
    linear.recover(ctx)
}
