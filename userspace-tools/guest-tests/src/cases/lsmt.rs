// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The lsmt target: single layers and stacks, on the disk itself and on zfile devices.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{bail, Context as _, Result};

use super::zfile;
use crate::ctx::{Ctx, Device, SECTOR};
use crate::forge::Layer;
use crate::golden::{Entry, Golden, Shape, MARKER};
use crate::harness::Case;
use crate::read;

/// Stacks of the reference's, each in every form in which it wrote them.
const STACKS: [&str; 5] = [
    "lsmt/stack*.lsmt",
    "lsmt/stack*.zfile",
    "ext4/layer*.lsmt",
    "ext4/layer*.lz4.zfile",
    "ext4/layer*.tar",
];

pub fn cases() -> Vec<Case> {
    let mut cases = golden_cases();
    for pattern in STACKS {
        let name = pattern.replace('/', ".").replace('*', "");
        cases.push(Case::new(format!("lsmt.stack.{name}"), move |ctx| {
            stack(ctx, pattern)
        }));
    }
    cases
}

/// One test for each golden layer that stands alone.
fn golden_cases() -> Vec<Case> {
    let Ok(golden) = Golden::open() else {
        return vec![Case::new("lsmt.golden", |ctx| ctx.golden().map(drop))];
    };
    let wanted = |entry: &&Entry| {
        entry.holds_lsmt()
            && entry.shape != Shape::Other
            && entry.position.is_none()
            && !entry.kind.starts_with("turboOCI")
    };
    let files = golden.entries().iter().filter(wanted);
    files
        .map(|entry| {
            let entry = entry.clone();
            Case::new(format!("lsmt.golden.{}", entry.short_name()), move |ctx| {
                let golden = ctx.golden()?;
                let device = device(ctx, &golden, &[&entry])?;
                read::check(&device.path, golden.content(&entry)?, ctx.rng())
            })
        })
        .collect()
}

/// A device over layers on the golden disk, bottom first. Its size is that of the top one's
/// content.
pub fn device(ctx: &mut Ctx, golden: &Golden, layers: &[&Entry]) -> Result<Device> {
    let top = layers.last().context("no layers")?;
    let (_, size) = top.content.as_ref().context("no expected content")?;
    let mut params = layers.len().to_string();
    for layer in layers {
        match layer.shape {
            Shape::Lsmt => write!(params, " {} {}", golden.dev(), layer.payload.words())?,
            Shape::Zfile(size) => {
                let zfile = zfile::device(ctx, golden, layer, "")?;
                write!(params, " {} 0 {size}", zfile.dev)?;
            }
            Shape::Other => bail!("{} is no layer", layer.name),
        }
    }
    ctx.target(size.div_ceil(SECTOR), "lsmt", &params)
}

/// A device over layers that were forged, all on one disk.
pub fn of_forged(ctx: &mut Ctx, layers: &[Layer]) -> Result<Device> {
    let (params, sectors) = forged(ctx, layers)?;
    ctx.target(sectors, "lsmt", &params)
}

/// The table words for layers that were forged, and the size of their disk in sectors. They lie on
/// one disk, with marker bytes between them.
pub fn forged(ctx: &mut Ctx, layers: &[Layer]) -> Result<(String, u64)> {
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    for layer in layers {
        let layer = layer.bytes();
        places.push((bytes.len() as u64 / SECTOR, layer.len()));
        bytes.extend_from_slice(&layer);
        bytes.resize((bytes.len() + 1).next_multiple_of(SECTOR as usize), MARKER);
    }
    let disk = ctx.image(&bytes)?;
    let mut params = layers.len().to_string();
    for (sector, length) in places {
        write!(params, " {} {sector} {length}", disk.dev)?;
    }
    let sizes = layers.iter().map(Layer::virtual_size);
    let size = sizes.rev().find(|&size| size > 0).unwrap_or(0);
    Ok((params, size.div_ceil(SECTOR)))
}

/// Reads every file below `dir`.
pub fn read_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_tree(&entry.path())?;
        } else if kind.is_file() {
            fs::read(entry.path()).with_context(|| entry.path().display().to_string())?;
        }
    }
    Ok(())
}

/// Every height of a stack, from the bottom layer alone to all of it.
fn stack(ctx: &mut Ctx, pattern: &str) -> Result<()> {
    let golden = ctx.golden()?;
    let layers = golden.stack(pattern)?;
    for height in 1..=layers.len() {
        let part = &layers[..height];
        let device = device(ctx, &golden, part)?;
        let content = golden.content(part.last().context("no layers")?)?;
        let result = if height == layers.len() {
            read::check(&device.path, content, ctx.rng())
        } else {
            read::check_once(&device.path, content)
        };
        result.with_context(|| format!("the lowest {height} layers"))?;
    }
    Ok(())
}
