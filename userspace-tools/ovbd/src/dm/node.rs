// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Nodes: how a device number becomes something that can be opened.
//!
//! Tables name devices by number, so nodes matter only for opening and for people. devtmpfs makes
//! `/dev/dm-N`; udev adds the link `/dev/mapper/NAME`. Where udev does not run, or has no rules for
//! device-mapper, that link is made and removed here. A node is never trusted for its name: it is
//! used only if its device number is the right one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{symlink, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, CWD};

const MAPPER: &str = "/dev/mapper";

/// `/dev/mapper/NAME`.
pub fn mapper_path(name: &str) -> PathBuf {
    Path::new(MAPPER).join(name)
}

/// The node that devtmpfs makes, as a link in `/dev/mapper` refers to it.
fn kernel_path(dev: u64) -> PathBuf {
    PathBuf::from(format!("/dev/dm-{}", rustix::fs::minor(dev)))
}

/// Whether `path` leads to the block device `dev`.
pub fn leads_to(path: &Path, dev: u64) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.file_type().is_block_device() && meta.rdev() == dev)
}

/// Makes a device node that only root can use, and its folder.
pub fn make(path: &Path, kind: FileType, dev: u64) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let result = rustix::fs::mknodat(CWD, path, kind, Mode::RUSR | Mode::WUSR, dev);
    match result {
        // Another process was as fast; what it made is checked when it is opened.
        Err(rustix::io::Errno::EXIST) => Ok(()),
        other => Ok(other?),
    }
}

/// Opens the device-mapper device `dev`, known as `name`, for reading.
///
/// As long as the file is open, the device cannot be removed and its number is not given away.
pub fn open(name: &str, dev: u64) -> io::Result<File> {
    let (kernel, mapper) = (kernel_path(dev), mapper_path(name));
    let path = if leads_to(&kernel, dev) {
        kernel
    } else {
        ensure(name, dev)?;
        mapper
    };
    let file = File::open(path)?;
    if file.metadata()?.rdev() == dev {
        Ok(file)
    } else {
        // It was replaced in between: the device that was meant is gone.
        Err(rustix::io::Errno::NXIO.into())
    }
}

/// Makes sure that `/dev/mapper/NAME` leads to `dev`, replacing what is left of an older device.
pub fn ensure(name: &str, dev: u64) -> io::Result<PathBuf> {
    let path = mapper_path(name);
    if leads_to(&path, dev) {
        return Ok(path);
    }
    remove_file(&path)?;
    let kernel = kernel_path(dev);
    if leads_to(&kernel, dev) {
        fs::create_dir_all(MAPPER)?;
        let target = format!("../dm-{}", rustix::fs::minor(dev));
        match symlink(target, &path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    } else {
        make(&path, FileType::BlockDevice, dev)?;
    }
    Ok(path)
}

/// Removes `/dev/mapper/NAME` after `dev`, the device of that name, was removed: a link to nothing,
/// or a node with its number.
///
/// A live device's node stays: a new device may have taken the name.
pub fn forget(name: &str, dev: u64) {
    let path = mapper_path(name);
    let stale = match fs::symlink_metadata(&path) {
        Ok(meta) if meta.file_type().is_symlink() => !path.exists(),
        Ok(meta) => meta.file_type().is_block_device() && meta.rdev() == dev,
        Err(_) => false,
    };
    if stale {
        // What cannot be removed is replaced when the name is used again.
        let _ = remove_file(&path);
    }
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
