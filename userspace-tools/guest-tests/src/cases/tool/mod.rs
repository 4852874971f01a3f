// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tool: setting images up, sharing layers, removing, recovering from being killed.
//!
//! Mostly through the library that the program is made of, some through the program itself, as a
//! user runs it.

mod basics;
mod crash;
mod leaving;
mod mounts;
mod parallel;
mod registry;
mod run;
mod signed;
mod storage;
mod store;
mod udev;
mod verity;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ovbd::config::ImageConfig;
use ovbd::dm::{Dm, Name};
use ovbd::plan::{Plan, Settings};
use ovbd::up::{MountAt, Report};
use ovbd::{down, up};

use crate::ctx::{self, Ctx};
use crate::harness::Case;
pub use crash::child;

/// The program.
const OVBD: &str = "/opt/ovbd";

pub fn cases() -> Vec<Case> {
    [
        basics::cases(),
        storage::cases(),
        crash::cases(),
        mounts::cases(),
        leaving::cases(),
        udev::cases(),
        parallel::cases(),
        store::cases(),
        registry::cases(),
        run::cases(),
        verity::cases(),
        signed::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Layers in files, and what the disk that they make holds.
struct Image {
    layers: Vec<PathBuf>,
    content: Vec<u8>,
}

impl Image {
    /// A golden stack, copied to `dir`.
    fn golden(ctx: &Ctx, pattern: &str, dir: &Path) -> Result<Self> {
        let golden = ctx.golden()?;
        let entries = golden.stack(pattern)?;
        let mut layers = Vec::new();
        for entry in &entries {
            let path = dir.join(entry.short_name());
            fs::write(&path, golden.bytes(entry.file)?)?;
            layers.push(path);
        }
        let content = golden.content(entries.last().context("no layers")?)?;
        Ok(Self { layers, content })
    }

    /// Three layers, the middle one not compressed; each of the others ends within a sector.
    fn mixed(ctx: &Ctx, dir: &Path) -> Result<Self> {
        let mut image = Self::golden(ctx, "lsmt/stack*.zfile", dir)?;
        let bare = Self::golden(ctx, "lsmt/stack*.lsmt", dir)?;
        image.layers[1].clone_from(&bare.layers[1]);
        Ok(image)
    }

    fn config(&self) -> ImageConfig {
        ImageConfig::of_files(self.layers.iter().cloned())
    }

    fn plan(&self) -> Result<Plan> {
        Ok(Plan::new(&self.config(), Settings::default())?)
    }

    fn up(&self, name: &str) -> Result<Report> {
        Ok(up::up(&self.plan()?, &Name::new(name)?, None, &|_| {})?)
    }

    fn up_mounted(&self, name: &str, dir: &Path) -> Result<Report> {
        fs::create_dir_all(dir)?;
        let mount_at = MountAt {
            target: dir.to_owned(),
            ..MountAt::default()
        };
        let name = Name::new(name)?;
        Ok(up::up(&self.plan()?, &name, Some(&mount_at), &|_| {})?)
    }
}

fn take_down(name: &str) -> Result<down::Report> {
    let name = Name::new(name)?;
    Ok(down::down(&name, down::Options::default(), &|_| {})?)
}

/// The names of all devices.
fn devices() -> Result<Vec<String>> {
    let devices = Dm::open()?.devices()?;
    let mut names: Vec<_> = devices.into_iter().map(|(name, _)| name).collect();
    names.sort();
    Ok(names)
}

/// The names of those that the test has not made itself.
fn of_the_tool() -> Result<Vec<String>> {
    let mut names = devices()?;
    names.retain(|name| !name.starts_with(ctx::NAMES));
    Ok(names)
}

/// The loop devices that are bound, and to what, as sysfs says.
fn loops() -> Vec<String> {
    let entries = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok())
        .map(|file| file.trim_end().to_owned())
        .collect();
    files.sort();
    files
}

/// Waits until the kernel is done with what nobody waits for.
fn quiescence() -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !(loops().is_empty() && of_the_tool()?.is_empty()) && Instant::now() < deadline {
        thread::yield_now();
    }
    Ok(())
}

/// Nothing is set up: no device, no loop device, no cookie of udev, no node.
fn nothing_is_left() -> Result<()> {
    let devices = of_the_tool()?;
    ensure!(devices.is_empty(), "devices are left: {devices:?}");
    ensure!(loops().is_empty(), "loop devices are left: {:?}", loops());
    let cookies = fs::read_to_string("/proc/sysvipc/sem")?;
    ensure!(
        cookies.lines().count() == 1,
        "semaphores are left: {cookies}"
    );
    let nodes: Vec<_> = fs::read_dir("/dev/mapper")?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()?;
    ensure!(nodes == ["control"], "nodes are left: {nodes:?}");
    Ok(())
}

/// The number of devices whose name begins like this.
fn count(prefix: &str) -> Result<usize> {
    Ok(devices()?
        .iter()
        .filter(|name| name.starts_with(prefix))
        .count())
}
