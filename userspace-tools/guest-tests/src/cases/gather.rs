// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reads that reach into many extents: which reads of the layers they become, and how they end.

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::Id;
use overlaybd_format::status::LsmtStatus;
use rustix::io::Errno;

use crate::ctx::{Ctx, SECTOR};
use crate::forge::{self, Extent, Layer};
use crate::harness::Case;
use crate::read::{self, Direct};
use crate::rig::blocks::errno;
use crate::rig::lower::Lower;
use crate::rig::queued::Queued;
use crate::rig::stack::{Stack, LAYERS, PIECES};
use crate::rig::trace::{self, Trace, COMPLETE};
use crate::rig::Linear;

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<_> = Lower::ALL
        .into_iter()
        .map(|lower| {
            let name = format!("gather.neighbours.{}", lower.name());
            Case::new(name, move |ctx| neighbours(ctx, lower))
        })
        .collect();
    cases.push(Case::new("gather.strangers", strangers));
    cases.push(Case::new("gather.one_fails", one_fails));
    cases
}

/// The single sectors of ranges, in order.
fn sectors(ranges: &[(u64, u64)]) -> Vec<u64> {
    let mut all: Vec<_> = ranges
        .iter()
        .flat_map(|&(start, length)| start..start + length)
        .collect();
    all.sort_unstable();
    all
}

/// What follows each other in a layer is read at once, though it does not on the disk: each sector
/// once, in few reads. What is counted are the pieces.
fn neighbours(ctx: &mut Ctx, lower: Lower) -> Result<()> {
    let stack = Stack::dealt(ctx);
    let placed = lower.with(ctx, 3, &stack.file)?;
    let device = stack.device(ctx, &placed, &placed.dev.to_string())?;
    let before = LsmtStatus::parse(&ctx.status(&device)?)?.reads;
    let queued = Queued::new(ctx, placed.dev)?;
    let direct = Direct::open(&device.path)?;
    let reads = queued.of(|| {
        let read = direct.read(0, stack.content.len())?;
        ensure!(read == stack.content, "wrong bytes");
        Ok(())
    })?;
    let extents = stack.extents(placed.sector);
    ensure!(sectors(&reads) == sectors(&extents), "read {reads:?}");
    ensure!(
        reads.len() * 4 < extents.len(),
        "{} extents are {} reads",
        extents.len(),
        reads.len()
    );
    let counted = LsmtStatus::parse(&ctx.status(&device)?)?.reads - before;
    ensure!(counted >= PIECES as u64, "{counted} reads counted");
    read::check(&device.path, stack.content, ctx.rng())
}

/// Extents none of which follows another in the layer, more than a read is taken apart into.
fn strangers(ctx: &mut Ctx) -> Result<()> {
    const COUNT: u64 = 1000;
    let bytes = forge::content((COUNT * SECTOR) as usize, ctx.rng());
    let backwards = |n| Extent {
        start: n,
        length: 1,
        place: 8 + COUNT - 1 - n,
        zeroed: false,
    };
    let layer = Layer::new(COUNT * SECTOR)
        .data(0, &bytes)
        .with_index((0..COUNT).map(backwards).collect());
    let stack = Stack::new(vec![layer], (COUNT * SECTOR) as usize);
    let placed = Lower::NullSoftirq.with(ctx, 0, &stack.file)?;
    let device = stack.device(ctx, &placed, &placed.dev.to_string())?;
    let queued = Queued::new(ctx, placed.dev)?;
    let direct = Direct::open(&device.path)?;
    let reads = queued.of(|| {
        let read = direct.read(0, stack.content.len())?;
        ensure!(read == stack.content, "wrong bytes");
        Ok(())
    })?;
    ensure!(
        reads.len() as u64 == COUNT && reads.iter().all(|&(_, length)| length == 1),
        "{} reads",
        reads.len()
    );
    ensure!(
        sectors(&reads) == sectors(&stack.extents(placed.sector)),
        "other sectors"
    );
    read::check(&device.path, stack.content, ctx.rng())
}

/// A read fails if one of those that it became does, and only then; with the last of them, within a
/// second.
fn one_fails(ctx: &mut Ctx) -> Result<()> {
    let stack = Stack::dealt(ctx);
    for lower in [Lower::Disk, Lower::RamDisk, Lower::NullTimer] {
        let placed = lower.with(ctx, 3, &stack.file)?;
        let linear = Linear::new(ctx, &placed)?;
        let device = stack.device(ctx, &placed, &linear.device.dev.to_string())?;
        let direct = Direct::open(&device.path)?;
        let trace = Trace::new(ctx, &[(COMPLETE, "")])?;
        for layer in 0..LAYERS {
            let extents = &stack.layers[layer].index;
            let extent = extents[ctx.rng().index(extents.len())];
            let bad = placed.sector + stack.places[layer] + extent.place;
            linear.fail(ctx, &(bad..bad + 1))?;
            ctx.dm()?.message(Id::Dev(device.dev.0), 0, "reset_stats")?;
            trace.clear()?;
            let result = direct.read(0, stack.content.len());
            let delays =
                trace::delays(&trace.lines()?, &[COMPLETE], linear.device.dev, device.dev)?;
            ensure!(!delays.is_empty(), "{lower:?}: no error in the trace");
            ensure!(delays.iter().all(|&s| s < 1.0), "{lower:?}: {delays:?} s");
            let found = errno(result.err().context("a read that should fail")?.into())?;
            ensure!(found == Errno::IO, "{lower:?}: {found}");
            let status = ctx.status(&device)?;
            let counted = LsmtStatus::parse(&status)?.io_errors;
            ensure!(counted == 1, "{lower:?}: {status}");
            // What lies before it and behind it is there.
            let first = (extent.start * SECTOR) as usize;
            for range in [0..first, first + SECTOR as usize..stack.content.len()] {
                if range.is_empty() {
                    continue;
                }
                let read = direct.read(range.start as u64, range.len())?;
                ensure!(read == stack.content[range], "{lower:?}: wrong bytes");
            }
            linear.recover(ctx)?;
            let read = direct.read(0, stack.content.len())?;
            ensure!(read == stack.content, "{lower:?}: wrong bytes afterwards");
        }
    }
    Ok(())
}
