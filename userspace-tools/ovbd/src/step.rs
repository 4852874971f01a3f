// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What setting up and removing tells while it happens.

use std::fmt;
use std::path::PathBuf;

/// Something that was done, told right after it was done.
///
/// Between any two steps the process may die without leaving anything that the next `up` or `down`
/// cannot continue or clear; the tests end it at every one of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// A file lies on a loop device.
    Attached {
        /// The file.
        path: PathBuf,
        /// N of `/dev/loopN`.
        number: u32,
    },
    /// A device exists and has no live table yet.
    Created(String),
    /// The kernel will remove an inner device with its last user.
    Marked(String),
    /// A device has a table that is not live yet.
    Loaded(String),
    /// A device serves reads.
    Live(String),
    /// An inner device was there already.
    Shared(String),
    /// A file system is mounted.
    Mounted(PathBuf),
    /// A file system is unmounted.
    Unmounted(PathBuf),
    /// A device is gone.
    Removed(String),
}

/// Who is told.
pub type Watch<'a> = &'a dyn Fn(Step);

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attached { path, number } => write!(f, "loop{number}: {}", path.display()),
            Self::Created(name) => write!(f, "{name}: created"),
            Self::Marked(name) => write!(f, "{name}: goes with its last user"),
            Self::Loaded(name) => write!(f, "{name}: table loaded"),
            Self::Live(name) => write!(f, "{name}: live"),
            Self::Shared(name) => write!(f, "{name}: was there already"),
            Self::Mounted(target) => write!(f, "{}: mounted", target.display()),
            Self::Unmounted(target) => write!(f, "{}: unmounted", target.display()),
            Self::Removed(name) => write!(f, "{name}: removed"),
        }
    }
}
