// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The part of the bench in User Mode Linux, whose clock is outside ([`Outside`]).
//!
//! Checksums are not looked at: what User Mode Linux has for them is a table in C, thirty times
//! slower than a processor's instruction.

use std::path::Path;

use anyhow::Result;

use super::clock::{Clock, Outside};
use super::core::{kind, Ramdisks};
use super::device::{Bottom, Devices, Image};
use super::gate::names;
use super::limits::{Stored, Work};
use super::read::{Area, Test};
use super::{files, machine};
use crate::content::{BLOCK, COMPRESSED, FILE_SYSTEMS};
use crate::pack::List;

/// How often a device is read from end to end in a round.
const PASSES: u32 = 16;
/// Random reads through a file system in a round: over 20,000 in seven of them.
const PAGES: usize = 4000;

/// Block devices: everything in each of `rounds`, or only what is named in `only`, for a profile.
pub fn devices(disk: &Path, rounds: usize, only: &[&str]) -> Result<()> {
    let wanted = |name: &str| only.is_empty() || only.contains(&name);
    let clock = Outside;
    // The kernel's memory is a file of the host's, which finds a page for whatever is written first.
    machine::settle_memory()?;
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
    let clock = Outside;
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
    // What else a machine does changes within a minute: those that are compared come soon after each
    // other, in one way of reading after the other.
    opponents.sort_by_key(|(name, ..)| compared(name));
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

/// Those with the same number are compared with each other.
fn compared(name: &str) -> usize {
    let groups = [["-lz4-4k", "-z4"], ["-lz4-64k", "-z64"]];
    let of_group = |group: &[&str; 2]| group.iter().any(|end| name.ends_with(end));
    groups.iter().position(of_group).unwrap_or(groups.len())
}
