// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Loop devices: files as block devices, read-only, freed by the kernel when nobody uses them.
//!
//! A loop device is bound in one step (LOOP_CONFIGURE) with AUTOCLEAR, and the descriptor stays open
//! until a device-mapper table holds the device: if the tool dies anywhere in between, the kernel
//! closes the descriptor and frees the device.
//!
//! What is bound is found again by asking the kernel which file it is (device and inode), so that
//! several images use one loop device for a file, and no record of ours can be wrong.

mod sysfs;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;

use crate::dm::node;
use crate::error::ExitCode;
use crate::sys::{
    LoopControl, LoopNode, LOOP_CONFIG_LEN, LOOP_CONTROL_MINOR, LOOP_INFO_LEN, MISC_MAJOR,
};

pub use sysfs::{all_bound, is_autoclear, is_bound, is_loop, Bound};

const CONTROL: &str = "/dev/loop-control";

const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;

/// Where `struct loop_info64` has its fields.
const INFO_OFFSET_AT: usize = 24;
const INFO_SIZE_LIMIT_AT: usize = 32;
const INFO_FLAGS_AT: usize = 52;
const INFO_NAME_AT: usize = 56;
const INFO_NAME_MAX: usize = 63;
/// Where `struct loop_config` has its `loop_info64`.
const CONFIG_INFO_AT: usize = 8;

/// How often another process may be faster at taking a free device.
const ATTEMPTS: u32 = 4096;

/// Which file something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// The device that the file lies on.
    pub dev: u64,
    /// Its inode number there.
    pub inode: u64,
}

impl FileId {
    /// The identity of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            dev: meta.dev(),
            inode: meta.ino(),
        })
    }
}

/// What goes wrong with loop devices.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The control node does not open.
    #[error("{CONTROL}: cannot open: {0}{remedy}", remedy = control_remedy(.0))]
    Control(io::Error),
    /// The file cannot be bound to a loop device.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Bind {
        /// The file.
        path: PathBuf,
        /// Which step failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn control_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (loop devices need root)",
        _ => " (are loop devices in this kernel? Try `modprobe loop`)",
    }
}

impl Error {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Control(e) if e.kind() == io::ErrorKind::PermissionDenied => ExitCode::Permission,
            Self::Control(_) => ExitCode::Unsupported,
            Self::Bind { source, .. } => crate::error::io_exit_code(source),
        }
    }
}

/// How a file is to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Past the page cache, where file system and disk allow it. The kernel drops this silently.
    pub direct_io: bool,
    /// Logical blocks of 512 bytes, even if that rules direct I/O out because the disk has larger
    /// ones. Otherwise they are as large as direct I/O needs.
    pub sector_blocks: bool,
}

/// A bound loop device, open: it stays bound at least as long as this value lives.
#[derive(Debug)]
pub struct LoopDevice {
    node: LoopNode,
    number: u32,
    info: Status,
    block_size: u32,
    size: u64,
}

impl LoopDevice {
    fn new(node: LoopNode, number: u32) -> io::Result<Self> {
        let info = Status::parse(&node.status()?);
        let block_size = rustix::fs::ioctl_blksszget(&node)?;
        let size = rustix::fs::seek(&node, SeekFrom::End(0))?;
        Ok(Self {
            node,
            number,
            info,
            block_size,
            size,
        })
    }

    /// N of `/dev/loopN`.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The device number.
    pub fn dev(&self) -> io::Result<u64> {
        rustix::fs::fstat(&self.node)
            .map(|stat| stat.st_rdev)
            .map_err(io::Error::from)
    }

    /// Its length in bytes: the file's, cut off to a whole sector.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its logical block size in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whether reads really go past the page cache.
    pub fn direct_io(&self) -> bool {
        self.info.flags & DIRECT_IO != 0
    }

    /// Whether this device serves for `file` of `length` bytes as a new one would.
    fn serves(&self, file: FileId, length: u64, binding: Binding) -> bool {
        let info = &self.info;
        info.file == file
            && info.flags & (READ_ONLY | AUTOCLEAR) == READ_ONLY | AUTOCLEAR
            && (info.offset, info.size_limit) == (0, 0)
            && self.size == length / 512 * 512
            && !(binding.sector_blocks && self.block_size != 512)
    }
}

/// What is used of `struct loop_info64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status {
    file: FileId,
    offset: u64,
    size_limit: u64,
    flags: u32,
}

impl Status {
    fn parse(info: &[u8; LOOP_INFO_LEN]) -> Self {
        let word = |at| u64::from_ne_bytes(field(info, at));
        Self {
            file: FileId {
                dev: word(0),
                inode: word(8),
            },
            offset: word(INFO_OFFSET_AT),
            size_limit: word(INFO_SIZE_LIMIT_AT),
            flags: u32::from_ne_bytes(field(info, INFO_FLAGS_AT)),
        }
    }
}

/// The `N` bytes at a constant place within the record.
fn field<const N: usize>(info: &[u8; LOOP_INFO_LEN], at: usize) -> [u8; N] {
    std::array::from_fn(|i| info[at + i])
}

fn config(fd: u32, binding: Binding, name: &Path) -> [u8; LOOP_CONFIG_LEN] {
    let mut config = [0; LOOP_CONFIG_LEN];
    let mut set = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
    let direct_io = if binding.direct_io { DIRECT_IO } else { 0 };
    let block_size: u32 = if binding.sector_blocks { 512 } else { 0 };
    set(0, &fd.to_ne_bytes());
    set(4, &block_size.to_ne_bytes());
    let flags = READ_ONLY | AUTOCLEAR | direct_io;
    set(CONFIG_INFO_AT + INFO_FLAGS_AT, &flags.to_ne_bytes());
    // Only for people: what `losetup` shows when the file's path is not known any more.
    let name = name.as_os_str().as_bytes();
    set(
        CONFIG_INFO_AT + INFO_NAME_AT,
        &name[..name.len().min(INFO_NAME_MAX)],
    );
    config
}

