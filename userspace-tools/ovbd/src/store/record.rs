// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which images are in the store, and which blobs they are made of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::{entries, flock, make_folder, open_lockable, remove, Store, StoreError};
use crate::config::{ImageConfig, LayerConfig};
use crate::image::atomic;
use crate::image::digest::Digest;
use crate::reference::Reference;
use crate::verity::{InvalidRootHash, RootHash};
use crate::{Error, Result};

/// What an annotation of OverlayBD begins with.
const ANNOTATION: &str = "containerd.io/snapshot/overlaybd/";
const ACCELERATION: &str = "acceleration-layer";
const TARGET: &str = "turbo-oci/target-digest";
const ROOT_HASH: &str = "verity-root-hash";

/// A blob as a manifest describes it; in JSON as there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Its type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The OverlayBD annotation of this name, `blob-digest` for example.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        let value = self.annotations.get(&format!("{ANNOTATION}{name}"));
        value.map(String::as_str)
    }

    /// What vouches for it, if it was sealed.
    pub fn root_hash(&self) -> Result<Option<RootHash>, InvalidRootHash> {
        self.annotation(ROOT_HASH).map(str::parse).transpose()
    }

    /// Notes what vouches for it.
    pub fn set_root_hash(&mut self, root_hash: RootHash) {
        let name = format!("{ANNOTATION}{ROOT_HASH}");
        self.annotations.insert(name, root_hash.to_string());
    }

    /// Whether this layer holds no data, but a trace of reads.
    pub fn is_acceleration(&self) -> bool {
        self.annotation(ACCELERATION) == Some("yes")
    }
}

/// An image: what its reference meant when it was fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// What it was asked for by.
    pub reference: Reference,
    /// Its manifest. It may be in the store as a blob, too.
    pub manifest: Descriptor,
    /// Its layers, bottom first.
    pub layers: Vec<Descriptor>,
}

impl ImageRecord {
    /// The blobs that it cannot do without. A layer that holds no data is none of them.
    pub fn data_layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().filter(|layer| !layer.is_acceleration())
    }

    /// Takes over what vouches for those layers of which nothing else says that.
    fn keep_root_hashes(&mut self, before: Self) {
        for (layer, old) in self.layers.iter_mut().zip(before.layers) {
            let same = layer.digest == old.digest && layer.annotation(ROOT_HASH).is_none();
            if let (true, Ok(Some(root_hash))) = (same, old.root_hash()) {
                layer.set_root_hash(root_hash);
            }
        }
    }

    /// All blobs that it names.
    pub fn digests(&self) -> impl Iterator<Item = Digest> + '_ {
        let layers = self.layers.iter().map(|layer| layer.digest);
        layers.chain([self.manifest.digest])
    }
}

impl Store {
    /// Records an image under its reference, in place of another one that had it. If that is the same
    /// one, what was found to vouch for its layers is kept, so that it stays an image that is verified.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] if a layer is not in the store.
    pub fn record(&self, image: &ImageRecord) -> Result<()> {
        let _guard = self.guard()?;
        let _lock = self.lock_records()?;
        let mut image = image.clone();
        // A record that cannot be read is replaced.
        let before = self.recorded(&image.reference).ok().flatten();
        if let Some(before) =
            before.filter(|before| before.manifest.digest == image.manifest.digest)
        {
            image.keep_root_hashes(before);
        }
        self.write_record(&image)
    }

    /// Has records written by nobody else as long as the file lives. The caller has a guard, so that
    /// nobody removes them, either.
    fn lock_records(&self) -> Result<File> {
        let path = self.root().join("records");
        let locked = open_lockable(&path).and_then(|file| {
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        });
        locked.map_err(|e| Error::io("lock", &path, e))
    }

    /// The caller has the records' lock.
    fn write_record(&self, image: &ImageRecord) -> Result<()> {
        self.require_layers(image)?;
        let path = self.record_path(&image.reference);
        make_folder(&self.images_folder())?;
        let text = serde_json::to_vec_pretty(image)
            .map_err(|e| Error::io("write", &path, io::Error::from(e)))?;
        atomic::write(&path, true, &text)
    }

    fn require_layers(&self, image: &ImageRecord) -> Result<(), StoreError> {
        let missing = image
            .data_layers()
            .find(|layer| self.blob(&layer.digest).is_none());
        match missing {
            None => Ok(()),
            Some(layer) => Err(StoreError::Incomplete {
                reference: image.reference.to_string(),
                digest: layer.digest,
            }),
        }
    }

    /// The image that is recorded under a reference. One with a digest also finds an image of the
    /// same repository that was fetched by a tag.
    pub fn image(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        match self.recorded(reference)? {
            None => Ok(self.same_images(reference)?.into_iter().next()),
            recorded => Ok(recorded),
        }
    }

