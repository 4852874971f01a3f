// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Block devices against each other: those of the gate, and in the same boot what they are compared
//! with. More reads than the gate takes time for.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use overlaybd_format::SECTOR;

use super::device::{line, Bottom, Devices, Image};
use super::gate::{self, Effort};
use super::read::{Area, Test};
use super::ublk::Server;
use super::{emit, limits, machine};
use crate::content::BLOCK;
use crate::pack::List;
use crate::sample::Unit;

/// Random reads of a test.
const RANDOM_READS: usize = 20_000;

/// Everything of the gate's `disk`, then of `others`, which has the same in other forms; each test
/// `rounds` times.
pub fn run(disk: &Path, others: &Path, rounds: &str) -> Result<()> {
    let effort = Effort {
        rounds: rounds.parse().context("ROUNDS is no number")?,
        random_reads: RANDOM_READS,
    };
    machine::settle_memory()?;
    let (list, other_list) = (List::read(disk)?, List::read(others)?);
    let size = list.end().max(other_list.end());
    let [ram, other_ram, raw_ram] = <[_; 3]>::try_from(machine::ram_disks(3, size)?)
        .ok()
        .context("three ramdisks are needed")?;
    machine::copy(disk, &ram, list.end())?;
    machine::copy(others, &other_ram, other_list.end())?;
    gate::devices(disk, &ram, &list, effort)?;
    forms(&other_ram, &other_list, effort)?;
    let raw = list.item("raw")?;
    machine::copy_part(disk, raw.offset, &raw_ram, raw.length)?;
    let hashes = (other_ram.as_path(), &other_list);
    behind_verity(&raw_ram, raw.length, hashes, effort)?;
    machine::copy_part(
        disk,
        list.item("zfile")?.offset,
        &raw_ram,
        list.item("zfile")?.length,
    )?;
    on_verity(&raw_ram, &list, hashes, effort)?;
    above_lsmt(&ram, &list, hashes, effort)?;
    served(&ram, &list, effort)
}

/// Other algorithms and block sizes, and what the kernel's own decompressors take for them.
fn forms(ram: &Path, list: &List, effort: Effort) -> Result<()> {
    let bottom = Bottom::new(ram, list)?;
    let mut devices = Devices::open()?;
    for (name, limit, work) in [
        ("zfile-64k", "lz4-64k", limits::Work::Lz4),
        ("zfile-zstd", "zstd", limits::Work::Zstd),
        ("zfile-zstd-64k", "zstd-64k", limits::Work::Zstd),
    ] {
        let item = list.item(name)?;
        let stored = limits::Stored::open(ram, item)?;
        emit("limit", limit, stored.each(work)?, Unit::Instructions);
        let size = stored.original_size();
        let ratio = item.length as f64 / size as f64;
        emit("limit", &format!("stored-{limit}"), ratio, Unit::Ratio);
        let path = devices.make(name, &bottom, &Image::Zfile(name, true))?;
        // A read of 4 KiB may decompress sixteen times that: once must do.
        let effort = Effort {
            rounds: 1,
            ..effort
        };
        gate::measure(name, &Area::whole(path, size), &Test::ALL, effort)?;
    }
    devices.remove_all()
}

/// The first `length` bytes of the disk `data`, which are `item`, checked by dm-verity.
fn checked(
    devices: &mut Devices,
    (data, length): (&Path, u64),
    (hash_disk, hash_list): (&Path, &List),
    item: &str,
) -> Result<PathBuf> {
    let verity = Verity {
        data,
        length,
        hashes: (hash_disk, hash_list.item(&format!("{item}-hashes"))?.offset),
        root: text(hash_disk, hash_list, &format!("{item}-root"))?,
    };
    verity.device(devices)
}

/// The uncompressed files on the disk `data`.
fn behind_verity(data: &Path, length: u64, hashes: (&Path, &List), effort: Effort) -> Result<()> {
    let mut devices = Devices::open()?;
    let path = checked(&mut devices, (data, length), hashes, "raw")?;
    gate::measure("verity", &Area::whole(path, length), &Test::ALL, effort)?;
    devices.remove_all()
}

