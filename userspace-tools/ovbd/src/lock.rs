// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One lock a host, so that processes do not get into each other's way.
//!
//! Setting up takes it shared, removing takes it exclusively: many `up`s run side by side, and no
//! `down` removes a layer between the moment in which an `up` found it and the moment in which it
//! stands on it. The kernel releases the lock when its holder dies.
//!
//! It only saves work. What is set up concurrently is kept right by device-mapper itself (names and
//! UUIDs are unique, open devices are not removed), for the lock does not reach into containers with
//! a `/run` of their own; and without a place for it, things go on without it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::{Error, Result};

/// The environment variable that names the folder for the lock.
pub const FOLDER_VARIABLE: &str = "OVBD_RUN";
const FOLDER: &str = "/run/ovbd";

/// The lock, held as long as this value lives.
#[derive(Debug)]
pub struct HostLock {
    _file: Option<File>,
}

impl HostLock {
    /// Waits until nobody removes anything.
    pub fn shared() -> Self {
        Self::take(FlockOperation::LockShared)
    }

    /// Waits until nobody sets up or removes anything.
    pub fn exclusive() -> Self {
        Self::take(FlockOperation::LockExclusive)
    }

    fn take(operation: FlockOperation) -> Self {
        let file = open(&folder()).ok();
        Self {
            _file: file.filter(|file| wait(file, operation).is_ok()),
        }
    }
}

fn wait(file: &File, operation: FlockOperation) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::fs::flock(file, operation))
}

fn folder() -> PathBuf {
    let named = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty());
    named.map_or_else(|| FOLDER.into(), PathBuf::from)
}

/// A folder beside the lock, for mounts that others do not see; made if need be.
pub fn folder_for(name: &str) -> Result<PathBuf> {
    let folder = folder();
    let path = folder.join(name);
    secure(&folder)
        .and_then(|()| make(&path))
        .map_err(|e| Error::io("make the folder", &path, e))?;
    Ok(path)
}

/// Opens the lock file in `folder`.
fn open(folder: &Path) -> io::Result<File> {
    secure(folder)?;
    let mut options = File::options();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600);
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32);
    options.open(folder.join("lock"))
}

fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// Makes sure that `folder` is there, and that only we can write to it.
fn secure(folder: &Path) -> io::Result<()> {
    make(folder)?;
    let meta = fs::symlink_metadata(folder)?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if !meta.is_dir() || !ours || meta.mode() & 0o022 != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn many_set_up_and_one_removes() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("run");
        let first = open(&folder).unwrap();
        let second = open(&folder).unwrap();
        wait(&first, FlockOperation::LockShared).unwrap();
        wait(&second, FlockOperation::LockShared).unwrap();
        let third = open(&folder).unwrap();
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        assert_eq!(wait(&third, exclusive), Err(rustix::io::Errno::WOULDBLOCK));
        drop((first, second));
        wait(&third, exclusive).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(
            open(folder.path()).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn a_link_is_not_followed() {
        let parent = tempfile::tempdir().unwrap();
        let link = parent.path().join("run");
        std::os::unix::fs::symlink(parent.path(), &link).unwrap();
        assert!(open(&link).is_err());
    }
}
