// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reading through file systems: the whole tree, and random pages of it, both cold.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use rustix::fs::Advice;
use rustix::mount::{MountFlags, UnmountFlags};

use super::{emit, machine};
use crate::content::BLOCK;
use crate::rng::Rng;
use crate::sample::Unit;

const PLACE: &str = "/mnt/bench";
const PIECE: usize = 128 << 10;
const SEED: u64 = 2;

/// Measures the file system `kind` on `device`; `random` is the number of random reads.
pub fn measure(name: &str, device: &Path, kind: &str, random: usize) -> Result<()> {
    let mounted = Mounted::new(device, kind)?;
    // The first time, code and caches of the file system itself are cold as well.
    let files = mounted.files()?;
    machine::drop_caches()?;
    let start = Instant::now();
    let bytes = mounted.read_all()?;
    let spent = start.elapsed().as_nanos() as f64;
    emit(
        name,
        "tree",
        spent / (bytes as f64 / BLOCK as f64),
        Unit::Instructions,
    );

    machine::drop_caches()?;
    let places = places(&files, random);
    // Names are looked up before the clock starts.
    for (path, _) in &places {
        fs::metadata(path).with_context(|| format!("cannot examine {}", path.display()))?;
    }
    let start = Instant::now();
    let mut page = vec![0; BLOCK];
    for (path, place) in &places {
        read_page(path, *place, &mut page)?;
    }
    let spent = start.elapsed().as_nanos() as f64;
    emit(
        name,
        "pages",
        spent / places.len() as f64,
        Unit::Instructions,
    );
    mounted.unmount()
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
struct Mounted;

impl Mounted {
    fn new(device: &Path, kind: &str) -> Result<Self> {
        machine::modprobe(&[kind])?;
        fs::create_dir_all(PLACE).with_context(|| format!("cannot make {PLACE}"))?;
        rustix::mount::mount(device, PLACE, kind, MountFlags::RDONLY, None)
            .with_context(|| format!("cannot mount {} as {kind}", device.display()))?;
        Ok(Self)
    }

    /// All files, in the order in which their folders list them.
    fn files(&self) -> Result<Vec<Found>> {
        let mut files = Vec::new();
        collect(Path::new(PLACE), &mut files)?;
        // What does not depend on the file system's order.
        files.sort_unstable();
        ensure!(!files.is_empty(), "the file system has no files");
        Ok(files)
    }

    /// Reads every file; returns how many bytes there were.
    fn read_all(&self) -> Result<u64> {
        let mut files = Vec::new();
        collect(Path::new(PLACE), &mut files)?;
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
        Ok(bytes)
    }

    fn unmount(self) -> Result<()> {
        rustix::mount::unmount(PLACE, UnmountFlags::empty())
            .with_context(|| format!("cannot unmount {PLACE}"))
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
