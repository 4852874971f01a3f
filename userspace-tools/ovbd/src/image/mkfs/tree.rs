// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a folder holds, as far as making a file system of it needs to know.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::BLOCK;
use crate::{Error, Result};

/// Bytes of an ext4 inode as we make them.
const INODE: u64 = 256;

/// Inodes that ext4 reserves, and some to spare.
const SPARE_INODES: u64 = 1024;

/// One inode for so many bytes is ext4's habit.
const BYTES_AN_INODE: u64 = 16384;

/// A folder's content in numbers.
pub(super) struct Tree {
    /// Files, folders, links, devices; hard links once.
    inodes: u64,
    /// Blocks of content.
    blocks: u64,
    /// The youngest modification, seconds since 1970.
    pub(super) newest: i64,
    digest: Sha256,
}

impl Tree {
    pub(super) fn scan(folder: &Path) -> Result<Self> {
        let mut tree = Self {
            inodes: 0,
            blocks: 0,
            newest: 0,
            digest: Sha256::new(),
        };
        let mut linked = HashSet::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(next) = folders.pop() {
            for path in sorted_entries(&next)? {
                let metadata =
                    fs::symlink_metadata(&path).map_err(|e| Error::io("examine", &path, e))?;
                let again = metadata.nlink() > 1
                    && !metadata.is_dir()
                    && !linked.insert((metadata.dev(), metadata.ino()));
                tree.add(path.strip_prefix(folder).unwrap_or(&path), &metadata, again);
                if metadata.is_dir() {
                    folders.push(path);
                }
            }
        }
        Ok(tree)
    }

    fn add(&mut self, name: &Path, metadata: &Metadata, again: bool) {
        self.newest = self.newest.max(metadata.mtime());
        self.digest.update(name.as_os_str().as_bytes());
        for number in [
            metadata.mode().into(),
            metadata.uid().into(),
            metadata.gid().into(),
            metadata.mtime() as u64,
            if metadata.is_dir() {
                0
            } else {
                metadata.size()
            },
        ] {
            self.digest.update(u64::to_le_bytes(number));
        }
        if !again {
            self.inodes += 1;
            // A folder's size on the host says little about its size in ext4, but a block more
            // than it is enough for both; one more for extended attributes.
            self.blocks += metadata.size().div_ceil(BLOCK) + 1;
        }
    }

    /// A UUID (version 8) that depends on names, owners, modes, times and sizes only.
    pub(super) fn uuid(&self) -> String {
        let digest = self.digest.clone().finalize();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        format!(
            "{}-{}-{}-{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[12..16],
            &hex[16..20],
            &hex[20..]
        )
    }

    /// Bytes of an ext4 image that holds the tree, with a quarter and 32 MiB of free space.
    pub(super) fn ext4_size(&self) -> u64 {
        const MIB: u64 = 1 << 20;
        let needed = self.blocks * BLOCK + (self.inodes + SPARE_INODES) * INODE;
        (needed + needed / 4 + 32 * MIB).next_multiple_of(4 * MIB)
    }

    /// Inodes of an ext4 image of `size` bytes.
    pub(super) fn ext4_inodes(&self, size: u64) -> u64 {
        let needed = self.inodes + self.inodes / 8 + SPARE_INODES;
        needed.max(size / BYTES_AN_INODE)
    }
}

/// What is in `folder`, in an order that does not depend on the host's file system.
fn sorted_entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("list", folder, e);
    let mut paths = fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}
