// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a test is given: device-mapper and loop devices, folders, golden files, randomness.
//! Whatever it sets up here is taken down when it ends, last first.

mod cleanup;
mod command;
mod loops;
mod refusal;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::{node, DevNo, Dm, Id, Target};
use rustix::mount::MountFlags;

use crate::golden::{Golden, MARKER};
use crate::rng::Rng;
use cleanup::{Cleanup, Undo};
pub use command::output;
pub use loops::LoopSpec;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// What the names of a test's devices begin with.
pub const NAMES: &str = "test";
/// Where tests put files; on a tmpfs.
const TMP: &str = "/tmp/test";
/// The disk that is ext4 and may be written.
const SCRATCH_DISK: &str = "scratch";
const SCRATCH: &str = "/run/scratch";

/// A device-mapper device of a test.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its number, which is how tables name it.
    pub dev: DevNo,
    /// Its node.
    pub path: PathBuf,
}

impl Device {
    /// The device with that name and number.
    pub fn new(name: String, dev: u64) -> Self {
        Self {
            name,
            dev: DevNo(dev),
            path: format!("/dev/dm-{}", rustix::fs::minor(dev)).into(),
        }
    }
}

/// A block device that tables stand on.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Its number, which is how tables name it.
    pub dev: DevNo,
    /// Its node.
    pub path: PathBuf,
}

impl Disk {
    /// The block device whose node is `path`.
    pub fn of(path: PathBuf) -> Result<Self> {
        let dev = DevNo(rustix::fs::stat(&path)?.st_rdev);
        Ok(Self { dev, path })
    }

    /// Writes `bytes` at byte `offset`, past and through the page cache.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let file = fs::File::options().write(true).open(&self.path)?;
        file.write_all_at(bytes, offset)?;
        file.sync_all()?;
        Ok(())
    }
}

/// What a test is given.
pub struct Ctx {
    name: String,
    rng: Rng,
    dm: Option<Dm>,
    count: u32,
    undo: Vec<Cleanup>,
    notes: Vec<String>,
}

impl Ctx {
    /// For the test called `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rng: Rng::for_test(name),
            dm: None,
            count: 0,
            undo: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Has a line in the report.
    pub fn say(&mut self, note: String) {
        self.notes.push(note);
    }

