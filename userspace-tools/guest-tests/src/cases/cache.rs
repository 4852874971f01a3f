// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The cache of decompressed blocks: what is decompressed once is not decompressed again for the
//! rest of the block, and no device ever sees another one's.

use anyhow::{anyhow, ensure, Context as _, Result};
use overlaybd_format::status::ZfileStatus;
use overlaybd_format::zfile::Algorithm;

use crate::ctx::{Ctx, SECTOR};
use crate::harness::Case;
use crate::read::{self, drop_objects, Buffer, Mode};
use crate::rig::lower::{null_blk, Lower};
use crate::rig::sample::{self, Form};
use crate::rig::trace::Trace;
use crate::rig::{self, Zfile};

const BLOCK: u64 = 64 << 10;
const PAGE: u64 = 4096;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("cache.rest_of_a_block", rest_of_a_block),
        Case::new("cache.two_neighbours", two_neighbours),
        Case::new("cache.front_to_back", front_to_back),
        Case::new("cache.whole_blocks_are_not_kept", whole_blocks_are_not_kept),
        Case::new("cache.hot_range", hot_range),
        Case::new("cache.sixteen_mib_in_a_row", sixteen_mib_in_a_row),
        Case::new("cache.keeps_what_is_asked_for", keeps_what_is_asked_for),
        Case::new("cache.is_shrunk", is_shrunk),
        Case::new("cache.knows_how_much_it_has", knows_how_much_it_has),
        Case::new("cache.keeps_a_block_once", keeps_a_block_once),
        Case::new("cache.forgets_removed_devices", forgets_removed_devices),
    ]
}

fn form(algorithm: Algorithm) -> Form {
    Form::new(algorithm, BLOCK as u32)
}

/// A device, what it must show, and its counters.
struct Watched<'a> {
    zfile: &'a Zfile,
    device: read::Device<'a>,
}

impl<'a> Watched<'a> {
    fn new(zfile: &'a Zfile) -> Result<Self> {
        Ok(Self {
            zfile,
            device: read::Device::open(zfile.path(), &zfile.content)?,
        })
    }

    /// Reads directly and compares.
    fn read(&self, offset: u64, length: u64) -> Result<()> {
        let mut buffer = Buffer::new(length as usize, 0);
        self.device.read(Mode::Direct, offset, buffer.all())
    }

    /// Does `work`, and returns what it added to the counters.
    fn counts(&self, ctx: &mut Ctx, work: impl FnOnce(&Self) -> Result<()>) -> Result<Counts> {
        let before = self.zfile.status(ctx)?;
        work(self)?;
        let after = self.zfile.status(ctx)?;
        Ok(Counts::between(&before, &after))
    }

