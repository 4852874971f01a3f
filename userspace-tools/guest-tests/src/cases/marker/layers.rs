// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Stacks of layers, on a disk or each in a ZFile of its own, some of whose blocks are broken.

use std::fmt::Write as _;

use anyhow::{bail, ensure, Result};
use ovbd::image::source::Std;
use overlaybd_format::lsmt::{Entry, Layer as OpenLayer};
use overlaybd_format::zfile::ZFile;
use overlaybd_format::{map, Error, ReadAt};

use super::bench::{Bench, Image, Reads, Wrong, BATCH};
use super::source::{Source, Unreadable};
use crate::ctx::{target, Ctx, SECTOR};
use crate::forge::change::{
    layer_changes, BrokenLayer, BrokenZfile, LayerChange, LayerForm, Plan, ZfileChange, ZfileForm,
};
use crate::forge::Codec;
use crate::rng::Rng;

/// The longest stretch that is read at once, bytes.
const LONG: u64 = 128 << 10;

/// What layers are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The disk.
    Disk,
    /// A device of one ZFile for each layer, with the marker between them.
    Zfiles,
}

pub fn all(ctx: &mut Ctx, on: On, images: u64) -> Result<()> {
    let forms = LayerForm::ALL;
    let mut plan = Plan::new(&forms, layer_changes, LayerChange::is_record, ctx.rng());
    let mut bench = Bench::new(ctx, "512")?;
    let mut done = 0;
    while done < images {
        let count = (images - done).min(BATCH as u64);
        one_batch(ctx, &mut bench, &mut plan, on, count)?;
        done += count;
    }
    bench.finish(&format!("marker, layers on {on:?}"), images, plan.left())
}

/// The layers of an image, and what was done to them.
struct Stack {
    name: String,
    /// Each file, and its length as the table gives it.
    files: Vec<(Vec<u8>, u64)>,
}

/// A layer where a table finds it: sector, length in bytes, and what can be read from there on.
struct Found {
    start: u64,
    told: u64,
    source: Source,
}

fn one_batch(
    ctx: &mut Ctx,
    bench: &mut Bench,
    plan: &mut Plan<LayerForm, LayerChange>,
    on: On,
    count: u64,
) -> Result<()> {
    let stacks: Vec<_> = (0..count)
        .map(|_| {
            let (form, changes) = plan.next(ctx.rng());
            let mut broken = BrokenLayer::new(form, ctx.rng());
            changes.iter().for_each(|change| broken.apply(change));
            Stack {
                name: format!("{form:?}, {changes:?}"),
                files: broken.finish(),
            }
        })
        .collect();
    let files: Vec<_> = stacks.iter().flat_map(|stack| &stack.files).collect();
    let (dev, found) = match on {
        On::Disk => (bench.disk.dev, on_disk(ctx, bench, &files)?),
        On::Zfiles => (bench.between.dev, in_zfiles(ctx, bench, &files)?),
    };
    let mut found = found.into_iter();
    let images = stacks.into_iter().map(|stack| {
        let layers: Vec<_> = found.by_ref().take(stack.files.len()).collect();
        let mut params = layers.len().to_string();
        for layer in &layers {
            write!(params, " {dev} {} {}", layer.start, layer.told)?;
        }
        Ok(Merged {
            name: stack.name,
            params,
            expected: Model::new(layers, &dev.to_string())?,
        })
    });
    let images: Vec<_> = images.collect::<Result<_>>()?;
    bench.offer(ctx, "lsmt", &images)
}

/// Layers on the disk itself.
fn on_disk(ctx: &mut Ctx, bench: &Bench, files: &[&(Vec<u8>, u64)]) -> Result<Vec<Found>> {
    let bytes: Vec<_> = files.iter().map(|(file, _)| &file[..]).collect();
    let (all, starts) = bench.lay_out(ctx.rng(), &bytes)?;
    let found = files.iter().zip(starts).map(|((_, told), start)| {
        let rest = &all[(start * SECTOR) as usize..];
        let told = (*told).clamp(1, rest.len() as u64);
        Found {
            start,
            told,
            source: Source::of(&rest[..told as usize]),
        }
    });
    Ok(found.collect())
}

