// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Sealing: the tree of a blob, in a file beside it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use overlaybd_format::ReadAt;
use serde::Serialize;

use super::shape::{Shape, HASH_BLOCK, HASH_START, SUPERBLOCK};
use super::tree::{make, Hasher};
use super::verified::read_shape;
use super::{beside, RootHash, Salt, VerityError};
use crate::image::atomic::AtomicFile;
use crate::image::blob::{Blob, Shape as BlobShape};
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
/// [`VerityError::Changed`] if the root hash is not `expected`: nothing is written then.
pub fn seal(
    path: &Path,
    options: &Options,
    expected: Option<RootHash>,
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
    let tree = beside(path);
    let shape = shape_of(&source, path, block, options)?;
    let root_hash = write_tree(&source, &shape, &tree, path, options, expected, progress)?;
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
    let made = write_tree(&disk, &shape, tree, tree, options, None, &progress);
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
    let files = layers.map(|layer| Ok((layer.locate()?, layer.root_hash)));
    let files: Vec<_> = files.collect::<Result<_>>()?;
    let size = |(file, _): &(PathBuf, _)| file.metadata().map_or(0, |meta| meta.len());
    let progress = progress(files.iter().map(size).sum());
    let sealed = files
        .iter()
        .map(|(file, root_hash)| seal(file, options, *root_hash, &progress))
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
    expected: Option<RootHash>,
    progress: &Progress,
) -> Result<RootHash> {
    let file = match AtomicFile::create(tree.to_owned(), options.replace) {
        Err(Error::Image(ImageError::Exists(_))) => None,
        created => Some(created?),
    };
    let read = |at, piece: &mut [u8]| {
        progress.add(piece.len() as u64);
        Ok(source.read_exact_at(at, piece)?)
    };
    let write = |at, block: &[u8]| match &file {
        None => Ok(()),
        Some(file) => {
            let written = file.file().write_all_at(block, at);
            written.map_err(|e| Error::io("write", tree, e))
        }
    };
    let found = make(shape, source.size(), read, write)?;
    if let Some(expected) = expected.filter(|&expected| expected != found) {
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

    fn run(path: &Path, salt: &str, replace: bool) -> Result<Sealed> {
        let options = Options {
            salt: salt.parse().unwrap(),
            replace,
        };
        seal(path, &options, None, &Progress::hidden())
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
        let expected = Some(RootHash::new([1; 32]));
        let options = Options::default();
        let error = seal(&layer, &options, expected, &Progress::hidden()).unwrap_err();
        assert!(
            matches!(error, Error::Verity(VerityError::Changed { .. })),
            "{error}"
        );
        assert!(!folder.path().join("a.verity").exists());
    }

    #[test]
    fn a_tree_of_another_length_is_said_to_be_one() {
        let folder = tempfile::tempdir().unwrap();
        let layer = zfile(folder.path(), "a", &lsmt(16, 1));
        run(&layer, "-", false).unwrap();
        fs::write(&layer, vec![0; 100_000]).unwrap();
        let error = look(&layer).unwrap_err();
        assert!(error.to_string().contains("has 100000 bytes"), "{error}");
    }
}
