// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files that the reference tools wrote, and the content that each must decode to.
//!
//! They reach the guest as one disk: an index, then every file at a sector of its own. What
//! follows a file on the disk is a marker, which no device may ever show. The index says how to
//! compose a device from the file; the expected content is the reference's.

mod pack;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use anyhow::{anyhow, ensure, Context as _, Result};
use ovbd::dm::DevNo;
use serde::{Deserialize, Serialize};

use crate::ctx::SECTOR;
pub use pack::pack;

/// The disk's name.
const DISK: &str = "/dev/disk/golden";
/// What fills the disk between the files.
pub const MARKER: u8 = 0xa5;
/// The disk begins with this and the length of the index.
const MAGIC: [u8; 8] = *b"golden01";
const HEAD: usize = 16;

/// Where bytes lie on the disk.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Extent {
    /// First sector.
    pub sector: u64,
    /// Exact length, bytes.
    pub length: u64,
}

impl Extent {
    /// As in a table, behind the device.
    pub fn words(self) -> String {
        format!("{} {}", self.sector, self.length)
    }
}

/// What a file is, once it is out of its tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// An LSMT file.
    Lsmt,
    /// A ZFile of so many bytes.
    Zfile(u64),
    /// Something else.
    Other,
}

/// A golden file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Its path below the golden folder.
    pub name: String,
    /// What the manifest calls it.
    pub kind: String,
    /// The whole file.
    pub file: Extent,
    /// The file without its tar.
    pub payload: Extent,
    /// What the payload is.
    pub shape: Shape,
    /// Name of the expected content, and its length in bytes.
    pub content: Option<(String, u64)>,
    /// Where it stands in a stack, from the bottom.
    pub position: Option<usize>,
}

impl Entry {
    /// Whether the reference compressed an LSMT file, not just any file.
    pub fn holds_lsmt(&self) -> bool {
        self.kind.contains("lsmt")
    }

    /// The name without folder, for tests' names.
    pub fn short_name(&self) -> String {
        self.name.replace('/', ".")
    }
}

/// What is on the disk.
#[derive(Debug, Serialize, Deserialize)]
struct Index {
    entries: Vec<Entry>,
    contents: Vec<(String, Extent)>,
}

/// The golden files, in the guest.
pub struct Golden {
    disk: File,
    dev: DevNo,
    index: Index,
}

impl Golden {
    /// Opens the disk; `None` if the run has none.
    pub fn open() -> Result<Self> {
        let missing = || format!("{DISK}: no golden files; OVBD_GOLDEN names their folder");
        let mut disk = File::open(DISK).with_context(missing)?;
        let mut head = [0; HEAD];
        disk.read_exact(&mut head)?;
        let (magic, length) = head.split_at(MAGIC.len());
        ensure!(magic == MAGIC, "{DISK} is no disk of golden files");
        let length = u64::from_le_bytes(length.try_into()?);
        let mut text = vec![0; usize::try_from(length)?];
        disk.read_exact(&mut text)?;
        let dev = DevNo(rustix::fs::fstat(&disk)?.st_rdev);
        let index = serde_json::from_slice(&text).context(DISK)?;
        Ok(Self { disk, dev, index })
    }

    /// The disk, as tables name it.
    pub fn dev(&self) -> DevNo {
        self.dev
    }

    /// All files.
    pub fn entries(&self) -> &[Entry] {
        &self.index.entries
    }

    /// The file called `name`.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        let found = self.index.entries.iter().find(|entry| entry.name == name);
        found.with_context(|| format!("no golden file {name}"))
    }

    /// The layers of a stack from the bottom: `ext4/layer*.lsmt`.
    pub fn stack(&self, pattern: &str) -> Result<Vec<&Entry>> {
        let (before, behind) = pattern.split_once('*').context("stack pattern")?;
        let belongs = |entry: &&Entry| {
            entry.position.is_some()
                && entry.name.starts_with(before)
                && entry.name.ends_with(behind)
        };
        let mut layers: Vec<_> = self.index.entries.iter().filter(belongs).collect();
        layers.sort_by_key(|entry| entry.position);
        ensure!(!layers.is_empty(), "no golden stack {pattern}");
        Ok(layers)
    }

    /// The bytes of a file.
    pub fn bytes(&self, extent: Extent) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(extent.length)?];
        self.disk
            .read_exact_at(&mut bytes, extent.sector * SECTOR)
            .context(DISK)?;
        Ok(bytes)
    }

    /// The content that an entry decodes to, without the zeros that fill its last sector.
    pub fn content(&self, entry: &Entry) -> Result<Vec<u8>> {
        let (name, _) = entry
            .content
            .as_ref()
            .with_context(|| format!("{} has no expected content", entry.name))?;
        let found = self.index.contents.iter().find(|(other, _)| other == name);
        let (_, extent) = found.ok_or_else(|| anyhow!("{name} is not on {DISK}"))?;
        self.bytes(*extent)
    }
}
