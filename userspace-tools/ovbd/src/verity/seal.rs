// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Sealing: the tree of a blob, in a file beside it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use overlaybd_format::ReadAt;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::shape::{Shape, SUPERBLOCK};
use super::tree::make;
use super::{beside, RootHash, Salt, VerityError};
use crate::config::LayerConfig;
use crate::image::atomic::AtomicFile;
use crate::image::blob::{Blob, Shape as BlobShape};
use crate::image::digest::Digest;
use crate::image::source::{FileSource, Source};
use crate::image::stack::Stack;
use crate::image::ImageError;
use crate::output::{paths, Progress};
use crate::resolve::{Input, Sources};
use crate::store::Store;
use crate::{Error, Result};

/// What a compressed layer is read in: a page, as few hashes as possible.
const PAGE: u32 = 4096;
/// What a layer is read in that is not compressed: lsmt sends requests on as they come, and the kernel
/// has a verified device show blocks of the size that is hashed.
const SECTOR: u32 = 512;

/// How to seal.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What is hashed ahead of each block.
    pub salt: Salt,
    /// Replace a tree that is there.
    pub replace: bool,
}

/// What is known of a blob before it is sealed, and must be so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// What vouches for it.
    pub root_hash: Option<RootHash>,
    /// Its digest; not that of a file that was unwrapped from its tar.
    pub digest: Option<Digest>,
    /// Its size in bytes.
    pub size: Option<u64>,
}

impl From<&LayerConfig> for Known {
    fn from(layer: &LayerConfig) -> Self {
        Self {
            root_hash: layer.root_hash,
            digest: layer.digest,
            size: layer.size,
        }
    }
}

/// A blob that is sealed.
#[derive(Clone, Debug, Serialize)]
pub struct Sealed {
    /// The blob.
    #[serde(serialize_with = "paths::one")]
    pub path: PathBuf,
    /// What vouches for it.
    pub root_hash: RootHash,
    /// Its tree.
    #[serde(serialize_with = "paths::one")]
    pub tree: PathBuf,
    /// Bytes of the tree.
    pub tree_size: u64,
    /// How it is laid out.
    #[serde(flatten)]
    pub shape: Shape,
}

/// The disk that layers make, sealed.
#[derive(Clone, Debug, Serialize)]
pub struct Merged {
    /// What vouches for it.
    pub root_hash: RootHash,
    /// Its tree.
    #[serde(serialize_with = "paths::one")]
    pub tree: PathBuf,
    /// Bytes of the tree.
    pub tree_size: u64,
    /// How it is laid out.
    #[serde(flatten)]
    pub shape: Shape,
}

/// Makes the tree of the blob `path`, in a file beside it. If it is there, it stays.
///
/// # Errors
/// For what is no layer, and for another tree that is there, unless it is to be replaced.
/// [`VerityError::Digest`] and [`VerityError::Changed`] if it is not the blob that is `known`: nothing is
/// written then.
pub fn seal(
    path: &Path,
    options: &Options,
    mut known: Known,
    progress: &Progress,
) -> Result<Sealed> {
    let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
    let blob = Blob::of(FileSource::new(
        file.try_clone().map_err(|e| Error::io("open", path, e))?,
        path.to_owned(),
    )?)?;
    blob.require_known()?;
    let block = match blob.shape() {
        BlobShape::Lsmt => SECTOR,
        _ => PAGE,
    };
    let source = FileSource::new(file, path.to_owned())?;
    if source.is_device() {
        let sentence = format!(
            "{}: is a device; seal the file that was written to it",
            path.display()
        );
        return Err(ImageError::Argument(sentence).into());
    }
    // A file without a tar around it may be what was in one; then nothing is known of its bytes.
    if blob.wrapper().is_none() && known.size != Some(source.size()) {
        known.digest = None;
    }
    let tree = beside(path);
    let shape = shape_of(&source, path, block, options)?;
    let root_hash = write_tree(&source, &shape, &tree, path, options, known, progress)?;
    Ok(Sealed {
        path: path.to_owned(),
        root_hash,
        tree,
        tree_size: shape.tree_length(),
        shape,
    })
}

/// Makes one tree of the disk that the layers in `files` make, bottom first, in the file `tree`: for a
/// verity device above lsmt.
pub fn seal_merged(
    files: &[PathBuf],
    tree: &Path,
    options: &Options,
    progress: impl FnOnce(u64) -> Progress,
) -> Result<Merged> {
    let disk = Stack::open(files)?.into_disk();
    let shape = shape_of(&disk, tree, PAGE, options)?;
    let progress = progress(disk.size());
    let known = Known::default();
    let made = write_tree(&disk, &shape, tree, tree, options, known, &progress);
    progress.finish();
    Ok(Merged {
        root_hash: made?,
        tree: tree.to_owned(),
        tree_size: shape.tree_length(),
        shape,
    })
}

