// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The layers of an image, opened, bottom first.

use std::path::PathBuf;

use overlaybd_format::lsmt::{parent_mismatch, Layer};
use overlaybd_format::map::{virtual_size, Map};
use overlaybd_format::Error as FormatError;

use super::blob::Blob;
use super::disk::{Disk, DiskLayer};
use super::error::ImageError;
use super::source::Std;
use crate::Result;

/// Layers that make a disk together.
pub struct Stack {
    blobs: Vec<Blob>,
    layers: Vec<Layer<Std>>,
    map: Map<Std>,
}

impl Stack {
    /// Opens the layers in `files`, bottom first.
    ///
    /// # Errors
    /// The first file that is no sealed layer; [`ImageError::Stack`] for layers that make no
    /// disk: none, too many, or none with a size.
    pub fn open(files: &[PathBuf]) -> Result<Self> {
        let blobs = files.iter().map(Blob::open).collect::<Result<Vec<_>>>()?;
        Self::of(blobs)
    }

    /// The same, of files that are open.
    pub fn of(blobs: Vec<Blob>) -> Result<Self> {
        let mut layers = Vec::with_capacity(blobs.len());
        for blob in &blobs {
            blob.require_known()?;
            layers.push(blob.layer()?);
        }
        let map = merge(&blobs, &layers)?;
        Ok(Self { blobs, layers, map })
    }

    /// The files.
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// What they hold.
    pub fn layers(&self) -> &[Layer<Std>] {
        &self.layers
    }

    /// Which layer serves which sectors.
    pub fn map(&self) -> &Map<Std> {
        &self.map
    }

    /// Sentences about what is odd, though not wrong: a layer that names another parent than the
    /// layer below it.
    pub fn warnings(&self) -> Vec<String> {
        let pairs = self.layers.iter().zip(self.layers.iter().skip(1));
        let uppers = self.blobs.iter().skip(1);
        pairs
            .zip(uppers)
            .filter(|((lower, upper), _)| parent_mismatch(lower.uuid(), upper.parent_uuid()))
            .filter_map(|((lower, upper), blob)| {
                Some(format!(
                    "{}: names {} as the layer below it, which is {}",
                    blob.path().display(),
                    upper.parent_uuid()?,
                    lower.uuid()?
                ))
            })
            .collect()
    }

    /// The disk. Messages about it call it by the topmost layer's file.
    pub fn into_disk(self) -> Disk {
        let name = self.blobs.last().map(|b| b.path().to_owned());
        let layers = self
            .blobs
            .iter()
            .zip(&self.layers)
            .map(|(blob, layer)| DiskLayer {
                content: blob.content(),
                data_end: layer.index_offset(),
            })
            .collect();
        Disk::new(layers, self.map, name.unwrap_or_default())
    }
}

fn merge(blobs: &[Blob], layers: &[Layer<Std>]) -> Result<Map<Std>, ImageError> {
    let size = virtual_size(layers.iter().map(Layer::virtual_size)).map_err(ImageError::Stack)?;
    Map::build(layers, size).map_err(|error| match error {
        FormatError::Invalid(invalid) => ImageError::Stack(invalid),
        FormatError::NoMemory => {
            let top = blobs.last().map(|b| b.path().to_owned());
            ImageError::NoMemory(top.unwrap_or_default())
        }
        FormatError::Read { error, .. } => match error {},
    })
}
