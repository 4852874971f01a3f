// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One device read in one way, for whoever looks at each instruction from outside.

use std::path::Path;

use anyhow::{Context, Result};

use super::clock::{Clock, Outside};
use super::device::{Bottom, Devices};
use super::gate::{images, raw};
use super::machine;
use super::read::{Area, Test};
use super::ublk::Server;
use crate::content::BLOCK;
use crate::pack::List;

/// Bytes that are read front to back in each of so many places: a minute, when each instruction leaves
/// a line.
const PIECE: u64 = 2 << 20;
/// Places, so that they hold some of everything.
const PIECES: u64 = 4;
/// Random reads.
const READS: usize = 400;

/// Reads `device`, one of the gate or the server's, in the way that has the name `test`, between two
/// marks.
pub fn run(disk: &Path, device: &str, test: &str) -> Result<()> {
    let test = Test::ALL.into_iter().find(|one| one.name() == test);
    let test = test.context("TEST is seq, buffered, qd8, rand1 or rand16")?;
    machine::settle_memory()?;
    let list = List::read(disk)?;
    let ram = machine::ram_disks(1, list.end())?.remove(0);
    machine::copy(disk, &ram, list.end())?;
    let mut devices = Devices::open()?;
    let mut server = None;
    let area = if device == "raw" {
        raw(&ram, &list)?
    } else if device == "ublk" {
        let started = server.insert(Server::start(&ram, list.item("zfile")?)?);
        Area::whole(started.device(), list.item("raw")?.length)
    } else {
        let image = images().into_iter().find(|(name, _)| *name == device);
        let (_, image) = image.with_context(|| format!("the gate has no device '{device}'"))?;
        let path = devices.make(device, &Bottom::new(&ram, &list)?, &image)?;
        Area::whole(path, list.item("raw")?.length)
    };
    let pieces = match test {
        Test::Random1 | Test::Random16 => vec![area],
        _ => pieces(&area),
    };
    let read = || -> Result<u64> {
        let spent = pieces
            .iter()
            .map(|piece| piece.read(test, piece.length, READS));
        let bytes = spent.map(|spent| spent.map(|spent| spent.bytes));
        Ok(bytes.sum::<Result<u64>>()? / BLOCK as u64)
    };
    // Whatever the first read of a kind has to make is there then.
    read()?;
    machine::drop_caches()?;
    Outside.time(device, test.name(), &mut || read())?;
    drop(server);
    devices.remove_all()
}

fn pieces(area: &Area) -> Vec<Area> {
    let piece = |number| Area {
        offset: area.offset + area.length / PIECES * number,
        length: PIECE,
        ..area.clone()
    };
    (0..PIECES).map(piece).collect()
}