fn shape_of(source: &dyn Source, path: &Path, block: u32, options: &Options) -> Result<Shape> {
    let length = source.size();
    let shape = Shape::of(length, block, options.salt.clone());
    let none = || format!("{}: {length} bytes cannot be sealed", path.display());
    Ok(shape.ok_or_else(|| ImageError::Argument(none()))?)
}

/// Makes the trees of an image's layers, bottom first. What it is known to vouch for a layer must be
/// so; what is found is noted in the image's record, if it is in the store.
pub fn seal_image(
    input: &Input,
    store: &Store,
    options: &Options,
    progress: impl FnOnce(u64) -> Progress,
) -> Result<Vec<Sealed>> {
    // Nothing is removed from the store until the trees are there.
    let resolved = Sources { store, fetch: None }.resolve(input)?;
    let layers = resolved.config.layers.iter();
    let files = layers.map(|layer| Ok((layer.locate()?, Known::from(layer))));
    let files: Vec<_> = files.collect::<Result<_>>()?;
    let size = |(file, _): &(PathBuf, _)| file.metadata().map_or(0, |meta| meta.len());
    let progress = progress(files.iter().map(size).sum());
    let sealed = files
        .iter()
        .map(|(file, known)| seal(file, options, *known, &progress))
        .collect::<Result<Vec<_>>>();
    progress.finish();
    let sealed = sealed?;
    if let Input::Image(reference) = input {
        let layers = resolved.config.layers.iter().zip(&sealed);
        let hashes = layers.filter_map(|(layer, sealed)| Some((layer.digest?, sealed.root_hash)));
        let hashes: Vec<_> = hashes.collect();
        store.record_root_hashes(reference, &hashes)?;
    }
    Ok(sealed)
}

/// Whether the file `tree` begins like the tree with this root, and is as long.
fn is_tree_of(tree: &Path, shape: &Shape, root: &RootHash) -> Result<bool> {
    let source = FileSource::open(tree)?;
    if source.size() != shape.tree_length() {
        return Ok(false);
    }
    let mut bytes = [0; SUPERBLOCK];
    source.read_exact_at(0, &mut bytes)?;
    // The UUID in it is made of the root.
    Ok(bytes == shape.encode(root))
}

