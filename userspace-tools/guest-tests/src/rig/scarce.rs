// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A machine in which there is memory, but no large piece of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{bail, Context as _, Result};
use rustix::mount::MountFlags;

use super::map::Memory;
use super::set;
use crate::ctx::Ctx;
use crate::read;

/// The least of the pieces that are gone, pages: 2^ORDER.
pub const ORDER: usize = 5;
/// The same in bytes.
const PIECE: usize = 4096 << ORDER;
/// Whether the kernel may give a program pieces of that size; its name has the size.
const PIECES: &str = "/sys/kernel/mm/transparent_hugepage/hugepages-128kB/enabled";
/// Whether pages that cannot be reclaimed may be moved together.
const MOVE_THEM: &str = "/proc/sys/vm/compact_unevictable_allowed";
/// KiB that the kernel wants free.
const WANTED_FREE: (&str, &str) = ("/proc/sys/vm/min_free_kbytes", "4096");
/// The part of memory, 1/N, that lists of each CPU may keep: there, nobody else finds it.
const KEPT_READY: (&str, &str) = ("/proc/sys/vm/percpu_pagelist_high_fraction", "1000");
/// Pages of 2 MiB that the kernel keeps apart: the quickest way to have most of the memory taken.
const APART: (&str, &str) = ("/proc/sys/vm/nr_hugepages", "1000000");
/// Pages that are left free, in pieces that are too small: many more than the kernel wants.
const LEFT: u64 = 14_000;
/// One of so many pages lies between these pieces.
const BETWEEN: u64 = 8;
/// So many pieces are taken between two looks at what is left.
const AT_ONCE: usize = 32;
/// After so many looks that found no less there are no more: some are kept ready for each CPU.
const IN_VAIN: usize = 8;

/// As long as it lives, hardly any piece of `2^ORDER` free pages is left.
pub struct Scarce {
    _taken: Memory,
}

impl Scarce {
    /// Takes all pieces.
    pub fn new(ctx: &mut Ctx) -> Result<Self> {
        // What could be reclaimed later would become large pieces then.
        read::drop_caches()?;
        set(ctx, MOVE_THEM, "0")?;
        set(ctx, KEPT_READY.0, KEPT_READY.1)?;
        set(ctx, WANTED_FREE.0, WANTED_FREE.1)?;
        make_holes(ctx)?;
        set(ctx, APART.0, APART.1)?;
        let old = set(ctx, PIECES, "always")?;
        // With a change of that the kernel wants more free again.
        fs::write(WANTED_FREE.0, WANTED_FREE.1)?;
        let taken = take_pieces()?;
        fs::write(PIECES, old)?;
        fs::write(WANTED_FREE.0, WANTED_FREE.1)?;
        Ok(Self { _taken: taken })
    }
}

/// Leaves small pieces free, between pages of a file that can neither be moved nor written back.
fn make_holes(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?.join("ram");
    ctx.mount(Path::new("none"), &dir, "ramfs", MountFlags::empty())?;
    let kept = File::create(dir.join("kept"))?;
    let freed = File::create(dir.join("freed"))?;
    for page in 0..LEFT {
        let file = if page % BETWEEN == 0 { &kept } else { &freed };
        file.write_all_at(&[1; 4096], page * 4096)?;
    }
    freed.set_len(0)?;
    Ok(())
}

/// Takes one piece after the other, until no more are to be had.
fn take_pieces() -> Result<Memory> {
    let mut left = free_pieces()?;
    // Where there is no piece, a page is taken, and it goes on behind it.
    let mut memory = Memory::untouched((left + IN_VAIN * AT_ONCE) * PIECE * 2)?;
    let mut in_vain = 0;
    for some in memory.bytes_mut().chunks_mut(AT_ONCE * PIECE) {
        some.iter_mut().step_by(PIECE).for_each(|first| *first = 1);
        let before = std::mem::replace(&mut left, free_pieces()?);
        in_vain = if left < before { 0 } else { in_vain + 1 };
        if in_vain == IN_VAIN {
            return Ok(memory);
        }
    }
    bail!("{left} pieces of {PIECE} bytes are still free")
}

/// How many pieces are free, from `/proc/buddyinfo`: for each zone, how many of 1, 2, 4, … pages.
fn free_pieces() -> Result<usize> {
    let text = fs::read_to_string("/proc/buddyinfo")?;
    let mut pieces = 0;
    for line in text.lines() {
        let (_, numbers) = line.split_once("zone").context("buddyinfo")?;
        let counts = numbers.split_whitespace().skip(1 + ORDER);
        for (order, count) in counts.enumerate() {
            pieces += count.parse::<usize>()? << order;
        }
    }
    Ok(pieces)
}