/// The loop driver.
#[derive(Debug)]
pub struct Loops {
    control: LoopControl,
    /// Which devices there were for a file when it was first asked.
    known: OnceCell<BTreeMap<FileId, Vec<u32>>>,
}

impl Loops {
    /// Opens the control node, making it first where devtmpfs has not: opening it loads the module.
    pub fn open() -> Result<Self, Error> {
        let path = Path::new(CONTROL);
        let number = rustix::fs::makedev(MISC_MAJOR, LOOP_CONTROL_MINOR);
        let make = || node::make(path, FileType::CharacterDevice, number).is_ok();
        let control = LoopControl::open(path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound if make() => LoopControl::open(path),
            _ => Err(error),
        });
        Ok(Self {
            control: control.map_err(Error::Control)?,
            known: OnceCell::new(),
        })
    }

    /// A loop device for `file`, which was opened as `path`: one that is there already, or a new
    /// one.
    pub fn attach(&self, file: &File, path: &Path, binding: Binding) -> Result<LoopDevice, Error> {
        let examined = file.metadata().map_err(|source| Error::Bind {
            path: path.to_owned(),
            action: "examine",
            source,
        });
        let meta = examined?;
        let id = FileId {
            dev: meta.dev(),
            inode: meta.ino(),
        };
        let known = self.known.get_or_init(by_file);
        let mut numbers = known.get(&id).into_iter().flatten();
        // What was found then may be something else by now; once open, it stays what it is.
        let existing = numbers.find_map(|&number| {
            let device = open_bound(number)?;
            device.serves(id, meta.len(), binding).then_some(device)
        });
        match existing {
            Some(device) => Ok(device),
            None => self.bind(file, path, binding),
        }
    }

    /// A new loop device for `file`, which is called `path` where the system lists it.
    pub fn bind(&self, file: &File, path: &Path, binding: Binding) -> Result<LoopDevice, Error> {
        self.bind_to_free(file, path, binding)
            .map_err(|source| Error::Bind {
                path: path.to_owned(),
                action: "bind to a loop device",
                source,
            })
    }

    fn bind_to_free(&self, file: &File, path: &Path, binding: Binding) -> io::Result<LoopDevice> {
        let fd = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
        let config = config(fd, binding, path);
        for _ in 0..ATTEMPTS {
            let number = self.control.get_free()?;
            let node = open_node(number)?;
            match node.configure(&config) {
                Ok(()) => return LoopDevice::new(node, number),
                // Somebody else took it since; the next answer is another one.
                Err(e) if Errno::from_io_error(&e) == Some(Errno::BUSY) => std::thread::yield_now(),
                Err(e) => return Err(e),
            }
        }
        Err(Errno::BUSY.into())
    }
}

fn open_node(number: u32) -> io::Result<LoopNode> {
    let path = node_path(number);
    LoopNode::open(&path).or_else(|error| {
        let Some(dev) = sysfs::dev(number).filter(|_| error.kind() == io::ErrorKind::NotFound)
        else {
            return Err(error);
        };
        node::make(&path, FileType::BlockDevice, dev)?;
        LoopNode::open(&path)
    })
}

/// `/dev/loopN`.
pub fn node_path(number: u32) -> PathBuf {
    PathBuf::from(format!("/dev/loop{number}"))
}

/// Opens a loop device, if it is bound.
fn open_bound(number: u32) -> Option<LoopDevice> {
    let node = LoopNode::open(&node_path(number)).ok()?;
    // ENXIO: it is not bound.
    LoopDevice::new(node, number).ok()
}

/// The files that loop devices are bound to, as far as the devices may be opened.
pub fn backing_files() -> BTreeSet<FileId> {
    by_file().into_keys().collect()
}

/// The bound loop devices by their files.
fn by_file() -> BTreeMap<FileId, Vec<u32>> {
    let mut files: BTreeMap<FileId, Vec<u32>> = BTreeMap::new();
    for device in sysfs::bound().filter_map(open_bound) {
        let numbers = files.entry(device.info.file).or_default();
        numbers.push(device.number);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_has_the_kernels_layout() {
        let binding = Binding {
            direct_io: true,
            sector_blocks: true,
        };
        let long = PathBuf::from("/".repeat(100));
        let config = config(7, binding, &long);
        assert_eq!(config[0..4], 7u32.to_ne_bytes());
        assert_eq!(config[4..8], 512u32.to_ne_bytes());
        assert_eq!(config[60..64], (1u32 | 4 | 16).to_ne_bytes());
        assert_eq!(config[64..127], [b'/'; 63]);
        assert!(config[127..].iter().all(|&b| b == 0));
    }

    #[test]
    fn a_status_is_read_back() {
        let mut info = [0; LOOP_INFO_LEN];
        info[0..8].copy_from_slice(&0x801u64.to_ne_bytes());
        info[8..16].copy_from_slice(&42u64.to_ne_bytes());
        info[24..32].copy_from_slice(&4096u64.to_ne_bytes());
        info[52..56].copy_from_slice(&21u32.to_ne_bytes());
        let status = Status::parse(&info);
        assert_eq!(
            status.file,
            FileId {
                dev: 0x801,
                inode: 42
            }
        );
        assert_eq!(
            (status.offset, status.size_limit, status.flags),
            (4096, 0, 21)
        );
    }
}
