// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a listing says. In JSON the fields have the names that they have here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::dm::Info;
use crate::identity::Role;
use crate::output::paths;
use crate::reference::Reference;
use crate::store::Store;
use crate::verity::{is_corrupted, RootHash};
use crate::Result;

/// The option of the target verity that names a signature.
const SIGNED: &str = "root_hash_sig_key_desc";

/// How far a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It serves reads.
    Live,
    /// Reads wait until it is resumed.
    Suspended,
    /// It has no live table: the process that made it was killed. `up` goes on, `down` removes it.
    Incomplete,
    /// It will be removed when its last user goes.
    Leaving,
}

impl State {
    pub(super) fn of(role: Role, info: &Info) -> Self {
        if !info.live {
            Self::Incomplete
        } else if info.suspended {
            Self::Suspended
        } else if info.deferred_remove && role == Role::Image {
            // All layers are to be removed with their last user; that says nothing about them.
            Self::Leaving
        } else {
            Self::Live
        }
    }

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Suspended => "suspended",
            Self::Incomplete => "incomplete",
            Self::Leaving => "leaving",
        }
    }
}

/// All that is set up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The images, by name.
    pub images: Vec<Image>,
    /// The inner devices, by name.
    pub layers: Vec<Inner>,
}

impl Listing {
    /// The file at the bottom of a layer.
    pub fn file<'a>(&'a self, lower: &'a Lower) -> Option<&'a Path> {
        let mut lower = lower;
        loop {
            if let Some(file) = &lower.file {
                return Some(file);
            }
            let name = lower.name.as_ref()?;
            let inner = self.layers.iter().find(|inner| inner.name == *name)?;
            lower = inner.lowers.first()?;
        }
    }

    /// What vouches for a layer, if something does.
    pub fn verity<'a>(&'a self, lower: &'a Lower) -> Option<&'a Verity> {
        let mut lower = lower;
        loop {
            let name = lower.name.as_ref()?;
            let inner = self.layers.iter().find(|inner| inner.name == *name)?;
            if inner.verity.is_some() {
                return inner.verity.as_ref();
            }
            lower = inner.lowers.first()?;
        }
    }

    /// How many of an image's layers other images have, too.
    pub fn shared_layers(&self, image: &Image) -> usize {
        let others = self.images.iter().filter(|other| other.name != image.name);
        let used: BTreeSet<&str> = others
            .flat_map(|other| &other.layers)
            .map(|lower| lower.number.as_str())
            .collect();
        let shared = |lower: &&Lower| used.contains(lower.number.as_str());
        image.layers.iter().filter(shared).count()
    }

    /// Finds out which images of a store these are: those whose layers lie in the same files.
    pub fn recognise(&mut self, store: &Store) -> Result<()> {
        let records = store.images()?;
        for at in 0..self.images.len() {
            let files = |image: &Image| -> Vec<Option<PathBuf>> {
                let files = image.layers.iter().map(|lower| self.file(lower));
                files.map(|file| file.map(Path::to_owned)).collect()
            };
            let files = files(&self.images[at]);
            let same = records.iter().filter(|record| store.files(record) == files);
            self.images[at].references = same.map(|record| record.reference.clone()).collect();
        }
        Ok(())
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// The path of its device.
    #[serde(serialize_with = "paths::one")]
    pub device: PathBuf,
    /// The device's number, `major:minor`.
    pub number: String,
    /// Its UUID.
    pub uuid: String,
    /// How far it is.
    pub state: State,
    /// Size of the disk in bytes.
    pub bytes: u64,
    /// How often it is open.
    pub open_count: u32,
    /// Where this process sees it mounted.
    #[serde(serialize_with = "paths::many")]
    pub mounts: Vec<PathBuf>,
    /// What the store knows it by, if its layers lie there.
    pub references: Vec<Reference>,
    /// What its layers lie on, bottom first.
    pub layers: Vec<Lower>,
    /// About how much of the kernel's memory it takes, its layers not counted.
    pub memory_bytes: Option<u64>,
    /// What it has counted.
    pub counters: Option<ImageCounters>,
}

/// An inner device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inner {
    /// Its name.
    pub name: String,
    /// What it is: `zfile`, `verity` or `joined`.
    pub role: &'static str,
    /// Its number, `major:minor`.
    pub number: String,
    /// Its UUID.
    pub uuid: String,
    /// How far it is.
    pub state: State,
    /// How often it is open.
    pub open_count: u32,
    /// The devices that stand on it, by name.
    pub used_by: Vec<String>,
    /// What it stands on.
    pub lowers: Vec<Lower>,
    /// It does not check the CRCs of blocks.
    pub ignore_crc: bool,
    /// What it checks by, and whether that has failed.
    pub verity: Option<Verity>,
    /// About how much of the kernel's memory it takes.
    pub memory_bytes: Option<u64>,
    /// What it has counted.
    pub counters: Option<LayerCounters>,
}