    /// What reading `blocks` once adds.
    fn once(&self, blocks: std::ops::Range<usize>) -> Result<Counts> {
        let extents = sample::extents(&self.zfile.file)?;
        let extents = &extents[blocks];
        let sectors = |extent: &std::ops::Range<u64>| {
            let start = self.zfile.lower.sector * SECTOR + extent.start;
            let end = self.zfile.lower.sector * SECTOR + extent.end;
            end.div_ceil(SECTOR) - start / SECTOR
        };
        Ok(Counts {
            sectors: extents.iter().map(sectors).sum(),
            decompressed: extents.len() as u64 * BLOCK,
            hits: 0,
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    sectors: u64,
    decompressed: u64,
    hits: u64,
}

impl Counts {
    fn between(before: &ZfileStatus, after: &ZfileStatus) -> Self {
        Self {
            sectors: after.read_sectors - before.read_sectors,
            decompressed: after.decompressed_bytes - before.decompressed_bytes,
            hits: after.cache_hits - before.cache_hits,
        }
    }
}

fn expect(what: &str, found: Counts, expected: Counts) -> Result<()> {
    ensure!(
        found == expected,
        "{what}: {found:?}, expected {expected:?}"
    );
    Ok(())
}

/// Page by page, and at sectors: one read below, one decompression.
fn rest_of_a_block(ctx: &mut Ctx) -> Result<()> {
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let content = sample::content(4 * BLOCK as usize, ctx.rng());
        let zfile = Zfile::new(ctx, Lower::Disk, form(algorithm), content)?;
        let watched = Watched::new(&zfile)?;
        let found = watched.counts(ctx, |watched| {
            (0..BLOCK / PAGE).try_for_each(|page| watched.read(BLOCK + page * PAGE, PAGE))
        })?;
        let hits = BLOCK / PAGE - 1;
        let expected = Counts {
            hits,
            ..watched.once(1..2)?
        };
        expect("page by page", found, expected)?;
        let found = watched.counts(ctx, |watched| {
            watched.read(2 * BLOCK - SECTOR, SECTOR)?;
            watched.read(BLOCK + SECTOR, BLOCK - 2 * SECTOR)
        })?;
        let again = Counts {
            sectors: 0,
            decompressed: 0,
            hits: 2,
        };
        expect("again", found, again)?;
    }
    Ok(())
}

/// A read that ends in one block and begins in the one before.
fn two_neighbours(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(4 * BLOCK as usize, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form(Algorithm::Lz4), content)?;
    let watched = Watched::new(&zfile)?;
    watched.read(BLOCK - PAGE, 2 * PAGE)?;
    let found = watched.counts(ctx, |watched| {
        watched.read(BLOCK - 3 * PAGE, 6 * PAGE)?;
        watched.read(0, PAGE)?;
        watched.read(2 * BLOCK - PAGE, PAGE)
    })?;
    // The read of both is answered in two pieces.
    let expected = Counts {
        sectors: 0,
        decompressed: 0,
        hits: 4,
    };
    expect("both blocks were there", found, expected)?;
    // What is there is not read again along with what is not.
    let found = watched.counts(ctx, |watched| watched.read(2 * BLOCK - PAGE, 2 * PAGE))?;
    let expected = Counts {
        hits: 1,
        ..watched.once(2..3)?
    };
    expect("only the first block was there", found, expected)
}

/// As a file system reads small files that lie one behind the other: no block is decompressed
/// twice, though most reads end within one.
fn front_to_back(ctx: &mut Ctx) -> Result<()> {
    let blocks = 32;
    let content = sample::content((blocks * BLOCK) as usize, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form(Algorithm::Lz4), content)?;
    let watched = Watched::new(&zfile)?;
    let mut rng = ctx.rng().fork();
    let found = watched.counts(ctx, |watched| {
        let mut at = 0;
        while at < blocks * BLOCK {
            let length = rng.within(1..3 * BLOCK / SECTOR) * SECTOR;
            let length = length.min(blocks * BLOCK - at);
            watched.read(at, length)?;
            at += length;
        }
        Ok(())
    })?;
    ensure!(found.decompressed == blocks * BLOCK, "{found:?}");
    Ok(())
}

/// Their pages are in the page cache, if anybody wants them again.
fn whole_blocks_are_not_kept(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(4 * BLOCK as usize, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form(Algorithm::Lz4), content)?;
    let watched = Watched::new(&zfile)?;
    for _ in 0..2 {
        let found = watched.counts(ctx, |watched| watched.read(BLOCK, BLOCK))?;
        expect("a whole block", found, watched.once(1..2)?)?;
    }
    // What it keeps is the block that was not wanted as a whole.
    watched.read(BLOCK, BLOCK + PAGE)?;
    let found = watched.counts(ctx, |watched| watched.read(2 * BLOCK + PAGE, PAGE))?;
    ensure!(found.hits == 1, "{found:?}");
    let found = watched.counts(ctx, |watched| watched.read(BLOCK + PAGE, PAGE))?;
    ensure!(found.hits == 0, "{found:?}");
    Ok(())
}

/// 1 MiB, read at random in pages: every block is decompressed once.
fn hot_range(ctx: &mut Ctx) -> Result<()> {
    const READS: u64 = 2000;
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let content = sample::content(3 << 20, ctx.rng());
        let zfile = Zfile::new(ctx, Lower::Disk, form(algorithm), content)?;
        let watched = Watched::new(&zfile)?;
        let mut rng = ctx.rng().fork();
        // Every block at least once, whatever the numbers are.
        let found = watched.counts(ctx, |watched| {
            (16..32).try_for_each(|block| watched.read(block * BLOCK, PAGE))?;
            (16..READS).try_for_each(|_| {
                let page = rng.within(0..(1 << 20) / PAGE);
                watched.read((1 << 20) + page * PAGE, PAGE)
            })
        })?;
        let hits = READS - 16;
        let expected = Counts {
            hits,
            ..watched.once(16..32)?
        };
        expect("hot range", found, expected)?;
    }
    Ok(())
}

/// Its size: 256 blocks of a device in a row fit.
fn sixteen_mib_in_a_row(ctx: &mut Ctx) -> Result<()> {
    let blocks = 256;
    let content = sample::content((blocks * BLOCK) as usize, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form(Algorithm::Lz4), content)?;
    drop_objects()?;
    let watched = Watched::new(&zfile)?;
    let pass = |watched: &Watched<'_>, page: u64| {
        (0..blocks).try_for_each(|block| watched.read(block * BLOCK + page * PAGE, PAGE))
    };
    let found = watched.counts(ctx, |watched| pass(watched, 3))?;
    expect("first pass", found, watched.once(0..blocks as usize)?)?;
    let found = watched.counts(ctx, |watched| pass(watched, 9))?;
    let expected = Counts {
        sectors: 0,
        decompressed: 0,
        hits: blocks,
    };
    expect("second pass", found, expected)
}

