// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is done to devices while they are read: suspended, resumed, loaded anew, asked, removed,
//! and the device below one exchanged. Readers notice nothing.

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::Id;
use rustix::io::Errno;

use super::{lsmt, zfile};
use crate::ctx::{target, Ctx, Device, SECTOR};
use crate::golden::{Golden, Shape};
use crate::harness::Case;
use crate::read::Readers;

const STACK: &str = "ext4/layer*.lz4.zfile";
/// How often something is done.
const ROUNDS: usize = 40;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("live.suspend_and_resume", suspend_and_resume),
        Case::new("live.reload", reload),
        Case::new("live.ask", ask),
        Case::new("live.device_below_is_exchanged", device_below_is_exchanged),
        Case::new("live.layer_shared_by_two_images", shared_layer),
        Case::new("live.remove", remove),
    ]
}

/// An image of several compressed layers, its layers' devices, and readers of the image.
struct Image {
    device: Device,
    zfiles: Vec<Device>,
    readers: Readers,
}

impl Image {
    fn new(ctx: &mut Ctx, golden: &Golden) -> Result<Self> {
        let layers = golden.stack(STACK)?;
        let mut zfiles = Vec::new();
        let mut params = layers.len().to_string();
        for layer in &layers {
            let Shape::Zfile(size) = layer.shape else {
                continue;
            };
            let device = zfile::device(ctx, golden, layer, "")?;
            params.push_str(&format!(" {} 0 {size}", device.dev));
            zfiles.push(device);
        }
        let content = golden.content(layers.last().context("no layers")?)?;
        let device = ctx.target(content.len() as u64 / SECTOR, "lsmt", &params)?;
        let readers = Readers::start(&device.path, content, ctx.rng())?;
        Ok(Self {
            device,
            zfiles,
            readers,
        })
    }

    /// The image and each of its layers in turn.
    fn devices(&self) -> Vec<Device> {
        let mut all = self.zfiles.clone();
        all.push(self.device.clone());
        all
    }

    fn finish(self) -> Result<()> {
        self.readers.stop()
    }
}

fn suspend_and_resume(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let image = Image::new(ctx, &golden)?;
    for _ in 0..ROUNDS {
        for device in image.devices() {
            let dm = ctx.dm()?;
            dm.suspend(device.dev.0)?;
            dm.resume(device.dev.0, &Udev::begin())?;
        }
        image.readers.wait_for_more();
    }
    image.finish()
}

fn reload(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let image = Image::new(ctx, &golden)?;
    for _ in 0..ROUNDS {
        for device in image.devices() {
            let table = ctx.dm()?.table(Id::Dev(device.dev.0))?;
            ctx.load(&device, &table)?;
        }
        image.readers.wait_for_more();
    }
    image.finish()
}

fn ask(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let image = Image::new(ctx, &golden)?;
    for _ in 0..ROUNDS {
        for device in image.devices() {
            let id = Id::Dev(device.dev.0);
            let dm = ctx.dm()?;
            ensure!(dm.status(id)?.len() == 1 && dm.table(id)?.len() == 1);
            dm.message(id, 0, "reset_stats")?;
        }
        image.readers.wait_for_more();
    }
    image.finish()
}

/// The device below a zfile becomes another one with the same bytes, as when a file that was
/// fetched piece by piece has become complete.
fn device_below_is_exchanged(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let layers = golden.stack(STACK)?;
    let copies = layers
        .iter()
        .map(|layer| ctx.image(&golden.bytes(layer.file)?))
        .collect::<Result<Vec<_>>>()?;
    let image = Image::new(ctx, &golden)?;
    for round in 0..ROUNDS {
        for ((layer, copy), device) in layers.iter().zip(&copies).zip(&image.zfiles) {
            let Shape::Zfile(size) = layer.shape else {
                continue;
            };
            let params = if round % 2 == 0 {
                let offset = layer.payload.sector - layer.file.sector;
                format!("{} {offset} {}", copy.dev, layer.payload.length)
            } else {
                format!("{} {}", golden.dev(), layer.payload.words())
            };
            ctx.load(
                device,
                &[target(0, size.div_ceil(SECTOR), "zfile", &params)],
            )?;
        }
        image.readers.wait_for_more();
    }
    image.finish()
}

/// Two images stand on one device for the layer that they have in common; one goes, the other
/// stays.
fn shared_layer(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let image = Image::new(ctx, &golden)?;
    let layers = golden.stack(STACK)?;
    let base = layers.first().context("no layers")?;
    let Shape::Zfile(size) = base.shape else {
        anyhow::bail!("{} is no ZFile", base.name);
    };
    let content = golden.content(base)?;
    let below = image.zfiles.first().context("no layers")?.clone();
    let params = format!("1 {} 0 {size}", below.dev);
    for _ in 0..4 {
        let other = ctx.target(content.len() as u64 / SECTOR, "lsmt", &params)?;
        let readers = Readers::start(&other.path, content.clone(), ctx.rng())?;
        readers.wait_for_more();
        image.readers.wait_for_more();
        readers.stop()?;
        ctx.remove(&other)?;
    }
    let result = ctx.dm()?.remove(Id::Name(&below.name), &Udev::begin());
    let errno = result.err().and_then(|error| error.errno());
    ensure!(errno == Some(Errno::BUSY), "a layer in use: {errno:?}");
    image.finish()
}

/// A device that is read cannot be removed; with its last reader it can.
fn remove(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    for _ in 0..ROUNDS / 4 {
        let layers = golden.stack("lsmt/stack*.zfile")?;
        let content = golden.content(layers.last().context("no layers")?)?;
        let device = lsmt::device(ctx, &golden, &layers)?;
        let readers = Readers::start(&device.path, content, ctx.rng())?;
        readers.wait_for_more();
        let result = ctx.dm()?.remove(Id::Name(&device.name), &Udev::begin());
        let errno = result.err().and_then(|error| error.errno());
        ensure!(errno == Some(Errno::BUSY), "a device in use: {errno:?}");
        readers.stop()?;
        ctx.remove(&device)?;
    }
    Ok(())
}
