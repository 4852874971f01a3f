// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A command in an image: set up, mounted, run, and taken down when the command has ended.
//!
//! Three processes are at it. This one has the image mounted in a mount namespace of its own, where
//! nobody else sees it, waits, and takes it down. It starts itself again as the first process of a
//! new process namespace ([`inside`]), which makes the image its root and starts the command.
//!
//! # Nothing is left behind
//!
//! The image's device is marked for removal as soon as it is mounted. If this process is killed, the
//! kernel kills the one inside, with it all others there, and their mounts go with the last of them;
//! then the device goes with the mount, and the layers go with the device.
//!
//! This is no container runtime: what is separated are files, mounts, processes, host name and IPC,
//! so that a command finds what it expects. It is not locked in, and has the network and the rights
//! of whoever calls.

pub mod inside;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::MountPropagationFlags;

use crate::dm::udev::Udev;
use crate::dm::{Dm, Id, Name};
use crate::lock;
use crate::mount::overlay::Upper;
use crate::mount::Options;
use crate::plan::Settings;
use crate::resolve::{Input, Sources};
use crate::step::Watch;
use crate::sys::{self, Namespace, Signals};
use crate::up::{self, MountAt, UpError};
use crate::{down, Error, Result};

/// Where the image is mounted; in a namespace of its own, so that it may be the same place for all.
const ROOT: &str = "root";
/// This program.
const SELF: &str = "/proc/self/exe";
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to run, and in what.
#[derive(Clone, Debug)]
pub struct Job {
    /// The name of the image's device.
    pub name: Name,
    /// How to set it up.
    pub settings: Settings,
    /// Where changes go; without, there can be none.
    pub upper: Option<Upper>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Its working folder, in the image.
    pub folder: PathBuf,
    /// What is added to its environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The command's exit code; 128 and the signal's number if it was ended by one.
    pub code: u8,
    /// What the user should know: a sentence each.
    pub notes: Vec<String>,
}

/// Runs a command in an image. Has to be called before there are other threads, and changes the
/// namespaces of this process for good. `notes` is given what is to be known before it starts.
///
/// # Errors
/// All of [`up`]; what was set up goes away again.
pub fn run(
    input: &Input,
    sources: Sources<'_>,
    job: &Job,
    watch: Watch<'_>,
    notes: &dyn Fn(&str),
) -> Result<Outcome> {
    let root = lock::folder_for(ROOT)?;
    own_mounts()?;
    let mount_at = MountAt {
        target: root.clone(),
        options: Options::default(),
        upper: job.upper.clone(),
    };
    let report = up::configured(
        input,
        sources,
        job.settings.clone(),
        &job.name,
        Some(&mount_at),
        watch,
    )?;
    if report.already {
        if report.kept {
            // Somebody else's, who wants it to go.
            go_with_mount(&job.name)?;
        }
        let name = job.name.to_string();
        let owner = "an image that is set up already: use another name";
        return Err(UpError::NameTaken { name, owner }.into());
    }
    report.notes.iter().for_each(|note| notes(note));
    let code = go_with_mount(&job.name).and_then(|()| start(&root, job));
    let removed = down::down(&job.name, down::Options::default(), watch);
    let code = code?;
    let notes = match removed {
        Ok(report) => report.notes,
        // What the command did counts; and the device goes with its last user.
        Err(error) => vec![error.to_string()],
    };
    Ok(Outcome { code, notes })
}

/// From now on, what is mounted here is seen nowhere else.
fn own_mounts() -> Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    sys::unshare(&[Namespace::Mounts])
        .and_then(|()| Ok(rustix::mount::mount_change("/", private)?))
        .map_err(|e| Error::io("get a mount namespace for", "/", e))
}

/// Has the kernel remove the image when it is not mounted any more.
fn go_with_mount(name: &Name) -> Result<()> {
    let udev = Udev::begin();
    Dm::open()?.remove_deferred(Id::Name(name.as_str()), &udev)?;
    udev.settle();
    Ok(())
}

/// Starts the process inside, and waits for it.
fn start(root: &Path, job: &Job) -> Result<u8> {
    let signals = Signals::block().map_err(|e| Error::io("block signals for", SELF, e))?;
    let failed = |e| Error::io("start", SELF, e);
    // The next process that is started is the first one there.
    sys::unshare(&[Namespace::Processes])
        .map_err(|e| Error::io("get a process namespace for", SELF, e))?;
    let mut command = Command::new(SELF);
    command
        .arg0(inside::NAME)
        .arg(root)
        .arg(job.name.as_str())
        .arg(&job.folder)
        .args(&job.command)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .envs(std::env::var_os("TERM").map(|term| ("TERM", term)))
        .envs(job.environment.iter().cloned());
    let child = command.spawn().map_err(failed)?;
    let ended = supervise::until_end(&child, &signals);
    ended.map_err(|e: io::Error| Error::io("wait for", SELF, e))
}
