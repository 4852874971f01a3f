// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Mounting devices, read-only, and unmounting them wherever they are.

mod error;
pub mod overlay;
pub mod probe;
pub mod table;

use std::ffi::CString;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use crate::module;
use crate::output::shown;
use probe::FileSystem;

pub use error::Error;

/// How to mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The file system's type; probed if not given.
    pub fs_type: Option<String>,
    /// Comma-separated options in addition to those that the device needs.
    pub options: Option<String>,
}

/// How something was mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The type.
    pub fs_type: String,
    /// The options.
    pub options: String,
    /// Those of them that are flags.
    pub flags: MountFlags,
    /// The folder, without links and dots.
    pub target: PathBuf,
    /// What the user should know about it.
    pub note: Option<String>,
    /// It was mounted there before.
    pub already: bool,
}

/// The options of mount(8) that are flags of the system call.
const FLAGS: [(&str, MountFlags); 7] = [
    ("ro", MountFlags::RDONLY),
    ("nosuid", MountFlags::NOSUID),
    ("nodev", MountFlags::NODEV),
    ("noexec", MountFlags::NOEXEC),
    ("noatime", MountFlags::NOATIME),
    ("nodiratime", MountFlags::NODIRATIME),
    ("relatime", MountFlags::RELATIME),
];

/// Divides options into flags and what the file system gets to see.
fn split(options: &str) -> Result<(MountFlags, String), Error> {
    if words(options).any(|option| option == "rw") {
        return Err(Error::Option("rw".into(), "images are read-only"));
    }
    let data: Vec<&str> = words(options).filter(|word| flag(word).is_none()).collect();
    Ok((flags_of(options), data.join(",")))
}

fn words(options: &str) -> impl Iterator<Item = &str> {
    options.split(',').filter(|option| !option.is_empty())
}

fn flag(option: &str) -> Option<MountFlags> {
    let known = FLAGS.iter().find(|(name, _)| *name == option);
    known.map(|(_, flag)| *flag)
}

fn flags_of(options: &str) -> MountFlags {
    words(options)
        .filter_map(flag)
        .fold(MountFlags::RDONLY, |all, flag| all | flag)
}

/// How a device is to be mounted.
#[derive(Debug)]
struct Chosen {
    fs_type: String,
    options: String,
    note: Option<String>,
}

/// Type, options and a remark for mounting `device`, which is open as `file`.
fn choose(device: &Path, file: &File, wanted: &Options) -> Result<Chosen, Error> {
    let read = |source| Error::Read {
        path: device.to_owned(),
        source,
    };
    let found = FileSystem::probe(file).map_err(read)?;
    let named = |found: &FileSystem| wanted.fs_type.as_deref().is_none_or(|t| t == found.name());
    let found = found.filter(named);
    let fs_type = match (&wanted.fs_type, found) {
        (Some(fs_type), _) => fs_type.clone(),
        (None, Some(found)) => found.name().to_owned(),
        (None, None) => return Err(Error::Unknown(device.to_owned())),
    };
    let needs = found.and_then(FileSystem::needs);
    let options = ["ro"].into_iter().chain(needs.map(|(options, _)| options));
    let options: Vec<&str> = options.chain(wanted.options.as_deref()).collect();
    let options = options.join(",");
    let note = needs.map(|(_, why)| format!("{fs_type} is mounted {options}: {why}"));
    Ok(Chosen {
        fs_type,
        options,
        note,
    })
}

/// Whether there is a folder to mount on, and options that an image can be mounted with.
pub fn check(target: &Path, wanted: &Options) -> Result<(), Error> {
    folder(target)?;
    split(wanted.options.as_deref().unwrap_or_default()).map(drop)
}

/// The folder `target`, without links and dots.
fn folder(target: &Path) -> Result<PathBuf, Error> {
    let folder = target.canonicalize().ok().filter(|path| path.is_dir());
    folder.ok_or_else(|| Error::NoFolder(target.to_owned()))
}

/// Mounts the device `dev`, which is open as `file` and has the path `device`, on `target`.
///
/// If it is mounted there already, nothing happens.
///
/// # Errors
/// [`Error::Otherwise`] if it is, but not as it should be.
pub fn mount(
    device: &Path,
    file: &File,
    dev: u64,
    target: &Path,
    wanted: &Options,
) -> Result<Mounted, Error> {
    let target = folder(target)?;
    let there = mounts_of(dev)?;
    if let Some(mount) = there.iter().rfind(|mount| mount.target == target) {
        return found(mount, wanted);
    }
    let Chosen {
        fs_type,
        options,
        note,
    } = choose(device, file, wanted)?;
    let (flags, data) = split(&options)?;
    let nul = "an option cannot contain a NUL byte";
    let data = CString::new(data).map_err(|_| Error::Option(options.clone(), nul))?;
    let result = module::needing(&fs_type, is_unknown, || {
        rustix::mount::mount(device, &target, fs_type.as_str(), flags, &*data)
    });
    result.map_err(|errno| Error::Mount {
        device: device.to_owned(),
        target: target.clone(),
        fs_type: fs_type.clone(),
        options: options.clone(),
        source: errno.into(),
    })?;
    Ok(Mounted {
        fs_type,
        options,
        flags,
        target,
        note,
        already: false,
    })
}

