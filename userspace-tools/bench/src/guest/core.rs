// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The rows beyond the gate: costs of devices, and file systems against each other.
//!
//! Each image lies on a ramdisk of its own, so that no opponent needs device-mapper to get at it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::blocks::{text, Verity};
use super::clock::Instructions;
use super::device::{Bottom, Devices, Image};
use super::gate::names;
use super::{containers, costs, files, machine};
use crate::content::{COMPRESSED, FILE_SYSTEMS, LAYERS, OVERLAID, STACKS};
use crate::pack::List;

/// From here on, what the disk has is put on a ramdisk together.
const FIRST_TOGETHER: &str = "merged-0.zfile";

/// Everything, with `pages` random reads through each file system.
pub fn run(disk: &Path, pages: &str) -> Result<()> {
    let pages = pages.parse().context("PAGES is no number")?;
    let clock = Instructions::default();
    machine::settle_memory()?;
    let list = List::read(disk)?;
    let mut ram = Ramdisks::new(disk, &list)?;
    for name in FILE_SYSTEMS {
        files::measure(&clock, name, &ram.holding(name)?, kind(name), pages)?;
    }
    let mut devices = Devices::open()?;
    for (name, of, ..) in COMPRESSED {
        let path = ram.holding(name)?;
        let alone = list.alone(name)?;
        let image = Image::Zfile(name, false);
        let device = devices.make(name, &Bottom::new(&path, &alone)?, &image)?;
        files::measure(&clock, name, &device, kind(of), pages)?;
    }
    let verity = Verity {
        data: &ram.holding("erofs")?,
        length: list.item("erofs")?.length,
        hashes: (&ram.holding("erofs-hashes")?, 0),
        root: text(disk, &list, "erofs-root")?,
    };
    let device = verity.device(&mut devices)?;
    files::measure(&clock, "erofs-verity", &device, "erofs", pages)?;

    let lowers = ram.overlaid()?;
    files::measure_overlay(&clock, "overlay-lz4-4k", &lowers, pages)?;
    let (together, behind) = ram.together()?;
    let bottom = Bottom::new(&together, &behind)?;
    for (stack, _) in STACKS {
        let name = format!("erofs-lsmt-{stack}");
        let image = Image::Lsmt(names(stack, ".zfile"));
        let device = devices.make(&name, &bottom, &image)?;
        files::measure(&clock, &name, &device, "erofs", pages)?;
    }
    devices.remove_all()?;
    let (copy, _) = ram.together()?;
    containers::measure([&together, &copy], &behind, &lowers)?;

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
    costs::devices(&together, &behind)
}

/// The kernel's name for the file system of an image.
pub fn kind(image: &str) -> &str {
    image.split('-').next().unwrap_or(image)
}

/// The ramdisks, each with an image at its beginning.
pub struct Ramdisks<'a> {
    disk: &'a Path,
    list: &'a List,
    empty: Vec<PathBuf>,
    holding: Vec<(String, PathBuf)>,
}

impl<'a> Ramdisks<'a> {
    /// As many as there can be images, none of which is there yet.
    pub fn new(disk: &'a Path, list: &'a List) -> Result<Self> {
        let (_, together) = list.from(FIRST_TOGETHER)?;
        let lengths = list.items.iter().map(|item| item.length);
        let size = lengths.max().unwrap_or(0).max(together.end());
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

    /// Another one that holds what is put together, and the list of that.
    fn together(&mut self) -> Result<(PathBuf, List)> {
        let (from, behind) = self.list.from(FIRST_TOGETHER)?;
        let path = self.next()?;
        machine::copy_part(self.disk, from, &path, behind.end())?;
        Ok((path, behind))
    }

    /// Those that hold the layers for overlayfs.
    fn overlaid(&mut self) -> Result<Vec<PathBuf>> {
        (0..LAYERS)
            .map(|number| self.holding(&format!("{OVERLAID}{number}")))
            .collect()
    }

    /// The one that holds `name`.
    pub fn holding(&mut self, name: &str) -> Result<PathBuf> {
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
