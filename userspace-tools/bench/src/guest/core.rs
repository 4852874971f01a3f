// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The rows beyond the gate: costs of devices, and file systems against each other.
//!
//! Each image lies on a ramdisk of its own, so that no opponent needs device-mapper to get at it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use overlaybd_format::SECTOR;

use super::device::{line, Bottom, Devices, Image};
use super::{costs, files, machine};
use crate::content::{BLOCK, FILE_SYSTEMS};
use crate::pack::List;

/// Random reads through a file system.
const PAGES: usize = 2000;

/// Our devices with file systems on them.
const OURS: [(&str, &str); 4] = [
    ("ext4-z4", "ext4"),
    ("ext4-z64", "ext4"),
    ("erofs-z4", "erofs"),
    ("erofs-z64", "erofs"),
];

/// From here on, the disk has the synthetic files.
const FIRST_SYNTHETIC: &str = "extents-1";

/// Everything.
pub fn run(disk: &Path) -> Result<()> {
    machine::touch_memory()?;
    let list = List::read(disk)?;
    let mut ram = Ramdisks::new(disk, &list)?;
    for name in FILE_SYSTEMS {
        let kind = if name == "ext4" { "ext4" } else { "erofs" };
        files::measure(name, &ram.holding(name)?, kind, PAGES)?;
    }
    let mut devices = Devices::open()?;
    for (name, kind) in OURS {
        let path = ram.holding(name)?;
        let alone = list.alone(name)?;
        let image = Image::Zfile(name, false);
        let device = devices.make(name, &Bottom::new(&path, &alone)?, &image)?;
        files::measure(name, &device, kind, PAGES)?;
    }
    let data = ram.holding("erofs")?;
    let hashes = ram.holding("erofs-hashes")?;
    let device = verity(&mut devices, disk, &list, &data, &hashes)?;
    files::measure("erofs-verity", &device, "erofs", PAGES)?;
    devices.remove_all()?;

    let null = machine::null_disk()?;
    for name in ["ext4-z4", "ext4-z64"] {
        let item = list.item(name)?;
        machine::copy_part(&ram.holding(name)?, 0, &null, item.length)?;
        costs::amplification(&null, &list.alone(name)?, name)?;
    }
    costs::hot_range(
        &ram.holding("ext4-z64")?,
        &list.alone("ext4-z64")?,
        "ext4-z64",
    )?;

    let (from, synthetic) = list.from(FIRST_SYNTHETIC)?;
    let path = ram.next()?;
    machine::copy_part(disk, from, &path, synthetic.end())?;
    costs::devices(&path, &synthetic)
}

/// The ramdisks, each with an image at its beginning.
struct Ramdisks<'a> {
    disk: &'a Path,
    list: &'a List,
    empty: Vec<PathBuf>,
    holding: Vec<(String, PathBuf)>,
}

impl<'a> Ramdisks<'a> {
    /// As many as there can be images, none of which is there yet.
    fn new(disk: &'a Path, list: &'a List) -> Result<Self> {
        let (_, synthetic) = list.from(FIRST_SYNTHETIC)?;
        let lengths = list.items.iter().map(|item| item.length);
        let size = lengths.max().unwrap_or(0).max(synthetic.end());
        Ok(Self {
            disk,
            list,
            empty: machine::ram_disks(list.items.len(), size)?,
            holding: Vec::new(),
        })
    }

    fn next(&mut self) -> Result<PathBuf> {
        self.empty.pop().context("there are not enough ramdisks")
    }

    /// The one that holds `name`.
    fn holding(&mut self, name: &str) -> Result<PathBuf> {
        if let Some((_, path)) = self.holding.iter().find(|(held, _)| held == name) {
            return Ok(path.clone());
        }
        let path = self.next()?;
        let item = self.list.item(name)?;
        machine::copy_part(self.disk, item.offset, &path, item.length)?;
        self.holding.push((name.to_owned(), path.clone()));
        Ok(path)
    }
}

/// A dm-verity device over `data`, with the hash tree on `hashes`.
fn verity(
    devices: &mut Devices,
    disk: &Path,
    list: &List,
    data: &Path,
    hashes: &Path,
) -> Result<PathBuf> {
    machine::modprobe(&["dm-verity"])?;
    let item = list.item("erofs-root")?;
    let mut root = vec![0; item.length as usize];
    File::open(disk)
        .and_then(|file| file.read_exact_at(&mut root, item.offset))
        .with_context(|| format!("{}: cannot read the root hash", disk.display()))?;
    let root = String::from_utf8(root).context("the root hash is no text")?;
    let length = list.item("erofs")?.length;
    let blocks = length / BLOCK as u64;
    let params = format!(
        "1 {} {} {BLOCK} {BLOCK} {blocks} 0 sha256 {root} -",
        data.display(),
        hashes.display()
    );
    devices.create("verity", &[line(0, length / SECTOR, "verity", params)])
}
