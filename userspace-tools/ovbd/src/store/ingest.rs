// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A blob on its way into the store.
//!
//! It may come in several parts at a time ([`super::parts`]): each is claimed by whoever fetches it,
//! the first free one first. The digest is computed in order, by whoever has just added something:
//! of the bytes at hand, or, for what arrived before its turn, of the file, where it is still cached.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::fs::FallocateFlags;
use sha2::{Digest as _, Sha256};

use super::parts::Division;
use super::{make_folder, open_lockable, remove, try_flock, Store, StoreError};
use crate::image::digest::Digest;
use crate::{Error, Result};

/// How much of the file is read at a time to hash it, bytes.
const CHUNK: usize = 256 << 10;
/// How much is hashed from the file each time that something was added, bytes: more than is added at
/// a time, so that the hash catches up, and not so much that a connection seems to be idle.
const CATCH_UP: u64 = 1 << 20;
/// Between two looks whether another process is still at a blob.
pub const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What [`Store::begin`] finds.
#[derive(Debug)]
pub enum Ingest {
    /// The blob is there; nothing is to do.
    There(PathBuf),
    /// The blob, or what is missing of it, has to be fetched.
    Partial(Box<Partial>),
}

/// A blob that is arriving, locked: no other process writes to it. Dropping it keeps what has
/// arrived for the next run, and nothing else.
#[derive(Debug)]
pub struct Partial {
    file: File,
    path: PathBuf,
    target: PathBuf,
    digest: Digest,
    division: Division,
    state: Mutex<State>,
    /// A part is free, or complete.
    released: Condvar,
    head: Mutex<Head>,
    /// Whether there is room for all of it.
    reserved: Mutex<bool>,
}

#[derive(Debug)]
struct State {
    parts: Vec<Part>,
    /// Bytes that have arrived.
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    /// How many of its bytes have arrived.
    present: u64,
    /// Somebody is at it.
    claimed: bool,
}

/// What is hashed: all bytes from the first on.
#[derive(Debug, Default)]
struct Head {
    len: u64,
    hash: Sha256,
    chunk: Vec<u8>,
}

/// A part of a blob that only the holder adds to. Dropping it leaves the rest to others.
#[derive(Debug)]
pub struct Claim<'a> {
    partial: &'a Partial,
    index: usize,
    /// The bytes that are missing.
    missing: Range<u64>,
}

impl Store {
    /// Begins, or resumes, to fetch a blob of `size` bytes. If another process is at it, this waits
    /// until it has finished or gone.
    ///
    /// # Errors
    /// [`StoreError::Size`] if the blob is there and has another size.
    pub fn begin(&self, digest: &Digest, size: u64) -> Result<Ingest> {
        self.begin_or(digest, size, || {
            thread::sleep(LOOK_AGAIN);
            Ok(())
        })
    }

