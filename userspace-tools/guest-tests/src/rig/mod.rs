// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the tests of faults, races and memory are built from: files, devices to put them on, and
//! readers that are kept busy.

pub mod accounts;
pub mod blocks;
pub mod busy;
pub mod inject;
pub mod ioctl;
pub mod ledger;
pub mod load;
pub mod lower;
pub mod map;
pub mod marker;
pub mod queued;
pub mod sample;
pub mod scarce;
pub mod stack;
pub mod stuck;
pub mod trace;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};
use overlaybd_format::status::ZfileStatus;

use ovbd::dm::udev::Udev;
use ovbd::dm::DevNo;

use crate::ctx::{target, Ctx, Device, SECTOR};
use lower::{Lower, Placed};
use sample::Form;

/// Waits until `done` says so; looks again and again, and fails when the time is up.
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !done()? {
        if start.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Sets a parameter of the kernel's until the test ends; returns what it was.
pub fn set(ctx: &mut Ctx, path: &'static str, value: &str) -> Result<String> {
    let text = fs::read_to_string(path).context(path)?;
    // Of several words the one in brackets is in force.
    let word = text.split(['[', ']']).nth(1).unwrap_or(text.trim());
    let old = word.to_owned();
    fs::write(path, value).with_context(|| format!("{value} > {path}"))?;
    let back = old.clone();
    ctx.defer("parameter of the kernel", move || {
        Ok(fs::write(path, back)?)
    });
    Ok(old)
}

/// Where files begin on their devices: tar-wrapped blobs begin at sectors 1 and 3.
pub const OFFSET: u64 = 3;

/// A zfile device, and what it must show.
pub struct Zfile {
    /// The device.
    pub device: Device,
    /// What is below it.
    pub lower: Placed,
    /// The ZFile.
    pub file: Vec<u8>,
    /// How it is compressed.
    pub form: Form,
    /// The original file, without the zeros that fill its last sector.
    pub content: Vec<u8>,
}

impl Zfile {
    /// A device that shows `content`.
    pub fn new(ctx: &mut Ctx, lower: Lower, form: Form, content: Vec<u8>) -> Result<Self> {
        let file = sample::zfile(&content, form)?;
        let lower = lower.with(ctx, OFFSET, &file)?;
        Self::of(ctx, lower, form, file, content)
    }

    /// The same on a disk that is there.
    pub fn on(ctx: &mut Ctx, disk: &Path, form: Form, content: Vec<u8>) -> Result<Self> {
        let file = sample::zfile(&content, form)?;
        let lower = Lower::put(disk, OFFSET, &file)?;
        Self::of(ctx, lower, form, file, content)
    }

    fn of(
        ctx: &mut Ctx,
        lower: Placed,
        form: Form,
        file: Vec<u8>,
        content: Vec<u8>,
    ) -> Result<Self> {
        Ok(Self {
            device: device(ctx, &lower.words(), content.len())?,
            lower,
            file,
            form,
            content,
        })
    }

    /// The same over a dm-linear device, whose table can be exchanged for that of something
    /// that fails. It is returned along.
    pub fn over_linear(
        ctx: &mut Ctx,
        lower: Lower,
        form: Form,
        content: Vec<u8>,
    ) -> Result<(Self, Linear)> {
        let file = sample::zfile(&content, form)?;
        let lower = lower.with(ctx, OFFSET, &file)?;
        let linear = Linear::new(ctx, &lower)?;
        let device = device(ctx, &lower.words_on(linear.device.dev), content.len())?;
        let zfile = Self {
            device,
            lower,
            file,
            form,
            content,
        };
        Ok((zfile, linear))
    }

    /// What the device must show, to its last sector.
    pub fn padded(&self) -> Vec<u8> {
        let mut content = self.content.clone();
        content.resize(content.len().next_multiple_of(SECTOR as usize), 0);
        content
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.device.path
    }

    /// Its counters.
    pub fn status(&self, ctx: &mut Ctx) -> Result<ZfileStatus> {
        status(ctx, &self.device)
    }
}

/// A device-mapper device that shows another device.
pub struct Linear {
    /// The device.
    pub device: Device,
    below: DevNo,
    sectors: u64,
}

impl Linear {
    /// Shows all of it.
    pub fn new(ctx: &mut Ctx, lower: &Placed) -> Result<Self> {
        let sectors = lower.device_sectors()?;
        let table = target(0, sectors, "linear", &format!("{} 0", lower.dev));
        Ok(Self {
            device: ctx.device_of(&[table])?,
            below: lower.dev,
            sectors,
        })
    }

    /// Shows it in another way: by `kind`, whose parameters are those of linear and `options`.
    pub fn become_a(&self, ctx: &mut Ctx, kind: &str, options: &str) -> Result<()> {
        let params = format!("{} 0{options}", self.below);
        ctx.load(&self.device, &[target(0, self.sectors, kind, &params)])
    }

    /// Shows it as it is.
    pub fn recover(&self, ctx: &mut Ctx) -> Result<()> {
        self.become_a(ctx, "linear", "")
    }

    /// Has all reads wait until it is resumed.
    pub fn suspend(&self, ctx: &mut Ctx) -> Result<()> {
        Ok(ctx.dm()?.suspend(self.device.dev.0)?)
    }

    /// Has them go on.
    pub fn resume(&self, ctx: &mut Ctx) -> Result<()> {
        ctx.dm()?.resume(self.device.dev.0, &Udev::begin())?;
        Ok(())
    }

    /// Fails every read of `bad`, a range of sectors.
    pub fn fail(&self, ctx: &mut Ctx, bad: &Range<u64>) -> Result<()> {
        let linear = |range: Range<u64>| {
            let params = format!("{} {}", self.below, range.start);
            target(range.start, range.end - range.start, "linear", &params)
        };
        let mut table = Vec::new();
        if bad.start > 0 {
            table.push(linear(0..bad.start));
        }
        table.push(target(bad.start, bad.end - bad.start, "error", ""));
        if bad.end < self.sectors {
            table.push(linear(bad.end..self.sectors));
        }
        ctx.load(&self.device, &table)
    }
}

/// A zfile device over a ZFile of `size` bytes of content.
pub fn device(ctx: &mut Ctx, words: &str, size: usize) -> Result<Device> {
    ctx.target((size as u64).div_ceil(SECTOR), "zfile", words)
}

/// The counters of a zfile device.
pub fn status(ctx: &mut Ctx, device: &Device) -> Result<ZfileStatus> {
    Ok(ZfileStatus::parse(&ctx.status(device)?)?)
}
