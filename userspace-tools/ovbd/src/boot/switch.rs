// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! From the initramfs to the root.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::mount::UnmountFlags;

use super::BootError;
use crate::{Error, Result};

/// File systems of the kernel's that go along.
const MOVED: [&str; 3] = ["dev", "proc", "sys"];

/// Makes the file system that is mounted on `root` the root, and empties the initramfs, which is
/// memory.
pub(super) fn to(root: &Path) -> Result<()> {
    for name in MOVED {
        move_along(name, root)?;
    }
    let initramfs = Path::new("/");
    empty(initramfs);
    std::env::set_current_dir(root).map_err(|e| Error::io("enter", root, e))?;
    rustix::mount::mount_move(".", "/")
        .map_err(io::Error::from)
        .and_then(|()| std::os::unix::fs::chroot("."))
        .and_then(|()| std::env::set_current_dir("/"))
        .map_err(|e| Error::io("make the root", root, e))
}

/// Moves a mount of the initramfs to the same place in the root. Without such a folder there, and
/// without a way to make one, it is not needed.
fn move_along(name: &str, root: &Path) -> Result<()> {
    let (from, to) = (Path::new("/").join(name), root.join(name));
    let moved = match fs::create_dir(&to) {
        Ok(()) => true,
        Err(_) => to.is_dir(),
    };
    let result = match moved {
        true => rustix::mount::mount_move(&from, &to),
        false => rustix::mount::unmount(&from, UnmountFlags::DETACH),
    };
    result.map_err(|e| Error::io("move to the root", from, e.into()))
}

/// Removes all files of the file system that `folder` is on. What cannot be removed is memory that
/// is not given back, no more.
fn empty(folder: &Path) {
    let Ok(dev) = fs::symlink_metadata(folder).map(|meta| meta.dev()) else {
        return;
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.dev() != dev {
            continue;
        }
        if meta.is_dir() {
            empty(&path);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}

/// Goes on as the first of `programs` that there is.
pub(super) fn run(programs: &[&str], arguments: &[OsString]) -> Result<Infallible> {
    for program in programs {
        let error = Command::new(program).args(arguments).exec();
        if error.kind() != io::ErrorKind::NotFound {
            return Err(Error::io("run", program, error));
        }
    }
    Err(BootError::NoProgram(programs.join(", ")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/c"), "").unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("link")).unwrap();
        empty(folder.path());
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_program_that_is_not_there() {
        let error = run(&["/nowhere/init", "/nowhere/sh"], &[]).unwrap_err();
        assert!(
            error.to_string().ends_with("/nowhere/init, /nowhere/sh"),
            "{error}"
        );
    }
}
