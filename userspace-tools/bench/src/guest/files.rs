// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reading through file systems: the whole tree, and random pages of it, both cold.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use rustix::fs::Advice;
use rustix::mount::{MountFlags, UnmountFlags};

use super::clock::Clock;
use super::machine;
use crate::content::BLOCK;
use crate::rng::Rng;

const PLACE: &str = "/mnt/bench";
const PIECE: usize = 128 << 10;
const SEED: u64 = 2;
/// Random reads before caches are dropped again.
const COLD_READS: usize = 2000;

/// Measures the file system `kind` on `device`; `random` is the number of random reads.
pub fn measure(
    clock: &impl Clock,
    name: &str,
    device: &Path,
    kind: &str,
    random: usize,
) -> Result<()> {
    tree(clock, name, device, kind)?;
    pages(clock, name, device, kind, random)
}

/// The whole tree, alone.
pub fn tree(clock: &impl Clock, name: &str, device: &Path, kind: &str) -> Result<()> {
    let mounted = Mounted::device(device, kind, PLACE)?;
    measure_tree(clock, name, &mounted)?;
    mounted.unmount()
}

/// Random pages, alone.
pub fn pages(
    clock: &impl Clock,
    name: &str,
    device: &Path,
    kind: &str,
    random: usize,
) -> Result<()> {
    let mounted = Mounted::device(device, kind, PLACE)?;
    measure_pages(clock, name, &mounted, random)?;
    mounted.unmount()
}

/// The same for overlayfs over EROFS on `devices`, the bottom first.
pub fn measure_overlay(
    clock: &impl Clock,
    name: &str,
    devices: &[PathBuf],
    random: usize,
) -> Result<()> {
    let layers = Mounted::layers(devices)?;
    let mounted = Mounted::overlay(&layers, PLACE)?;
    measure_tree(clock, name, &mounted)?;
    measure_pages(clock, name, &mounted, random)?;
    mounted.unmount()?;
    layers.into_iter().try_for_each(Mounted::unmount)
}

fn measure_tree(clock: &impl Clock, name: &str, mounted: &Mounted) -> Result<()> {
    // The first time, code and caches of the file system itself are cold as well.
    mounted.files()?;
    machine::drop_caches()?;
    clock.time(name, "tree", &mut || mounted.read_all())
}

fn measure_pages(clock: &impl Clock, name: &str, mounted: &Mounted, random: usize) -> Result<()> {
    let files = mounted.files()?;
    let places = places(&files, random);
    for part in places.chunks(COLD_READS) {
        read_cold(clock, part)?;
    }
    clock.done(name, "pages", places.len() as u64)
}

/// Reads `places` from cold caches, so that few pages are there because of their neighbours.
fn read_cold(clock: &impl Clock, places: &[(&Path, u64)]) -> Result<()> {
    machine::drop_caches()?;
    // Names are looked up before the clock starts.
    for (path, _) in places {
        fs::metadata(path).with_context(|| format!("cannot examine {}", path.display()))?;
    }
    let mut page = vec![0; BLOCK];
    clock.section(&mut || {
        places
            .iter()
            .try_for_each(|(path, place)| read_page(path, *place, &mut page))
    })
}

/// A file and its length.
type Found = (PathBuf, u64);

/// Random whole pages of files, each page of the tree as likely as any other.
fn places(files: &[Found], count: usize) -> Vec<(&Path, u64)> {
    let pages = files.iter().flat_map(|(path, length)| {
        (0..length / BLOCK as u64).map(move |page| (path.as_path(), page))
    });
    let pages: Vec<(&Path, u64)> = pages.collect();
    let order = Rng::new(SEED).order(pages.len() as u64, count);
    let place = |n: u64| {
        let (path, page) = pages[n as usize];
        (path, page * BLOCK as u64)
    };
    order.into_iter().map(place).collect()
}

fn read_page(path: &Path, place: u64, page: &mut [u8]) -> Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
    file.read_exact_at(page, place)
        .with_context(|| format!("{}: cannot read at byte {place}", path.display()))
}

/// A mounted file system.
pub struct Mounted {
    place: PathBuf,
}

impl Mounted {
    /// The file system `kind` on `device`.
    pub fn device(device: &Path, kind: &str, place: &str) -> Result<Self> {
        Self::new(device, kind, place, None)
    }

    /// EROFS on each of `devices`, for overlayfs.
    pub fn layers(devices: &[PathBuf]) -> Result<Vec<Self>> {
        let numbered = devices.iter().enumerate();
        numbered
            .map(|(number, device)| Self::device(device, "erofs", &format!("/mnt/layer-{number}")))
            .collect()
    }

    /// Overlayfs over `layers`, the bottom first.
    pub fn overlay(layers: &[Self], place: &str) -> Result<Self> {
        let lower: Vec<_> = layers
            .iter()
            .rev()
            .map(|l| l.place.to_string_lossy())
            .collect();
        let options = format!("lowerdir={}", lower.join(":"));
        Self::new(Path::new("overlay"), "overlay", place, Some(options))
    }

    fn new(device: &Path, kind: &str, place: &str, options: Option<String>) -> Result<Self> {
        machine::know_file_system(kind)?;
        let place = PathBuf::from(place);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let options = options.map(CString::new).transpose()?;
        rustix::mount::mount(device, &place, kind, MountFlags::RDONLY, options.as_deref())
            .with_context(|| format!("cannot mount {} as {kind}", device.display()))?;
        Ok(Self { place })
    }

    /// All files, in the order in which their folders list them.
    fn files(&self) -> Result<Vec<Found>> {
        let mut files = Vec::new();
        collect(&self.place, &mut files)?;
        // What does not depend on the file system's order.
        files.sort_unstable();
        ensure!(!files.is_empty(), "the file system has no files");
        Ok(files)
    }

    /// Reads every file; returns how many blocks there were.
    pub fn read_all(&self) -> Result<u64> {
        let mut files = Vec::new();
        collect(&self.place, &mut files)?;
        let mut buffer = vec![0; PIECE];
        let mut bytes = 0;
        for (path, length) in &files {
            let file =
                File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            let mut at = 0;
            while at < *length {
                let piece = (length - at).min(PIECE as u64) as usize;
                file.read_exact_at(&mut buffer[..piece], at)
                    .with_context(|| format!("{}: cannot read at byte {at}", path.display()))?;
                at += piece as u64;
            }
            bytes += length;
        }
        Ok(bytes / BLOCK as u64)
    }

    /// Takes it away.
    pub fn unmount(self) -> Result<()> {
        rustix::mount::unmount(&self.place, UnmountFlags::empty())
            .with_context(|| format!("cannot unmount {}", self.place.display()))
    }
}

fn collect(folder: &Path, files: &mut Vec<Found>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(())
}
