// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Devices of every kind below the targets: loop devices through the page cache and past it,
//! disks of a virtual machine, and logical blocks of 4096 bytes.

use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::lsmt;
use crate::ctx::{Ctx, Disk, LoopSpec, SECTOR};
use crate::forge::{self, Layer};
use crate::golden::{Entry, Golden, Shape};
use crate::harness::Case;
use crate::read;

/// Tar-wrapped, so that the ZFile begins at sector 1 or 3, and no block is aligned to anything.
const WRAPPED: [&str; 2] = ["tar/text-lz4-4k.zfile.tar", "tar/pat-overlap.lz4-4k.tar"];

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("below.loop_through_the_page_cache", |ctx| {
            on_loops(ctx, false, 512)
        }),
        Case::new("below.loop_with_direct_io", |ctx| on_loops(ctx, true, 512)),
        Case::new("below.zfile_on_blocks_of_4096", |ctx| {
            on_loops(ctx, true, 4096)
        }),
        Case::new("below.lsmt_on_blocks_of_4096", lsmt_on_large_blocks),
        Case::new("below.lsmt_on_mixed_blocks", lsmt_on_mixed_blocks),
        Case::new("below.disks_with_tars", |ctx| {
            disks(ctx, "tar", "ext4/layer*.tar")
        }),
        Case::new("below.disks_with_zfiles", |ctx| {
            disks(ctx, "zfile", "ext4/layer*.lz4.zfile")
        }),
    ]
}

/// The table words for the payload of a file that lies at the beginning of `disk`.
fn words(disk: &Disk, entry: &Entry) -> String {
    let offset = entry.payload.sector - entry.file.sector;
    format!("{} {offset} {}", disk.dev, entry.payload.length)
}

/// zfile over a file at the beginning of `disk`; lsmt over that, if it holds a layer.
fn compose(ctx: &mut Ctx, golden: &Golden, disk: &Disk, entry: &Entry) -> Result<()> {
    let Shape::Zfile(size) = entry.shape else {
        anyhow::bail!("{} is no ZFile", entry.name);
    };
    let mut device = ctx.target(size.div_ceil(SECTOR), "zfile", &words(disk, entry))?;
    let content = golden.content(entry)?;
    if entry.holds_lsmt() {
        let params = format!("1 {} 0 {size}", device.dev);
        let sectors = (content.len() as u64).div_ceil(SECTOR);
        device = ctx.target(sectors, "lsmt", &params)?;
    }
    read::check(&device.path, content, ctx.rng()).with_context(|| entry.name.clone())
}

/// Copies of the files on a disk, each on a loop device.
fn on_loops(ctx: &mut Ctx, direct_io: bool, block_size: u32) -> Result<()> {
    let golden = ctx.golden()?;
    let dir = ctx.scratch()?;
    for name in WRAPPED {
        let entry = golden.entry(name)?;
        let mut bytes = golden.bytes(entry.file)?;
        bytes.resize(bytes.len().next_multiple_of(block_size as usize), 0);
        let file = dir.join(entry.short_name());
        std::fs::write(&file, bytes)?;
        let disk = Disk::of(ctx.loop_device(&LoopSpec {
            direct_io,
            block_size,
            ..LoopSpec::of(file)
        })?)?;
        compose(ctx, &golden, &disk, entry)?;
    }
    Ok(())
}

