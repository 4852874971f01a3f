// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What goes wrong with a store.

use std::path::PathBuf;

use crate::error::ExitCode;
use crate::image::digest::Digest;
use crate::verity::InvalidRootHash;

/// What goes wrong with a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A blob has another length than was announced.
    #[error("{digest}: has {found} bytes, and {expected} were announced")]
    Size {
        /// The blob.
        digest: Digest,
        /// What there is.
        found: u64,
        /// What was announced.
        expected: u64,
    },
    /// The bytes that arrived are not those of the digest. They were removed.
    #[error("{expected}: what arrived has the digest {found}; it was thrown away")]
    Digest {
        /// The blob that was wanted.
        expected: Digest,
        /// The digest of what arrived.
        found: Digest,
    },
    /// An image cannot be recorded before its layers are there.
    #[error("{reference}: layer {digest} is not in the store; pull the image again")]
    Incomplete {
        /// The image.
        reference: String,
        /// The layer.
        digest: Digest,
    },
    /// There is no such image.
    #[error("{0}: no such image is in the store; `ovbd images` lists those that are")]
    NoImage(String),
    /// An image is to be removed by a name that is not recorded.
    #[error("{reference}: the image is in the store as {names}; name what is to be removed")]
    OtherName {
        /// The name that was given.
        reference: String,
        /// Those that are recorded.
        names: String,
    },
    /// A record is not the one any more that something was found out about.
    #[error("{0}: the image was replaced by another one meanwhile; try again")]
    Replaced(String),
    /// A layer is of a kind that cannot be used.
    #[error("{reference}: layer {digest}: {reason}")]
    Layer {
        /// The image.
        reference: String,
        /// The layer.
        digest: Digest,
        /// Why.
        reason: &'static str,
    },
    /// A layer's annotation should be a root hash.
    #[error("{reference}: layer {digest}: its annotation verity-root-hash: {source}")]
    RootHash {
        /// The image.
        reference: String,
        /// The layer.
        digest: Digest,
        /// What is there.
        source: InvalidRootHash,
    },
    /// A record was changed by something else.
    #[error("{path}: is no record of an image: {source}; remove it and pull the image again", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What was expected.
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Whether something is not there that can be fetched.
    pub fn is_absence(&self) -> bool {
        matches!(self, Self::NoImage(_) | Self::Incomplete { .. })
    }

    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            absence if absence.is_absence() => ExitCode::NotFound,
            Self::OtherName { .. } => ExitCode::NotFound,
            Self::Replaced(_) => ExitCode::Busy,
            _ => ExitCode::Invalid,
        }
    }
}
