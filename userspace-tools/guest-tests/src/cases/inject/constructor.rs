// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Constructors whose allocations fail, one after the other.

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::Target;
use rustix::io::Errno;

use super::MOST_SITES;
use crate::cases::lsmt;
use crate::ctx::{target, Ctx, SECTOR};
use crate::forge::{self, Codec, Layer, Zfile};
use crate::harness::Case;
use crate::read;
use crate::rig::inject::{Injector, Outcomes, Wanted};
use crate::rig::ledger::Ledger;

const SIZE: usize = 64 << 10;
const BLOCK: u32 = 16 << 10;
/// So many find all places, unless one is not there.
const MOST_SWEEPS: u32 = 6;
/// Bytes by which the data of a layer end before their last sector does.
const SHORT: usize = 100;

/// What a table is refused with for want of memory, by who lacked it: the target's own, the same of
/// what it is made of, the file's index, a read of the file, dm core.
const REASONS: [&str; 5] = [
    "Cannot allocate target",
    "Cannot set up target",
    "Cannot allocate index",
    "Cannot read device",
    "Device lookup failed",
];

/// Memory that is had in another way if one piece of it cannot be had: it is not refused.
const SCRATCH: Wanted = (
    "kvrealloc",
    &["Shared", "Member", "Vec<u8", "Zfile"],
    "taken",
);
const CONTEXT: Wanted = ("kvrealloc", &["Zstd", "Vec<u64"], "taken");
const RESERVE: Wanted = ("alloc_pages", &["Reserve"], "refused: Cannot set up target");
/// A page buffer is there already.
const SPARE: Wanted = ("krealloc", &["Reserve"], "refused: Cannot set up target");
const TAIL: Wanted = (
    "krealloc",
    &[
        "Tail",
        "Box<[u8; 512]",
        "Opened>::new",
        "Lsmt>::open",
        "Target>::construct",
    ],
    "refused: Cannot allocate index",
);
const TARGET: Wanted = (
    "krealloc",
    &["Box<main::lsmt::Lsmt"],
    "refused: Cannot allocate target",
);

pub fn cases() -> Vec<Case> {
    let zfile = |name: &str, codec, wanted: &'static [Wanted]| {
        let name = format!("inject.constructor.{name}");
        Case::new(name, move |ctx| zfile(ctx, codec, wanted))
    };
    vec![
        zfile("lz4", Codec::Lz4, &[RESERVE, SPARE, SCRATCH]),
        zfile("zstd", Codec::Zstd, &[RESERVE, SPARE, SCRATCH, CONTEXT]),
        Case::new("inject.constructor.lsmt", stack),
    ]
}

fn zfile(ctx: &mut Ctx, codec: Codec, wanted: &[Wanted]) -> Result<()> {
    let content = forge::content(SIZE, ctx.rng());
    let file = Zfile::new(&content, BLOCK, codec, true).bytes();
    let disk = ctx.image(&file)?;
    let params = format!("{} 0 {}", disk.dev, file.len());
    let table = target(0, SIZE as u64 / SECTOR, "zfile", &params);
    every_allocation(ctx, &table, &content, wanted)
}

/// Two layers, of which the upper one has the second half, and the lower one's last sector of data
/// is shared with its index.
fn stack(ctx: &mut Ctx) -> Result<()> {
    let mut content = forge::content(SIZE, ctx.rng());
    let (lower, upper) = content.split_at_mut(SIZE / 2);
    let mut tail = Layer::new(SIZE as u64).data(0, lower);
    tail.data.truncate(SIZE / 2 - SHORT);
    let index = tail.index.clone();
    let tail = tail.with_index(index);
    lower[SIZE / 2 - SHORT..].fill(0);
    let upper = Layer::new(SIZE as u64).data(SIZE as u64 / 2 / SECTOR, upper);
    let (params, sectors) = lsmt::forged(ctx, &[tail, upper])?;
    let table = target(0, sectors, "lsmt", &params);
    every_allocation(ctx, &table, &content, &[TAIL, TARGET])
}

/// Sweeps twice, and until each allocation that must not be missing has failed: how many others there
/// are before it differs from load to load, for those below the module keep some memory ready, and so
/// one may be passed over.
///
/// What counters for each CPU need fails as far as the kernel takes it then: their own bytes are
/// mostly in pages that it has ready.
fn every_allocation(
    ctx: &mut Ctx,
    table: &Target,
    content: &[u8],
    wanted: &[Wanted],
) -> Result<()> {
    let injector = Injector::new(ctx)?;
    let ledger = Ledger::new(ctx)?;
    let mut outcomes = Outcomes::default();
    for sweeps in 1..=MOST_SWEEPS {
        sweep(ctx, &injector, &ledger, table, content, &mut outcomes)?;
        if sweeps > 1 && outcomes.expect(wanted).is_ok() {
            break;
        }
    }
    outcomes.tell(ctx)?;
    outcomes.expect(wanted)
}

/// Loads the table again and again, and each time another allocation fails: the table is refused
/// for want of memory, or works. There is no other device, so that what all of them have in common is
/// made each time, too; and each time all memory is given back.
fn sweep(
    ctx: &mut Ctx,
    injector: &Injector,
    ledger: &Ledger,
    table: &Target,
    content: &[u8],
    outcomes: &mut Outcomes,
) -> Result<()> {
    for nth in 1..=MOST_SITES {
        let device = ctx.device()?;
        let load = || ctx.try_load(&device, std::slice::from_ref(table));
        let (loaded, has_failed) = injector.nth(nth, load)?;
        let sites = injector.sites()?;
        let outcome = match loaded? {
            Ok(()) => {
                ctx.dm()?.resume(device.dev.0, &Udev::begin())?;
                read::check_once(&device.path, content.to_vec())?;
                "taken".to_owned()
            }
            Err(refusal) => {
                let reason = refusal.reason(&table.kind);
                let reason = reason.filter(|reason| REASONS.contains(reason));
                let known = reason.filter(|_| refusal.errno == Errno::NOMEM);
                let reason = known.with_context(|| format!("{sites:?}: {refusal:?}"))?;
                format!("refused: {reason}")
            }
        };
        ctx.remove(&device)?;
        let pieces = ledger.settle();
        let pieces = pieces.with_context(|| format!("{outcome}, {sites:?}"))?;
        if !has_failed {
            ensure!(outcome == "taken", "none failed: {outcome}");
            ensure!(pieces > 0, "no memory was taken");
            return Ok(());
        }
        outcomes.add(sites, &outcome);
    }
    bail!("no end after {MOST_SITES} allocations")
}
