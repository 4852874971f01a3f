// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Hash trees for dm-verity: made of blobs, checked here and by the kernel.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`shape`] | how a tree is laid out, and the superblock that says so |
//! | [`tree`] | hashing: a tree and its root of some data |
//! | [`seal`] | the tree of a blob, in a file beside it |
//! | [`look`] | at the one that is there |
//! | [`verified`] | reading a blob so that nothing is seen that the root hash does not vouch for |
//!
//! A tree is a file like that of `veritysetup`: a superblock, then the levels, the topmost first.
//! It needs no protection, for whoever changes it makes reads fail. What has to be trusted is the
//! root hash: 32 bytes, from a configuration, a manifest, a command line or a signature.
//!
//! The last block of a blob that has no whole number of blocks is hashed as if zeros followed; so it
//! reads on the device that the kernel checks, too.

pub mod look;
pub mod seal;
pub mod shape;
pub mod tree;
pub mod verified;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{de, Deserialize, Deserializer, Serialize, Serializer};

use crate::error::ExitCode;
use crate::image::digest::Digest;
use crate::output::shown;

/// What the name of a tree ends in: it lies beside the blob, whose name comes before that.
const SUFFIX: &str = ".verity";

/// Whether a status of the target says that a read has failed the check.
pub(crate) fn is_corrupted(status: &str) -> bool {
    status.split_whitespace().next() == Some("C")
}

/// The hash that vouches for all of a blob: 64 hexadecimal digits, as `veritysetup` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootHash([u8; 32]);

impl RootHash {
    /// The hash with these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Lower case: this text is what signatures are made of.
impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text that is no root hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no root hash: 64 hexadecimal digits expected", shown::text(.0))]
pub struct InvalidRootHash(String);

impl FromStr for RootHash {
    type Err = InvalidRootHash;

    fn from_str(text: &str) -> Result<Self, InvalidRootHash> {
        let bytes = from_hex(text).and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Self)
            .ok_or_else(|| InvalidRootHash(text.to_owned()))
    }
}

impl Serialize for RootHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RootHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// What goes into each hash ahead of the data: 0 to 256 bytes; as text hexadecimal digits, or `-` for
/// none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salt(Vec<u8>);

impl Salt {
    /// A salt of these bytes; `None` if they are too many.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= shape::SALT_MAX).then_some(Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.is_empty() {
            true => f.write_str("-"),
            false => self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// A text that is no salt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is no salt: up to 512 hexadecimal digits, two for each byte, or - for none",
    shown::text(.0)
)]
pub struct InvalidSalt(String);

impl FromStr for Salt {
    type Err = InvalidSalt;

    fn from_str(text: &str) -> Result<Self, InvalidSalt> {
        let bytes = match text {
            "-" => Some(Vec::new()),
            text => from_hex(text).filter(|bytes| !bytes.is_empty()),
        };
        let salt = bytes.and_then(Self::new);
        salt.ok_or_else(|| InvalidSalt(text.to_owned()))
    }
}

impl Serialize for Salt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2).map(|pair| match *pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

/// The tree of the blob in `file`, where nothing else is said.
pub fn beside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(SUFFIX);
    name.into()
}

/// The digest of the blob whose tree has this file name in a store.
pub(crate) fn blob_of_tree(name: &str) -> Option<Digest> {
    name.strip_suffix(SUFFIX).and_then(Digest::from_hex)
}

