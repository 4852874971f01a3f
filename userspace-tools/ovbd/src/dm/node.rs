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
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{FileType, Mode, CWD};

use crate::image::atomic::with_free_name;
use crate::{Error, Result};

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
    match make_new(path, kind, dev) {
        // Another process was as fast; what it made is checked when it is opened.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn make_new(path: &Path, kind: FileType, dev: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(
        CWD,
        path,
        kind,
        Mode::RUSR | Mode::WUSR,
        dev,
    )?)
}

/// Opens the device-mapper device `dev` for reading. ENXIO: there is none (any more).
///
/// As long as the file is open, the device cannot be removed and its number is not given away.
pub fn open(dev: u64) -> io::Result<File> {
    let kernel = kernel_path(dev);
    let file = match File::open(&kernel) {
        Ok(file) => file,
        // No devtmpfs here; or there was such a device until now.
        Err(e) if e.kind() == io::ErrorKind::NotFound => open_unnamed(dev)?,
        Err(e) => return Err(e),
    };
    if file.metadata()?.rdev() == dev {
        Ok(file)
    } else {
        Err(rustix::io::Errno::NXIO.into())
    }
}

/// Opens a block device by a node that exists only for that moment.
fn open_unnamed(dev: u64) -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(format!("/dev/.ovbd-{}-{count}", std::process::id()));
    make(&path, FileType::BlockDevice, dev)?;
    let file = File::open(&path);
    remove_file(&path)?;
    file
}

/// Makes sure that `/dev/mapper/NAME` leads to `dev`, replacing what is left of an older device.
pub fn ensure(name: &str, dev: u64) -> Result<PathBuf> {
    let path = mapper_path(name);
    if leads_to(&path, dev) {
        return Ok(path);
    }
    fs::create_dir_all(MAPPER).map_err(|e| Error::io("make the folder", MAPPER, e))?;
    let kernel = kernel_path(dev);
    let make = |at: &Path| match leads_to(&kernel, dev) {
        true => symlink(format!("../dm-{}", rustix::fs::minor(dev)), at),
        false => make_new(at, FileType::BlockDevice, dev),
    };
    match make(&path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("make", &path, e))?,
        // Unless another process was as fast.
        Err(_) if !leads_to(&path, dev) => replace(&path, make)?,
        _ => {}
    }
    Ok(path)
}

/// Puts what `make` makes in the place of `path`, in one step: another process that has found a node
/// there, or made one, may be about to open it.
fn replace(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<()> {
    let (new, ()) = with_free_name(path, make)?;
    fs::rename(&new, path).map_err(|e| {
        // The error that counts is the other one.
        let _ = fs::remove_file(&new);
        Error::io("replace", path, e)
    })
}

/// Removes `/dev/mapper/NAME`, which leads to nothing or, worse, to the device that has the number
/// now: call this if there is no device of that name any more. What is no link and no block device
/// stays.
pub fn forget(name: &str) {
    let path = mapper_path(name);
    let kind = fs::symlink_metadata(&path).map(|meta| meta.file_type());
    if kind.is_ok_and(|kind| kind.is_symlink() || kind.is_block_device()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Several processes that set an image up at once each make its link.
    #[test]
    fn what_is_replaced_is_always_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web");
        let link = || replace(&path, |new| symlink("../dm-0", new)).unwrap();
        link();
        thread::scope(|scope| {
            let links = || (0..1000).for_each(|_| link());
            let replacing = [scope.spawn(links), scope.spawn(links)];
            while replacing.iter().any(|thread| !thread.is_finished()) {
                assert_eq!(fs::read_link(&path).unwrap(), Path::new("../dm-0"));
            }
        });
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_replaced_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web");
        fs::create_dir(&path).unwrap();
        let error = replace(&path, |new| symlink("../dm-0", new)).unwrap_err();
        assert!(error.to_string().contains("web: cannot replace"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
