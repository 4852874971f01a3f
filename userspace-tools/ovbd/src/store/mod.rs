// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Blobs by digest, and the images that are made of them, in one folder:
//!
//! ```text
//! blobs/sha256/HEX   a blob as it was fetched, complete and verified; never changed
//! blobs/sha256/HEX.verity   its hash tree, if it was sealed; goes when the blob does
//! ingest/HEX         a blob that is arriving; locked by whoever writes to it
//! images/HEX.json    an image by its reference; HEX is the reference's hash
//! leases/N.json      which blobs a running pull is going to need; locked by that process
//! lock               shared while something is looked up, exclusive while something is removed
//! records            locked by whoever writes to `images`
//! ```
//!
//! A blob gets its name when every byte of it is checked and on disk, so that what has a name can be
//! used. All locks are the kernel's: they go with their holder. What a process that died leaves is
//! a blob without an image or part of a blob, with which the next pull goes on, or which
//! [`gc`](Store::gc) removes; and a lease without a lock, which goes when somebody has the store to
//! themselves for a moment. Every operation is a rename or an unlink, and any file system of the host
//! will do.
//!
//! Files are what the registry serves, tar wrapper and all: a loop device can read them directly,
//! and a table carries the offset.

mod error;
mod gc;
mod ingest;
mod lease;
mod parts;
mod record;
#[cfg(test)]
mod tests;
mod usage;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

use crate::image::digest::Digest;
use crate::{Error, Result};

pub use error::StoreError;
pub use gc::{Garbage, Removed};
pub use ingest::{parts, Claim, Ingest, Partial, LOOK_AGAIN};
pub use lease::Lease;
pub use record::{Descriptor, ImageRecord};
pub use usage::{ImageUsage, Usage};

/// The environment variable that names the folder of the store.
pub const FOLDER_VARIABLE: &str = "OVBD_STORE";
const FOLDER: &str = "/var/lib/ovbd";

/// A store. Nothing is made or opened before it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    root: PathBuf,
}

/// Keeps everything in the store as long as it lives.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

impl Store {
    /// The store in the folder `root`; without one, in `$OVBD_STORE`, else in `/var/lib/ovbd`.
    pub fn open(root: Option<PathBuf>) -> Self {
        let named = || std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty());
        let root = root.or_else(|| named().map(PathBuf::from));
        Self {
            root: root.unwrap_or_else(|| FOLDER.into()),
        }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of a blob, if it is there: complete, and verified when it arrived.
    pub fn blob(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.blob_path(digest);
        path.is_file().then_some(path)
    }

    /// Has nothing removed from the store as long as the guard lives; waits for a removal that is
    /// under way. For a moment between looking something up and having it open, not for the length
    /// of a download: that is what a [`Lease`] is for.
    pub fn guard(&self) -> Result<Guard> {
        self.lock(FlockOperation::LockShared)
    }

    fn exclusive(&self) -> Result<Guard> {
        self.lock(FlockOperation::LockExclusive)
    }

    /// Takes the lock. Whoever finds it free first clears up what pulls that were killed have left.
    fn lock(&self, operation: FlockOperation) -> Result<Guard> {
        let path = self.root.join("lock");
        let failed = |e| Error::io("lock", &path, e);
        make_folder(&self.root)?;
        let file = open_lockable(&path).map_err(|e| Error::io("open", &path, e))?;
        if try_flock(&file).map_err(failed)? {
            // It is a favour; gc says what is wrong.
            let _ = self.sweep_leases();
        }
        flock(&file, operation).map_err(failed)?;
        Ok(Guard { _file: file })
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blobs_folder().join(digest.hex())
    }

    fn blobs_folder(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn ingest_folder(&self) -> PathBuf {
        self.root.join("ingest")
    }

    fn images_folder(&self) -> PathBuf {
        self.root.join("images")
    }

    fn leases_folder(&self) -> PathBuf {
        self.root.join("leases")
    }
}

/// Makes a folder of the store, which only its owner can look into: images may be private.
fn make_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::io("make the folder", path, e))
}

/// Opens a file that is there to be locked, making it if need be.
fn open_lockable(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    let options = options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

fn flock(file: &File, operation: FlockOperation) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| {
        rustix::fs::flock(file, operation)
    })?)
}

/// Locks a file exclusively; false if another process has it locked.
fn try_flock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

/// The files in a folder of the store; none if there is no such folder yet.
fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    let listing = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    let entries = listing.and_then(|listing| listing.collect::<io::Result<Vec<_>>>());
    let mut entries = entries.map_err(|e| Error::io("list", folder, e))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}

/// Removes a file; false if it is gone already.
fn remove(path: &Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("remove", path, e)),
    }
}