/// Of blocks that share a place, the one goes that was not asked for the longest.
fn keeps_what_is_asked_for(ctx: &mut Ctx) -> Result<()> {
    const SMALL: u64 = 4096;
    // As dm-zfile divides its cache.
    const SETS: u64 = 32;
    const WAYS: u64 = 8;
    let content = sample::content(((WAYS + 1) * SETS * SMALL) as usize, ctx.rng());
    let zfile = Zfile::new(
        ctx,
        Lower::Disk,
        Form::new(Algorithm::Lz4, SMALL as u32),
        content,
    )?;
    let watched = Watched::new(&zfile)?;
    let ask = |watched: &Watched<'_>, way: u64| watched.read(way * SETS * SMALL, SECTOR);
    (0..WAYS).try_for_each(|way| ask(&watched, way))?;
    let found = watched.counts(ctx, |watched| {
        ask(watched, 0)?;
        // Takes the place of number 1.
        ask(watched, WAYS)?;
        (2..=WAYS).chain([0]).try_for_each(|way| ask(watched, way))
    })?;
    ensure!(
        found.hits == WAYS + 1 && found.decompressed == SMALL,
        "{found:?}"
    );
    let found = watched.counts(ctx, |watched| ask(watched, 1))?;
    ensure!(found.hits == 0, "{found:?}");
    Ok(())
}

/// The kernel takes the memory back when it is asked to; reads stay right.
fn is_shrunk(ctx: &mut Ctx) -> Result<()> {
    let content = sample::content(2 << 20, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form(Algorithm::Zstd), content)?;
    let watched = Watched::new(&zfile)?;
    let pages =
        |watched: &Watched<'_>| (0..8).try_for_each(|block| watched.read(block * BLOCK, PAGE));
    pages(&watched)?;
    drop_objects()?;
    let found = watched.counts(ctx, pages)?;
    expect("after it was shrunk", found, watched.once(0..8)?)?;
    let found = watched.counts(ctx, pages)?;
    ensure!(found.hits == 8, "it keeps nothing any more: {found:?}");
    Ok(())
}

/// How many blocks the kernel finds in the cache; they are gone then.
fn kept(trace: &Trace) -> Result<u64> {
    trace.clear()?;
    drop_objects()?;
    let lines = trace.lines()?;
    // An empty one is not looked at.
    let Some(line) = lines.iter().find(|line| line.contains("[dm_overlaybd]")) else {
        return Ok(0);
    };
    let (_, items) = line.split_once("cache items ").context("trace")?;
    Ok(items.split(' ').next().unwrap_or(items).parse()?)
}

