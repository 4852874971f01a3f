// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memory that two containers of one image take, once both have read all of its files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ovbd::dm::Target;

use super::device::{Bottom, Devices, Image};
use super::files::Mounted;
use super::gate::names;
use super::{emit, machine};
use crate::pack::List;
use crate::sample::Unit;

/// Where the containers see their files.
const PLACES: [&str; 2] = ["/mnt/first", "/mnt/second"];
/// The layers: with blocks of 64 KiB, of which some are kept decompressed.
const STACK: &str = "wide";

/// What two containers share.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shared {
    /// Nothing: their layers are different files.
    Nothing,
    /// The files of the layers, each container with zfile devices of its own over them.
    Layers,
    /// Also the zfile devices.
    Devices,
}

/// One container, then two that share more and more, of the image whose layers are on both `disks`
/// as `list` says; the same of overlayfs over the layers `lowers`.
pub fn measure(disks: [&Path; 2], list: &List, lowers: &[PathBuf]) -> Result<()> {
    let _lists = machine::ShortLists::new()?;
    one_or_two("one", &disks[..1], list, Shared::Nothing)?;
    one_or_two("nothing-shared", &disks, list, Shared::Nothing)?;
    let same = [disks[0], disks[0]];
    one_or_two("layers-shared", &same, list, Shared::Layers)?;
    one_or_two("devices-shared", &same, list, Shared::Devices)?;
    overlaid("overlay-one", lowers, &PLACES[..1])?;
    overlaid("overlay-two", lowers, &PLACES)
}

/// Containers over a disk each.
fn one_or_two(name: &str, disks: &[&Path], list: &List, shared: Shared) -> Result<()> {
    let before = machine::free_memory()?;
    let mut devices = Devices::open()?;
    let mut mounted = Vec::new();
    let mut first: Option<Vec<Target>> = None;
    for (disk, place) in disks.iter().zip(PLACES) {
        let bottom = Bottom::new(disk, list)?;
        let device = match &first {
            Some(table) if shared == Shared::Devices => devices.create(&container(place), table)?,
            _ => {
                let image = Image::Lsmt(names(STACK, ".zfile"));
                let table = devices.table(&container(place), &bottom, &image)?;
                let device = devices.create(&container(place), &table)?;
                first = Some(table);
                device
            }
        };
        mounted.push(Mounted::device(&device, "erofs", place)?);
    }
    emit_read(name, &mounted, before)?;
    mounted.into_iter().try_for_each(Mounted::unmount)?;
    devices.remove_all()
}

/// Containers over the same mounted layers.
fn overlaid(name: &str, lowers: &[PathBuf], places: &[&str]) -> Result<()> {
    let before = machine::free_memory()?;
    let layers = Mounted::layers(lowers)?;
    let mounted: Result<Vec<Mounted>> = places
        .iter()
        .map(|place| Mounted::overlay(&layers, place))
        .collect();
    let mounted = mounted?;
    emit_read(name, &mounted, before)?;
    mounted
        .into_iter()
        .chain(layers)
        .try_for_each(Mounted::unmount)
}

/// Reads all files, and prints what there is less of memory than `before`.
fn emit_read(name: &str, mounted: &[Mounted], before: u64) -> Result<()> {
    for container in mounted {
        container.read_all()?;
    }
    let taken = before.saturating_sub(machine::memory_left()?);
    emit(name, "containers", taken as f64, Unit::Bytes);
    Ok(())
}

/// A device's name may have no slashes.
fn container(place: &str) -> String {
    place.trim_start_matches("/mnt/").to_owned()
}
