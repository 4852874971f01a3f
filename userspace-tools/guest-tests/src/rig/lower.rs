// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Block devices of every kind to put a file on. They differ in when and where a read ends: in
//! the task that submitted it, in an interrupt, in a thread of the device's own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::DevNo;
use rustix::mount::MountFlags;

use super::until;
use crate::ctx::{output, Ctx, LoopSpec, SECTOR};
use crate::golden::MARKER;

/// What surrounds a file on its device, bytes.
const MARGIN: usize = 16 << 10;
const RAM_DISK: &str = "/dev/ram0";
const CONFIGFS: &str = "/sys/kernel/config";

/// A kind of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lower {
    /// virtio-blk: ends reads in an interrupt.
    Disk,
    /// A loop device that reads through the page cache, in a thread of its own.
    Loop,
    /// One that does direct I/O: ends reads in the interrupt of the disk below.
    DirectLoop,
    /// A ramdisk: no queue, reads end in the submitter.
    RamDisk,
    /// null_blk, whose reads end in the submitter, below a request queue.
    NullInline,
    /// null_blk, whose reads end in a soft interrupt.
    NullSoftirq,
    /// null_blk, whose reads end in a timer's interrupt, a little later.
    NullTimer,
}

impl Lower {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Disk,
        Self::Loop,
        Self::DirectLoop,
        Self::RamDisk,
        Self::NullInline,
        Self::NullSoftirq,
        Self::NullTimer,
    ];

    /// For names of tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "virtio",
            Self::Loop => "loop",
            Self::DirectLoop => "loop-direct",
            Self::RamDisk => "brd",
            Self::NullInline => "null-inline",
            Self::NullSoftirq => "null-softirq",
            Self::NullTimer => "null-timer",
        }
    }

    /// Makes a device with `file` from sector `sector` on, and a marker around it.
    ///
    /// There is one disk and one ramdisk: a second one in the same test overwrites the first.
    pub fn with(self, ctx: &mut Ctx, sector: u64, file: &[u8]) -> Result<Placed> {
        let bytes = surrounded(sector, file);
        let path = match self {
            Self::Disk => ctx.disk("raw")?.path,
            Self::Loop | Self::DirectLoop => {
                let path = ctx.scratch()?.join("file");
                fs::write(&path, &bytes)?;
                return self.loop_device(ctx, &path, sector, file);
            }
            Self::RamDisk => ram_disk(ctx)?,
            Self::NullInline => null_blk(ctx, bytes.len(), &[("irqmode", "0")])?,
            Self::NullSoftirq => null_blk(ctx, bytes.len(), &[("irqmode", "1")])?,
            Self::NullTimer => null_blk(ctx, bytes.len(), &TIMER)?,
        };
        write(&path, &bytes)?;
        Placed::new(path, sector, file.len())
    }

    /// Puts `file` on a device that is there.
    pub fn put(path: &Path, sector: u64, file: &[u8]) -> Result<Placed> {
        write(path, &surrounded(sector, file))?;
        Placed::new(path.to_owned(), sector, file.len())
    }

    fn loop_device(self, ctx: &mut Ctx, path: &Path, sector: u64, file: &[u8]) -> Result<Placed> {
        // Direct I/O is not coherent with pages that are still to be written.
        File::open(path)?.sync_all()?;
        let device = ctx.loop_device(&LoopSpec {
            direct_io: self == Self::DirectLoop,
            ..LoopSpec::of(path)
        })?;
        Placed::new(device, sector, file.len())
    }
}

/// A file at a sector, and the marker before and behind it.
fn surrounded(sector: u64, file: &[u8]) -> Vec<u8> {
    let start = (sector * SECTOR) as usize;
    let end = (start + file.len() + MARGIN).next_multiple_of(4096);
    let mut bytes = vec![MARKER; end];
    bytes[start..start + file.len()].copy_from_slice(file);
    bytes
}

/// 200 µs: long enough for other reads to be sent meanwhile.
pub const TIMER: [(&str, &str); 2] = [("irqmode", "2"), ("completion_nsec", "200000")];

