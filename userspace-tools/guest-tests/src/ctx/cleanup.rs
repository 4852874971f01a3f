// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Taking down what a test set up, and finding what it left.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::{node, Dm, Id};
use rustix::mount::UnmountFlags;

use super::{loops, output};

/// Where mounts of tests are.
const MOUNT_ROOTS: [&str; 3] = ["/tmp/", "/run/", "/mnt"];

/// One thing to take down.
#[derive(Debug)]
pub enum Cleanup {
    /// A device-mapper device, by name.
    Device(String),
    /// A loop device.
    Loop(PathBuf),
    /// Something mounted.
    Mount(PathBuf),
    /// A folder with all that is in it.
    Folder(PathBuf),
    /// Anything else: what it is, and how.
    Other(&'static str, Undo),
}

/// What a test says for itself.
pub struct Undo(pub Box<dyn FnOnce() -> Result<()> + Send>);

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Undo")
    }
}

impl Cleanup {
    /// Takes it down.
    pub fn run(self) -> Result<()> {
        match self {
            Self::Device(name) => {
                let removed = Dm::open()?.remove(Id::Name(&name), &Udev::begin());
                // Where a test has called dmsetup, that has made a node.
                node::forget(&name);
                removed.context(name)
            }
            Self::Loop(path) => loops::detach(&path),
            Self::Mount(dir) => unmount(&dir),
            Self::Folder(dir) => fs::remove_dir_all(&dir).context(dir.display().to_string()),
            Self::Other(what, undo) => (undo.0)().context(what),
        }
    }
}

fn unmount(dir: &Path) -> Result<()> {
    rustix::mount::unmount(dir, UnmountFlags::empty()).context(dir.display().to_string())
}

/// What a test left, after its own clean-up. It is taken down by force, for the next test.
pub fn leftovers() -> Vec<String> {
    let mut found = Vec::new();
    for dir in mounts() {
        found.push(format!("left over: {} is mounted", dir.display()));
        // The report says what matters; the next test will stumble if this did not help.
        let _ = rustix::mount::unmount(&dir, UnmountFlags::DETACH);
    }
    let devices = Dm::open().and_then(|dm| dm.devices());
    match devices {
        Ok(devices) if devices.is_empty() => {}
        Ok(devices) => {
            let names: Vec<_> = devices.into_iter().map(|(name, _)| name).collect();
            found.push(format!("left over: dm devices {}", names.join(", ")));
            let _ = output(&["dmsetup", "remove_all", "--force"]);
        }
        Err(error) => found.push(format!("cannot list dm devices: {error}")),
    }
    for path in loops::bound() {
        found.push(format!("left over: {} is bound", path.display()));
        let _ = loops::detach(&path);
    }
    found
}

/// Mounts that only tests make, last first.
fn mounts() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(1));
    let of_tests = |place: &&str| MOUNT_ROOTS.iter().any(|root| place.starts_with(root));
    let mut found: Vec<_> = places.filter(of_tests).map(PathBuf::from).collect();
    found.reverse();
    found
}
