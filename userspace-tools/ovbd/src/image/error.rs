// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can go wrong with the contents of files.

use std::fmt;
use std::path::{Path, PathBuf};

use overlaybd_format::Invalid;

use super::digest::Digest;
use super::source::ReadError;
use crate::error::{io_exit_code, ExitCode};

/// Everything that reading, checking and writing images reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file breaks the format.
    #[error("{path}{place}: {invalid}; {remedy}", path = path.display(), remedy = invalid.rule.remedy())]
    Format {
        /// The file.
        path: PathBuf,
        /// Where in it.
        place: Place,
        /// The rule that it breaks.
        invalid: Invalid,
    },

    /// Bytes could not be read, or were corrupt.
    #[error(transparent)]
    Read(#[from] ReadError),

    /// A file asks for more memory than there is.
    #[error("{path}: not enough memory for its index; is it damaged?", path = .0.display())]
    NoMemory(PathBuf),

    /// The layers do not make a disk together.
    #[error("{0}; {remedy}", remedy = .0.rule.remedy())]
    Stack(Invalid),

    /// A file is fine, but of the wrong kind for what was asked.
    #[error("{path}: is {found}; {expected} is needed", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What was needed, and perhaps how to get it.
        expected: &'static str,
    },

    /// Blocks of a ZFile are corrupt.
    #[error(
        "{path}: {bad} of {blocks} blocks are bad, the first at byte {offset}: \
         block {block}: {reason}; fetch the file again",
        path = path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// How many blocks are bad.
        bad: u64,
        /// How many there are.
        blocks: u64,
        /// The first bad one.
        block: u64,
        /// Byte offset of its stored form in the file.
        offset: u64,
        /// What is wrong with it.
        reason: String,
    },

    /// Files did not pass verification; the report says why.
    #[error("{}", unverified(*.bad, *.files, .first, *.offset))]
    Unverified {
        /// How many files did not.
        bad: usize,
        /// How many there were.
        files: usize,
        /// The first that did not.
        first: PathBuf,
        /// First bad byte offset in it.
        offset: Option<u64>,
        /// The exit code that fits what is wrong with it.
        exit_code: ExitCode,
    },

    /// A file is another than the one wanted.
    #[error("{path}: digest {found}, expected {expected}; fetch the file again", path = path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// Its digest.
        found: Digest,
        /// The one wanted.
        expected: Digest,
    },

    /// Something is in the place of an output file.
    #[error("{path}: exists already; give --force to replace it", path = .0.display())]
    Exists(PathBuf),

    /// Something is in the place of an output file, and not even --force replaces it.
    #[error("{path}: is {what}, not a file that could be replaced", path = path.display())]
    NotReplaceable {
        /// The output.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },

    /// A program that makes file systems failed or is missing.
    #[error("{program}: {reason}")]
    Tool {
        /// Its name.
        program: String,
        /// Its words.
        reason: String,
    },

    /// An environment variable has a value that means nothing.
    #[error("{variable}={value}: {expected} expected")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// Its value.
        value: String,
        /// What it should hold.
        expected: &'static str,
    },

    /// An argument does not fit.
    #[error("{0}")]
    Argument(String),
}

impl ImageError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Format { .. }
            | Self::Stack(_)
            | Self::Kind { .. }
            | Self::Corrupt { .. }
            | Self::Digest { .. } => ExitCode::Invalid,
            Self::Unverified { exit_code, .. } => *exit_code,
            Self::Read(ReadError::Io { source, .. }) => io_exit_code(source),
            Self::Read(_) => ExitCode::Invalid,
            Self::Environment { .. } | Self::Argument(_) => ExitCode::Usage,
            Self::NoMemory(_)
            | Self::Exists(_)
            | Self::NotReplaceable { .. }
            | Self::Tool { .. } => ExitCode::Failure,
        }
    }
}

fn unverified(bad: usize, files: usize, first: &Path, offset: Option<u64>) -> String {
    let first = first.display();
    let place = offset.map_or(String::new(), |offset| format!(" at byte {offset}"));
    match files {
        1 => format!("{first}: bad{place}"),
        _ => format!("{bad} of {files} files are bad; the first is {first}{place}"),
    }
}

impl From<ReadError> for crate::Error {
    fn from(error: ReadError) -> Self {
        ImageError::Read(error).into()
    }
}

/// What the offsets in a message about a file count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The file's beginning.
    File,
    /// The beginning of what the ZFile in it decompresses to.
    Content {
        /// Byte offset in the file of the block that is about.
        block: u64,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Content { block } => write!(f, " (decompressed, from byte {block} on)"),
        }
    }
}
