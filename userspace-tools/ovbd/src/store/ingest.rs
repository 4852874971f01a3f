// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A blob on its way into the store.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, FlockOperation};
use sha2::{Digest as _, Sha256};

use super::{flock, make_folder, open_lockable, remove, Store, StoreError};
use crate::image::digest::Digest;
use crate::{Error, Result};

/// How much of a resumed blob is read at a time.
const CHUNK: usize = 256 << 10;

/// What [`Store::begin`] finds.
#[derive(Debug)]
pub enum Ingest {
    /// The blob is there; nothing is to do.
    There(PathBuf),
    /// The blob has to be fetched, from byte [`Partial::len`] on.
    Partial(Partial),
}

/// A blob that is arriving, locked: no other process writes to it. Dropping it keeps what has
/// arrived for the next run.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    size: u64,
    len: u64,
    hash: Sha256,
}

impl Store {
    /// Begins, or resumes, to fetch a blob of `size` bytes. If another process is at it, this waits
    /// until it has finished or gone.
    ///
    /// # Errors
    /// [`StoreError::Size`] if the blob is there and has another size.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Ingest> {
        let (folder, target) = (self.ingest_folder(), self.blob_path(digest));
        make_folder(&folder)?;
        make_folder(&self.blobs_folder())?;
        let path = folder.join(digest.hex());
        loop {
            if let Some(there) = self.there(digest, size)? {
                return Ok(Ingest::There(there));
            }
            let file = lock_current(&path).map_err(|e| Error::io("lock", &path, e))?;
            // The process that was waited for may have finished it.
            if let Some(there) = self.there(digest, size)? {
                remove(&path)?;
                return Ok(Ingest::There(there));
            }
            if let Some(file) = file {
                let partial = Partial::resume(file, path, target, *digest, size)?;
                return Ok(Ingest::Partial(partial));
            }
        }
    }

    fn there(&self, digest: &Digest, size: u64) -> Result<Option<PathBuf>> {
        let path = self.blob_path(digest);
        let found = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("examine", path, e)),
        };
        check_size(*digest, found, size)?;
        Ok(Some(path))
    }
}

/// Opens and locks the file at `path`; `None` if it is another file by then.
fn lock_current(path: &Path) -> io::Result<Option<File>> {
    let file = open_lockable(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    let ours = file.metadata()?;
    let current = fs::symlink_metadata(path);
    let same = current.is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino()));
    Ok(same.then_some(file))
}

fn check_size(digest: Digest, found: u64, expected: u64) -> Result<(), StoreError> {
    if found == expected {
        return Ok(());
    }
    Err(StoreError::Size {
        digest,
        found,
        expected,
    })
}

impl Partial {
    fn resume(
        file: File,
        path: PathBuf,
        target: PathBuf,
        digest: Digest,
        size: u64,
    ) -> Result<Self> {
        let mut partial = Self {
            file,
            path,
            target,
            digest,
            size,
            len: 0,
            hash: Sha256::new(),
        };
        partial
            .hash_head()
            .map_err(|e| Error::io("read", &partial.path, e))?;
        if partial.len > size {
            partial.restart()?;
        }
        partial.reserve()?;
        Ok(partial)
    }

    /// Hashes what is there. Its end stays where the next bytes go.
    fn hash_head(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match self.file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            self.hash.update(&chunk[..read]);
            self.len += read as u64;
        }
    }

    /// Takes the room for the rest: a disk that is too small is told before anything is fetched, and
    /// the blob lies in few pieces.
    fn reserve(&self) -> Result<()> {
        let missing = self.size - self.len;
        if missing == 0 {
            return Ok(());
        }
        let keep = FallocateFlags::KEEP_SIZE;
        let reserved = rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.file, keep, self.len, missing)
        });
        match reserved.map_err(io::Error::from) {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                Err(Error::io("reserve room for", &self.path, e))
            }
            // Not every file system can.
            _ => Ok(()),
        }
    }

    /// How many bytes have arrived; the next one has this offset.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has arrived yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The size that was announced.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest that the blob has to have.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Adds the bytes that follow.
    ///
    /// # Errors
    /// [`StoreError::Size`] if they are more than were announced; none of them is taken then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let len = self.len.saturating_add(bytes.len() as u64);
        if len > self.size {
            check_size(self.digest, len, self.size)?;
        }
        self.file.write_all(bytes).map_err(|e| {
            // What was written of them is not hashed: a later call must not go on behind it.
            let _ = self.file.set_len(self.len);
            let _ = self.file.seek(SeekFrom::Start(self.len));
            Error::io("write to", &self.path, e)
        })?;
        self.hash.update(bytes);
        self.len = len;
        Ok(())
    }

    /// Throws away what has arrived, for a source that cannot go on where another stopped.
    pub fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|e| Error::io("empty", &self.path, e))?;
        self.len = 0;
        self.hash = Sha256::new();
        Ok(())
    }

    /// Checks the blob, makes it durable, and gives it its name.
    ///
    /// # Errors
    /// [`StoreError::Size`] if bytes are missing, and they can be added by the next run;
    /// [`StoreError::Digest`] if it is something else, which is removed.
    pub fn finish(self) -> Result<PathBuf> {
        check_size(self.digest, self.len, self.size)?;
        let found = Digest::of(self.hash.clone());
        if found != self.digest {
            remove(&self.path)?;
            let expected = self.digest;
            return Err(StoreError::Digest { expected, found }.into());
        }
        self.file
            .sync_all()
            .map_err(|e| Error::io("sync", &self.path, e))?;
        fs::rename(&self.path, &self.target).map_err(|e| Error::io("name", &self.target, e))?;
        let folder = self.target.parent().unwrap_or(&self.target);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::io("sync", folder, e))?;
        Ok(self.target)
    }
}