/// What it says about its size is right, and a device that goes takes its blocks along.
fn knows_how_much_it_has(ctx: &mut Ctx) -> Result<()> {
    let trace = Trace::new(ctx, &[("vmscan/mm_shrink_slab_start", "")])?;
    let content = sample::content(2 << 20, ctx.rng());
    let zfile = Zfile::new(ctx, Lower::Disk, form(Algorithm::Lz4), content)?;
    let watched = Watched::new(&zfile)?;
    drop_objects()?;
    let some =
        |watched: &Watched<'_>| (0..20).try_for_each(|block| watched.read(block * BLOCK, PAGE));
    some(&watched)?;
    let found = kept(&trace)?;
    ensure!(found == 20, "{found} blocks are kept, 20 were read");
    let found = kept(&trace)?;
    ensure!(found == 0, "{found} blocks are left");
    some(&watched)?;
    drop(watched);
    ctx.remove(&zfile.device)?;
    let found = kept(&trace)?;
    ensure!(found == 0, "{found} blocks of no device are kept");
    Ok(())
}

/// Several readers of a block that is not there yet all bring it.
fn keeps_a_block_once(ctx: &mut Ctx) -> Result<()> {
    let trace = Trace::new(ctx, &[("vmscan/mm_shrink_slab_start", "")])?;
    let content = sample::content(4 * BLOCK as usize, ctx.rng());
    // 50 ms: so that all of them are under way before the first has it.
    let slow = [("irqmode", "2"), ("completion_nsec", "50000000")];
    let disk = null_blk(ctx, 2 * content.len(), &slow)?;
    let zfile = Zfile::on(ctx, &disk, form(Algorithm::Lz4), content)?;
    let watched = Watched::new(&zfile)?;
    drop_objects()?;
    let found = watched.counts(ctx, |watched| {
        std::thread::scope(|scope| {
            let read = |page| scope.spawn(move || watched.read(BLOCK + page * PAGE, PAGE));
            let readers: Vec<_> = (0..6).map(read).collect();
            readers
                .into_iter()
                .try_for_each(|reader| reader.join().map_err(|_| anyhow!("a reader panicked"))?)
        })
    })?;
    ensure!(found.decompressed > BLOCK, "they came one after the other");
    let found = kept(&trace)?;
    ensure!(found == 1, "one block is kept {found} times");
    Ok(())
}

/// The content of the device changes with its table, and so does that of the next device.
fn forgets_removed_devices(ctx: &mut Ctx) -> Result<()> {
    for _ in 0..4 {
        let contents = [(); 2].map(|()| sample::content(2 << 20, ctx.rng()));
        let [first, second] = contents;
        let zfile = Zfile::new(ctx, Lower::Disk, form(Algorithm::Lz4), first)?;
        let old = Watched::new(&zfile)?;
        (0..32).try_for_each(|block| old.read(block * BLOCK, PAGE))?;
        drop(old);
        // The same place of the same disk.
        let file = sample::zfile(&second, form(Algorithm::Lz4))?;
        let lower = Lower::Disk.with(ctx, rig::OFFSET, &file)?;
        let table = [crate::ctx::target(
            0,
            (2 << 20) / SECTOR,
            "zfile",
            &lower.words(),
        )];
        ctx.load(&zfile.device, &table)?;
        let reloaded = Zfile {
            device: zfile.device.clone(),
            lower,
            file,
            form: form(Algorithm::Lz4),
            content: second,
        };
        let new = Watched::new(&reloaded)?;
        let pass =
            |watched: &Watched<'_>| (0..32).try_for_each(|block| watched.read(block * BLOCK, PAGE));
        let found = new.counts(ctx, pass).context("after a reload")?;
        ensure!(found.hits == 0, "after a reload: {found:?}");
        drop(new);
        ctx.remove(&zfile.device)?;
    }
    Ok(())
}
