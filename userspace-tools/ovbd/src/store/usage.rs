// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How much room images take, alone and together.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::gc::files;
use super::{ImageRecord, Store};
use crate::image::digest::Digest;
use crate::reference::Reference;
use crate::Result;

/// What lies in a store. All sizes are bytes on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The images, by reference.
    pub images: Vec<ImageUsage>,
    /// All blobs.
    pub bytes: u64,
    /// Number of blobs.
    pub blobs: usize,
    /// Blobs that more than one image has, each counted once.
    pub shared_bytes: u64,
    /// Blobs that no image has: `gc` removes them, unless they are in use.
    pub unused_bytes: u64,
    /// Blobs that have not arrived completely.
    pub partial_bytes: u64,
}

/// What an image takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ImageUsage {
    /// Its reference.
    pub reference: Reference,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Number of its layers.
    pub layers: usize,
    /// All of its blobs.
    pub bytes: u64,
    /// Those that another image has, too.
    pub shared_bytes: u64,
    /// Those that it alone has: what `rmi` gains.
    pub unique_bytes: u64,
    /// Every layer is there.
    pub complete: bool,
}

impl Store {
    /// Measures what lies in the store.
    pub fn usage(&self) -> Result<Usage> {
        let images = self.images()?;
        let blobs: BTreeMap<Digest, u64> = files(&self.blobs_folder(), false)?
            .into_iter()
            .map(|(found, ..)| (found.digest, found.bytes))
            .collect();
        let partial = files(&self.ingest_folder(), true)?;
        let users = users(&images);
        let sum = |wanted: &dyn Fn(usize) -> bool| {
            let count = |digest| users.get(digest).copied().unwrap_or(0);
            let wanted = blobs.iter().filter(|(digest, _)| wanted(count(digest)));
            wanted.map(|(_, bytes)| bytes).sum()
        };
        Ok(Usage {
            bytes: sum(&|_| true),
            blobs: blobs.len(),
            shared_bytes: sum(&|users| users > 1),
            unused_bytes: sum(&|users| users == 0),
            partial_bytes: partial.iter().map(|(found, ..)| found.bytes).sum(),
            images: images
                .iter()
                .map(|image| of_image(image, &blobs, &users))
                .collect(),
        })
    }
}

/// How many images have a blob.
fn users(images: &[ImageRecord]) -> BTreeMap<Digest, usize> {
    let mut users = BTreeMap::new();
    for image in images {
        for digest in image.digests().collect::<BTreeSet<_>>() {
            *users.entry(digest).or_default() += 1;
        }
    }
    users
}

fn of_image(
    image: &ImageRecord,
    blobs: &BTreeMap<Digest, u64>,
    users: &BTreeMap<Digest, usize>,
) -> ImageUsage {
    let (mut shared_bytes, mut unique_bytes) = (0, 0);
    for digest in image.digests().collect::<BTreeSet<_>>() {
        let bytes = blobs.get(&digest).copied().unwrap_or(0);
        match users.get(&digest) {
            Some(1) => unique_bytes += bytes,
            _ => shared_bytes += bytes,
        }
    }
    let mut layers = image.data_layers();
    ImageUsage {
        reference: image.reference.clone(),
        digest: image.manifest.digest,
        layers: image.data_layers().count(),
        bytes: shared_bytes + unique_bytes,
        shared_bytes,
        unique_bytes,
        complete: layers.all(|layer| blobs.contains_key(&layer.digest)),
    }
}
