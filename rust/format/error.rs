// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Why a file could not be opened.

use core::ffi::CStr;
use core::fmt;

use super::rule::{Expected, Place, Text};
use super::{Bytes, OutOfMemory, Rule};

/// Why opening failed; `E` is the reason that a read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The file could not be read.
    Read {
        /// First byte of the read that failed.
        offset: Bytes,
        /// The reason that [`ReadAt`](super::ReadAt) gave.
        error: E,
    },
    /// There is not enough memory for what the file holds.
    NoMemory,
    /// The file is not valid.
    Invalid(Invalid),
}

impl<E> From<OutOfMemory> for Error<E> {
    fn from(_: OutOfMemory) -> Self {
        Error::NoMemory
    }
}

impl<E> From<Invalid> for Error<E> {
    fn from(invalid: Invalid) -> Self {
        Error::Invalid(invalid)
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Read { offset, error } => write!(f, "reading byte {offset} on: {error}"),
            Error::NoMemory => OutOfMemory.fmt(f),
            Error::Invalid(invalid) => invalid.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for Error<E> {}

/// A check that a file did not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The check.
    pub rule: Rule,
    /// Byte offset in the file of the field that is wrong; 0 for a rule about a
    /// whole stack of layers.
    pub offset: Bytes,
    /// Number of the index entry, from 0; 0 where the rule is not about one.
    pub item: u64,
    /// What the field holds, or what follows from it, as [`Rule`] says.
    pub found: u64,
    /// What was expected: the value, or the limit.
    pub expected: u64,
}

impl Invalid {
    /// A failed check that is not about a numbered item.
    pub(super) fn new(rule: Rule, offset: Bytes, found: u64, expected: u64) -> Self {
        Self {
            rule,
            offset,
            item: 0,
            found,
            expected,
        }
    }

    /// About four words, in the style of device-mapper's `ti->error`.
    pub fn reason(&self) -> &'static CStr {
        self.rule.text().reason
    }
}

/// One line: place, value found, value expected.
impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text {
            place,
            what,
            expected,
            ..
        } = self.rule.text();
        let Self {
            offset,
            item,
            found,
            expected: limit,
            ..
        } = self;
        match place {
            Place::Byte(record) => write!(f, "{record} at byte {offset}: ")?,
            Place::Item(entry) => write!(f, "{entry} {item} at byte {offset}: ")?,
            Place::Stack => f.write_str("image: ")?,
        }
        match expected {
            Expected::Value => write!(f, "{what} {found}, expected {limit}"),
            Expected::Hex => write!(f, "{what} {found:#x}, expected {limit:#x}"),
            Expected::AtLeast => write!(f, "{what} {found}, expected at least {limit}"),
            Expected::AtMost => write!(f, "{what} {found}, expected at most {limit}"),
            Expected::Words(words) => write!(f, "{what} {found}, expected {words}"),
            Expected::Bytes(words) => {
                let bytes = found.to_le_bytes();
                write!(f, "{what} \"{}\", expected {words}", bytes.escape_ascii())
            }
        }
    }
}

impl core::error::Error for Invalid {}