    /// The image that is recorded under just this reference.
    pub(super) fn recorded(&self, reference: &Reference) -> Result<Option<ImageRecord>> {
        read(&self.record_path(reference))
    }

    /// All images that a reference with a digest means, by whatever they were fetched.
    pub(super) fn same_images(&self, reference: &Reference) -> Result<Vec<ImageRecord>> {
        let Some(digest) = reference.digest() else {
            return Ok(Vec::new());
        };
        let same = |image: &ImageRecord| {
            let of = &image.reference;
            image.manifest.digest == *digest
                && (of.registry(), of.repository())
                    == (reference.registry(), reference.repository())
        };
        let mut images = self.images()?;
        images.retain(same);
        Ok(images)
    }

    /// All images, by reference.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        let mut images = Vec::new();
        for entry in entries(&self.images_folder())? {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                images.extend(read(&path)?);
            }
        }
        images.sort_by(|a: &ImageRecord, b| a.reference.cmp(&b.reference));
        Ok(images)
    }

    /// Forgets the record of an image; false if there is none. The caller holds the lock.
    pub(super) fn forget(&self, reference: &Reference) -> Result<bool> {
        remove(&self.record_path(reference))
    }

    /// Notes what vouches for the layers of an image, bottom first.
    ///
    /// # Errors
    /// [`StoreError::Replaced`] if the image has other layers by now.
    pub fn record_root_hashes(
        &self,
        reference: &Reference,
        hashes: &[(Digest, RootHash)],
    ) -> Result<()> {
        let _guard = self.guard()?;
        // What is read here must be what is replaced.
        let _lock = self.lock_records()?;
        let image = self.image(reference)?;
        let mut image = image.ok_or_else(|| StoreError::NoImage(reference.to_string()))?;
        let digests = image.data_layers().map(|layer| layer.digest);
        if !digests.eq(hashes.iter().map(|(digest, _)| *digest)) {
            return Err(StoreError::Replaced(reference.to_string()).into());
        }
        let layers = image
            .layers
            .iter_mut()
            .filter(|layer| !layer.is_acceleration());
        for (layer, (_, hash)) in layers.zip(hashes) {
            layer.set_root_hash(*hash);
        }
        self.write_record(&image)
    }

    /// The files of an image's layers, bottom first, as far as they are there; as the kernel would
    /// name them.
    pub fn files(&self, image: &ImageRecord) -> Vec<Option<PathBuf>> {
        let files = image.data_layers().map(|layer| self.blob(&layer.digest));
        files
            .map(|file| file.and_then(|file| file.canonicalize().ok()))
            .collect()
    }

    /// The layers of an image as a configuration has them, each in its file in the store.
    ///
    /// # Errors
    /// A layer that is not there, or that points into another file.
    pub fn config(&self, image: &ImageRecord) -> Result<ImageConfig> {
        self.require_layers(image)?;
        let layers = image.data_layers().map(|layer| self.layer(image, layer));
        let notes = image.layers.iter().filter(|layer| layer.is_acceleration());
        let notes = notes.map(|layer| {
            let digest = layer.digest;
            format!("layer {digest} holds a trace of reads, no data, and was left out")
        });
        Ok(ImageConfig {
            layers: layers.collect::<Result<_, _>>()?,
            notes: notes.collect(),
            ..ImageConfig::default()
        })
    }

    fn layer(&self, image: &ImageRecord, layer: &Descriptor) -> Result<LayerConfig, StoreError> {
        if layer.annotation(TARGET).is_some() {
            return Err(StoreError::Layer {
                reference: image.reference.to_string(),
                digest: layer.digest,
                reason:
                    "it points into an ordinary OCI layer, which is not supported; convert the \
                         image to OverlayBD layers",
            });
        }
        let root_hash = layer.root_hash().map_err(|source| StoreError::RootHash {
            reference: image.reference.to_string(),
            digest: layer.digest,
            source,
        })?;
        Ok(LayerConfig {
            file: Some(self.blob_path(&layer.digest)),
            digest: Some(layer.digest),
            size: Some(layer.size),
            root_hash,
            ..LayerConfig::default()
        })
    }

    /// A reference may be longer than a file name can be.
    fn record_path(&self, reference: &Reference) -> PathBuf {
        let hash = Digest::of_bytes(reference.to_string().as_bytes());
        self.images_folder().join(format!("{}.json", hash.hex()))
    }
}

/// Reads a record; `None` if it is not there.
fn read(path: &Path) -> Result<Option<ImageRecord>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io("read", path, e)),
    };
    let image = serde_json::from_slice(&text).map_err(|source| StoreError::Record {
        path: path.to_owned(),
        source,
    })?;
    Ok(Some(image))
}
