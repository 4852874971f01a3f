// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What devices cost besides instructions for reading: memory, activation, bytes read below,
//! blocks decompressed more than once.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use ovbd::dm::Target;
use ovbd::image::source::{FileSource, Std};
use overlaybd_format::status::ZfileStatus;
use overlaybd_format::zfile::ZFile;
use overlaybd_format::SECTOR;

use super::device::{line, Bottom, Devices, Image};
use super::read::{Area, Test};
use super::{emit, machine, peak};
use crate::content::BLOCK;
use crate::pack::List;
use crate::rng::Rng;
use crate::sample::Unit;

const READS: usize = 2000;
/// Devices of a kind, when the memory of one is wanted: MemFree may be wrong by a MiB. Of those that
/// have ten MiB fewer will do.
const COPIES: usize = 32;
const FEW: usize = 8;

/// Memory and activation of devices over the synthetic files, which are on `disk` as `list` says.
pub fn devices(disk: &Path, list: &List) -> Result<()> {
    let bottom = Bottom::new(disk, list)?;
    memory(disk, &bottom)?;
    for name in ["blocks-1", "blocks-32k", "blocks-256k", "blocks-wide"] {
        activation(name, &bottom, &Image::Zfile(name, false))?;
    }
    for name in ["extents-1", "extents-10k", "extents-100k", "extents-1m"] {
        activation(name, &bottom, &layers(name, 1))?;
    }
    for (name, count) in STACKS {
        activation(name, &bottom, &layers("extents-1", count))?;
    }
    Ok(())
}

/// Devices of so many layers that have nothing in them, by name.
const STACKS: [(&str, usize); 3] = [("layers-8", 8), ("layers-64", 64), ("layers-255", 255)];

/// The layer `name` so many times.
fn layers(name: &str, count: usize) -> Image {
    Image::Lsmt(vec![name.to_owned(); count])
}

/// What a device keeps. All devices stay to the end: what one gave back, the next would take
/// without any memory becoming less.
fn memory(disk: &Path, bottom: &Bottom<'_>) -> Result<()> {
    let _lists = machine::ShortLists::new()?;
    let mut devices = Devices::open()?;
    let path = disk.display();
    let linear = [line(0, 8, "linear", format!("{path} 0"))];
    // Sizes are read in userspace, whose memory is not what is measured.
    let mut tables = Vec::new();
    for (name, count, image) in [
        ("blocks-1", COPIES, Image::Zfile("blocks-1", false)),
        ("blocks-256k", COPIES, Image::Zfile("blocks-256k", false)),
        ("blocks-wide", COPIES, Image::Zfile("blocks-wide", false)),
        ("extents-1", COPIES, layers("extents-1", 1)),
        ("layers-64", COPIES, layers("extents-1", 64)),
        ("extents-1m", FEW, layers("extents-1m", 1)),
    ] {
        tables.push((name, count, devices.table(name, bottom, &image)?));
    }
    let mut kept = |name: &str, count: usize, table: &[Target]| {
        // What all devices of a module share is there from the first one on.
        devices.create(&format!("{name}-first"), table)?;
        let before = machine::free_memory()?;
        for number in 0..count {
            devices.create(&format!("{name}-{number}"), table)?;
        }
        let taken = before as f64 - machine::free_memory()? as f64;
        emit(name, "memory", taken / count as f64, Unit::Bytes);
        Ok::<(), anyhow::Error>(())
    };
    kept("linear", COPIES, &linear)?;
    for (name, count, table) in &tables {
        kept(name, *count, table)?;
    }
    devices.remove_all()
}

/// The instructions from an empty device to one that can be read, and the memory that is needed
/// meanwhile.
fn activation(name: &str, bottom: &Bottom<'_>, image: &Image) -> Result<()> {
    let mut devices = Devices::open()?;
    // Sizes are read in userspace, which is not what is measured; so is what is cold at first.
    let table = devices.table(name, bottom, image)?;
    devices.create("warm", &table)?;
    machine::drop_caches()?;
    let start = Instant::now();
    devices.create("timed", &table)?;
    let spent = start.elapsed().as_nanos() as f64;
    emit(name, "activation", spent, Unit::InstructionsInAll);
    let peak = peak::during(|| devices.create("watched", &table).map(drop))?;
    emit(name, "peak", peak as f64, Unit::Bytes);
    devices.remove_all()?;
    Ok(())
}

/// Sectors that random reads of 4 KiB cause below the zfile device of `name`, alone on the disk
/// `null`, which counts them; and those that its blocks have.
pub fn amplification(null: &Path, list: &List, name: &'static str) -> Result<()> {
    let bottom = Bottom::new(null, list)?;
    let mut devices = Devices::open()?;
    let path = devices.make("counted", &bottom, &Image::Zfile(name, false))?;
    let item = list.item(name)?;
    let zfile = ZFile::<Std>::open(&FileSource::open(null)?, item.length)
        .with_context(|| format!("{name} is no ZFile"))?;
    let size = u64::from(zfile.block_size());
    let order = Rng::new(1).order(zfile.original_size() / BLOCK as u64, READS);
    let sectors = |page: &u64| {
        let block = page * BLOCK as u64 / size;
        let stored = zfile.table().extent(block..block + 1);
        stored.end.div_ceil(SECTOR) - stored.start / SECTOR
    };
    let needed: u64 = order.iter().map(sectors).sum();
    machine::drop_caches()?;
    let before = sectors_read(null)?;
    let area = Area::whole(path, zfile.original_size() / BLOCK as u64 * BLOCK as u64);
    area.read(Test::Random1, area.length, READS)?;
    let read = sectors_read(null)? - before;
    devices.remove_all()?;
    emit(
        name,
        "sectors-read",
        read as f64 / READS as f64,
        Unit::Sectors,
    );
    emit(
        name,
        "sectors-needed",
        needed as f64 / READS as f64,
        Unit::Sectors,
    );
    Ok(())
}

/// Sectors that were read from `disk` since it exists.
fn sectors_read(disk: &Path) -> Result<u64> {
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    let path = format!("/sys/block/{name}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let field = text.split_whitespace().nth(2).and_then(|n| n.parse().ok());
    field.with_context(|| format!("{path} has no third number: {text}"))
}

/// How many blocks of the ZFile `name` random reads of 4 KiB in its first MiB decompress.
pub fn hot_range(disk: &Path, list: &List, name: &'static str) -> Result<()> {
    let bottom = Bottom::new(disk, list)?;
    let mut devices = Devices::open()?;
    let path = devices.make("hot", &bottom, &Image::Zfile(name, false))?;
    machine::drop_caches()?;
    let before = ZfileStatus::parse(&devices.status("hot")?)?;
    Area::whole(path, 1 << 20).read(Test::Random1, 1 << 20, READS)?;
    let after = ZfileStatus::parse(&devices.status("hot")?)?;
    devices.remove_all()?;
    let decompressed = after.decompressed_bytes - before.decompressed_bytes;
    emit(
        name,
        "hot-decoded",
        decompressed as f64 / after.block_size as f64,
        Unit::Blocks,
    );
    emit(
        name,
        "hot-blocks",
        (1 << 20) as f64 / after.block_size as f64,
        Unit::Blocks,
    );
    Ok(())
}