/// Layers in ZFiles, whose targets make up the device between.
fn in_zfiles(ctx: &mut Ctx, bench: &Bench, files: &[&(Vec<u8>, u64)]) -> Result<Vec<Found>> {
    let zfiles = files.iter().map(|(file, _)| compress(ctx.rng(), file));
    let zfiles: Vec<_> = zfiles.collect::<Result<_>>()?;
    let bytes: Vec<_> = zfiles.iter().map(|zfile| &zfile[..]).collect();
    let (_, starts) = bench.lay_out(ctx.rng(), &bytes)?;
    let dev = bench.disk.dev;
    let (mut table, mut found, mut next) = (Vec::new(), Vec::new(), 0);
    for ((zfile, (file, told)), start) in zfiles.iter().zip(files).zip(starts) {
        // In front of each lies the sector that is in front of the ZFile: the marker.
        table.push(target(next, 1, "linear", &format!("{dev} {}", start - 1)));
        let params = format!("{dev} {start} {}", zfile.len());
        let sectors = (file.len() as u64).div_ceil(SECTOR);
        table.push(target(next + 1, sectors, "zfile", &params));
        let open = ZFile::<Std>::open(&zfile[..], zfile.len() as u64)
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        found.push(Found {
            start: next + 1,
            told: (*told).clamp(1, sectors * SECTOR),
            source: Source::decoded(&open, zfile)?,
        });
        next += 1 + sectors;
    }
    ctx.load(&bench.between, &table)?;
    Ok(found)
}

/// A ZFile of any kind; in one of three, a block is broken.
fn compress(rng: &mut Rng, file: &[u8]) -> Result<Vec<u8>> {
    let form = ZfileForm {
        codec: [Codec::Lz4, Codec::Zstd][rng.index(2)],
        length: file.len(),
        block_size: 4096,
        verify: rng.index(2) == 0,
        overwritten: false,
    };
    let mut broken = BrokenZfile::new(form, file.to_vec());
    if rng.index(3) == 0 {
        let block = rng.index(file.len().div_ceil(4096));
        broken.apply(&match rng.index(2) {
            0 => ZfileChange::Flip {
                block,
                bit: rng.index(64),
                checked: rng.index(2) == 0,
            },
            _ => ZfileChange::Stream {
                block,
                number: 1 + rng.index(10),
            },
        })?;
    }
    Ok(broken.finish().0)
}

/// A stack on a device.
struct Merged {
    name: String,
    params: String,
    expected: Result<Model, Wrong>,
}

/// Layers, looked up one sector at a time.
struct Model {
    layers: Vec<(OpenLayer<Std>, Source)>,
    sectors: u64,
}

impl Model {
    /// What userspace makes of layers, or what is wrong with them.
    fn new(layers: Vec<Found>, dev: &str) -> Result<Result<Self, Wrong>> {
        let mut open = Vec::new();
        for (number, layer) in layers.into_iter().enumerate() {
            let whose = format!("layer {number} ({dev}): ");
            match open_layer(&layer) {
                Ok(file) => open.push((file, layer.source)),
                Err(Error::Invalid(invalid)) => return Ok(Err(Wrong::file(&whose, &invalid)?)),
                Err(Error::Read { offset, .. }) => {
                    return Ok(Err(Wrong::unreadable(&whose, offset)));
                }
                Err(Error::NoMemory) => bail!("out of memory"),
            }
        }
        let sizes = open.iter().map(|(layer, _)| layer.virtual_size());
        Ok(match map::virtual_size(sizes) {
            Ok(sectors) => Ok(Self {
                layers: open,
                sectors,
            }),
            Err(invalid) => Err(Wrong::file("", &invalid)?),
        })
    }

