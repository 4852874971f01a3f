// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Removing images, and blobs that nothing needs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{entries, remove, try_flock, ImageRecord, Store, StoreError};
use crate::image::digest::Digest;
use crate::loopdev::{self, FileId};
use crate::reference::Reference;
use crate::verity::{beside, blob_of_tree};
use crate::{Error, Result};

/// What was removed, and what was not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Garbage {
    /// Removed, or with a dry run to be removed.
    pub removed: Vec<Removed>,
    /// Blobs that no image has, but a loop device.
    pub in_use: Vec<Removed>,
}

/// A file that nothing in the store needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The blob.
    pub digest: Digest,
    /// What it takes on disk, with its hash tree.
    pub bytes: u64,
    /// It had not arrived completely.
    pub partial: bool,
}

impl Garbage {
    /// What removing gained, in bytes.
    pub fn bytes(&self) -> u64 {
        self.removed.iter().map(|removed| removed.bytes).sum()
    }
}

/// Files that loop devices are on.
#[derive(Clone, Debug, Default)]
pub(super) struct InUse {
    pub(super) files: BTreeSet<FileId>,
    pub(super) paths: BTreeSet<PathBuf>,
}

impl InUse {
    /// Asks the kernel. A device that may not be opened tells only its path.
    fn ask() -> Self {
        let bound = loopdev::all_bound().into_values();
        Self {
            files: loopdev::backing_files(),
            paths: bound.filter_map(|bound| bound.file).collect(),
        }
    }

    fn has(&self, path: &Path, meta: &fs::Metadata) -> bool {
        let id = FileId {
            dev: meta.dev(),
            inode: meta.ino(),
        };
        let by_path = || path.canonicalize().is_ok_and(|p| self.paths.contains(&p));
        self.files.contains(&id) || by_path()
    }
}

impl Store {
    /// Removes every blob that no image has, no running pull waits for, and no loop device is on;
    /// with `dry_run`, only tells which. What arrived of others goes, too.
    pub fn gc(&self, dry_run: bool) -> Result<Garbage> {
        if !self.root().exists() {
            return Ok(Garbage::default());
        }
        let _lock = self.exclusive()?;
        self.collect(&InUse::ask(), dry_run, None)
    }

    /// Forgets an image and removes the blobs that only it has.
    ///
    /// # Errors
    /// [`StoreError::NoImage`], or [`StoreError::OtherName`] if the image has another one.
    pub fn remove_image(&self, reference: &Reference) -> Result<Garbage> {
        // A store that is not there is not made for this.
        self.removable(reference)?;
        let _lock = self.exclusive()?;
        let image = self.removable(reference)?;
        self.forget(&image.reference)?;
        let candidates = image.digests().collect();
        self.collect(&InUse::ask(), false, Some(&candidates))
    }

    /// The image that is recorded under just this reference: a digest does not say which of the tags
    /// that lead to it is to go.
    fn removable(&self, reference: &Reference) -> Result<ImageRecord> {
        if let Some(image) = self.recorded(reference)? {
            return Ok(image);
        }
        let same = self.same_images(reference)?;
        let names: Vec<String> = same.iter().map(|i| i.reference.to_string()).collect();
        let reference = reference.to_string();
        Err(match names.is_empty() {
            true => StoreError::NoImage(reference),
            false => StoreError::OtherName {
                reference,
                names: names.join(", "),
            },
        }
        .into())
    }

    /// Removes what nothing needs, of `candidates` if they are given. The caller holds the lock.
    pub(super) fn collect(
        &self,
        in_use: &InUse,
        dry_run: bool,
        candidates: Option<&BTreeSet<Digest>>,
    ) -> Result<Garbage> {
        let mut needed = self.leased()?;
        needed.extend(self.images()?.iter().flat_map(|image| image.digests()));
        let wanted = |digest: &Digest| {
            !needed.contains(digest) && candidates.is_none_or(|some| some.contains(digest))
        };
        if !dry_run {
            self.sweep_records()?;
        }
        let mut garbage = Garbage::default();
        for (found, path, meta) in files(&self.blobs_folder(), false)? {
            if !wanted(&found.digest) {
                continue;
            }
            if in_use.has(&path, &meta) {
                garbage.in_use.push(found);
            } else if dry_run || remove(&path)? {
                garbage.removed.push(found);
            }
        }
        if !dry_run {
            self.sweep_trees()?;
        }
        for (found, path, _) in files(&self.ingest_folder(), true)? {
            if wanted(&found.digest) && (dry_run || remove_abandoned(&path)?) {
                garbage.removed.push(found);
            }
        }
        Ok(garbage)
    }

    /// Removes records that processes died while writing: with the lock held, nobody writes one.
    fn sweep_records(&self) -> Result<()> {
        for entry in entries(&self.images_folder())? {
            sweep_part(&entry.path())?;
        }
        Ok(())
    }

    /// Removes the hash trees of blobs that are gone; and those that processes died while writing.
    fn sweep_trees(&self) -> Result<()> {
        for entry in entries(&self.blobs_folder())? {
            let (path, name) = (entry.path(), entry.file_name());
            sweep_part(&path)?;
            let blob = name.to_str().and_then(blob_of_tree);
            if blob.is_some_and(|blob| self.blob(&blob).is_none()) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Removes a file that was being written when its process died.
fn sweep_part(path: &Path) -> Result<()> {
    if path
        .extension()
        .is_some_and(|extension| extension == "part")
    {
        remove(path)?;
    }
    Ok(())
}

/// What the hash tree of a blob takes on disk.
fn tree_bytes(blob: &Path) -> u64 {
    fs::metadata(beside(blob)).map_or(0, |meta| meta.blocks() * 512)
}

/// The files in a folder that have a digest's name.
pub(super) fn files(folder: &Path, partial: bool) -> Result<Vec<(Removed, PathBuf, fs::Metadata)>> {
    let mut files = Vec::new();
    for entry in entries(folder)? {
        let name = entry.file_name();
        let Some(digest) = name.to_str().and_then(Digest::from_hex) else {
            continue;
        };
        let (path, meta) = (entry.path(), entry.metadata());
        let meta = match meta {
            // It has just been completed and renamed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|e| Error::io("examine", &path, e))?,
        };
        let bytes = meta.blocks() * 512 + tree_bytes(&path);
        let removed = Removed {
            digest,
            bytes,
            partial,
        };
        files.push((removed, path, meta));
    }
    Ok(files)
}

/// Removes a blob that has not arrived completely, unless a process is at it.
fn remove_abandoned(path: &Path) -> Result<bool> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(|e| Error::io("open", path, e))?,
    };
    let ours = try_flock(&file).map_err(|e| Error::io("lock", path, e))?;
    Ok(ours && remove(path)?)
}
