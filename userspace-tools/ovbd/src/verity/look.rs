// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Looking at the tree that is beside a blob.

use std::path::Path;

use overlaybd_format::ReadAt;
use sha2::{Digest as _, Sha256};

use super::seal::Sealed;
use super::shape::{HASH_BLOCK, HASH_START};
use super::tree::{make, Hasher};
use super::verified::read_shape;
use super::{beside, RootHash, VerityError};
use crate::image::digest::Digest;
use crate::image::source::{FileSource, Source};
use crate::Result;

/// What the tree beside the blob `path` says; `None` if there is none.
///
/// # Errors
/// [`VerityError`] for a tree that is broken or another blob's. Whether the blob is the one that was
/// sealed is not looked at.
pub fn look(path: &Path) -> Result<Option<Sealed>> {
    let tree = beside(path);
    if !tree.exists() {
        return Ok(None);
    }
    let (source, data) = (FileSource::open(&tree)?, FileSource::open(path)?);
    let shape = read_shape(&source)?;
    if !shape.fits(data.size()) {
        return Err(VerityError::Length {
            path: path.to_owned(),
            length: data.size(),
            tree,
            blocks: shape.data_blocks(),
            block: shape.data_block(),
        }
        .into());
    }
    let top = match shape.levels().is_empty() {
        // One block of data.
        true => {
            let mut block = vec![0; shape.data_block() as usize];
            data.read_exact_at(0, &mut block[..data.size() as usize])?;
            block
        }
        false => {
            let mut block = vec![0; HASH_BLOCK as usize];
            source.read_exact_at(HASH_START * u64::from(HASH_BLOCK), &mut block)?;
            block
        }
    };
    Ok(Some(Sealed {
        path: path.to_owned(),
        root_hash: RootHash::new(Hasher::new(shape.salt()).hash(&top)),
        tree_size: source.size(),
        tree,
        shape,
    }))
}

/// A blob whose tree is that of its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// What vouches for it.
    pub root_hash: RootHash,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// Whether the tree beside the blob `path` is that of the bytes that the blob has now.
///
/// # Errors
/// [`VerityError::NoTree`]; [`VerityError::Stale`] if the bytes are others.
pub fn check(path: &Path) -> Result<Checked> {
    let none = || VerityError::NoTree {
        path: path.to_owned(),
        tree: beside(path),
    };
    let sealed = look(path)?.ok_or_else(none)?;
    let source = FileSource::open(path)?;
    let mut hash = Sha256::new();
    let read = |at, piece: &mut [u8]| -> Result<()> {
        source.read_exact_at(at, piece)?;
        hash.update(&piece);
        Ok(())
    };
    let found = make(&sealed.shape, source.size(), read, |_, _| Ok(()))?;
    match found == sealed.root_hash {
        true => Ok(Checked {
            root_hash: found,
            digest: Digest::of(hash),
            size: source.size(),
        }),
        false => Err(VerityError::Stale {
            path: sealed.path,
            tree: sealed.tree,
            found,
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::output::Progress;
    use crate::plan::tests::{lsmt, zfile};
    use crate::verity::seal::{seal, Known, Options};

    #[test]
    fn a_tree_of_another_length_is_said_to_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let layer = zfile(folder.path(), "a", &lsmt(16, 1));
        let (options, known) = (Options::default(), Known::default());
        let sealed = seal(&layer, &options, known, &Progress::hidden()).unwrap();
        assert_eq!(check(&layer).unwrap().root_hash, sealed.root_hash);
        fs::write(&layer, vec![0; 100_000]).unwrap();
        let error = look(&layer).unwrap_err();
        assert!(error.to_string().contains("has 100000 bytes"), "{error}");
    }
}
