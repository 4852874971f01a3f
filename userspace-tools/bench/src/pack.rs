// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The disk that carries the content into the guest: a list, then files one behind the other.
//!
//! It is copied to a ramdisk as it is; tables of device-mapper name places on that.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use serde::{Deserialize, Serialize};

/// Bytes of the list at the beginning.
const LIST: usize = 64 << 10;
/// Files begin at multiples of this many bytes.
const ALIGN: u64 = 64 << 10;

/// Where a file lies on the disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Item {
    /// What it is.
    pub name: String,
    /// First byte.
    pub offset: u64,
    /// Exact length in bytes.
    pub length: u64,
}

/// What is on a disk, in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct List {
    /// The files.
    pub items: Vec<Item>,
}

impl List {
    /// Reads the list of `disk`.
    pub fn read(disk: &Path) -> Result<Self> {
        let file = File::open(disk).with_context(|| format!("cannot open {}", disk.display()))?;
        let mut text = vec![0; LIST];
        file.read_exact_at(&mut text, 0)
            .with_context(|| format!("cannot read the list of {}", disk.display()))?;
        let end = text.iter().position(|&b| b == 0).unwrap_or(LIST);
        serde_json::from_slice(&text[..end])
            .with_context(|| format!("{} does not begin with a list of files", disk.display()))
    }

    /// The file `name`.
    pub fn item(&self, name: &str) -> Result<&Item> {
        let mut items = self.items.iter();
        items
            .find(|item| item.name == name)
            .with_context(|| format!("the disk has no {name}; make it anew"))
    }

    /// The list of a disk that has only the file `name`, at its beginning.
    pub fn alone(&self, name: &str) -> Result<Self> {
        let item = self.item(name)?.clone();
        Ok(Self {
            items: vec![Item { offset: 0, ..item }],
        })
    }

    /// The files from `name` on, as on a disk that begins with them; and where they begin here.
    pub fn from(&self, name: &str) -> Result<(u64, Self)> {
        let base = self.item(name)?.offset;
        let behind = self.items.iter().filter(|item| item.offset >= base);
        let moved = behind.map(|item| Item {
            offset: item.offset - base,
            ..item.clone()
        });
        let items = moved.collect();
        Ok((base, Self { items }))
    }

    /// Where the last file ends, in bytes.
    pub fn end(&self) -> u64 {
        let last = self.items.last();
        last.map_or(LIST as u64, |item| item.offset + item.length)
    }
}

/// A disk in the making.
pub struct Packer {
    out: BufWriter<File>,
    list: List,
}

impl Packer {
    /// Begins the disk `path`.
    pub fn new(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            out: BufWriter::new(file),
            list: List::default(),
        })
    }

    /// Adds a file.
    pub fn add(&mut self, name: impl Into<String>, content: &[u8]) -> Result<()> {
        let offset = self.list.end().next_multiple_of(ALIGN);
        self.out.seek(SeekFrom::Start(offset))?;
        self.out.write_all(content)?;
        self.list.items.push(Item {
            name: name.into(),
            offset,
            length: content.len() as u64,
        });
        Ok(())
    }

    /// Writes the list; fills up the disk.
    pub fn finish(self) -> Result<()> {
        let text = serde_json::to_vec(&self.list)?;
        ensure!(
            text.len() < LIST,
            "the list has {} bytes, {LIST} fit",
            text.len()
        );
        let end = self.list.end().next_multiple_of(ALIGN);
        let file = self.out.into_inner().map_err(|error| error.into_error())?;
        file.write_all_at(&text, 0)?;
        file.set_len(end)?;
        Ok(())
    }
}