/// lsmt only sends reads on, so that it cannot serve sectors of a device that has larger blocks:
/// it refuses, unless all of a layer is aligned to them.
fn lsmt_on_large_blocks(ctx: &mut Ctx) -> Result<()> {
    let bytes = forge::content(32 << 10, ctx.rng());
    let aligned = Layer::new(1 << 20)
        .data(8, &bytes[..8192])
        .data(64, &bytes[..4096]);
    let unaligned = Layer::new(1 << 20)
        .data(8, &bytes[..8192])
        .data(63, &bytes[..4096]);
    let partial = Layer::new(1 << 20).data(8, &bytes[..8192 + 512]);
    let odd_end = Layer::new((1 << 20) + 512).data(8, &bytes[..8192]);
    // The last sector of the data, in the middle of an extent's last block, has bytes of the index.
    let mut tail = aligned.clone();
    tail.data.truncate(tail.data.len() - 100);
    let index = tail.index.clone();
    let tail = tail.with_index(index);
    // Nothing of it is read, wherever it lies.
    let empty = Layer::new(1 << 20).zeros(8, 16);
    let dir = ctx.scratch()?;
    const UNALIGNED: Option<&str> = Some("Extent not aligned to logical block");
    let cases = [
        (&aligned, 0, None),
        (&aligned, 1, UNALIGNED),
        (&unaligned, 0, UNALIGNED),
        (&partial, 0, UNALIGNED),
        (&odd_end, 0, UNALIGNED),
        (&tail, 0, Some("Data end within logical block")),
        (&empty, 1, None),
    ];
    for (number, (layer, offset, refusal)) in cases.into_iter().enumerate() {
        let file = dir.join(number.to_string());
        let layer_bytes = layer.bytes();
        let mut disk = vec![0; offset * SECTOR as usize];
        disk.extend_from_slice(&layer_bytes);
        disk.resize(disk.len().next_multiple_of(4096), 0);
        std::fs::write(&file, disk)?;
        let disk = Disk::of(ctx.loop_device(&LoopSpec {
            direct_io: true,
            block_size: 4096,
            ..LoopSpec::of(file)
        })?)?;
        let params = format!("1 {} {offset} {}", disk.dev, layer_bytes.len());
        let sectors = layer.virtual_size() / SECTOR;
        if let Some(reason) = refusal {
            ctx.refused(sectors, "lsmt", &params)?
                .expect(Errno::INVAL, reason)?;
        } else {
            let device = ctx.target(sectors, "lsmt", &params)?;
            let mut content = vec![0; 1 << 20];
            layer.apply(&mut content);
            read::check_blocks(&device.path, content, 4096, ctx.rng())?;
        }
    }
    Ok(())
}

/// A device has the largest blocks of those below. One of these has smaller ones, not a whole number
/// of large ones, and a layer that is aligned to its own only.
fn lsmt_on_mixed_blocks(ctx: &mut Ctx) -> Result<()> {
    let bytes = forge::content(16 << 10, ctx.rng());
    let lower = Layer::new(1 << 20).data(8, &bytes[..8192]);
    let mut upper = Layer::new(1 << 20).data(16, &bytes[8192..]);
    let mut content = vec![0; 1 << 20];
    lower.apply(&mut content);
    upper.apply(&mut content);
    // Where blocks are sectors, the last of them may have bytes of the index. What is behind them in
    // that sector reads as zeros.
    upper.data.truncate(upper.data.len() - 10);
    content[(16 << 9) + upper.data.len()..][..10].fill(0);
    let index = upper.index.clone();
    let upper = upper.with_index(index);
    let dir = ctx.scratch()?;
    let mut params = "2".to_owned();
    for (layer, block_size, offset) in [(&lower, 4096, 0), (&upper, SECTOR as u32, 3)] {
        let file = dir.join(block_size.to_string());
        let mut disk = vec![0; offset * SECTOR as usize];
        let length = layer.bytes().len();
        disk.extend_from_slice(&layer.bytes());
        disk.resize(disk.len().next_multiple_of(block_size as usize), 0);
        ensure!(
            (disk.len() % 4096 == 0) == (block_size == 4096),
            "{}",
            disk.len()
        );
        std::fs::write(&file, disk)?;
        let disk = Disk::of(ctx.loop_device(&LoopSpec {
            block_size,
            ..LoopSpec::of(file)
        })?)?;
        params += &format!(" {} {offset} {length}", disk.dev);
    }
    let device = ctx.target(lower.virtual_size() / SECTOR, "lsmt", &params)?;
    read::check_blocks(&device.path, content, 4096, ctx.rng())
}

/// An image whose layers are virtio-blk disks, mounted.
fn disks(ctx: &mut Ctx, prefix: &str, pattern: &str) -> Result<()> {
    let golden = ctx.golden()?;
    let layers = golden.stack(pattern)?;
    let mut params = layers.len().to_string();
    for (number, entry) in layers.iter().enumerate() {
        let disk = ctx.disk(&format!("{prefix}{number}"))?;
        let Shape::Zfile(size) = entry.shape else {
            anyhow::bail!("{} is no ZFile", entry.name);
        };
        let zfile = ctx.target(size.div_ceil(SECTOR), "zfile", &words(&disk, entry))?;
        params.push_str(&format!(" {} 0 {size}", zfile.dev));
    }
    let content = golden.content(layers.last().context("no layers")?)?;
    let device = ctx.target(content.len() as u64 / SECTOR, "lsmt", &params)?;
    read::check_once(&device.path, content)?;
    ctx.mount(
        &device.path,
        Path::new("/mnt/image"),
        "ext4",
        MountFlags::RDONLY,
    )?;
    lsmt::read_tree(Path::new("/mnt/image"))
}
