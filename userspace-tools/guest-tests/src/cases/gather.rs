// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reads that reach into many extents: which reads of the layers they become, and how they end.

use std::fmt::Write as _;

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::Id;
use overlaybd_format::status::LsmtStatus;
use rustix::io::Errno;

use crate::ctx::{Ctx, Device, SECTOR};
use crate::forge::{self, Extent, Layer};
use crate::golden::MARKER;
use crate::harness::Case;
use crate::read::{self, Direct};
use crate::rig::blocks::errno;
use crate::rig::lower::{Lower, Placed};
use crate::rig::queued::Queued;
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

const LAYERS: usize = 4;
/// Pieces of a disk that is dealt out; every other layer's turn is one of zeros that no layer has.
const PIECES: usize = 160;
/// The most sectors of a piece.
const LONGEST: u64 = 15;

/// Layers that lie one behind the other on a device.
struct Stack {
    layers: Vec<Layer>,
    content: Vec<u8>,
    /// The device's bytes.
    file: Vec<u8>,
    /// The first sector of each layer there.
    places: Vec<u64>,
}

impl Stack {
    fn new(layers: Vec<Layer>, size: usize) -> Self {
        let mut content = vec![0; size];
        let (mut file, mut places) = (Vec::new(), Vec::new());
        for layer in &layers {
            layer.apply(&mut content);
            places.push(file.len() as u64 / SECTOR);
            file.extend_from_slice(&layer.bytes());
            file.resize((file.len() + 1).next_multiple_of(SECTOR as usize), MARKER);
        }
        Self {
            layers,
            content,
            file,
            places,
        }
    }

    /// Pieces dealt out to layers in turn, each of which has its own in order.
    fn dealt(ctx: &mut Ctx) -> Self {
        let mut lengths = Vec::new();
        for _ in 0..PIECES {
            lengths.push(ctx.rng().within(1..LONGEST + 1));
        }
        let size = (lengths.iter().sum::<u64>() * SECTOR) as usize;
        let mut layers = vec![Layer::new(size as u64); LAYERS];
        let mut start = 0;
        for (number, length) in lengths.into_iter().enumerate() {
            // One turn in so many is nobody's.
            if let Some(layer) = layers.get_mut(number % (LAYERS + 1)) {
                let bytes = forge::content((length * SECTOR) as usize, ctx.rng());
                *layer = layer.clone().data(start, &bytes);
            }
            start += length;
        }
        Self::new(layers, size)
    }

    /// A device over the layers, of which `below` is what they lie on.
    fn device(&self, ctx: &mut Ctx, lower: &Placed, below: &str) -> Result<Device> {
        let mut params = self.layers.len().to_string();
        for (layer, place) in self.layers.iter().zip(&self.places) {
            let (sector, length) = (lower.sector + place, layer.bytes().len());
            write!(params, " {below} {sector} {length}")?;
        }
        ctx.target(self.content.len() as u64 / SECTOR, "lsmt", &params)
    }

    /// Where the data are on the device, sectors, a range for each extent.
    fn extents(&self, lower: &Placed) -> Vec<(u64, u64)> {
        let places = self.layers.iter().zip(&self.places);
        let extents = places.flat_map(|(layer, place)| {
            let at = lower.sector + place;
            layer.index.iter().map(move |e| (at + e.place, e.length))
        });
        extents.collect()
    }
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
    let extents = stack.extents(&placed);
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
        sectors(&reads) == sectors(&stack.extents(&placed)),
        "other sectors"
    );
    read::check(&device.path, stack.content, ctx.rng())
}

/// A read fails if one of those that it became does, and only then.
fn one_fails(ctx: &mut Ctx) -> Result<()> {
    let stack = Stack::dealt(ctx);
    for lower in [Lower::Disk, Lower::RamDisk, Lower::NullTimer] {
        let placed = lower.with(ctx, 3, &stack.file)?;
        let linear = Linear::new(ctx, &placed)?;
        let device = stack.device(ctx, &placed, &linear.device.dev.to_string())?;
        let direct = Direct::open(&device.path)?;
        for layer in 0..LAYERS {
            let extents = &stack.layers[layer].index;
            let extent = extents[ctx.rng().index(extents.len())];
            let bad = placed.sector + stack.places[layer] + extent.place;
            linear.fail(ctx, &(bad..bad + 1))?;
            ctx.dm()?.message(Id::Dev(device.dev.0), 0, "reset_stats")?;
            let result = direct.read(0, stack.content.len());
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
