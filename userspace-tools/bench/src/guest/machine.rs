// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The guest: its memory, caches and disks.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{ensure, Context, Result};

use super::read::Buffer;

/// `O_DIRECT`, which the standard library does not name.
pub const O_DIRECT: i32 = 0o40000;

const PIECE: usize = 1 << 20;

/// Writes to nearly all free memory once, so that nothing later is the first to do so; and keeps
/// pages small, so that direct access is no cheaper once the kernel has put a buffer's together.
pub fn settle_memory() -> Result<()> {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    if Path::new(path).exists() {
        fs::write(path, "never").with_context(|| format!("cannot write {path}"))?;
    }
    // Taking the last of it would call the kernel's killer.
    let memory = vec![1u8; free_kib()? / 100 * 80 * 1024];
    std::hint::black_box(&memory);
    Ok(())
}

fn free_kib() -> Result<usize> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemFree:"))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("{path} does not tell MemFree"))
}

/// Forgets what was read: pages, and what shrinkers give back.
pub fn drop_caches() -> Result<()> {
    let path = "/proc/sys/vm/drop_caches";
    fs::write(path, "3").with_context(|| format!("cannot write {path}"))
}

/// `count` ramdisks of at least `bytes`, which take memory as they are written.
pub fn ram_disks(count: usize, bytes: u64) -> Result<Vec<PathBuf>> {
    let kib = bytes.div_ceil(1024).next_multiple_of(1024);
    modprobe(&["brd", &format!("rd_nr={count}"), &format!("rd_size={kib}")])?;
    let path = |n| PathBuf::from(format!("/dev/ram{n}"));
    Ok((0..count).map(path).collect())
}

const CPU_LISTS: &str = "/proc/sys/vm/percpu_pagelist_high_fraction";

/// Bytes, many more than a list may have.
const CHURN: usize = 64 << 20;

/// As long as this exists, MemFree is exact to about a MiB: each processor's own list of free pages,
/// which is not counted, stays short. Left to itself it may grow to an eighth of all memory.
pub struct ShortLists(());

impl ShortLists {
    /// Makes the lists short.
    pub fn new() -> Result<Self> {
        // Of what the list may have, as a fraction of all memory: the kernel makes the least of it.
        fs::write(CPU_LISTS, "1000000").with_context(|| format!("cannot write {CPU_LISTS}"))?;
        // What is freed now takes along what is too much.
        std::hint::black_box(&vec![1u8; CHURN]);
        Ok(Self(()))
    }
}

impl Drop for ShortLists {
    fn drop(&mut self) {
        // Nothing that is measured becomes wrong if this fails.
        let _ = fs::write(CPU_LISTS, "0");
    }
}

/// Bytes of memory that are free, once all is given back that can be.
pub fn free_memory() -> Result<u64> {
    drop_caches()?;
    memory_left()
}

/// Bytes of memory that are free now.
pub fn memory_left() -> Result<u64> {
    Ok(free_kib()? as u64 * 1024)
}

/// A disk of null_blk that keeps what is written, and ends reads in a soft interrupt.
pub fn null_disk() -> Result<PathBuf> {
    modprobe(&[
        "null_blk",
        "nr_devices=1",
        "gb=1",
        "memory_backed=1",
        "irqmode=1",
        "submit_queues=1",
    ])?;
    Ok(PathBuf::from("/dev/nullb0"))
}

/// Loads a module, unless it is there or part of the kernel: then it is as it is.
pub fn modprobe(words: &[&str]) -> Result<()> {
    let name = words.first().unwrap_or(&"").replace('-', "_");
    if Path::new("/sys/module").join(name).exists() {
        return Ok(());
    }
    let status = Command::new("modprobe")
        .args(words)
        .status()
        .context("cannot run modprobe")?;
    ensure!(status.success(), "modprobe {}: {status}", words.join(" "));
    Ok(())
}

/// Loads the module of a file system, unless the kernel knows that already.
pub fn know_file_system(kind: &str) -> Result<()> {
    let path = "/proc/filesystems";
    let known = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    if known.split_whitespace().any(|word| word == kind) {
        return Ok(());
    }
    modprobe(&[kind])
}

/// Copies the first `bytes` of a disk to another, past the page cache.
pub fn copy(from: &Path, to: &Path, bytes: u64) -> Result<()> {
    copy_part(from, 0, to, bytes)
}

/// Copies `bytes` from `offset` of a disk to the beginning of another. Both have whole pages
/// there.
pub fn copy_part(from: &Path, offset: u64, to: &Path, bytes: u64) -> Result<()> {
    let source = open_direct(from, false)?;
    let target = open_direct(to, true)?;
    let mut buffer = Buffer::new(PIECE);
    let end = bytes.next_multiple_of(4096);
    let mut at = 0;
    while at < end {
        let length = (end - at).min(PIECE as u64) as usize;
        let piece = buffer.slice(length);
        source
            .read_exact_at(piece, offset + at)
            .with_context(|| format!("{}: cannot read at byte {}", from.display(), offset + at))?;
        target
            .write_all_at(piece, at)
            .with_context(|| format!("{}: cannot write at byte {at}", to.display()))?;
        at += length as u64;
    }
    Ok(())
}

/// Whether `bytes` of two disks, which are whole pages, are the same.
pub fn same(one: &Path, at: u64, other: &Path, other_at: u64, bytes: u64) -> Result<bool> {
    let (first, second) = (open_direct(one, false)?, open_direct(other, false)?);
    let (mut here, mut there) = (Buffer::new(PIECE), Buffer::new(PIECE));
    let mut done = 0;
    while done < bytes {
        let length = (bytes - done).min(PIECE as u64) as usize;
        let (here, there) = (here.slice(length), there.slice(length));
        for (file, path, place, piece) in [
            (&first, one, at + done, &mut *here),
            (&second, other, other_at + done, &mut *there),
        ] {
            file.read_exact_at(piece, place)
                .with_context(|| format!("{}: cannot read at byte {place}", path.display()))?;
        }
        if here != there {
            return Ok(false);
        }
        done += length as u64;
    }
    Ok(true)
}

/// Opens a disk past the page cache.
pub fn open_direct(path: &Path, write: bool) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(O_DIRECT)
        .open(path)
        .with_context(|| format!("cannot open {} for direct access", path.display()))
}
