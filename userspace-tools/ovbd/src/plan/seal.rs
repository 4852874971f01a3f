// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Layers for which a root hash vouches: by which tree, and who wants that.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd_format::Bytes;

use crate::config::LayerConfig;
use crate::identity::Identity;
use crate::image::blob::Blob;
use crate::image::source::{FileSource, SharedSource};
use crate::plan::Storage;
use crate::verity::verified::{self, Tree};
use crate::verity::{beside, RootHash, VerityError};
use crate::{Error, Result};

/// What is to be verified, beyond what the configuration says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Every layer needs a root hash.
    pub required: bool,
    /// The root hashes of the layers, bottom first; none, or one for each.
    pub root_hashes: Vec<RootHash>,
    /// Their hash trees; none, or one for each.
    pub hash_trees: Vec<PathBuf>,
    /// Signatures of the root hashes; none, or one for each.
    pub signatures: Vec<PathBuf>,
}

impl Demand {
    /// What the layers' configurations are with that.
    pub(super) fn applied(&self, layers: &[LayerConfig]) -> Result<Vec<LayerConfig>, VerityError> {
        let mut layers = layers.to_vec();
        let count = |what, given| match given {
            given if given == 0 || given == layers.len() => Ok(()),
            given => Err(VerityError::Count {
                what,
                given,
                layers: layers.len(),
            }),
        };
        count("root hashes", self.root_hashes.len())?;
        count("hash trees", self.hash_trees.len())?;
        count("signatures", self.signatures.len())?;
        for (layer, root) in layers.iter_mut().zip(&self.root_hashes) {
            layer.root_hash = Some(*root);
        }
        for (layer, tree) in layers.iter_mut().zip(&self.hash_trees) {
            layer.hash_tree = Some(tree.clone());
        }
        for (layer, signature) in layers.iter_mut().zip(&self.signatures) {
            layer.signature = Some(signature.clone());
        }
        // Both say that the layer is to be verified, which needs a root hash, too.
        let wanted = |layer: &LayerConfig| {
            self.required || layer.hash_tree.is_some() || layer.signature.is_some()
        };
        let lacking = |layer: &&LayerConfig| layer.root_hash.is_none() && wanted(layer);
        match layers.iter().find(lacking) {
            None => Ok(layers),
            Some(layer) => {
                let named = || layer.digest.map(|digest| digest.to_string().into());
                let path = layer.locate().ok().or_else(named).unwrap_or_default();
                Err(VerityError::NoRootHash(path))
            }
        }
    }
}

/// What vouches for a layer's file.
#[derive(Clone, Debug)]
pub struct Seal {
    /// The tree, with its root hash.
    pub tree: Arc<Tree>,
    /// What kind of file the tree is.
    pub storage: Storage,
    /// A signature of the root hash, for the kernel to check.
    pub signature: Option<Signature>,
}

/// A signature of a root hash: PKCS #7, detached, of the root hash as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The file that it is from.
    pub path: PathBuf,
    /// It.
    pub bytes: Vec<u8>,
}

impl Seal {
    /// Opens the tree of the layer in `file`; what can be read of that from then on.
    ///
    /// # Errors
    /// [`VerityError`] if the tree is not there, not that of the root hash, or not of a file of that
    /// length.
    pub(super) fn open(
        file: FileSource,
        config: &LayerConfig,
        root: RootHash,
    ) -> Result<(SharedSource, Self)> {
        let path = file.path().to_owned();
        let tree = config.hash_tree.clone().unwrap_or_else(|| beside(&path));
        let (source, tree) = verified::open(file, &tree, root)?;
        let length = tree.length();
        let storage = Storage::of(&tree.file()?, tree.path(), length)?;
        let signature = config.signature.as_deref().map(Signature::read);
        let seal = Self {
            tree,
            storage,
            signature: signature.transpose()?,
        };
        Ok((source, seal))
    }

    /// Compares with the size that the blob is said to have, which may have been `unwrapped` from its
    /// tar: then it is shorter. The superblock, which says how many blocks were sealed, is not authentic.
    pub(super) fn check_size(&self, blob: &Blob, said: Option<Bytes>) -> Result<(), VerityError> {
        let shape = self.tree.shape();
        let unwrapped = |size| blob.wrapper().is_none() && shape.data_length() < size;
        match said.filter(|&size| !shape.fits(size) && !unwrapped(size)) {
            None => Ok(()),
            Some(said) => Err(VerityError::Size {
                path: blob.path().to_owned(),
                said,
                length: blob.size(),
                tree: self.tree.path().to_owned(),
            }),
        }
    }

    /// By which name the kernel finds the signature: that of a key of this process.
    pub fn key(&self) -> Option<String> {
        let signature = self.signature.as_ref();
        signature.map(|_| format!("ovbd:{}", self.tree.root()))
    }

    /// What the device shows that checks the file. The root hash says it all, but for the length that
    /// it is claimed to be of.
    pub fn identity(&self) -> Identity {
        let shape = self.tree.shape();
        Identity::new(&[
            b"verity",
            self.tree.root().as_bytes(),
            shape.salt().as_bytes(),
            &shape.data_block().to_le_bytes(),
            &shape.data_blocks().to_le_bytes(),
            // Whose signature it was does not matter, once the kernel has found it good.
            &[u8::from(self.signature.is_some())],
        ])
    }
}

impl Signature {
    fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(|e| Error::io("read the signature", path, e))?;
        let path = path.to_owned();
        Ok(Self { path, bytes })
    }
}
