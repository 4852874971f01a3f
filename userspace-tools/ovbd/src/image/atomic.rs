// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Output files that appear complete or not at all.
//!
//! The content goes into a file without a name (`O_TMPFILE`) on the file system of its target, is
//! synced, and gets its name in one step at the end. A run that fails, is interrupted or loses
//! power leaves nothing behind, and nobody ever sees half a layer. On file systems without
//! `O_TMPFILE` a hidden file with a name, `.NAME.PID-N.part`, takes its place; that one can
//! survive a `kill -9`, as can the hidden name through which a complete file replaces another.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{fchown, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, RenameFlags, CWD};

use super::error::ImageError;
use crate::{Error, Result};

/// How often a hidden name that is taken is replaced by the next one before giving up.
const NAME_ATTEMPTS: u32 = 64;

/// A file that is being written and has no name yet. Dropping it discards it.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    target: PathBuf,
    replace: bool,
    /// The hidden name of a file that has one.
    hidden: Option<PathBuf>,
}

impl AtomicFile {
    /// Starts a file that [`commit`](Self::commit) will name `target`. One that it replaces leaves it
    /// its mode and owner.
    ///
    /// # Errors
    /// A `target` that exists is refused unless `replace` is set, here and, without a race, again
    /// in `commit`. Anything but a regular file is never replaced.
    pub fn create(target: PathBuf, replace: bool) -> Result<Self> {
        let replaced = refuse_existing(&target, replace)?;
        let output = match unnamed_beside(&target)? {
            Some(file) => Self {
                file,
                target,
                replace,
                hidden: None,
            },
            None => Self::create_hidden(target, replace)?,
        };
        if let Some(replaced) = replaced {
            output.take_after(&replaced)?;
        }
        Ok(output)
    }

    /// Who could not read what was there must not read what is in its place.
    fn take_after(&self, replaced: &Metadata) -> Result<()> {
        // Only root can give files away. Whatever else replaces a file has it from then on.
        let _ = fchown(&self.file, Some(replaced.uid()), Some(replaced.gid()));
        let mode = Permissions::from_mode(replaced.mode() & 0o777);
        let set = self.file.set_permissions(mode);
        set.map_err(|e| Error::io("set the mode of what replaces", &self.target, e))
    }

    fn create_hidden(target: PathBuf, replace: bool) -> Result<Self> {
        let (hidden, file) = with_free_name(&target, create_new)?;
        Ok(Self {
            file,
            target,
            replace,
            hidden: Some(hidden),
        })
    }

    /// The file to write to, open for reading too.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The name that the file will get.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs the content, gives the file its name and syncs the folder.
    pub fn commit(mut self) -> Result<()> {
        self.file
            .sync_all()
            .map_err(|e| Error::io("sync", &self.target, e))?;
        match self.hidden.take() {
            Some(hidden) => self.rename(&hidden),
            None if self.replace => {
                // A link never replaces, a rename does: take a hidden name in between.
                let (hidden, ()) = with_free_name(&self.target, |name| self.link(name))?;
                self.rename(&hidden)
            }
            None => self
                .link(&self.target)
                .map_err(|e| self.naming_error("name", e)),
        }?;
        File::open(directory_of(&self.target))
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::io("sync the folder of", &self.target, e))
    }

    fn link(&self, name: &Path) -> io::Result<()> {
        let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        Ok(rustix::fs::linkat(
            CWD,
            unnamed,
            CWD,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )?)
    }

    /// Moves the hidden name to the target, or removes it.
    fn rename(&self, hidden: &Path) -> Result<()> {
        let flags = if self.replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        rustix::fs::renameat_with(CWD, hidden, CWD, &self.target, flags).map_err(|e| {
            let _ = fs::remove_file(hidden);
            self.naming_error("name", e.into())
        })
    }

    fn naming_error(&self, action: &'static str, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::AlreadyExists {
            ImageError::Exists(self.target.clone()).into()
        } else {
            Error::io(action, &self.target, error)
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(hidden) = self.hidden.take() {
            // Best effort: there is nobody left to tell.
            let _ = fs::remove_file(hidden);
        }
    }
}

/// Writes the file `target`, complete or not at all.
///
/// # Errors
/// As [`AtomicFile::create`].
pub fn write(target: &Path, replace: bool, content: &[u8]) -> Result<()> {
    let output = AtomicFile::create(target.to_owned(), replace)?;
    let written = output.file().write_all(content);
    written.map_err(|e| Error::io("write", target, e))?;
    output.commit()
}

/// A file for temporary content, without a name, on the file system that `near` is on.
pub fn scratch_file(near: &Path) -> Result<File> {
    if let Some(file) = unnamed_beside(near)? {
        return Ok(file);
    }
    let (hidden, file) = with_free_name(near, create_new)?;
    fs::remove_file(&hidden).map_err(|e| Error::io("remove", hidden, e))?;
    Ok(file)
}