    /// The same, but `wait` is called again and again as long as another process is at it; an error
    /// ends that.
    pub fn begin_or(
        &self,
        digest: &Digest,
        size: u64,
        mut wait: impl FnMut() -> Result<()>,
    ) -> Result<Ingest> {
        let (folder, target) = (self.ingest_folder(), self.blob_path(digest));
        make_folder(&folder)?;
        make_folder(&self.blobs_folder())?;
        let path = folder.join(digest.hex());
        loop {
            if let Some(there) = self.there(digest, size)? {
                return Ok(Ingest::There(there));
            }
            let failed = |e| Error::io("lock", &path, e);
            let file = open_lockable(&path).map_err(failed)?;
            if !try_flock(&file).map_err(failed)? {
                wait()?;
                continue;
            }
            // The process that was waited for may have finished it.
            if let Some(there) = self.there(digest, size)? {
                remove(&path)?;
                return Ok(Ingest::There(there));
            }
            if is_current(&file, &path).map_err(failed)? {
                let partial = Partial::resume(file, path, target, *digest, size)?;
                return Ok(Ingest::Partial(Box::new(partial)));
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

/// Whether `file` is still the one at `path`.
fn is_current(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    let current = fs::symlink_metadata(path);
    Ok(current.is_ok_and(|now| (now.dev(), now.ino()) == (ours.dev(), ours.ino())))
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Partial {
    fn resume(
        file: File,
        path: PathBuf,
        target: PathBuf,
        digest: Digest,
        size: u64,
    ) -> Result<Self> {
        let division = Division::of(size);
        let read = division.read(&file);
        let found = read.map_err(|e| Error::io("read", &path, e))?;
        let present = found.unwrap_or_else(|| vec![0; division.count()]);
        let len = present.iter().sum();
        if len == 0 {
            // What is there is of no use, and may be larger than what is to come.
            file.set_len(0).map_err(|e| Error::io("empty", &path, e))?;
        }
        let part = |present| Part {
            present,
            claimed: false,
        };
        let partial = Self {
            file,
            path,
            target,
            digest,
            division,
            state: Mutex::new(State {
                parts: present.iter().copied().map(part).collect(),
                len,
            }),
            released: Condvar::new(),
            head: Mutex::default(),
            reserved: Mutex::new(false),
        };
        let written = division.write(&partial.file, &present);
        written.map_err(|e| Error::io("write to", &partial.path, e))?;
        partial.catch_up(&mut lock(&partial.head), u64::MAX)?;
        Ok(partial)
    }

    /// Takes the room for all of it, unless that was done: a disk that is too small is told before
    /// any of it is fetched, and the blob lies in few pieces. Not before somebody is about to send
    /// it, as its size is only what a manifest says.
    pub fn reserve(&self) -> Result<()> {
        let mut reserved = lock(&self.reserved);
        if *reserved || self.size() == self.len() {
            return Ok(());
        }
        match self.allocate(FallocateFlags::KEEP_SIZE, 0..self.size()) {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                // Some file systems keep what they could get.
                self.release();
                return Err(Error::io("reserve room for", &self.path, e));
            }
            // Not every file system can.
            _ => *reserved = true,
        }
        Ok(())
    }

    /// Gives back the room for what is missing. Nobody may be writing.
    fn release(&self) {
        let state = lock(&self.state);
        for (index, part) in state.parts.iter().enumerate() {
            let missing = self.missing(index, part);
            if !missing.is_empty() {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // Where that is not possible, nothing was reserved.
                let _ = self.allocate(punch, missing);
            }
        }
    }

    fn allocate(&self, how: FallocateFlags, bytes: Range<u64>) -> io::Result<()> {
        let (offset, length) = (bytes.start, bytes.end - bytes.start);
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.file, how, offset, length))?;
        Ok(())
    }

    /// How many bytes have arrived.
    pub fn len(&self) -> u64 {
        lock(&self.state).len
    }

    /// Whether nothing has arrived yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The size that was announced.
    pub fn size(&self) -> u64 {
        self.division.size
    }

    /// The digest that the blob has to have.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether there is a part to claim.
    pub fn has_free_part(&self) -> bool {
        let state = lock(&self.state);
        let mut parts = state.parts.iter().enumerate();
        parts.any(|(index, part)| !part.claimed && !self.missing(index, part).is_empty())
    }

    fn missing(&self, index: usize, part: &Part) -> Range<u64> {
        let range = self.division.range(index);
        range.start + part.present..range.end
    }

    /// The first part that is not complete and nobody is at.
    pub fn claim(&self) -> Option<Claim<'_>> {
        self.claim_in(&mut lock(&self.state), 0)
    }

    /// The same; if there is none, waits until others have brought theirs or left them. Nothing if
    /// everything is there.
    pub fn claim_or_wait(&self) -> Option<Claim<'_>> {
        let mut state = lock(&self.state);
        loop {
            if state.len == self.size() {
                return None;
            }
            if let Some(claim) = self.claim_in(&mut state, 0) {
                return Some(claim);
            }
            let waited = self.released.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The first such part of those from byte `offset` on, which is the first byte of one.
    pub fn claim_from(&self, offset: u64) -> Option<Claim<'_>> {
        self.claim_in(&mut lock(&self.state), self.division.part_of(offset))
    }

    fn claim_in(&self, state: &mut State, first: usize) -> Option<Claim<'_>> {
        let mut parts = state.parts.iter_mut().enumerate().skip(first);
        let (index, part) =
            parts.find(|(index, part)| !part.claimed && !self.missing(*index, part).is_empty())?;
        part.claimed = true;
        Some(Claim {
            partial: self,
            index,
            missing: self.missing(index, part),
        })
    }

