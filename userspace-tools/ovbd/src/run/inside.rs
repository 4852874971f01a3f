// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The first process in the image: makes it the root, starts the command, and waits for all that
//! runs there.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::fs::{FileType, Mode, CWD};
use rustix::io::Errno;
use rustix::mount::{mount, MountFlags, UnmountFlags};
use rustix::process::Signal;

use super::supervise;
use crate::output::Output;
use crate::sys::{self, Namespace, Signals};
use crate::{Error, Result};

/// What this process is called: that is how it is known.
pub const NAME: &str = "ovbd-run";
/// The exit code if the command could not be started because of us.
pub const FAILED: u8 = 125;
/// The exit codes if it cannot be run, and if it is not there, as shells have them.
const NOT_RUNNABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// No host's name is longer, bytes; a device's may be.
const HOST_MAX: usize = 64;

/// Devices that every program may expect, with their numbers.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
/// And links.
const LINKS: [(&str, &str); 5] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Whether this is that process.
pub fn is_inside() -> bool {
    std::process::id() == 1 && std::env::args_os().next().is_some_and(|name| name == NAME)
}

/// Where to go, and what to do there.
struct Arguments {
    root: PathBuf,
    host: OsString,
    folder: PathBuf,
    command: Vec<OsString>,
}

impl Arguments {
    fn read() -> Option<Self> {
        let mut words = std::env::args_os().skip(1);
        Some(Self {
            root: words.next()?.into(),
            host: words.next()?,
            folder: words.next()?.into(),
            command: words.collect(),
        })
    }
}

/// Runs the command in the image; all there is to say is said on standard error.
pub fn main() -> ExitCode {
    let output = Output::default();
    let arguments = Arguments::read().filter(|arguments| !arguments.command.is_empty());
    let Some(arguments) = arguments else {
        output.remark(format!("{NAME} is started by `ovbd run` only"));
        return FAILED.into();
    };
    match enter(&arguments) {
        Ok(signals) => command(&arguments, &signals, &output).into(),
        Err(error) => {
            output.error(&error);
            FAILED.into()
        }
    }
}

fn enter(arguments: &Arguments) -> Result<Signals> {
    let host = host_name(&arguments.host);
    // Its namespaces go with this process, which goes with the one that waits for it.
    let prepare = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let signals = Signals::block()?;
        sys::unshare(&[Namespace::Mounts, Namespace::HostName, Namespace::Ipc])?;
        rustix::system::sethostname(host)?;
        Ok(signals)
    };
    let signals = prepare().map_err(|e| Error::io("get namespaces for", &arguments.root, e))?;
    furnish(&arguments.root)?;
    become_root(&arguments.root).map_err(|e| Error::io("make the root", &arguments.root, e))?;
    let folder = &arguments.folder;
    std::env::set_current_dir(folder).map_err(|e| Error::io("enter", folder, e))?;
    Ok(signals)
}

/// As much of a name as the kernel takes for a host's.
fn host_name(name: &OsStr) -> &[u8] {
    let name = name.as_encoded_bytes();
    &name[..name.len().min(HOST_MAX)]
}

/// Mounts what a system needs besides its files. An image that has no folder for one of them does
/// not expect it. A link is no folder: it would lead out of the image, which is not yet the root.
fn furnish(root: &Path) -> Result<()> {
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC;
    let place = |name: &str| {
        let path = root.join(name);
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        is_folder.then_some(path)
    };
    if let Some(proc) = place("proc") {
        put("proc", &proc, safe | MountFlags::NODEV, c"")?;
    }
    if let Some(sys) = place("sys") {
        let flags = safe | MountFlags::NODEV | MountFlags::RDONLY;
        put("sysfs", &sys, flags, c"")?;
    }
    if let Some(dev) = place("dev") {
        put("tmpfs", &dev, safe, c"mode=755,size=64k")?;
        devices(&dev).map_err(|e| Error::io("make devices in", &dev, e))?;
        put(
            "devpts",
            &dev.join("pts"),
            safe,
            c"newinstance,ptmxmode=0666,mode=620",
        )?;
        put(
            "tmpfs",
            &dev.join("shm"),
            safe | MountFlags::NODEV,
            c"mode=1777",
        )?;
    }
    Ok(())
}

fn put(kind: &str, target: &Path, flags: MountFlags, data: &CStr) -> Result<()> {
    mount(kind, target, kind, flags, data).map_err(|e| Error::io("mount on", target, e.into()))
}

fn devices(dev: &Path) -> io::Result<()> {
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        let number = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::empty(), number)?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
    }
    for (name, target) in LINKS {
        symlink(target, dev.join(name))?;
    }
    fs::create_dir(dev.join("pts"))?;
    fs::create_dir(dev.join("shm"))
}

/// Makes the file system that is mounted on `root` the root, and takes the old one away.
fn become_root(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    match rustix::process::pivot_root(".", ".") {
        // The old one lies on the new one.
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH)?,
        // The initramfs cannot be taken away.
        Err(Errno::INVAL) => {
            rustix::mount::mount_move(".", "/")?;
            rustix::process::chroot(".")?;
        }
        Err(e) => return Err(e.into()),
    }
    std::env::set_current_dir("/")
}

/// Starts the command, and waits for it.
fn command(arguments: &Arguments, signals: &Signals, output: &Output) -> u8 {
    let program = &arguments.command[0];
    let mut command = Command::new(program);
    command.args(&arguments.command[1..]);
    signals.let_through(&mut command);
    let started = command.spawn();
    let ended = started.map(|child| supervise::until_end(&child, signals));
    match ended {
        Ok(Ok(code)) => code,
        Ok(Err(e)) => {
            output.error(&Error::io("wait for", program, e));
            FAILED
        }
        Err(e) => {
            let missing = e.kind() == io::ErrorKind::NotFound;
            output.error(&Error::io("run", program, e));
            if missing {
                NOT_FOUND
            } else {
                NOT_RUNNABLE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_name_is_one_that_the_kernel_takes() {
        assert_eq!(host_name(OsStr::new("run-1")), b"run-1");
        let long = "a".repeat(127);
        assert_eq!(host_name(OsStr::new(&long)), &[b'a'; 64]);
    }
}
