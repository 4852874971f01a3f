// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What goes wrong with mounts.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::probe::KNOWN;
use crate::error::ExitCode;

/// What goes wrong with mounts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing to mount on.
    #[error("{target}: is no folder to mount on; make it first", target = .0.display())]
    NoFolder(PathBuf),
    /// The device holds nothing that is known.
    #[error(
        "{device}: no file system that is recognised ({KNOWN}); name its type with --fs-type",
        device = .0.display()
    )]
    Unknown(PathBuf),
    /// A mount option that a mount of an image cannot have.
    #[error("mount option \"{0}\": {1}")]
    Option(String, &'static str),
    /// The kernel refuses to mount.
    #[error(
        "{device}: cannot mount as {fs_type} ({options}) on {target}: {source}",
        device = device.display(), target = target.display()
    )]
    Mount {
        /// The device.
        device: PathBuf,
        /// The folder.
        target: PathBuf,
        /// The type.
        fs_type: String,
        /// The options.
        options: String,
        /// Why.
        source: io::Error,
    },
    /// There is no writable overlay to be had.
    #[error("{target}: cannot {action}: {source}", target = target.display())]
    Overlay {
        /// The folder that the image is mounted on.
        target: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It is mounted there in another way.
    #[error(
        "{target}: the image is mounted there {found}, and not {wanted}: unmount it first, use another \
         folder, or give what it was mounted with", target = target.display()
    )]
    Otherwise {
        /// The folder.
        target: PathBuf,
        /// How it is mounted.
        found: String,
        /// How it should be.
        wanted: String,
    },
    /// Two overlays cannot have their changes in one place.
    #[error(
        "{folder}: is in use by another writable overlay, perhaps one that is unmounted and still \
         has users: end those, or use another folder", folder = .0.display()
    )]
    UpperInUse(PathBuf),
    /// The changes in a folder would not fit.
    #[error(
        "{folder}: holds changes to another image, or is a copy of such a folder: use another one",
        folder = .0.display()
    )]
    UpperOfAnother(PathBuf),
    /// The kernel refuses to unmount.
    #[error("{target}: cannot unmount: {source}{remedy}", target = target.display(),
        remedy = unmount_remedy(source))]
    Unmount {
        /// The folder.
        target: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else is mounted on top of an image.
    #[error("{target}: {by} is mounted on top of the image; unmount that first", target = target.display())]
    Covered {
        /// The folder.
        target: PathBuf,
        /// What is seen there.
        by: String,
    },
    /// The list of mounts, or the device, cannot be read.
    #[error("{path}: cannot read: {source}", path = path.display())]
    Read {
        /// The file or device.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn unmount_remedy(error: &io::Error) -> &'static str {
    match Errno::from_io_error(error) {
        Some(Errno::BUSY) => {
            " (a program has a file or its working folder there: `fuser -vm FOLDER` names it)"
        }
        _ => "",
    }
}

impl Error {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NoFolder(_) => ExitCode::NotFound,
            Self::Unknown(_) => ExitCode::Invalid,
            Self::Option(..) => ExitCode::Usage,
            Self::Covered { .. }
            | Self::Otherwise { .. }
            | Self::UpperInUse(_)
            | Self::UpperOfAnother(_) => ExitCode::Busy,
            Self::Mount { source, .. }
            | Self::Overlay { source, .. }
            | Self::Unmount { source, .. }
            | Self::Read { source, .. } => match Errno::from_io_error(source) {
                Some(Errno::NODEV) => ExitCode::Unsupported,
                _ => crate::error::io_exit_code(source),
            },
        }
    }
}
