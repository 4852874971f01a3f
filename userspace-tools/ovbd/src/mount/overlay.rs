// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A writable view of an image: an overlayfs on top of its mount, at the same place.
//!
//! It is put together without a name anywhere, and moved into place when it is complete: what dies
//! in between leaves nothing. It is recognised by what it stands on, the image's mount, and goes
//! with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen, move_mount,
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags,
};

use super::{covered, is_unknown, table, Error};
use crate::module;

const UPPER: &str = "upper";
const WORK: &str = "work";
const FS_TYPE: &str = "overlay";

/// How often to try if the folder for changes is in use, and how long to wait in between: the
/// kernel writes a line to its log each time.
const ATTEMPTS: u32 = 10;
const INTERVAL: Duration = Duration::from_millis(100);

/// Where changes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upper {
    /// To memory: they are gone when the image is unmounted.
    Memory,
    /// Into a folder, where they stay.
    Folder(PathBuf),
}

/// The overlay on top of a mount, if there is one.
pub(super) fn on_top<'a>(
    mounts: &'a [table::Mount],
    of: &table::Mount,
) -> Option<&'a table::Mount> {
    let is_on_top = |mount: &&table::Mount| mount.parent == of.id && mount.target == of.target;
    mounts
        .iter()
        .find(|mount| mount.fs_type == FS_TYPE && is_on_top(mount))
}

/// Puts an overlay on top of the mount of device `dev` on `target`; false if there is one. `source`
/// is what the list of mounts shows for it, `flags` are those of the image's mount.
pub fn mount(
    dev: u64,
    target: &Path,
    upper: &Upper,
    source: &str,
    flags: MountFlags,
) -> Result<bool, Error> {
    let mounts = super::all()?;
    let image = mounts
        .iter()
        .rfind(|mount| mount.dev == dev && mount.target == target);
    if image.is_some_and(|image| on_top(&mounts, image).is_some()) {
        return Ok(false);
    }
    let failed = |action| {
        move |source| Error::Overlay {
            target: target.to_owned(),
            action,
            source,
        }
    };
    let lower = File::open(target).map_err(failed("open the image's folder"))?;
    let seen = table::of_file(&lower).map_err(failed("examine the image's folder"))?;
    if image.is_none_or(|image| image.id != seen) {
        return Err(covered(&mounts, target, seen));
    }
    let put = failed("put a writable overlay on the image");
    let overlay = match upper {
        Upper::Memory => {
            let memory = memory().map_err(failed("make a file system in memory"))?;
            compose(&lower, &memory, source, flags, false).map_err(put)?
        }
        Upper::Folder(folder) => {
            fs::create_dir_all(folder).map_err(failed("make the folder for changes"))?;
            let opened = File::open(folder).map_err(failed("open the folder for changes"))?;
            let overlay = alone(|| compose(&lower, &opened, source, flags, true));
            overlay.map_err(|error| match Errno::from_io_error(&error) {
                Some(Errno::BUSY) => Error::UpperInUse(folder.clone()),
                Some(Errno::STALE) => Error::UpperOfAnother(folder.clone()),
                _ => put(error),
            })?
        }
    };
    attach(&overlay, &lower).map_err(failed("mount the overlay"))?;
    Ok(true)
}

/// A file system in memory that is mounted nowhere.
fn memory() -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "mode", "0700")?;
    detached(&context, MountAttrFlags::empty())
}

fn detached(context: &OwnedFd, flags: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(context)?;
    Ok(fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}

/// Tries again while changes go to the same place from elsewhere: the kernel lets go of what was
/// unmounted, or whose namespace ended, a moment later.
fn alone(compose: impl Fn() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    for _ in 1..ATTEMPTS {
        match compose() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                thread::sleep(INTERVAL);
            }
            done => return done,
        }
    }
    compose()
}

/// An overlay on `lower` with its changes in `folder`. If that is `kept`, there can have been other
/// overlays on it before, or there are: EBUSY. ESTALE: it has changes to something else.
fn compose(
    lower: &File,
    folder: &impl AsFd,
    source: &str,
    flags: MountFlags,
    kept: bool,
) -> io::Result<OwnedFd> {
    let upper = subfolder(folder, UPPER, Mode::from_raw_mode(0o755))?;
    let work = subfolder(folder, WORK, Mode::RWXU)?;
    let open = || fsopen(FS_TYPE, FsOpenFlags::FSOPEN_CLOEXEC);
    let context = module::needing(FS_TYPE, is_unknown, open)?;
    fsconfig_set_string(&context, "source", source)?;
    // Descriptors: in paths, commas and colons would have to be escaped.
    fsconfig_set_fd(&context, "lowerdir+", lower)?;
    fsconfig_set_fd(&context, "upperdir", &upper)?;
    fsconfig_set_fd(&context, "workdir", &work)?;
    if kept {
        // Without it, the kernel only warns of what else writes there. It looks at that before it
        // finds out that a file system has no file handles to make an index of, and does without.
        fsconfig_set_string(&context, "index", "on")?;
    }
    detached(&context, attributes(flags))
}

fn subfolder(folder: &impl AsFd, name: &str, mode: Mode) -> rustix::io::Result<OwnedFd> {
    match rustix::fs::mkdirat(folder, name, mode) {
        Err(error) if error != Errno::EXIST => return Err(error),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, Mode::empty())
}

fn attach(overlay: &OwnedFd, target: &File) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(overlay.as_fd(), "", target.as_fd(), "", flags)?)
}

/// What holds for the image has to hold for its overlay, but that it is read-only.
fn attributes(flags: MountFlags) -> MountAttrFlags {
    let pairs = [
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
        (
            MountFlags::NODIRATIME,
            MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        ),
    ];
    let set = pairs.into_iter().filter(|(flag, _)| flags.contains(*flag));
    set.fold(MountAttrFlags::empty(), |all, (_, attribute)| {
        all | attribute
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_is_recognised_by_what_it_stands_on() {
        let mount = |id, parent, fs_type: &str, target: &str| table::Mount {
            id,
            parent,
            dev: 0,
            target: target.into(),
            source: PathBuf::new(),
            fs_type: fs_type.into(),
        };
        let mounts = [
            mount(1, 0, "ext4", "/"),
            mount(2, 1, "ext4", "/mnt"),
            mount(3, 2, "overlay", "/mnt/x"),
            mount(4, 2, "overlay", "/mnt"),
        ];
        assert_eq!(on_top(&mounts, &mounts[1]), Some(&mounts[3]));
        assert_eq!(on_top(&mounts, &mounts[0]), None);
        assert_eq!(on_top(&mounts[..3], &mounts[1]), None);
    }

    #[test]
    fn what_is_forbidden_below_is_forbidden_above() {
        let flags = attributes(MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC);
        let expected = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        assert_eq!(flags, expected);
    }
}
