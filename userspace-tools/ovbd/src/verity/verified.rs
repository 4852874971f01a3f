// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reading what a root hash vouches for, and nothing else.
//!
//! The kernel checks every read of a device; this checks those that are made before there is one. From
//! headers and indexes come the offsets and lengths in tables: they must not be an attacker's.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use overlaybd_format::ReadAt;

use super::shape::{Level, Shape, HASH_BLOCK, HASH_START, SUPERBLOCK};
use super::tree::Hasher;
use super::{RootHash, VerityError};
use crate::image::source::{within, FileSource, ReadError, SharedSource, Source};
use crate::{Error, Result};

/// Hashes in a block of them.
const FAN_OUT: u64 = HASH_BLOCK as u64 / 32;
/// How many blocks of hashes are kept, 4 MiB.
const KEPT_MAX: usize = 1024;

/// A tree, opened: its superblock, and its topmost block, which the root hash has vouched for.
#[derive(Debug)]
pub struct Tree {
    source: FileSource,
    shape: Shape,
    root: RootHash,
}

impl Tree {
    /// Opens the tree at `path`, a file or a device, of the blob `of`.
    ///
    /// # Errors
    /// [`VerityError`] if it is no tree, or not that of `root`.
    pub fn open(path: &Path, of: &Path, root: RootHash) -> Result<Self> {
        let source = FileSource::open(path)?;
        let shape = read_shape(&source)?;
        let tree = Self {
            source,
            shape,
            root,
        };
        tree.check_top(of)?;
        Ok(tree)
    }

    /// Of a single block of data, that is the root itself; it is checked when it is read.
    fn check_top(&self, of: &Path) -> Result<()> {
        if self.shape.levels().is_empty() {
            return Ok(());
        }
        let mut block = [0; HASH_BLOCK as usize];
        self.source
            .read_exact_at(HASH_START * u64::from(HASH_BLOCK), &mut block)?;
        if Hasher::new(self.shape.salt()).hash(&block) == *self.root.as_bytes() {
            return Ok(());
        }
        Err(VerityError::Root {
            path: of.to_owned(),
            tree: self.source.path().to_owned(),
            expected: self.root,
        }
        .into())
    }

    /// How it is laid out.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The hash of its top.
    pub fn root(&self) -> RootHash {
        self.root
    }

    /// The name that it was opened with.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// Bytes of the file or device that it is in.
    pub fn length(&self) -> u64 {
        self.source.size()
    }

    /// It, once more.
    pub fn file(&self) -> Result<File> {
        self.source.file()
    }
}

/// How the tree in a file is laid out.
///
/// # Errors
/// [`VerityError::Superblock`] if it is none, or not complete.
pub fn read_shape(source: &FileSource) -> Result<Shape> {
    let refuse = |reason: String| VerityError::Superblock {
        path: source.path().to_owned(),
        reason,
    };
    let mut bytes = [0; SUPERBLOCK];
    if source.size() < SUPERBLOCK as u64 {
        let sentence = format!(
            "it has {} bytes, expected {SUPERBLOCK} at least",
            source.size()
        );
        return Err(refuse(sentence).into());
    }
    source.read_exact_at(0, &mut bytes)?;
    let shape = Shape::parse(&bytes).map_err(refuse)?;
    if source.size() < shape.tree_length() {
        let (found, expected) = (source.size(), shape.tree_length());
        let sentence = format!("it has {found} bytes, expected {expected} at least");
        return Err(refuse(sentence).into());
    }
    Ok(shape)
}

/// A file or device of which only what a tree vouches for can be read.
pub struct Verified {
    data: FileSource,
    tree: Arc<Tree>,
    size: u64,
    levels: Vec<Level>,
    hasher: Hasher,
    /// Blocks of hashes that were found good, by their place in the tree.
    kept: Mutex<BTreeMap<u64, Arc<[u8]>>>,
}

impl Verified {
    /// What `tree` says of `data`.
    ///
    /// # Errors
    /// [`VerityError::Length`] if they do not fit. A device may be longer, or end within the last
    /// block.
    pub fn new(data: FileSource, tree: Arc<Tree>) -> Result<Self, VerityError> {
        let (shape, length) = (tree.shape(), data.size());
        let fits = match data.is_device() {
            true => length > shape.data_length() - u64::from(shape.data_block()),
            false => shape.fits(length),
        };
        if !fits {
            return Err(VerityError::Length {
                path: data.path().to_owned(),
                length,
                tree: tree.path().to_owned(),
                blocks: shape.data_blocks(),
                block: shape.data_block(),
            });
        }
        Ok(Self {
            size: length.min(shape.data_length()),
            levels: shape.levels(),
            hasher: Hasher::new(shape.salt()),
            kept: Mutex::default(),
            data,
            tree,
        })
    }