/// What is mounted already, as it is, if that is as `wanted` as one can see: file systems do not
/// show all of their options, or by other names.
fn found(mount: &table::Mount, wanted: &Options) -> Result<Mounted, Error> {
    let (flags, asked) = (
        flags_of(&mount.options),
        wanted.options.as_deref().unwrap_or_default(),
    );
    let (wanted_flags, data) = split(asked)?;
    let fs_type = wanted.fs_type.as_ref().unwrap_or(&mount.fs_type);
    let compared = MountFlags::NOSUID
        | MountFlags::NODEV
        | MountFlags::NOEXEC
        | MountFlags::NOATIME
        | MountFlags::NODIRATIME;
    if flags & compared != wanted_flags & compared || *fs_type != mount.fs_type {
        let options = words("ro")
            .chain(words(asked))
            .collect::<Vec<_>>()
            .join(",");
        return Err(Error::Otherwise {
            target: mount.target.clone(),
            found: format!("as {} ({})", mount.fs_type, mount.options),
            wanted: format!("as {fs_type} ({options})"),
        });
    }
    let options = mount.all_options();
    let unseen = words(&data).any(|word| !words(&options).any(|option| option == word));
    let note = unseen.then(|| {
        let target = mount.target.display();
        format!("{target} was mounted before, and does not show whether with {data}")
    });
    Ok(Mounted {
        fs_type: mount.fs_type.clone(),
        options,
        flags,
        target: mount.target.clone(),
        note,
        already: true,
    })
}

/// The kernel's answer to a file system that it does not know.
fn is_unknown(error: &Errno) -> bool {
    *error == Errno::NODEV
}

/// All mounts that this process sees.
fn all() -> Result<Vec<table::Mount>, Error> {
    table::own().map_err(|source| {
        let path = "/proc/self/mountinfo".into();
        Error::Read { path, source }
    })
}

/// The mounts of device `dev` that this process sees.
pub fn mounts_of(dev: u64) -> Result<Vec<table::Mount>, Error> {
    let mut mounts = all()?;
    mounts.retain(|mount| mount.dev == dev);
    Ok(mounts)
}

/// Unmounts device `dev` wherever this process sees it, with the writable overlays on top; returns
/// from where.
///
/// With `lazy`, what is busy is only detached: it disappears when its last user goes. What lies under
/// another mount then stays.
pub fn unmount_all(dev: u64, lazy: bool) -> Result<Vec<PathBuf>, Error> {
    let mounts = all()?;
    let mut unmounted = Vec::new();
    // The newest first: one may lie on top of another.
    for mount in mounts.iter().rev().filter(|mount| mount.dev == dev) {
        let overlay = overlay::on_top(&mounts, mount);
        let uncovered = overlay.map_or(Ok(true), |overlay| unmount(overlay, lazy));
        match uncovered.and_then(|_| unmount(mount, lazy)) {
            Err(Error::Covered { .. }) if lazy => {}
            done => unmounted.extend(done?.then(|| mount.target.clone())),
        }
    }
    Ok(unmounted)
}

/// Unmounts device `dev` from `target`; false if it is not mounted there.
pub fn unmount_from(dev: u64, target: &Path) -> Result<bool, Error> {
    let mounts = mounts_of(dev)?;
    let mount = mounts.iter().rfind(|mount| mount.target == target);
    mount.map_or(Ok(false), |mount| unmount(mount, false))
}