/// What a device checks that shows only what a root hash vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Verity {
    /// The root hash.
    pub root_hash: RootHash,
    /// The kernel checked a signature of that when the device was made.
    pub signed: bool,
    /// A block was read that is not the one that was sealed.
    pub corrupted: bool,
}

impl Verity {
    /// Reads a table and a status of the target.
    pub(super) fn parse(table: &str, status: &str) -> Option<Self> {
        let mut words = table.split_whitespace();
        let root_hash = words.nth(8)?.parse().ok()?;
        Some(Self {
            root_hash,
            signed: words.any(|word| word == SIGNED),
            corrupted: is_corrupted(status),
        })
    }
}

/// What a device stands on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lower {
    /// Its number, `major:minor`.
    pub number: String,
    /// Its name, if it is one of our devices.
    pub name: Option<String>,
    /// The file on it, if it is a loop device.
    #[serde(serialize_with = "paths::perhaps")]
    pub file: Option<PathBuf>,
    /// Whether the file is read past the page cache.
    pub direct_io: Option<bool>,
}

/// What an image has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ImageCounters {
    /// Pieces of the disk that lie in one place.
    pub extents: u64,
    /// Reads.
    pub reads: u64,
    /// Sectors read that are in no layer.
    pub zero_sectors: u64,
    /// Reads of a layer's last sector that is not full.
    pub tail_sectors: u64,
    /// Reads that failed because a layer's device failed them.
    pub io_errors: u64,
}

/// What a compressed layer has counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerCounters {
    /// How blocks are compressed.
    pub algorithm: &'static str,
    /// Bytes in a block.
    pub block_size: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes of what it decompresses to.
    pub bytes: u64,
    /// Sectors read from the device below.
    pub read_sectors: u64,
    /// Bytes that decompression yielded.
    pub decompressed_bytes: u64,
    /// Blocks that did not have to be decompressed again.
    pub cache_hits: u64,
    /// Reads for which there was no memory, so that they waited for the device's reserve.
    pub reserve_waits: u64,
    /// Blocks whose CRC was wrong.
    pub crc_errors: u64,
    /// Blocks that could not be decompressed.
    pub decompress_errors: u64,
    /// Reads that the device below failed.
    pub io_errors: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let info = |live, suspended, deferred_remove| Info {
            name: "x".into(),
            uuid: String::new(),
            dev: 0,
            open_count: 0,
            live,
            inactive: false,
            suspended,
            read_only: true,
            deferred_remove,
        };
        assert_eq!(
            State::of(Role::Image, &info(true, false, false)),
            State::Live
        );
        assert_eq!(
            State::of(Role::Image, &info(true, true, false)),
            State::Suspended
        );
        assert_eq!(
            State::of(Role::Image, &info(false, false, false)),
            State::Incomplete
        );
        assert_eq!(
            State::of(Role::Image, &info(true, false, true)),
            State::Leaving
        );
        assert_eq!(
            State::of(Role::Zfile, &info(true, false, true)),
            State::Live
        );
    }
}
