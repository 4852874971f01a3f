// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! ZFiles, over disks of both logical block sizes.

use anyhow::{bail, Result};
use ovbd::image::source::Std;
use overlaybd_format::zfile::ZFile;
use overlaybd_format::Error;

use super::bench::{Bench, Image, Reads, Wrong, BATCH};
use super::source::Source;
use crate::ctx::{Ctx, SECTOR};
use crate::forge::change::{zfile_changes, BrokenZfile, Plan, ZfileChange, ZfileForm};
use crate::forge::{self, Codec};
use crate::rng::Rng;

/// A ZFile on the disk.
struct OnDisk {
    name: String,
    params: String,
    expected: Result<Source, Wrong>,
    sectors: u64,
}

pub fn all(ctx: &mut Ctx, codec: Codec, images: u64) -> Result<()> {
    let forms = ZfileForm::all(codec);
    let mut plan = Plan::new(&forms, zfile_changes, ZfileChange::is_record, ctx.rng());
    let mut benches = [Bench::new(ctx, "512")?, Bench::new(ctx, "4096")?];
    let mut done = 0;
    for batch in 0.. {
        if done == images {
            break;
        }
        let count = (images - done).min(BATCH as u64);
        let bench = &mut benches[batch % 2];
        one_batch(ctx, bench, &mut plan, count)?;
        done += count;
    }
    let left = plan.left();
    let [one, other] = benches;
    one.and(other)
        .finish(&format!("marker, ZFiles of {codec:?}"), images, left)
}

fn one_batch(
    ctx: &mut Ctx,
    bench: &mut Bench,
    plan: &mut Plan<ZfileForm, ZfileChange>,
    count: u64,
) -> Result<()> {
    let mut files = Vec::new();
    for _ in 0..count {
        let (form, changes) = plan.next(ctx.rng());
        let mut broken = BrokenZfile::new(form, forge::content(form.length, ctx.rng()));
        for change in &changes {
            broken.apply(change)?;
        }
        let (file, told) = broken.finish();
        files.push((file, told, format!("{form:?}, {changes:?}")));
    }
    let bytes: Vec<_> = files.iter().map(|(file, ..)| &file[..]).collect();
    let (all, starts) = bench.lay_out(ctx.rng(), &bytes)?;
    let dev = bench.disk.dev;
    let images = files
        .into_iter()
        .zip(starts)
        .map(|((_, told, name), start)| {
            let rest = &all[(start * SECTOR) as usize..];
            let told = told.clamp(1, rest.len() as u64);
            let expected = expect(&rest[..told as usize], &format!("{dev}: "))?;
            Ok(OnDisk {
                name,
                params: format!("{dev} {start} {told}"),
                sectors: expected.as_ref().map_or(0, |(_, sectors)| *sectors),
                expected: expected.map(|(source, _)| source),
            })
        });
    let images: Vec<_> = images.collect::<Result<_>>()?;
    bench.offer(ctx, "zfile", &images)
}

/// What userspace makes of a file: what it holds and its sectors, or what is wrong with it.
fn expect(file: &[u8], whose: &str) -> Result<Result<(Source, u64), Wrong>> {
    let open = match ZFile::<Std>::open(file, file.len() as u64) {
        Ok(open) => open,
        Err(Error::Invalid(invalid)) => return Ok(Err(Wrong::file(whose, &invalid)?)),
        Err(other) => bail!("{other:?}"),
    };
    let sectors = open.original_size().div_ceil(SECTOR);
    if sectors == 0 {
        return Ok(Err(Wrong::itself("Original file is empty")));
    }
    Ok(Ok((Source::decoded(&open, file)?, sectors)))
}

impl Image for OnDisk {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn params(&self) -> &str {
        &self.params
    }

    fn expected(&self) -> Result<u64, &Wrong> {
        self.expected.as_ref().map(|_| self.sectors)
    }

    fn read(&self, reads: &mut Reads, base: u64, rng: &mut Rng) -> Result<()> {
        let Ok(source) = &self.expected else {
            return Ok(());
        };
        let length = (self.sectors * SECTOR) as usize;
        let all = source.get(0, length);
        reads.one(base, length, all.as_deref())?;
        reads.scattered(base, length, all.as_deref())?;
        // A part of a block is decompressed in another way, and kept.
        for _ in 0..2 {
            let from = rng.within(0..self.sectors);
            let count = rng.length((self.sectors - from).min(16));
            let (from, length) = (from * SECTOR, (count * SECTOR) as usize);
            let part = source.get(from, length);
            reads.one(base + from, length, part.as_deref())?;
        }
        if all.is_some() {
            return Ok(());
        }
        for (at, block) in source.blocks() {
            let length = block.map_or(self.block_length(source, at), <[u8]>::len);
            reads.one(base + at, length, block)?;
        }
        Ok(())
    }
}

impl OnDisk {
    /// Bytes that a block has on the device, which a broken one does not say itself.
    fn block_length(&self, source: &Source, at: u64) -> usize {
        let rest = (self.sectors * SECTOR - at) as usize;
        rest.min(source.block_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Userspace has an answer to whatever is wrong, and both kinds of answers.
    #[test]
    fn every_image_has_an_expectation() {
        let mut rng = Rng::for_test("expectations");
        for codec in [Codec::Lz4, Codec::Zstd] {
            let forms = ZfileForm::all(codec);
            let mut plan = Plan::new(&forms, zfile_changes, ZfileChange::is_record, &mut rng);
            let mut taken = 0;
            for _ in 0..400 {
                let (form, changes) = plan.next(&mut rng);
                let mut broken = BrokenZfile::new(form, forge::content(form.length, &mut rng));
                for change in &changes {
                    broken.apply(change).unwrap();
                }
                let (mut file, told) = broken.finish();
                file.resize(told.max(1) as usize, 0xee);
                taken += u32::from(expect(&file, "").unwrap().is_ok());
            }
            assert!((40..360).contains(&taken), "{taken} of 400 are right");
        }
    }
}