/// A zfile device whose ZFile lies on the disk `data`.
fn on_verity(data: &Path, list: &List, hashes: (&Path, &List), effort: Effort) -> Result<()> {
    let mut devices = Devices::open()?;
    let length = list.item("zfile")?.length.next_multiple_of(BLOCK as u64);
    let path = checked(&mut devices, (data, length), hashes, "zfile")?;
    let alone = list.alone("zfile")?;
    // CRCs say nothing that the hashes do not.
    let image = Image::Zfile("zfile", true);
    let path = devices.make("zfile-verity", &Bottom::new(&path, &alone)?, &image)?;
    let area = Area::whole(path, list.item("raw")?.length);
    gate::measure("zfile-verity", &area, &Test::ALL, effort)?;
    devices.remove_all()
}

/// Layers that are checked for what they make together.
fn above_lsmt(ram: &Path, list: &List, hashes: (&Path, &List), effort: Effort) -> Result<()> {
    let mut devices = Devices::open()?;
    let image = Image::Lsmt(gate::names("coarse", ".zfile"));
    let path = devices.make("lsmt", &Bottom::new(ram, list)?, &image)?;
    let length = list.item("raw")?.length;
    let path = checked(&mut devices, (&path, length), hashes, "raw")?;
    let area = Area::whole(path, length);
    gate::measure("verity-lsmt", &area, &Test::ALL, effort)?;
    devices.remove_all()
}

/// The server in userspace.
fn served(ram: &Path, list: &List, effort: Effort) -> Result<()> {
    let raw = list.item("raw")?;
    let length = raw.length;
    let server = Server::start(ram, list.item("zfile")?)?;
    let blocks = length as f64 / BLOCK as f64;
    let each = server.decompressing / blocks;
    emit("limit", "lz4-userspace", each, Unit::Instructions);
    let area = Area::whole(server.device(), length);
    // What is fast because it is wrong does not count.
    ensure!(
        machine::same(&server.device(), 0, ram, raw.offset, length)?,
        "the server's device has not the bytes that were compressed"
    );
    gate::measure("ublk", &area, &Test::ALL, effort)?;
    for test in Test::RANDOM {
        let before = server.switches()?;
        area.read(test, length, effort.random_reads)?;
        let switches = server.switches()? - before;
        let each = switches as f64 / effort.random_reads as f64;
        let name = format!("switches-{}", test.name());
        emit("ublk", &name, each, Unit::Switches);
    }
    Ok(())
}

/// A dm-verity device in the making.
pub struct Verity<'a> {
    /// A disk with data from its beginning on.
    pub data: &'a Path,
    /// Bytes of the data.
    pub length: u64,
    /// The disk that has the hashes, and their first byte.
    pub hashes: (&'a Path, u64),
    /// The hash of the top, in hexadecimal digits.
    pub root: String,
}

impl Verity<'_> {
    /// The device.
    pub fn device(&self, devices: &mut Devices) -> Result<PathBuf> {
        machine::modprobe(&["dm-verity"])?;
        let (hash_disk, offset) = self.hashes;
        let params = format!(
            "1 {} {} {BLOCK} {BLOCK} {} {} sha256 {} -",
            self.data.display(),
            hash_disk.display(),
            self.length / BLOCK as u64,
            offset / BLOCK as u64,
            self.root
        );
        devices.create("verity", &[line(0, self.length / SECTOR, "verity", params)])
    }
}

/// A file of `disk` that is text.
pub fn text(disk: &Path, list: &List, name: &str) -> Result<String> {
    let item = list.item(name)?;
    let mut text = vec![0; item.length as usize];
    File::open(disk)
        .and_then(|file| file.read_exact_at(&mut text, item.offset))
        .with_context(|| format!("{}: cannot read {name}", disk.display()))?;
    String::from_utf8(text).with_context(|| format!("{name} is no text"))
}