    /// Reads block `number` of the data and checks it.
    fn data_block(&self, number: u64, block: &mut [u8]) -> Result<(), ReadError> {
        let offset = number * block.len() as u64;
        let there = (self.size - offset).min(block.len() as u64) as usize;
        let (bytes, padding) = block.split_at_mut(there);
        self.data.read_exact_at(offset, bytes)?;
        padding.fill(0);
        self.check(0, number, block, || ReadError::Unverified {
            path: self.data.path().to_owned(),
            offset,
            length: there,
            tree: self.tree.path().to_owned(),
        })
    }

    /// Checks block `number` of what lies below `level`.
    fn check(
        &self,
        level: usize,
        number: u64,
        block: &[u8],
        error: impl FnOnce() -> ReadError,
    ) -> Result<(), ReadError> {
        let hash = self.hasher.hash(block);
        let good = match self.levels.get(level) {
            None => hash == *self.tree.root().as_bytes(),
            Some(_) => {
                let hashes = self.hash_block(level, number / FAN_OUT)?;
                hashes.chunks_exact(32).nth((number % FAN_OUT) as usize) == Some(&hash)
            }
        };
        good.then_some(()).ok_or_else(error)
    }

    /// Block `number` of a level of hashes, checked.
    fn hash_block(&self, level: usize, number: u64) -> Result<Arc<[u8]>, ReadError> {
        let place = self.levels.get(level).map_or(0, |level| level.start) + number;
        if let Some(block) = self.kept().get(&place) {
            return Ok(Arc::clone(block));
        }
        let mut block = vec![0; HASH_BLOCK as usize];
        let offset = place * u64::from(HASH_BLOCK);
        self.tree.source.read_exact_at(offset, &mut block)?;
        self.check(level + 1, number, &block, || ReadError::UnverifiedTree {
            tree: self.tree.path().to_owned(),
            offset,
            root: self.tree.root(),
            path: self.data.path().to_owned(),
        })?;
        let block: Arc<[u8]> = block.into();
        let mut kept = self.kept();
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(place, Arc::clone(&block));
        Ok(block)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<[u8]>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for Verified {
    type Error = ReadError;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if !within(self.size, offset, buf.len()) {
            return Err(ReadError::End {
                path: self.data.path().to_owned(),
                offset,
                length: buf.len(),
                end: self.size,
            });
        }
        let length = u64::from(self.tree.shape().data_block());
        let mut block = vec![0; length as usize];
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            self.data_block(at / length, &mut block)?;
            let from = (at % length) as usize;
            let piece = rest.len().min(block.len() - from);
            let (now, later) = rest.split_at_mut(piece);
            now.copy_from_slice(&block[from..from + piece]);
            (at, rest) = (at + piece as u64, later);
        }
        Ok(())
    }
}

impl Source for Verified {
    fn size(&self) -> u64 {
        self.size
    }
}

impl From<Verified> for SharedSource {
    fn from(verified: Verified) -> Self {
        Arc::new(verified)
    }
}

