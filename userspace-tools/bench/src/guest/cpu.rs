// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The part of the bench in User Mode Linux, whose clock is outside ([`Outside`]).
//!
//! Checksums are not looked at: what User Mode Linux has for them is a table in C, thirty times
//! slower than a processor's instruction.

use std::path::Path;
use std::thread;

use anyhow::{anyhow, Result};

use super::clock::{Clock, Outside};
use super::core::{kind, Ramdisks};
use super::device::{Bottom, Devices, Image};
use super::gate::names;
use super::limits::{Stored, Work};
use super::read::{Area, Test};
use super::{files, machine};
use crate::content::{BLOCK, COMPRESSED, FILE_SYSTEMS};
use crate::cpu::Counts;
use crate::pack::List;

/// How often a device is read from end to end in a round.
const PASSES: u32 = 16;
/// Random reads through a file system in a round: over 20,000 in seven of them.
const PAGES: usize = 4000;

/// Block devices: everything in each of `rounds`, or only what is named in `only`, for a profile.
pub fn devices(disk: &Path, rounds: usize, only: &[&str]) -> Result<()> {
    let wanted = |name: &str| only.is_empty() || only.contains(&name);
    let clock = Outside(Counts::Cpu);
    let list = List::read(disk)?;
    let ram = machine::ram_disks(1, list.end())?.remove(0);
    machine::copy(disk, &ram, list.end())?;
    let mut devices = Devices::open()?;
    let bottom = Bottom::new(&ram, &list)?;
    let raw = list.item("raw")?;
    let mut areas = vec![(
        "raw",
        Area {
            path: ram.clone(),
            offset: raw.offset,
            length: raw.length,
        },
    )];
    for (name, image) in [
        ("linear", Image::Linear("raw")),
        ("zfile", Image::Zfile("zfile", true)),
        ("lsmt-coarse", Image::Lsmt(names("coarse", ".zfile"))),
        ("lsmt-fine", Image::Lsmt(names("fine", ".zfile"))),
        ("lsmt-raw-fine", Image::Lsmt(names("fine", ""))),
        ("linear-fine", Image::Extents(names("fine", ""))),
        ("linear-fine-stacked", Image::Stacked(names("fine", ""))),
    ] {
        let path = devices.make(name, &bottom, &image)?;
        areas.push((name, Area::whole(path, raw.length)));
    }
    let decompress = Stored::open(&ram, list.item("zfile")?)?.jobs(Work::Lz4, PASSES)?;
    let blocks = u64::from(PASSES) * raw.length / BLOCK as u64;
    let million = devices.table(
        "million",
        &bottom,
        &Image::Lsmt(vec!["extents-1m".to_owned()]),
    )?;
    for _ in 0..rounds {
        if wanted("lz4") {
            clock.time("lz4", "seq", &mut || decompress.run().map(|_| blocks))?;
        }
        for (name, area) in areas.iter().filter(|(name, _)| wanted(name)) {
            clock.time(name, "seq", &mut || read_through(area).map(|()| blocks))?;
        }
        if !wanted("extents-1m") {
            continue;
        }
        let mut activated = Devices::open()?;
        clock.time("extents-1m", "activation", &mut || {
            activated.create("million", &million).map(|_| 0)
        })?;
        activated.remove_all()?;
    }
    devices.remove_all()
}

fn read_through(area: &Area) -> Result<()> {
    (0..PASSES).try_for_each(|_| area.read(Test::Sequential, area.length, 0).map(drop))
}

/// File systems: everything in each of `rounds`, or only what is named in `only`.
pub fn file_systems(disk: &Path, rounds: usize, only: &[&str]) -> Result<()> {
    let wanted = |name: &str| only.is_empty() || only.contains(&name);
    let clock = Outside(Counts::Cpu);
    let list = List::read(disk)?;
    let mut ram = Ramdisks::new(disk, &list)?;
    let mut devices = Devices::open()?;
    let mut opponents = Vec::new();
    for name in FILE_SYSTEMS.into_iter().filter(|name| wanted(name)) {
        opponents.push((name, ram.holding(name)?, kind(name)));
    }
    for (name, of, ..) in COMPRESSED.into_iter().filter(|(name, ..)| wanted(name)) {
        let (path, alone) = (ram.holding(name)?, list.alone(name)?);
        let image = Image::Zfile(name, true);
        let device = devices.make(name, &Bottom::new(&path, &alone)?, &image)?;
        opponents.push((name, device, kind(of)));
    }
    // One way of reading after the other, so that those that are compared come soon after each
    // other: what else a machine does changes within a minute.
    for _ in 0..rounds {
        for (name, device, kind) in &opponents {
            files::tree(&clock, name, device, kind)?;
        }
        for (name, device, kind) in &opponents {
            files::pages(&clock, name, device, kind, PAGES)?;
        }
    }
    devices.remove_all()
}

/// Threads that read at random places.
const READERS: usize = 4;
/// Random reads of each of them.
const READS: usize = 20_000;

/// What a second CPU is good for: to be compared between machines with one and with two.
pub fn scaling(disk: &Path, cpus: usize) -> Result<()> {
    let clock = Outside(Counts::Wall);
    let test = cpus.to_string();
    let list = List::read(disk)?;
    let ram = machine::ram_disks(1, list.end())?.remove(0);
    machine::copy(disk, &ram, list.end())?;
    let mut devices = Devices::open()?;
    let bottom = Bottom::new(&ram, &list)?;
    let item = list.item("raw")?;
    let length = item.length;
    let raw = Area {
        path: ram.clone(),
        offset: item.offset,
        length,
    };
    let mut areas = Vec::new();
    for name in ["one", "another"] {
        let image = Image::Zfile("zfile", true);
        let path = devices.make(name, &bottom, &image)?;
        areas.push(Area::whole(path, length));
    }
    let blocks = u64::from(PASSES) * length / BLOCK as u64;
    let decompress = Stored::open(&ram, list.item("zfile")?)?.jobs(Work::Lz4, PASSES)?;
    clock.time("lz4", &test, &mut || {
        at_once(2, |_| decompress.run().map(drop))?;
        Ok(2 * blocks)
    })?;
    for (name, of) in [("raw", [&raw; 2]), ("zfile", [&areas[0], &areas[1]])] {
        let one = of[0];
        clock.time(&format!("{name} stream"), &test, &mut || {
            read_through(one).map(|()| blocks)
        })?;
        clock.time(&format!("{name} buffered"), &test, &mut || {
            for _ in 0..PASSES {
                machine::drop_caches()?;
                one.read(Test::Buffered, length, 0)?;
            }
            Ok(blocks)
        })?;
        clock.time(&format!("{name} readers"), &test, &mut || {
            at_once(READERS, |_| {
                one.read(Test::Random1, length, READS).map(drop)
            })?;
            Ok((READERS * READS) as u64)
        })?;
        clock.time(&format!("{name} two"), &test, &mut || {
            at_once(2, |n| read_through(of[n]))?;
            Ok(2 * blocks)
        })?;
    }
    devices.remove_all()
}

/// Does `work` in `count` threads, which it gets the number of.
fn at_once(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread of the bench has died")))
        })
    })
}