/// A file on a block device.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The device, as tables name it.
    pub dev: DevNo,
    /// Its node.
    pub path: PathBuf,
    /// Where the file begins.
    pub sector: u64,
    /// Exact length, bytes.
    pub length: u64,
}

impl Placed {
    fn new(path: PathBuf, sector: u64, length: usize) -> Result<Self> {
        Ok(Self {
            dev: DevNo(rustix::fs::stat(&path)?.st_rdev),
            path,
            sector,
            length: length as u64,
        })
    }

    /// The words of a table line that say where the file is.
    pub fn words(&self) -> String {
        self.words_on(self.dev)
    }

    /// The same on another device that shows this one.
    pub fn words_on(&self, dev: DevNo) -> String {
        format!("{dev} {} {}", self.sector, self.length)
    }

    /// The file behind a loop device.
    pub fn backing_file(&self) -> Result<PathBuf> {
        let path = format!("/sys/dev/block/{}/loop/backing_file", self.dev);
        let text = fs::read_to_string(&path).context(path)?;
        Ok(PathBuf::from(text.trim()))
    }

    /// Sectors of the device.
    pub fn device_sectors(&self) -> Result<u64> {
        sectors_of(self.dev)
    }
}

/// The size of a block device, sectors.
pub fn sectors_of(dev: DevNo) -> Result<u64> {
    let path = format!("/sys/dev/block/{dev}/size");
    let text = fs::read_to_string(&path).context(path)?;
    Ok(text.trim().parse()?)
}

/// Waits until the kernel has read the partition table of a new disk.
pub fn settled(path: &Path) -> Result<()> {
    until("the disk can be opened", Duration::from_secs(60), || {
        Ok(File::options().read(true).write(true).open(path).is_ok())
    })
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let device = File::options()
        .write(true)
        .open(path)
        .with_context(|| path.display().to_string())?;
    device.write_all_at(bytes, 0)?;
    // What is below a device-mapper device is read past the page cache of the node.
    device.sync_all()?;
    Ok(())
}

/// Its memory is taken when it is written to.
fn ram_disk(ctx: &mut Ctx) -> Result<PathBuf> {
    if !Path::new(RAM_DISK).exists() {
        output(&["modprobe", "brd", "rd_nr=1", "rd_size=65536", "max_part=0"])?;
        ctx.defer("the ramdisk", || output(&["rmmod", "brd"]).map(drop));
    }
    Ok(PathBuf::from(RAM_DISK))
}

/// A null_blk device that keeps what is written to it.
pub fn null_blk(ctx: &mut Ctx, length: usize, options: &[(&str, &str)]) -> Result<PathBuf> {
    output(&["modprobe", "null_blk", "nr_devices=0"])?;
    mount_configfs()?;
    let name = ctx.fresh();
    let dir = Path::new(CONFIGFS).join("nullb").join(&name);
    fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
    let made = dir.clone();
    ctx.defer("null_blk", move || Ok(fs::remove_dir(made)?));
    let set = |key: &str, value: &str| {
        let path = dir.join(key);
        fs::write(&path, value).with_context(|| format!("{} = {value}", path.display()))
    };
    set("memory_backed", "1")?;
    set("size", &length.div_ceil(1 << 20).to_string())?;
    set("blocksize", "512")?;
    for (key, value) in options {
        set(key, value)?;
    }
    set("power", "1")?;
    let path = Path::new("/dev").join(&name);
    until("the node of null_blk", Duration::from_secs(20), || {
        Ok(path.exists())
    })?;
    Ok(path)
}

/// The folder of a device that [`null_blk`] made.
pub fn null_blk_control(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().context("null_blk device")?;
    let dir = Path::new(CONFIGFS).join("nullb").join(name);
    ensure!(dir.exists(), "{} does not exist", dir.display());
    Ok(dir)
}

fn mount_configfs() -> Result<()> {
    if Path::new(CONFIGFS).join("nullb").exists() {
        return Ok(());
    }
    // It stays for the next test: it is no place of a test's.
    rustix::mount::mount("configfs", CONFIGFS, "configfs", MountFlags::empty(), None)
        .context("mount configfs")
}