/// A file without a name in the folder of `path`; `None` if the file system knows none.
fn unnamed_beside(path: &Path) -> Result<Option<File>> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .open(directory_of(path));
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(e) if lacks_tmpfile(&e) => Ok(None),
        Err(e) => Err(Error::io("create a file in the folder of", path, e)),
    }
}

fn create_new(name: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(name)
}

/// What is there and may be replaced.
fn refuse_existing(target: &Path, replace: bool) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("examine", target, e)),
        Ok(found) if replace && found.is_file() => Ok(Some(found)),
        Ok(found) if replace => Err(ImageError::NotReplaceable {
            path: target.to_owned(),
            what: if found.is_dir() {
                "a folder"
            } else if found.is_symlink() {
                "a symbolic link"
            } else {
                "a device, a pipe or a socket"
            },
        }
        .into()),
        Ok(_) => Err(ImageError::Exists(target.to_owned()).into()),
    }
}

/// Errors with which file systems and kernels say that they do not know `O_TMPFILE`.
fn lacks_tmpfile(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
    )
}

/// Calls `make` with hidden names beside `target` until one is free.
pub(crate) fn with_free_name<T>(
    target: &Path,
    make: impl Fn(&Path) -> io::Result<T>,
) -> Result<(PathBuf, T)> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    for attempt in 0..NAME_ATTEMPTS {
        let hidden = directory_of(target).join(format!(
            ".{name}.{pid}-{attempt}.part",
            pid = std::process::id()
        ));
        match make(&hidden) {
            Ok(made) => return Ok((hidden, made)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(Error::io("create", hidden, e)),
        }
    }
    Err(Error::io(
        "find a free temporary name beside",
        target,
        io::ErrorKind::AlreadyExists.into(),
    ))
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Both ways to make a file behave the same.
    fn both(check: impl Fn(fn(PathBuf, bool) -> Result<AtomicFile>)) {
        check(AtomicFile::create);
        check(|target, replace| {
            refuse_existing(&target, replace)?;
            AtomicFile::create_hidden(target, replace)
        });
    }

    #[test]
    fn a_file_appears_at_commit() {
        both(|create| {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("out");
            let output = create(target.clone(), false).unwrap();
            output.file().write_all(b"content").unwrap();
            assert!(!target.exists());
            output.commit().unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"content");
            assert_eq!(names(folder.path()), ["out"]);
        });
    }

    #[test]
    fn a_dropped_file_leaves_nothing() {
        both(|create| {
            let folder = tempfile::tempdir().unwrap();
            drop(create(folder.path().join("out"), false).unwrap());
            assert!(names(folder.path()).is_empty());
        });
    }

    #[test]
    fn what_exists_stays_without_replace() {
        both(|create| {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("out");
            let late = create(target.clone(), false).unwrap();
            fs::write(&target, b"old").unwrap();
            assert!(
                matches!(late.commit(), Err(Error::Image(ImageError::Exists(p))) if p == target)
            );
            assert!(matches!(
                create(target.clone(), false),
                Err(Error::Image(ImageError::Exists(_)))
            ));
            assert_eq!(fs::read(&target).unwrap(), b"old");
            assert_eq!(names(folder.path()), ["out"]);
        });
    }

    #[test]
    fn replace_replaces_regular_files_only() {
        both(|create| {
            let folder = tempfile::tempdir().unwrap();
            let target = folder.path().join("out");
            fs::write(&target, b"old").unwrap();
            let output = create(target.clone(), true).unwrap();
            output.file().write_all(b"new").unwrap();
            output.commit().unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"new");
            assert_eq!(names(folder.path()), ["out"]);
            assert!(matches!(
                create(PathBuf::from("/dev/null"), true),
                Err(Error::Image(ImageError::NotReplaceable { .. }))
            ));
        });
    }

    #[test]
    fn what_replaces_a_file_is_no_more_open_than_that() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        for mode in [0o600, 0o640, 0o755] {
            fs::write(&target, b"old").unwrap();
            fs::set_permissions(&target, Permissions::from_mode(mode)).unwrap();
            let before = fs::metadata(&target).unwrap();
            write(&target, true, b"new").unwrap();
            let after = fs::metadata(&target).unwrap();
            assert_eq!(fs::read(&target).unwrap(), b"new");
            assert_eq!(after.mode(), before.mode());
            assert_eq!((after.uid(), after.gid()), (before.uid(), before.gid()));
        }
    }

    /// Only root has files of others.
    #[test]
    fn what_root_replaces_stays_its_owners() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out");
        fs::write(&target, b"old").unwrap();
        std::os::unix::fs::chown(&target, Some(65534), Some(65533)).unwrap();
        write(&target, true, b"new").unwrap();
        let after = fs::metadata(&target).unwrap();
        assert_eq!((after.uid(), after.gid()), (65534, 65533));
    }
}
