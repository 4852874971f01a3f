// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a blob is: tar first, then ZFile, then LSMT.

use super::fields::array;
use super::platform::read;
use super::tar::{self, Payload};
use super::{lsmt, zfile, Bytes, Error, Invalid, ReadAt, Rule};

/// Bytes by which a kind is recognised.
const MAGIC_LEN: usize = 8;

/// Format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A ZFile, which commonly decompresses to an LSMT file.
    Zfile,
    /// An LSMT file.
    Lsmt,
}

impl Kind {
    /// Recognises the first 8 bytes of a file.
    pub fn of(bytes: &[u8; MAGIC_LEN]) -> Option<Self> {
        if *bytes == array(&zfile::MAGIC, 0) {
            Some(Kind::Zfile)
        } else if *bytes == array(&lsmt::MAGIC, 0) {
            Some(Kind::Lsmt)
        } else {
            None
        }
    }
}

/// A blob: a ZFile or LSMT file, bare or wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// What the payload is.
    pub kind: Kind,
    /// Where it is; the whole file if it is not wrapped.
    pub payload: Payload,
    /// It is in a tar archive.
    pub wrapped: bool,
}

impl Blob {
    /// Finds out what the file of `length` bytes that `src` holds is.
    pub fn detect<S: ReadAt + ?Sized>(src: &S, length: Bytes) -> Result<Self, Error<S::Error>> {
        let wrapper = tar::detect(src, length)?;
        let payload = wrapper.unwrap_or(Payload { offset: 0, length });
        let mut bytes = [0; MAGIC_LEN];
        if payload.length >= bytes.len() as Bytes {
            read(src, payload.offset, &mut bytes)?;
        }
        let kind = Kind::of(&bytes).ok_or_else(|| unknown(payload.offset, bytes))?;
        Ok(Self {
            kind,
            payload,
            wrapped: wrapper.is_some(),
        })
    }
}

fn unknown(offset: Bytes, bytes: [u8; MAGIC_LEN]) -> Invalid {
    let found = u64::from_le_bytes(bytes);
    let expected = u64::from_le_bytes(array(&zfile::MAGIC, 0));
    Invalid::new(Rule::BlobKind, offset, found, expected)
}