/// Writes the tree of `source`, which messages call `path`; returns its root.
fn write_tree(
    source: &dyn Source,
    shape: &Shape,
    tree: &Path,
    path: &Path,
    options: &Options,
    known: Known,
    progress: &Progress,
) -> Result<RootHash> {
    let file = match AtomicFile::create(tree.to_owned(), options.replace) {
        Err(Error::Image(ImageError::Exists(_))) => None,
        created => Some(created?),
    };
    let mut hash = known.digest.map(|_| Sha256::new());
    let read = |at, piece: &mut [u8]| -> Result<()> {
        progress.add(piece.len() as u64);
        source.read_exact_at(at, piece)?;
        if let Some(hash) = &mut hash {
            hash.update(&piece);
        }
        Ok(())
    };
    let write = |at, block: &[u8]| match &file {
        None => Ok(()),
        Some(file) => {
            let written = file.file().write_all_at(block, at);
            written.map_err(|e| Error::io("write", tree, e))
        }
    };
    let found = make(shape, source.size(), read, write)?;
    let digest = hash.map(Digest::of);
    if let (Some(found), Some(expected)) = (digest, known.digest.filter(|_| digest != known.digest))
    {
        return Err(VerityError::Digest {
            path: path.to_owned(),
            found,
            expected,
        }
        .into());
    }
    if let Some(expected) = known.root_hash.filter(|&expected| expected != found) {
        return Err(VerityError::Changed {
            path: path.to_owned(),
            found,
            expected,
        }
        .into());
    }
    let exists = || Err(ImageError::Exists(tree.to_owned()).into());
    match file.map_or_else(exists, AtomicFile::commit) {
        // It may have been made by somebody else meanwhile.
        Err(Error::Image(ImageError::Exists(_))) if is_tree_of(tree, shape, &found)? => {}
        written => written?,
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::error::ExitCode;
    use crate::image::output::Wrapper;
    use crate::plan::tests::{compressed, lsmt, plain, zfile};
    use crate::verity::look::look;

    fn run(path: &Path, salt: &str, replace: bool) -> Result<Sealed> {
        let options = Options {
            salt: salt.parse().unwrap(),
            replace,
        };
        seal(path, &options, Known::default(), &Progress::hidden())
    }

    #[test]
    fn a_blob_is_sealed_beside_itself() {
        let folder = tempfile::tempdir().unwrap();
        let layer = zfile(folder.path(), "a", &lsmt(16, 1));
        let before = fs::read(&layer).unwrap();
        assert_eq!(look(&layer).unwrap().map(|sealed| sealed.root_hash), None);
        let sealed = run(&layer, "-", false).unwrap();
        assert_eq!(sealed.tree, folder.path().join("a.verity"));
        assert_eq!(fs::metadata(&sealed.tree).unwrap().len(), sealed.tree_size);
        assert_eq!(fs::read(&layer).unwrap(), before);
        let seen = look(&layer).unwrap().unwrap();
        assert_eq!(
            (seen.root_hash, &seen.shape),
            (sealed.root_hash, &sealed.shape)
        );
        // The same bytes, wherever and whenever.
        let copy = folder.path().join("b");
        fs::copy(&layer, &copy).unwrap();
        let again = run(&copy, "-", false).unwrap();
        assert_eq!(
            fs::read(again.tree).unwrap(),
            fs::read(sealed.tree).unwrap()
        );
    }

    #[test]
    fn blocks_are_as_large_as_what_reads_them_takes() {
        let folder = tempfile::tempdir().unwrap();
        let bare = plain(folder.path(), "bare", &lsmt(16, 1));
        let small = zfile(folder.path(), "small", &lsmt(16, 1));
        let tar = compressed(folder.path(), "tar", &lsmt(16, 1), Wrapper::Pax);
        for (path, block) in [(bare, 512), (small, 4096), (tar, 4096)] {
            let sealed = run(&path, "-", false).unwrap();
            assert_eq!(sealed.shape.data_block(), block);
            assert!(sealed.shape.fits(fs::metadata(path).unwrap().len()));
        }
        let text = plain(folder.path(), "text", b"no layer");
        assert_eq!(
            run(&text, "-", false).unwrap_err().exit_code(),
            ExitCode::Invalid
        );
        assert!(!folder.path().join("text.verity").exists());
    }

    #[test]
    fn a_tree_that_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        let layer = zfile(folder.path(), "a", &lsmt(16, 1));
        let first = run(&layer, "-", false).unwrap();
        let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&first.tree).unwrap());
        let before = inode();
        let second = run(&layer, "-", false).unwrap();
        assert_eq!((second.root_hash, inode()), (first.root_hash, before));
        let other = run(&layer, "00", false).unwrap_err();
        assert!(
            matches!(other, Error::Image(ImageError::Exists(_))),
            "{other}"
        );
        let salted = run(&layer, "00", true).unwrap();
        assert_ne!(salted.root_hash, first.root_hash);
        assert_eq!(look(&layer).unwrap().unwrap().root_hash, salted.root_hash);
    }

    #[test]
    fn a_blob_that_is_another_one_is_not_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let layer = zfile(folder.path(), "a", &lsmt(16, 1));
        let known = Known {
            root_hash: Some(RootHash::new([1; 32])),
            ..Known::default()
        };
        let options = Options::default();
        let error = seal(&layer, &options, known, &Progress::hidden()).unwrap_err();
        assert!(
            matches!(error, Error::Verity(VerityError::Changed { .. })),
            "{error}"
        );
        assert!(!folder.path().join("a.verity").exists());
    }

    /// Nobody vouches for what rotted after it was fetched.
    #[test]
    fn a_blob_that_is_not_what_its_digest_says_is_not_sealed() {
        let folder = tempfile::tempdir().unwrap();
        let tar = compressed(folder.path(), "tar", &lsmt(16, 1), Wrapper::Pax);
        let bare = plain(folder.path(), "bare", &lsmt(16, 1));
        let seal = |layer: &Path, digest, size| {
            let known = Known {
                digest: Some(digest),
                size,
                ..Known::default()
            };
            let sealed = seal(layer, &Options::default(), known, &Progress::hidden());
            let error = sealed.err();
            assert_eq!(beside(layer).exists(), error.is_none());
            let _ = fs::remove_file(beside(layer));
            match error {
                Some(Error::Verity(VerityError::Digest { .. })) => false,
                Some(error) => panic!("{error}"),
                None => true,
            }
        };
        for layer in [&tar, &bare] {
            let mut bytes = fs::read(layer).unwrap();
            let (digest, size) = (Digest::of_bytes(&bytes), bytes.len() as u64);
            assert!(seal(layer, digest, Some(size)) && seal(layer, digest, None));
            // Of the layer's data, or of the tar's end.
            let at = if layer == &tar { bytes.len() - 1 } else { 4100 };
            bytes[at] ^= 1;
            fs::write(layer, bytes).unwrap();
            assert!(!seal(layer, digest, Some(size)));
            // Without its tar it may be what was in the blob of that digest.
            assert_eq!(seal(layer, digest, None), layer == &bare);
            assert_eq!(seal(layer, digest, Some(size + 2048)), layer == &bare);
        }
    }
}