/// Opens `path` as what `root` vouches for, by the tree at `tree`.
pub fn open(file: FileSource, tree: &Path, root: RootHash) -> Result<(SharedSource, Arc<Tree>)> {
    let path = file.path().to_owned();
    let opened = Tree::open(tree, &path, root).map_err(|error| match error {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            VerityError::NoTree {
                path: path.clone(),
                tree: PathBuf::from(tree),
            }
            .into()
        }
        other => other,
    })?;
    let opened = Arc::new(opened);
    let verified = Verified::new(file, Arc::clone(&opened))?;
    Ok((verified.into(), opened))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::tree::tests::tree;
    use super::*;
    use crate::error::ExitCode;

    struct Blob {
        folder: tempfile::TempDir,
        data: Vec<u8>,
        root: RootHash,
    }

    impl Blob {
        fn new(length: usize, block: u32) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let data: Vec<u8> = (0..length).map(|i| (i / 11 * 7 + i) as u8).collect();
            let (bytes, root) = tree(&data, block, "c0ffee");
            fs::write(folder.path().join("data"), &data).unwrap();
            fs::write(folder.path().join("tree"), bytes).unwrap();
            Self { folder, data, root }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn open(&self) -> Result<SharedSource> {
            let file = FileSource::open(self.path("data"))?;
            Ok(open(file, &self.path("tree"), self.root)?.0)
        }

        /// Flips a bit of a file for as long as `then` runs.
        fn flipped(&self, name: &str, at: usize, then: impl FnOnce()) {
            let good = fs::read(self.path(name)).unwrap();
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(self.path(name), bad).unwrap();
            then();
            fs::write(self.path(name), good).unwrap();
        }
    }

    fn read(source: &SharedSource, at: usize, length: usize) -> Result<Vec<u8>, ReadError> {
        let mut bytes = vec![0; length];
        source.read_exact_at(at as u64, &mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn what_was_sealed_is_read() {
        for (length, block) in [(100, 4096), (4096, 4096), (600_000, 4096), (70_001, 512)] {
            let blob = Blob::new(length, block);
            let source = blob.open().unwrap();
            assert_eq!(source.size(), length as u64);
            assert_eq!(read(&source, 0, length).unwrap(), blob.data);
            assert_eq!(
                read(&source, length - 1, 1).unwrap(),
                blob.data[length - 1..]
            );
            assert_eq!(read(&source, 17, 50).unwrap(), blob.data[17..67]);
            let beyond = read(&source, length, 1).unwrap_err();
            assert!(matches!(beyond, ReadError::End { .. }), "{beyond}");
        }
    }

    #[test]
    fn no_flipped_bit_is_read() {
        for (length, block) in [(100, 4096), (600_000, 4096), (70_001, 512)] {
            let blob = Blob::new(length, block as u32);
            let places = [0, 1, length / 3, length / 2, length - 1];
            for at in places {
                blob.flipped("data", at, || {
                    let source = blob.open().unwrap();
                    let error = read(&source, at, 1).unwrap_err();
                    assert!(error.is_corruption());
                    let expected =
                        format!("data: the {} bytes", block.min(length - at / block * block));
                    assert!(error.to_string().contains(&expected), "{error}");
                    // What is in other blocks can be read.
                    let other = (at + length / 2) % length;
                    assert_eq!(read(&source, other, 1).is_ok(), other / block != at / block);
                });
            }
        }
    }

    #[test]
    fn a_damaged_tree_is_noticed() {
        let blob = Blob::new(600_000, 4096);
        // 147 blocks of data: the top at 4096, two blocks of hashes behind it.
        for at in [0, 13, 64, 4096, 4096 + 63] {
            blob.flipped("tree", at, || {
                let error = blob.open().map(drop).unwrap_err();
                assert_eq!(error.exit_code(), ExitCode::Invalid, "{at}: {error}");
            });
        }
        for (at, block) in [(8192, 0), (8192 + 4095, 127), (3 * 4096 + 1, 128)] {
            blob.flipped("tree", at, || {
                let source = blob.open().unwrap();
                let error = read(&source, block * 4096, 1).unwrap_err();
                assert!(
                    error.to_string().contains("tree: the hashes at byte"),
                    "{error}"
                );
            });
        }
        blob.open().unwrap();
    }

    #[test]
    fn a_tree_fits_its_blob() {
        let blob = Blob::new(10_000, 4096);
        let said = |what: &str| {
            let error = blob.open().map(drop).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
            error.exit_code()
        };
        for length in [8192, 12_289] {
            let mut data = blob.data.clone();
            data.resize(length, 0);
            fs::write(blob.path("data"), data).unwrap();
            assert_eq!(said("is of 3 blocks of 4096 bytes"), ExitCode::Invalid);
        }
        fs::write(blob.path("data"), &blob.data).unwrap();
        let good = fs::read(blob.path("tree")).unwrap();
        fs::write(blob.path("tree"), &good[..good.len() - 1]).unwrap();
        assert_eq!(said("it has 8191 bytes, expected 8192"), ExitCode::Invalid);
        fs::write(blob.path("tree"), &good[..100]).unwrap();
        assert_eq!(said("it has 100 bytes, expected 512"), ExitCode::Invalid);
        fs::remove_file(blob.path("tree")).unwrap();
        assert_eq!(said("its hash tree is not at"), ExitCode::NotFound);
    }

    #[test]
    fn another_blobs_tree_is_refused() {
        let (blob, other) = (Blob::new(600_000, 4096), Blob::new(600_000 - 1, 4096));
        fs::copy(other.path("tree"), blob.path("tree")).unwrap();
        let error = blob.open().map(drop).unwrap_err();
        assert!(
            error.to_string().contains("its root is not the root hash"),
            "{error}"
        );
    }
}