    /// Adds bytes to the first part that is not complete, and those behind it: for a source that
    /// has them in order.
    ///
    /// # Errors
    /// [`StoreError::Size`] if they are more than were announced; none of them is taken then.
    pub fn append(&self, mut bytes: &[u8]) -> Result<()> {
        let len = self.len().saturating_add(bytes.len() as u64);
        if len > self.size() {
            check_size(self.digest, len, self.size())?;
        }
        while let Some(mut claim) = self.claim().filter(|_| !bytes.is_empty()) {
            bytes = claim.append(bytes)?;
        }
        Ok(())
    }

    /// Up to which byte everything has arrived, from `offset` on, which has.
    fn reach(&self, offset: u64) -> u64 {
        let state = lock(&self.state);
        let mut reach = offset;
        for (index, part) in state
            .parts
            .iter()
            .enumerate()
            .skip(self.division.part_of(offset))
        {
            let range = self.division.range(index);
            reach = range.start + part.present;
            if reach < range.end {
                break;
            }
        }
        reach
    }

    /// Hashes what follows the head in the file, but not more than `most` bytes.
    fn catch_up(&self, head: &mut Head, most: u64) -> Result<()> {
        let end = self.reach(head.len).min(head.len.saturating_add(most));
        if head.len < end && head.chunk.is_empty() {
            head.chunk = vec![0; CHUNK];
        }
        while head.len < end {
            let length = (end - head.len).min(CHUNK as u64) as usize;
            let chunk = &mut head.chunk[..length];
            self.file
                .read_exact_at(chunk, head.len)
                .map_err(|e| Error::io("read", &self.path, e))?;
            head.hash.update(chunk);
            head.len += length as u64;
        }
        Ok(())
    }

    /// Checks the blob, makes it durable, and gives it its name. Nobody may be at it any more.
    ///
    /// # Errors
    /// [`StoreError::Size`] if bytes are missing, and they can be added by the next run;
    /// [`StoreError::Digest`] if it is something else, which is removed.
    pub fn finish(&self) -> Result<PathBuf> {
        check_size(self.digest, self.len(), self.size())?;
        let mut head = lock(&self.head);
        self.catch_up(&mut head, u64::MAX)?;
        let found = Digest::of(head.hash.clone());
        if found != self.digest {
            remove(&self.path)?;
            let expected = self.digest;
            return Err(StoreError::Digest { expected, found }.into());
        }
        self.file
            .set_len(self.size())
            .and_then(|()| self.file.sync_all())
            .map_err(|e| Error::io("sync", &self.path, e))?;
        fs::rename(&self.path, &self.target).map_err(|e| Error::io("name", &self.target, e))?;
        let folder = self.target.parent().unwrap_or(&self.target);
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| Error::io("sync", folder, e))?;
        Ok(self.target.clone())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        match self.is_empty() && self.size() > 0 {
            // It still has the lock. What cannot be removed now is left to `gc`.
            true => drop(remove(&self.path)),
            false => self.release(),
        }
    }
}

impl Claim<'_> {
    /// The bytes of the blob that are missing.
    pub fn missing(&self) -> Range<u64> {
        self.missing.clone()
    }

    /// Adds the bytes that follow; gives those that do not belong to this part any more.
    pub fn append<'b>(&mut self, bytes: &'b [u8]) -> Result<&'b [u8]> {
        let missing = self.missing.end - self.missing.start;
        let length = (bytes.len() as u64).min(missing) as usize;
        let (bytes, rest) = bytes.split_at(length);
        let (partial, offset) = (self.partial, self.missing.start);
        let present = offset + length as u64 - partial.division.range(self.index).start;
        let write = || {
            partial.file.write_all_at(bytes, offset)?;
            partial.division.note(&partial.file, self.index, present)
        };
        write().map_err(|e| Error::io("write to", &partial.path, e))?;
        self.missing.start += length as u64;
        let mut state = lock(&partial.state);
        state.parts[self.index].present = present;
        state.len += length as u64;
        drop(state);
        // Whoever is hashing goes on with this, or the next one to add something does.
        if let Ok(mut head) = partial.head.try_lock() {
            if head.len == offset {
                head.hash.update(bytes);
                head.len += length as u64;
            }
            partial.catch_up(&mut head, CATCH_UP)?;
        }
        Ok(rest)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        lock(&self.partial.state).parts[self.index].claimed = false;
        self.partial.released.notify_all();
    }
}

/// How many connections at most can be at a blob of `size` bytes at the same time.
pub fn parts(size: u64) -> usize {
    Division::of(size).count()
}
