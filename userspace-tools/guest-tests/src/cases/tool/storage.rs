// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What layers lie on: file systems with and without direct I/O, large blocks, devices, odd ends;
//! and what is mounted from them.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use ovbd::config::LAYERS_MAX;
use ovbd::image::layer::{LayerSettings, LayerWriter};
use rustix::mount::MountFlags;
use sha2::{Digest, Sha256};

use super::{devices, loops, nothing_is_left, take_down, Image};
use crate::ctx::{self, Ctx, LoopSpec};
use crate::harness::Case;
use crate::read;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.odd_ends_on_tmpfs", |ctx| {
            let dir = ctx.tmp()?;
            odd_ends(ctx, &dir)
        }),
        Case::new("tool.odd_ends_with_direct_io", |ctx| {
            let dir = ctx.scratch()?;
            odd_ends(ctx, &dir)
        }),
        Case::new("tool.odd_ends_on_4096_byte_blocks", |ctx| {
            let dir = large_blocks(ctx)?;
            odd_ends(ctx, &dir)
        }),
        Case::new("tool.tars_on_4096_byte_blocks", tars_on_large_blocks),
        Case::new("tool.direct_io_is_read_back", direct_io_is_read_back),
        Case::new("tool.block_devices", block_devices),
        Case::new("tool.most_layers", most_layers),
        Case::new("tool.unclean_ext4", unclean_ext4),
        Case::new("tool.nothing_to_mount", nothing_to_mount),
    ]
}

fn digest(file: &Path) -> Result<Vec<u8>> {
    Ok(Sha256::digest(fs::read(file)?).to_vec())
}

/// Layers of every kind whose files end within a sector; the files stay as they are.
fn odd_ends(ctx: &mut Ctx, dir: &Path) -> Result<()> {
    let image = Image::mixed(ctx, dir)?;
    let odd = image
        .layers
        .iter()
        .filter(|layer| fs::metadata(layer).is_ok_and(|meta| meta.len() % ctx::SECTOR != 0));
    ensure!(odd.count() >= 2, "the golden files are not odd");
    let before: Vec<_> = image
        .layers
        .iter()
        .map(|l| digest(l))
        .collect::<Result<_>>()?;
    let loops_before = loops();
    image.up("web")?;
    read::check(Path::new("/dev/mapper/web"), image.content, ctx.rng())?;
    take_down("web")?;
    let after: Vec<_> = image
        .layers
        .iter()
        .map(|layer| digest(layer))
        .collect::<Result<_>>()?;
    ensure!(before == after, "a layer's file was changed");
    // There may be one below the file system.
    ensure!(loops() == loops_before, "{:?}", loops());
    ensure!(devices()?.is_empty(), "{:?}", devices()?);
    Ok(())
}

/// A folder on a file system with 4096-byte logical blocks below it.
pub(super) fn large_blocks(ctx: &mut Ctx) -> Result<std::path::PathBuf> {
    let disk = ctx.tmp()?.join("disk");
    fs::File::create(&disk)?.set_len(64 << 20)?;
    let spec = LoopSpec {
        block_size: 4096,
        read_only: false,
        ..LoopSpec::of(&disk)
    };
    let device = ctx.loop_device(&spec)?;
    ctx::output(&[
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        device.to_str().context("device")?,
    ])?;
    let dir = ctx.tmp()?.join("large");
    ctx.mount(&device, &dir, "ext4", MountFlags::empty())?;
    Ok(dir)
}

/// A tar begins its payload within a large block, and ends within one.
fn tars_on_large_blocks(ctx: &mut Ctx) -> Result<()> {
    let dir = large_blocks(ctx)?;
    let image = Image::golden(ctx, "ext4/layer*.tar", &dir)?;
    let report = image.up("web")?;
    let direct = report
        .layers
        .iter()
        .all(|layer| layer.direct_io == Some(true));
    ensure!(direct, "large blocks rule direct I/O out: {report:?}");
    read::check(&report.device, image.content, ctx.rng())?;
    take_down("web")?;
    Ok(())
}

/// What the tool says about direct I/O is what sysfs says.
fn direct_io_is_read_back(ctx: &mut Ctx) -> Result<()> {
    for dir in [ctx.tmp()?, ctx.scratch()?] {
        let image = Image::golden(ctx, "lsmt/stack*.lsmt", &dir)?;
        let report = image.up("web")?;
        for layer in &report.layers {
            let dio = format!("/sys/dev/block/{}/loop/dio", layer.number);
            let dio = fs::read_to_string(&dio).context(dio)?.trim() == "1";
            ensure!(layer.direct_io == Some(dio), "{layer:?}");
        }
        if dir.starts_with("/run/scratch") {
            ensure!(
                report.layers.iter().all(|l| l.direct_io == Some(true)),
                "{report:?}"
            );
        }
        take_down("web")?;
    }
    nothing_is_left()
}

