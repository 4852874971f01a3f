// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A writable view of an image: an overlayfs on top of its mount, at the same place.
//!
//! It is put together without a name anywhere, and moved into place when it is complete: what dies
//! in between leaves nothing. It is recognised by what it stands on, the image's mount, and goes
//! with it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen, move_mount,
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags,
};

use super::{covered, is_unknown, table, Error};
use crate::module;
use crate::output::shown;

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

/// Puts an overlay on top of the mount of device `dev` on `target`, unless it is there, or none is
/// wanted. `source` is what the list of mounts shows for it, `flags` are those of the image's mount.
///
/// # Errors
/// [`Error::Otherwise`] if there is one that is not wanted, or has its changes elsewhere.
pub fn mount(
    dev: u64,
    target: &Path,
    upper: Option<&Upper>,
    source: &str,
    flags: MountFlags,
) -> Result<(), Error> {
    let mounts = super::all()?;
    let image = mounts
        .iter()
        .rfind(|mount| mount.dev == dev && mount.target == target);
    let there = image.and_then(|image| on_top(&mounts, image));
    let upper = match (there, upper) {
        (Some(there), wanted) => return compare(there, wanted),
        (None, None) => return Ok(()),
        (None, Some(upper)) => upper,
    };
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
    attach(&overlay, &lower).map_err(failed("mount the overlay"))
}

/// Whether changes go where they should. A file system that is mounted nowhere shows as a root: its
/// folders are not to be confused with those of a folder that has a path.
fn compare(there: &table::Mount, wanted: Option<&Upper>) -> Result<(), Error> {
    let upper = there.fs_path("upperdir").unwrap_or_default();
    let in_memory = upper == Path::new("/").join(UPPER);
    let same = match wanted {
        None => false,
        Some(Upper::Memory) => in_memory,
        Some(Upper::Folder(folder)) => !in_memory && is_same(&folder.join(UPPER), &upper),
    };
    if same {
        return Ok(());
    }
    let wanted = match wanted {
        None => "read-only".to_owned(),
        Some(Upper::Memory) => "with changes to memory".to_owned(),
        Some(Upper::Folder(folder)) => format!("with changes to {}", folder.display()),
    };
    let parent = upper.parent().unwrap_or(&upper).display().to_string();
    Err(Error::Otherwise {
        target: there.target.clone(),
        found: match in_memory {
            true => "with changes to memory".to_owned(),
            false => format!("with changes to {}", shown::text(&parent)),
        },
        wanted,
    })
}

/// Whether both paths lead to the same folder.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    identity(one).is_some_and(|one| identity(other) == Some(one))
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
    let (upper, made) = subfolder(folder, UPPER)?;
    if made {
        take_after(&upper, lower)?;
    }
    let (work, _) = subfolder(folder, WORK)?;
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

/// Opens a folder in `folder`, and makes it first if it is not there: whether it did. Nobody else can
/// enter it then.
fn subfolder(folder: &impl AsFd, name: &str) -> rustix::io::Result<(OwnedFd, bool)> {
    let made = match rustix::fs::mkdirat(folder, name, Mode::RWXU) {
        Err(Errno::EXIST) => false,
        other => other.map(|()| true)?,
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(folder, name, flags, Mode::empty())?;
    Ok((opened, made))
}

/// Gives `upper` owner and mode of `lower`: it becomes the root that is seen.
fn take_after(upper: &OwnedFd, lower: &File) -> rustix::io::Result<()> {
    let root = rustix::fs::fstat(lower)?;
    let (user, group) = (Uid::from_raw(root.st_uid), Gid::from_raw(root.st_gid));
    rustix::fs::fchown(upper, Some(user), Some(group))?;
    rustix::fs::fchmod(upper, Mode::from_raw_mode(root.st_mode))
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
    use crate::error::ExitCode;

    #[test]
    fn an_overlay_is_recognised_by_what_it_stands_on() {
        let mount = |id, parent, fs_type: &str, target: &str| table::Mount {
            id,
            parent,
            dev: 0,
            target: target.into(),
            options: "ro".into(),
            source: PathBuf::new(),
            fs_type: fs_type.into(),
            fs_options: "rw".into(),
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
    fn changes_go_where_they_went() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(UPPER);
        fs::create_dir(&path).unwrap();
        let on = |upper: &Path| table::Mount {
            id: 4,
            parent: 2,
            dev: 0,
            target: "/mnt".into(),
            options: "rw".into(),
            source: PathBuf::new(),
            fs_type: FS_TYPE.into(),
            fs_options: format!("rw,upperdir={}", upper.display()),
        };
        let (kept, lost) = (on(&path), on(Path::new("/upper")));
        let here = Upper::Folder(folder.path().join("."));
        let elsewhere = Upper::Folder("/nowhere/at/all".into());
        compare(&kept, Some(&here)).unwrap();
        compare(&lost, Some(&Upper::Memory)).unwrap();
        for (there, wanted) in [
            (&kept, None),
            (&kept, Some(&Upper::Memory)),
            (&kept, Some(&elsewhere)),
            (&lost, None),
            (&lost, Some(&here)),
        ] {
            let refused = compare(there, wanted).unwrap_err();
            assert_eq!(refused.exit_code(), ExitCode::Busy, "{wanted:?}");
        }
        let error = compare(&lost, Some(&elsewhere)).unwrap_err().to_string();
        let expected = "/mnt: the image is mounted there with changes to memory, and not with \
                        changes to /nowhere/at/all: ";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn what_is_forbidden_below_is_forbidden_above() {
        let flags = attributes(MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NOEXEC);
        let expected = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        assert_eq!(flags, expected);
    }
}
