// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which blobs a pull is going to need, so that nobody removes them before its image is recorded.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use rustix::fs::FlockOperation;

use super::{entries, flock, make_folder, remove, try_flock, Store};
use crate::image::digest::Digest;
use crate::{Error, Result};

/// How many leases one process may have tried names for.
const NAMES_MAX: u32 = 1 << 16;

/// Keeps blobs in the store, whether they are there yet or not, as long as it lives.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    /// Locked: that is how others know that the holder lives.
    _file: File,
}

impl Store {
    /// Keeps the blobs with these digests, and what has arrived of them.
    pub fn lease(&self, digests: impl IntoIterator<Item = Digest>) -> Result<Lease> {
        let digests: Vec<Digest> = digests.into_iter().collect();
        let folder = self.leases_folder();
        make_folder(&folder)?;
        // Nobody looks at leases while one has a name and no lock yet.
        let _guard = self.guard()?;
        for attempt in 0..NAMES_MAX {
            let path = folder.join(format!("{}-{attempt}.json", std::process::id()));
            let mut file = match File::create_new(&path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(|e| Error::io("create", &path, e))?,
            };
            let written = flock(&file, FlockOperation::LockExclusive)
                .and_then(|()| Ok(serde_json::to_vec(&digests)?))
                .and_then(|text| file.write_all(&text));
            let lease = Lease { path, _file: file };
            return match written {
                Ok(()) => Ok(lease),
                Err(e) => Err(Error::io("write", &lease.path, e)),
            };
        }
        let exhausted = io::ErrorKind::AlreadyExists.into();
        Err(Error::io(
            "find a free name for a lease in",
            folder,
            exhausted,
        ))
    }

    /// The digests in all leases whose holders live. The others are removed. The caller holds the
    /// store's lock exclusively.
    pub(super) fn leased(&self) -> Result<BTreeSet<Digest>> {
        let mut digests = BTreeSet::new();
        for (path, file) in self.sweep_leases()? {
            let listed: Vec<Digest> = serde_json::from_reader(&file)
                .map_err(|e| Error::io("read the lease", &path, e.into()))?;
            digests.extend(listed);
        }
        Ok(digests)
    }

    /// Removes the leases of pulls that were killed; gives the others. The caller holds the store's
    /// lock exclusively.
    pub(super) fn sweep_leases(&self) -> Result<Vec<(PathBuf, File)>> {
        let mut living = Vec::new();
        for entry in entries(&self.leases_folder())? {
            let path = entry.path();
            let file = match File::open(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|e| Error::io("open", &path, e))?,
            };
            match try_flock(&file).map_err(|e| Error::io("lock", &path, e))? {
                true => {
                    remove(&path)?;
                }
                false => living.push((path, file)),
            }
        }
        Ok(living)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Best effort: without a lock it counts for nothing.
        let _ = fs::remove_file(&self.path);
    }
}
