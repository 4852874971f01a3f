// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The instruction gate: every way of reading block devices, on a ramdisk and on a device that
//! ends reads in a soft interrupt.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::device::{Bottom, Devices, Image};
use super::read::{Area, Test};
use super::{emit, limits, machine};
use crate::content::{BLOCK, LAYERS};
use crate::pack::List;
use crate::sample::Unit;

/// How much is read.
#[derive(Clone, Copy)]
pub struct Effort {
    /// How often each test is done.
    pub rounds: usize,
    /// Random reads of a test.
    pub random_reads: usize,
}

/// What takes a few seconds, on which the baseline stands.
const GATE: Effort = Effort {
    rounds: 2,
    random_reads: 3000,
};

/// So many of the devices come again on null_blk.
const ON_NULL: usize = 4;

/// Every device in every test.
pub fn run(disk: &Path) -> Result<()> {
    machine::settle_memory()?;
    let list = List::read(disk)?;
    let ram = machine::ram_disks(1, list.end())?.remove(0);
    machine::copy(disk, &ram, list.end())?;
    devices(disk, &ram, &list, GATE)
}

/// Every way of reading a device.
pub fn measure(name: &str, area: &Area, tests: &[Test], effort: Effort) -> Result<()> {
    area.read(Test::Sequential, 1 << 20, effort.random_reads)?;
    for test in tests {
        // Now and then the kernel does some work of its own meanwhile: the least counts.
        let mut least = f64::INFINITY;
        for _ in 0..effort.rounds {
            machine::drop_caches()?;
            let spent = area.read(*test, area.length, effort.random_reads)?;
            let blocks = spent.bytes as f64 / BLOCK as f64;
            least = least.min(spent.nanoseconds as f64 / blocks);
        }
        emit(name, test.name(), least, Unit::Instructions);
    }
    Ok(())
}

/// The gate's devices over what is on `disk`, also as a copy on the ramdisk `ram`.
pub fn devices(disk: &Path, ram: &Path, list: &List, effort: Effort) -> Result<()> {
    let null = machine::null_disk()?;
    // Only what lies first is read from there.
    let first = list.item("one.zfile")?;
    machine::copy(disk, &null, first.offset + first.length)?;

    for limit in limits::measure(ram, list.item("zfile")?)? {
        emit("limit", limit.name, limit.value, limit.unit);
    }
    let mut devices = Devices::open()?;
    let size = list.item("raw")?.length;
    let on_ram = Bottom::new(ram, list)?;
    let images = images();
    measure("raw", &raw(ram, list)?, &Test::ALL, effort)?;
    for (name, image) in &images {
        let path = devices.make(name, &on_ram, image)?;
        measure(name, &Area::whole(path, size), &Test::ALL, effort)?;
    }

    let on_null = Bottom::new(&null, list)?;
    measure("null-raw", &raw(&null, list)?, &Test::RANDOM, effort)?;
    for (name, image) in images.iter().take(ON_NULL) {
        let name = format!("null-{name}");
        let path = devices.make(&name, &on_null, image)?;
        measure(&name, &Area::whole(path, size), &Test::RANDOM, effort)?;
    }
    devices.remove_all()
}

/// The devices, by name.
pub fn images() -> Vec<(&'static str, Image)> {
    vec![
        ("linear", Image::Linear("raw")),
        ("zfile", Image::Zfile("zfile", true)),
        ("zfile-crc", Image::Zfile("zfile", false)),
        ("lsmt-one", Image::Lsmt(vec!["one.zfile".to_owned()])),
        ("lsmt-coarse", Image::Lsmt(names("coarse", ".zfile"))),
        ("lsmt-fine", Image::Lsmt(names("fine", ".zfile"))),
        ("lsmt-raw-coarse", Image::Lsmt(names("coarse", ""))),
        ("lsmt-raw-fine", Image::Lsmt(names("fine", ""))),
        ("linear-coarse", Image::Extents(names("coarse", ""))),
        ("linear-fine", Image::Extents(names("fine", ""))),
        ("linear-fine-stacked", Image::Stacked(names("fine", ""))),
    ]
}

/// The layers of a stack in one form.
pub fn names(stack: &str, form: &str) -> Vec<String> {
    (0..LAYERS).map(|n| format!("{stack}-{n}{form}")).collect()
}

/// What is not compressed.
pub fn raw(disk: &Path, list: &List) -> Result<Area> {
    let item = list.item("raw")?;
    Ok(Area {
        path: PathBuf::from(disk),
        offset: item.offset,
        length: item.length,
    })
}
