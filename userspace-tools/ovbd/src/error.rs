// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can go wrong, as a type, and the exit code that tells a script which kind it was.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::image::ImageError;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that a function of this crate reports.
///
/// One sentence a message: the object first (a file with an offset, a device), then what was found
/// and what was expected, then what to do about it where that is known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed.
    #[error("{path}: cannot {action}: {source}", path = path.display())]
    Io {
        /// What was tried, as a verb: "open", "read the layer's header".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// The contents of a file are wrong, or cannot be made.
    #[error(transparent)]
    Image(#[from] ImageError),

    /// The configuration of an image is wrong, or a layer is not on this host.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),

    /// The layers cannot become an image.
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),

    /// A hash tree is wrong, or not there.
    #[error(transparent)]
    Verity(#[from] crate::verity::VerityError),

    /// An image could not be set up.
    #[error(transparent)]
    Up(#[from] crate::up::UpError),

    /// An image could not be removed.
    #[error(transparent)]
    Down(#[from] crate::down::DownError),

    /// There is nothing to tell.
    #[error(transparent)]
    List(#[from] crate::list::ListError),

    /// A file system could not be mounted or unmounted.
    #[error(transparent)]
    Mount(#[from] crate::mount::Error),

    /// Device-mapper refused something.
    #[error(transparent)]
    Dm(#[from] crate::dm::Error),

    /// A blob or an image of the store is not what it should be.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),

    /// The system does not boot.
    #[error(transparent)]
    Boot(#[from] crate::boot::BootError),

    /// A loop device could not be had.
    #[error(transparent)]
    Loop(#[from] crate::loopdev::Error),

    /// An image could not be pulled or pushed.
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Registry(#[from] crate::registry::RegistryError),

    /// Standard output cannot take the answer.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Exit codes of `ovbd`; the numbers are part of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Success = 0,
    /// A failure that none of the others names.
    Failure = 1,
    /// The command line is wrong.
    Usage = 2,
    /// An image, a layer or a configuration is invalid or corrupt, or not verified as it has to be.
    Invalid = 3,
    /// A name or device is in use by something else.
    Busy = 4,
    /// The caller lacks the privilege.
    Permission = 5,
    /// A file or device does not exist.
    NotFound = 6,
    /// The kernel lacks device-mapper, a target or loop devices.
    Unsupported = 7,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

impl Error {
    /// An I/O error with the file that it happened on.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Io { source, .. } => io_exit_code(source),
            Self::Image(error) => error.exit_code(),
            Self::Config(error) => error.exit_code(),
            Self::Plan(error) => error.exit_code(),
            Self::Verity(error) => error.exit_code(),
            Self::Up(error) => error.exit_code(),
            Self::Down(error) => error.exit_code(),
            Self::List(error) => error.exit_code(),
            Self::Mount(error) => error.exit_code(),
            Self::Dm(error) => error.exit_code(),
            Self::Store(error) => error.exit_code(),
            Self::Boot(error) => error.exit_code(),
            Self::Loop(error) => error.exit_code(),
            #[cfg(feature = "registry")]
            Self::Registry(error) => error.exit_code(),
            Self::Output(_) => ExitCode::Failure,
        }
    }
}

/// The exit code for a failed system call.
pub(crate) fn io_exit_code(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ExitCode::Permission,
        io::ErrorKind::NotFound => ExitCode::NotFound,
        io::ErrorKind::ResourceBusy => ExitCode::Busy,
        _ => ExitCode::Failure,
    }
}

impl fmt::Display for ExitCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", *self as u8)
    }
}