/// What is wrong with a tree, or with what it is to vouch for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerityError {
    /// A layer has to be verified, and there is nothing to do it by.
    #[error(
        "{path}: there is no root hash for this layer, and --verity wants one for each; \
         `ovbd seal` makes them, --root-hash or the configuration's \"verityRootHash\" names them",
        path = .0.display()
    )]
    NoRootHash(PathBuf),
    /// The tree is not there.
    #[error(
        "{path}: its hash tree is not at {tree}: `ovbd seal` makes it, --hash-tree names it elsewhere",
        path = path.display(), tree = tree.display()
    )]
    NoTree {
        /// The blob.
        path: PathBuf,
        /// Where the tree was looked for.
        tree: PathBuf,
    },
    /// The file does not begin as a tree does.
    #[error("{path}: no hash tree of dm-verity that can be used: {reason}", path = path.display())]
    Superblock {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        reason: String,
    },
    /// The tree is of data of another length.
    #[error(
        "{path}: has {length} bytes, and the hash tree {tree} is of {blocks} blocks of {block} bytes; \
         one of them is another blob's",
        path = path.display(), tree = tree.display()
    )]
    Length {
        /// The blob.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
        /// The tree.
        tree: PathBuf,
        /// How many blocks it is of.
        blocks: u64,
        /// Bytes in each.
        block: u32,
    },
    /// The blob has another size than it is said to have.
    #[error(
        "{path}: has {length} bytes, all of which its hash tree {tree} is of, and the configuration or \
         manifest says that the blob has {said}: it is another blob, or \"size\" is wrong",
        path = path.display(), tree = tree.display()
    )]
    Size {
        /// The blob.
        path: PathBuf,
        /// What the configuration says.
        said: u64,
        /// Its length in bytes.
        length: u64,
        /// The tree.
        tree: PathBuf,
    },
    /// The tree has another root.
    #[error(
        "{tree}: its root is not the root hash {expected}: the tree is damaged or another blob's; \
         `ovbd seal --force {path}` makes it again, and says what the blob's root hash is",
        path = path.display(), tree = tree.display()
    )]
    Root {
        /// The blob.
        path: PathBuf,
        /// The tree.
        tree: PathBuf,
        /// The root hash that was given.
        expected: RootHash,
    },
    /// A blob that was sealed has another root hash than it should.
    #[error(
        "{path}: its root hash is {found}, expected {expected}: the blob was changed, or sealed with \
         a salt (--salt)",
        path = path.display()
    )]
    Changed {
        /// The blob.
        path: PathBuf,
        /// What was calculated.
        found: RootHash,
        /// What was known of it before.
        expected: RootHash,
    },
    /// A blob has another digest than it should.
    #[error(
        "{path}: its digest is {found}, expected {expected}: the file was changed or is damaged, or the \
         digest is another blob's; remove the file and fetch it again, for an image of the store with \
         `ovbd pull`",
        path = path.display()
    )]
    Digest {
        /// The blob.
        path: PathBuf,
        /// What was calculated.
        found: Digest,
        /// What was known of it before.
        expected: Digest,
    },
    /// The tree beside a blob is not that of its bytes.
    #[error(
        "{tree}: is not the tree of {path}, whose root hash is {found}: one of them was changed since; if \
         the layer is right, `ovbd seal --force {path}` makes the tree again",
        path = path.display(), tree = tree.display()
    )]
    Stale {
        /// The blob.
        path: PathBuf,
        /// The tree.
        tree: PathBuf,
        /// What was calculated.
        found: RootHash,
    },
    /// There is not one word for each layer.
    #[error("{given} {what} for {layers} layers: name one for each layer, bottom first")]
    Count {
        /// What was counted.
        what: &'static str,
        /// How many were given.
        given: usize,
        /// How many layers there are.
        layers: usize,
    },
}

impl VerityError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Count { .. } => ExitCode::Usage,
            Self::NoTree { .. } => ExitCode::NotFound,
            _ => ExitCode::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_hashes_are_text() {
        let text = "00ff".repeat(16);
        let root: RootHash = text.parse().unwrap();
        assert_eq!(root.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(root));
        assert_eq!(serde_json::to_string(&root).unwrap(), format!("\"{text}\""));
        for wrong in [
            "",
            "-",
            "0",
            &text[1..],
            &text[2..],
            &"0g".repeat(32),
            &"é".repeat(32),
        ] {
            assert!(wrong.parse::<RootHash>().is_err(), "{wrong}");
        }
        // It may come from a registry.
        let foreign = "\u{1b}[2J".parse::<RootHash>().unwrap_err().to_string();
        assert!(!foreign.contains('\u{1b}'), "{foreign}");
    }

    #[test]
    fn salts_are_text() {
        for (text, bytes) in [("-", &[][..]), ("00ff", &[0, 255])] {
            let salt: Salt = text.parse().unwrap();
            assert_eq!((salt.as_bytes(), salt.to_string().as_str()), (bytes, text));
        }
        assert!("00".repeat(256).parse::<Salt>().is_ok());
        for wrong in ["", "0", "xx", &"00".repeat(257)] {
            assert!(wrong.parse::<Salt>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tree_lies_beside_its_blob() {
        assert_eq!(beside(Path::new("/l/0.tar")), Path::new("/l/0.tar.verity"));
        let digest = Digest::of_bytes(b"");
        assert_eq!(
            blob_of_tree(&format!("{}.verity", digest.hex())),
            Some(digest)
        );
        assert_eq!(blob_of_tree(&digest.hex()), None);
        assert_eq!(blob_of_tree("x.verity"), None);
    }
}