/// Devices are used as they are, without a loop device of the tool's. They are longer than what is on
/// them: padded to a sector, or much further.
fn block_devices(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    for pattern in [
        "ext4/layer*.tar",
        "ext4/layer*.lz4.zfile",
        "ext4/layer*.lsmt",
    ] {
        let files = Image::golden(ctx, pattern, &dir)?;
        let mut layers = Vec::new();
        for (number, layer) in files.layers.iter().enumerate() {
            let length = fs::metadata(layer)?.len().next_multiple_of(ctx::SECTOR);
            let more = if number == 0 { 4 << 20 } else { 0 };
            fs::File::options()
                .write(true)
                .open(layer)?
                .set_len(length + more)?;
            layers.push(ctx.loop_device(&LoopSpec::of(layer))?);
        }
        let before = loops();
        let image = Image {
            layers,
            content: files.content,
        };
        let report = image.up("web").context(pattern)?;
        ensure!(loops() == before, "{:?}", loops());
        read::check_once(&report.device, image.content)?;
        take_down("web")?;
    }
    Ok(())
}

/// As many layers as there can be, each with an odd end: more devices than a process may have files
/// open, if it kept them all open.
fn most_layers(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let mut image = Image::mixed(ctx, &dir)?;
    let bottom = fs::read(&image.layers[0])?;
    while image.layers.len() < LAYERS_MAX {
        let copy = dir.join(format!("copy{}", image.layers.len()));
        fs::write(&copy, &bottom)?;
        image.layers.insert(0, copy);
    }
    let report = image.up("web")?;
    ensure!(loops().len() > 2 * LAYERS_MAX - 3, "{}", loops().len());
    read::check_once(&report.device, image.content)?;
    take_down("web")?;
    nothing_is_left()
}

/// A layer with the whole of `disk`.
fn layer_of(disk: &[u8], path: &Path) -> Result<()> {
    let virtual_size = disk.len() as u64;
    let settings = LayerSettings {
        virtual_size,
        ..LayerSettings::default()
    };
    let mut writer = LayerWriter::new(Vec::new(), settings)?;
    writer.data(0, disk)?;
    Ok(fs::write(path, writer.finish()?.0)?)
}

/// An ext4 that was copied while it was mounted: its journal is not replayed, and the tool says so.
fn unclean_ext4(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let disk = dir.join("disk");
    fs::File::create(&disk)?.set_len(16 << 20)?;
    ctx::output(&[
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        disk.to_str().context("path")?,
    ])?;
    let device = ctx.loop_device(&LoopSpec {
        read_only: false,
        ..LoopSpec::of(&disk)
    })?;
    let mnt = dir.join("rw");
    ctx.mount(&device, &mnt, "ext4", MountFlags::empty())?;
    let file = fs::File::create(mnt.join("hello"))?;
    file.write_all_at(b"world", 0)?;
    rustix::fs::syncfs(&file)?;
    drop(file);
    let layer = dir.join("layer");
    layer_of(&fs::read(&device)?, &layer)?;

    let image = Image {
        layers: vec![layer],
        content: Vec::new(),
    };
    let target = dir.join("ro");
    let report = image.up_mounted("unclean", &target)?;
    let mount = report.mount.context("not mounted")?;
    ensure!(mount.options == "ro,noload", "{mount:?}");
    ensure!(
        report.notes.iter().any(|note| note.contains("journal")),
        "{:?}",
        report.notes
    );
    ensure!(fs::read_dir(&target)?.count() > 0, "nothing is there");
    take_down("unclean")?;
    Ok(())
}

/// A mount that fails leaves nothing that was not there before.
fn nothing_to_mount(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let target = dir.join("mnt");
    let error = image
        .up_mounted("web", &target)
        .err()
        .context("it was mounted")?;
    ensure!(
        error
            .to_string()
            .contains("no file system that is recognised"),
        "{error}"
    );
    nothing_is_left()?;
    image.up("web")?;
    ensure!(image.up_mounted("web", &target).is_err());
    read::check_once(Path::new("/dev/mapper/web"), image.content)?;
    take_down("web")?;
    nothing_is_left()
}