/// Unmounts `mount`; false if somebody else has done so since.
///
/// # Errors
/// [`Error::Covered`] if it is not on top: the kernel would unmount what is.
fn unmount(mount: &table::Mount, lazy: bool) -> Result<bool, Error> {
    let target = &mount.target;
    let failed = |source| Error::Unmount {
        target: target.clone(),
        source,
    };
    let seen = table::seen_at(target).map_err(failed)?;
    if seen != mount.id {
        let now = all()?;
        return match now.iter().any(|other| other.is(mount)) {
            true => Err(covered(&now, target, seen)),
            false => Ok(false),
        };
    }
    let lazy = if lazy {
        UnmountFlags::DETACH
    } else {
        UnmountFlags::empty()
    };
    match rustix::mount::unmount(target, lazy | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::INVAL) => Ok(false),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// The mount with the number `seen` is on top at `target`, and should not be.
fn covered(mounts: &[table::Mount], target: &Path, seen: u64) -> Error {
    let by = mounts.iter().find(|mount| mount.id == seen);
    let name = |mount: &table::Mount| {
        let source = mount.source.display().to_string();
        format!("{} ({})", shown::text(&source), mount.fs_type)
    };
    Error::Covered {
        target: target.to_owned(),
        by: by.map_or_else(|| "something else".to_owned(), name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;
    use std::fs;

    #[test]
    fn options_are_flags_or_data() {
        let (flags, data) = split("ro,nosuid,noload,,nodev,errors=continue").unwrap();
        assert_eq!(
            flags,
            MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV
        );
        assert_eq!(data, "noload,errors=continue");
        assert_eq!(split("").unwrap(), (MountFlags::RDONLY, String::new()));
        assert_eq!(
            flags_of("ro,relatime"),
            MountFlags::RDONLY | MountFlags::RELATIME
        );
        assert_eq!(split("rw").unwrap_err().exit_code(), ExitCode::Usage);
    }

    fn device(magic_at: usize, magic: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut content = vec![0; 4096];
        content[magic_at..magic_at + magic.len()].copy_from_slice(magic);
        fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn an_unclean_ext4_is_not_replayed() {
        let image = device(1080, &[0x53, 0xef]);
        let choice = |options: &Options| choose(Path::new("/dev/x"), image.as_file(), options);
        assert_eq!(choice(&Options::default()).unwrap().options, "ro");
        let mut content = fs::read(image.path()).unwrap();
        content[1120] = 4;
        fs::write(image.path(), content).unwrap();
        let unclean = choice(&Options {
            options: Some("nodev".into()),
            ..Options::default()
        });
        let unclean = unclean.unwrap();
        assert_eq!(
            (unclean.fs_type.as_str(), unclean.options.as_str()),
            ("ext4", "ro,noload,nodev")
        );
        assert!(unclean
            .note
            .unwrap()
            .starts_with("ext4 is mounted ro,noload,nodev: its journal"));
    }

    #[test]
    fn a_given_type_wins() {
        let image = device(0, b"hsqs");
        let given = Options {
            fs_type: Some("iso9660".into()),
            options: None,
        };
        let chosen = choose(Path::new("/dev/x"), image.as_file(), &given).unwrap();
        assert_eq!(
            (chosen.fs_type.as_str(), chosen.options.as_str()),
            ("iso9660", "ro")
        );
        let nothing = device(0, b"");
        let unknown = choose(Path::new("/dev/x"), nothing.as_file(), &Options::default());
        assert_eq!(unknown.unwrap_err().exit_code(), ExitCode::Invalid);
    }

    #[test]
    fn what_is_mounted_has_to_be_what_is_wanted() {
        let mount = table::Mount {
            id: 2,
            parent: 1,
            dev: 0,
            target: "/mnt".into(),
            options: "ro,nosuid,relatime".into(),
            source: "/dev/x".into(),
            fs_type: "ext4".into(),
            fs_options: "ro,norecovery".into(),
        };
        let ask = |options: &str| {
            let options = Some(options.to_owned());
            found(
                &mount,
                &Options {
                    fs_type: None,
                    options,
                },
            )
        };
        let same = ask("nosuid").unwrap();
        assert_eq!(same.options, "ro,nosuid,relatime,norecovery");
        assert!(same.already && same.note.is_none());
        let unseen = ask("nosuid,noload").unwrap();
        assert!(unseen.note.unwrap().ends_with("whether with noload"));
        for other in ["", "nosuid,nodev", "nosuid,noatime"] {
            assert_eq!(
                ask(other).unwrap_err().exit_code(),
                ExitCode::Busy,
                "{other}"
            );
        }
        let error = ask("nodev").unwrap_err().to_string();
        let expected = "/mnt: the image is mounted there as ext4 (ro,nosuid,relatime), and not as \
                        ext4 (ro,nodev): ";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn a_folder_has_to_exist() {
        let image = device(0, b"hsqs");
        let path = Path::new("/nowhere/at/all");
        let result = mount(
            Path::new("/dev/x"),
            image.as_file(),
            0,
            path,
            &Options::default(),
        );
        assert_eq!(result.unwrap_err().exit_code(), ExitCode::NotFound);
    }
}