    /// What was said.
    pub fn notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }

    /// What to type to see the failure again.
    pub fn how_to_repeat(&self) -> String {
        let seed = std::env::var("OVBD_SEED").unwrap_or_default();
        let seed = match seed.as_str() {
            "" => String::new(),
            seed => format!(" OVBD_SEED={seed}"),
        };
        format!("alone: make vm-test T={}{seed}", self.name)
    }

    /// Random numbers.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Golden files.
    pub fn golden(&self) -> Result<Golden> {
        Golden::open()
    }

    /// Device-mapper.
    pub fn dm(&mut self) -> Result<&Dm> {
        match &mut self.dm {
            Some(dm) => Ok(dm),
            none => Ok(none.insert(Dm::open()?)),
        }
    }

    /// A fresh name.
    pub fn fresh(&mut self) -> String {
        self.count += 1;
        format!("{NAMES}{}", self.count)
    }

    /// A device without a table.
    pub fn device(&mut self) -> Result<Device> {
        let name = self.fresh();
        let info = self.dm()?.create(&name, "")?;
        self.undo.push(Cleanup::Device(name.clone()));
        Ok(Device::new(name, info.dev))
    }

    /// Loads a read-only table and makes it live, in place of the one that is live.
    pub fn load(&mut self, device: &Device, table: &[Target]) -> Result<()> {
        let dm = self.dm()?;
        dm.load(device.dev.0, table)
            .with_context(|| format!("table: {table:?}"))?;
        dm.resume(device.dev.0, &Udev::begin())?;
        Ok(())
    }

    /// A live device.
    pub fn device_of(&mut self, table: &[Target]) -> Result<Device> {
        let device = self.device()?;
        self.load(&device, table)?;
        Ok(device)
    }

    /// A live device of one target.
    pub fn target(&mut self, sectors: u64, kind: &str, params: &str) -> Result<Device> {
        self.device_of(&[target(0, sectors, kind, params)])
    }

    /// Removes a device now.
    pub fn remove(&mut self, device: &Device) -> Result<()> {
        self.dm()?.remove(Id::Name(&device.name), &Udev::begin())?;
        self.forget(device);
        Ok(())
    }

    /// A device is gone without our doing.
    pub fn forget(&mut self, device: &Device) {
        node::forget(&device.name);
        self.undo
            .retain(|undo| !matches!(undo, Cleanup::Device(name) if *name == device.name));
    }

    /// The status line of a device's only target.
    pub fn status(&mut self, device: &Device) -> Result<String> {
        let lines = self.dm()?.status(Id::Dev(device.dev.0))?;
        only(lines)
    }

    /// The table line of a device's only target, without start, length and kind.
    pub fn table(&mut self, device: &Device) -> Result<String> {
        let lines = self.dm()?.table(Id::Dev(device.dev.0))?;
        only(lines)
    }

    /// A disk that the run attached.
    pub fn disk(&self, name: &str) -> Result<Disk> {
        let path = Path::new("/dev/disk").join(name);
        let path = path
            .canonicalize()
            .with_context(|| format!("the run has no disk \"{name}\""))?;
        Disk::of(path)
    }

    /// A loop device on a file.
    pub fn loop_device(&mut self, spec: &LoopSpec) -> Result<PathBuf> {
        let path = loops::attach(spec)?;
        self.undo.push(Cleanup::Loop(path.clone()));
        Ok(path)
    }

    /// A disk in memory that holds `bytes`, with the marker behind them. May be written through
    /// its node.
    pub fn image(&mut self, bytes: &[u8]) -> Result<Disk> {
        let file = self.tmp()?.join("image");
        // To the end of the last page, and another one.
        let length = bytes.len().next_multiple_of(4096) + 4096;
        let mut padded = bytes.to_vec();
        padded.resize(length, MARKER);
        fs::write(&file, padded)?;
        let path = self.loop_device(&LoopSpec {
            read_only: false,
            ..LoopSpec::of(file)
        })?;
        Disk::of(path)
    }

    /// An empty folder on a tmpfs.
    pub fn tmp(&mut self) -> Result<PathBuf> {
        let dir = Path::new(TMP).join(self.fresh());
        fs::create_dir_all(&dir)?;
        self.undo.push(Cleanup::Folder(dir.clone()));
        Ok(dir)
    }

    /// An empty folder on a disk with ext4, where O_DIRECT works; what is written is forgotten
    /// when the machine ends.
    pub fn scratch(&mut self) -> Result<PathBuf> {
        let disk = self.disk(SCRATCH_DISK)?.path;
        let mounted =
            |undo: &Cleanup| matches!(undo, Cleanup::Mount(dir) if dir.as_os_str() == SCRATCH);
        if !self.undo.iter().any(mounted) {
            self.mount(&disk, Path::new(SCRATCH), "ext4", MountFlags::empty())?;
        }
        let dir = Path::new(SCRATCH).join(self.fresh());
        fs::create_dir_all(&dir)?;
        self.undo.push(Cleanup::Folder(dir.clone()));
        Ok(dir)
    }

    /// Mounts `device` at `dir`, which is made.
    pub fn mount(
        &mut self,
        device: &Path,
        dir: &Path,
        kind: &str,
        flags: MountFlags,
    ) -> Result<()> {
        fs::create_dir_all(dir)?;
        rustix::mount::mount(device, dir, kind, flags, None)
            .with_context(|| format!("mount {} as {kind}", device.display()))?;
        self.undo.push(Cleanup::Mount(dir.to_owned()));
        Ok(())
    }

    /// Calls `undo` when the test ends, before what was set up earlier is taken down.
    pub fn defer(
        &mut self,
        what: &'static str,
        undo: impl FnOnce() -> Result<()> + Send + 'static,
    ) {
        self.undo.push(Cleanup::Other(what, Undo(Box::new(undo))));
    }

    /// What tests have left over until now; it is removed.
    pub fn leftovers(&self) -> Vec<String> {
        cleanup::leftovers()
    }

    /// Takes everything down; returns what went wrong and what was left over.
    pub fn clean_up(mut self) -> Vec<String> {
        let mut problems = Vec::new();
        while let Some(undo) = self.undo.pop() {
            if let Err(error) = undo.run() {
                problems.push(format!("cleaning up: {error:#}"));
            }
        }
        problems.extend(cleanup::leftovers());
        problems
    }
}

/// What the environment says for `variable`, or `default`.
pub fn number(variable: &str, default: u64) -> Result<u64> {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| variable.to_owned()),
        _ => Ok(default),
    }
}

/// What `/proc/meminfo` has under `name`, in bytes.
pub fn meminfo(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let value = |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.to_owned());
    let value = text
        .lines()
        .find_map(value)
        .with_context(|| name.to_owned())?;
    Ok(value.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// A line of a table: so many sectors from `start` on.
pub fn target(start: u64, sectors: u64, kind: &str, params: &str) -> Target {
    Target {
        start,
        length: sectors,
        kind: kind.to_owned(),
        params: params.to_owned(),
    }
}

fn only(lines: Vec<Target>) -> Result<String> {
    ensure!(lines.len() == 1, "expected one target, found {lines:?}");
    let line = lines.into_iter().next().context("no target")?;
    Ok(line.params)
}
