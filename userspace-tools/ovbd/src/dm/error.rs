// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What device-mapper refuses.

use std::fmt;
use std::io;

use rustix::io::Errno;

use super::{Id, CONTROL};
use crate::error::ExitCode;
use crate::output::shown;

/// What is asked with a table.
pub(super) const LOAD: &str = "load the table";
/// How the kernel says that it does not take a layer, or the signature of its root hash.
const REFUSALS: [Errno; 5] = [
    Errno::INVAL,
    Errno::IO,
    Errno::NOKEY,
    Errno::KEYREJECTED,
    Errno::BADMSG,
];

/// What device-mapper refuses, or cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that cannot be a device's.
    #[error(
        "\"{name}\" cannot be a device name: use 1 to 127 letters, digits and # + - . : = @ _, \
         not starting with - or ."
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// Somebody gave an image a name that cannot be one on a command line.
    #[error(
        "{}: the image was renamed to what ovbd takes for no name; give it another one with \
         `dmsetup rename`, or remove it with `dmsetup remove`",
        shown::text(.0)
    )]
    Renamed(String),
    /// The control node does not open.
    #[error("{CONTROL}: cannot open: {0}{remedy}", remedy = control_remedy(.0))]
    Control(io::Error),
    /// A target is not known to the kernel, and loading its module did not help.
    #[error(
        "the kernel has no device-mapper target \"{target}\": load it with `modprobe dm-{target}`"
    )]
    NoTarget {
        /// Its name.
        target: String,
    },
    /// A request failed.
    #[error("{device}: cannot {action}: {source}{log}", log = Bracketed(.log))]
    Request {
        /// Name, UUID or number of the device.
        device: String,
        /// What was asked.
        action: &'static str,
        /// Why the kernel refused.
        source: io::Error,
        /// What it wrote to its log meanwhile.
        log: Vec<String>,
    },
}

struct Bracketed<'a>(&'a [String]);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " (kernel log: {})", self.0.join("; "))
    }
}

fn control_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (device-mapper needs root)",
        _ => " (is device-mapper in this kernel? Try `modprobe dm-mod`)",
    }
}

impl Error {
    /// A request about `id` that failed with `errno`.
    pub(crate) fn request(id: Id<'_>, action: &'static str, errno: Errno) -> Self {
        Self::Request {
            device: id.to_string(),
            action,
            source: errno.into(),
            log: Vec::new(),
        }
    }

    /// The system's error number, if a request failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Request { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }

    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadName { .. } => ExitCode::Usage,
            Self::Control(e) if e.kind() == io::ErrorKind::PermissionDenied => ExitCode::Permission,
            Self::Control(_) | Self::NoTarget { .. } => ExitCode::Unsupported,
            Self::Request { action, .. } => match self.errno() {
                // Of a table that this tool made from a layer, the layer is at fault, or its signature.
                Some(errno) if *action == LOAD && REFUSALS.contains(&errno) => ExitCode::Invalid,
                Some(Errno::BUSY) => ExitCode::Busy,
                Some(Errno::PERM | Errno::ACCESS) => ExitCode::Permission,
                Some(Errno::NXIO) => ExitCode::NotFound,
                _ => ExitCode::Failure,
            },
            Self::Renamed(_) => ExitCode::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_table_is_explained() {
        let error = Error::Request {
            device: "253:4".into(),
            action: LOAD,
            source: io::Error::from_raw_os_error(22),
            log: vec!["zfile: Index checksum mismatch".into()],
        };
        assert_eq!(error.exit_code(), ExitCode::Invalid);
        assert_eq!(
            error.to_string(),
            "253:4: cannot load the table: Invalid argument (os error 22) \
             (kernel log: zfile: Index checksum mismatch)"
        );
    }

    #[test]
    fn only_what_a_layer_causes_is_invalid() {
        let code = |action, errno| Error::request(Id::Dev(1), action, errno).exit_code();
        for errno in REFUSALS {
            assert_eq!(code(LOAD, errno), ExitCode::Invalid, "{errno}");
            assert_eq!(code("rename", errno), ExitCode::Failure, "{errno}");
        }
        assert_eq!(code(LOAD, Errno::NOMEM), ExitCode::Failure);
        assert_eq!(code(LOAD, Errno::BUSY), ExitCode::Busy);
    }
}