    /// What is at a sector; nothing if it cannot be read.
    fn sector(&self, sector: u64) -> Option<Vec<u8>> {
        let holds = |entry: &&Entry| (entry.start()..entry.end()).contains(&sector);
        for (layer, source) in self.layers.iter().rev() {
            let Some(entry) = layer.entries().iter().find(holds) else {
                continue;
            };
            if entry.zeroed() {
                break;
            }
            let at = (entry.moffset() + sector - entry.start()) * SECTOR;
            // Index bytes are no data.
            let end = layer.index_offset().min(at + SECTOR);
            let mut bytes = source.get(at, (end - at) as usize)?;
            bytes.resize(SECTOR as usize, 0);
            return Some(bytes);
        }
        Some(vec![0; SECTOR as usize])
    }

    fn sectors(&self, sectors: std::ops::Range<u64>) -> Option<Vec<u8>> {
        let sectors = sectors.map(|sector| self.sector(sector));
        Some(sectors.collect::<Option<Vec<_>>>()?.concat())
    }

    /// The beginnings and ends of all entries.
    fn edges(&self) -> impl Iterator<Item = u64> + '_ {
        let entries = self.layers.iter().flat_map(|(layer, _)| layer.entries());
        entries.flat_map(|entry| [entry.start(), entry.end()])
    }
}

/// Opens a layer as the module does, which also reads the data in front of the index, if they share
/// a sector.
fn open_layer(layer: &Found) -> Result<OpenLayer<Std>, Error<Unreadable>> {
    let open = OpenLayer::<Std>::open(&layer.source, layer.told)?;
    if let Some((sector, length)) = open.partial_tail() {
        let offset = sector * SECTOR;
        let mut data = vec![0; length.into()];
        let read = layer.source.read_exact_at(offset, &mut data);
        read.map_err(|error| Error::Read { offset, error })?;
    }
    Ok(open)
}

impl Image for Merged {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn params(&self) -> &str {
        &self.params
    }

    fn expected(&self) -> Result<u64, &Wrong> {
        self.expected.as_ref().map(|model| model.sectors)
    }

    fn read(&self, reads: &mut Reads, base: u64, rng: &mut Rng) -> Result<()> {
        let Ok(model) = &self.expected else {
            return Ok(());
        };
        let end = model.sectors;
        ensure!(end > 0, "no sectors");
        let all = 0..end.min(LONG / SECTOR);
        let content = model.sectors(all.clone());
        let length = ((all.end - all.start) * SECTOR) as usize;
        reads.one(base, length, content.as_deref())?;
        if content.is_some() {
            reads.scattered(base, length, content.as_deref())?;
        }
        let last = end - 1;
        let edges = model
            .edges()
            .flat_map(|edge| [edge.saturating_sub(1), edge]);
        let mut places: Vec<_> = edges.chain([0, last, rng.within(0..end)]).collect();
        places.retain(|&sector| sector < end);
        places.sort_unstable();
        places.dedup();
        for sector in places {
            let expected = model.sector(sector);
            reads.one(base + sector * SECTOR, SECTOR as usize, expected.as_deref())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Userspace has an answer to whatever is wrong, and both kinds of answers.
    #[test]
    fn every_stack_has_an_expectation() {
        let mut rng = Rng::for_test("expectations");
        let mut plan = Plan::new(
            &LayerForm::ALL,
            layer_changes,
            LayerChange::is_record,
            &mut rng,
        );
        let mut taken = 0;
        for _ in 0..1000 {
            let (form, changes) = plan.next(&mut rng);
            let mut broken = BrokenLayer::new(form, &mut rng);
            changes.iter().for_each(|change| broken.apply(change));
            let found = broken.finish().into_iter().map(|(mut file, told)| {
                file.resize(told.max(1) as usize, 0xee);
                Found {
                    start: 0,
                    told,
                    source: Source::of(&file),
                }
            });
            if let Ok(model) = Model::new(found.collect(), "").unwrap() {
                let places = model.edges().filter(|&sector| sector < model.sectors);
                places.for_each(|sector| assert!(model.sector(sector).is_some()));
                taken += 1;
            }
        }
        assert!((100..900).contains(&taken), "{taken} of 1000 are right");
    }
}
