// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What sysfs says about loop devices, without opening them.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use crate::dm::DevNo;
use crate::sys::LOOP_MAJOR;

fn folder(number: u32) -> PathBuf {
    PathBuf::from(format!("/sys/block/loop{number}"))
}

/// The device number of loop device `number`.
pub(super) fn dev(number: u32) -> Option<u64> {
    let text = fs::read_to_string(folder(number).join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

/// Numbers of the bound loop devices.
pub(super) fn bound() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("loop")?.parse().ok()
    });
    numbers.filter(|&number| folder(number).join("loop").exists())
}

/// A loop device as sysfs describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// The path of its file, as the kernel tells it.
    pub file: Option<PathBuf>,
    /// Whether reads go past the page cache.
    pub direct_io: bool,
}

/// The bound loop devices by device number, without opening any.
pub fn all_bound() -> BTreeMap<u64, Bound> {
    let attribute = |number, name: &str| {
        let text = fs::read_to_string(folder(number).join("loop").join(name)).ok()?;
        Some(text.trim_end_matches('\n').to_owned())
    };
    let describe = |number| {
        let file = attribute(number, "backing_file").map(PathBuf::from);
        let direct_io = attribute(number, "dio").is_some_and(|dio| dio == "1");
        Some((dev(number)?, Bound { file, direct_io }))
    };
    bound().filter_map(describe).collect()
}

/// Whether `dev` is the number of a loop device.
pub fn is_loop(dev: u64) -> bool {
    rustix::fs::major(dev) == LOOP_MAJOR
}

/// Where sysfs describes what the loop device `dev` is bound to; not there if it is not bound.
fn binding_folder(dev: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}/loop", DevNo(dev)))
}

/// Whether the loop device `dev` is bound to a file.
pub fn is_bound(dev: u64) -> bool {
    binding_folder(dev).exists()
}

/// Whether the kernel frees the loop device `dev` with its last user.
pub fn is_autoclear(dev: u64) -> bool {
    let attribute = binding_folder(dev).join("autoclear");
    fs::read_to_string(attribute).is_ok_and(|text| text.trim() == "1")
}
