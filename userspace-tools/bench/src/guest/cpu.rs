// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The part of the bench in User Mode Linux. The clock is outside: the guest says what begins and
//! what has ended, and goes on when it is answered ([`crate::cpu`]).

use std::io;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use super::device::{Bottom, Devices, Image};
use super::gate::names;
use super::limits::{Stored, Work};
use super::machine;
use super::read::{Area, Test};
use crate::content::BLOCK;
use crate::cpu::Mark;
use crate::pack::List;
use crate::print;

/// How often everything is measured.
const ROUNDS: usize = 7;
/// How often a device is read from end to end in a round.
const PASSES: u32 = 16;

/// Reads everything in each round, so that what disturbs the machine disturbs all.
pub fn run(disk: &Path) -> Result<()> {
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
        ("linear-fine", Image::Extents(names("fine", ""))),
    ] {
        let path = devices.make(name, &bottom, &image)?;
        areas.push((name, Area::whole(path, raw.length)));
    }
    let stored = Stored::open(&ram, list.item("zfile")?)?;
    let blocks = u64::from(PASSES) * raw.length / BLOCK as u64;
    let million = devices.table(
        "million",
        &bottom,
        &Image::Lsmt(vec!["extents-1m".to_owned()]),
    )?;
    for _ in 0..ROUNDS {
        timed("lz4", blocks, || stored.run(Work::Lz4, PASSES).map(drop))?;
        for (name, area) in &areas {
            timed(name, blocks, || {
                (0..PASSES).try_for_each(|_| area.read(Test::Sequential, area.length, 0).map(drop))
            })?;
        }
        let mut million_devices = Devices::open()?;
        timed("extents-1m", 0, || {
            million_devices.create("million", &million).map(drop)
        })?;
        million_devices.remove_all()?;
    }
    devices.remove_all()
}

/// Does `work` between two marks.
fn timed(name: &str, blocks: u64, work: impl FnOnce() -> Result<()>) -> Result<()> {
    mark(&Mark::Begin)?;
    work()?;
    mark(&Mark::End {
        name: name.to_owned(),
        blocks,
    })
}

/// Says what happens; returns when it was taken down.
fn mark(mark: &Mark) -> Result<()> {
    print(serde_json::to_string(mark)?);
    let mut answer = String::new();
    let length = io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer to a mark")?;
    ensure!(
        length > 0,
        "nobody answers: this runs under `ovbd-bench cpu`"
    );
    Ok(())
}
