// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Making layers: of a disk, of the difference between two disks, of any file.
//!
//! All of it streams: memory is a few MiB for batches on their way through comparison and
//! compression, 16 bytes for each extent of the layer, 4 bytes for each block of the ZFile.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd_format::lsmt::{Layer, Uuid, MAX_SECTORS};
use overlaybd_format::SECTOR;
use rayon::prelude::*;

use super::blob::{Blob, Shape};
use super::changes::{Change, Comparison, CHUNK};
use super::error::ImageError;
use super::layer::{LayerSettings, LayerSummary, LayerWriter};
use super::output::{BlobWriter, OutputSettings, Written};
use super::source::{ReadError, SharedSource, Source};
use super::stack::Stack;
use super::zwriter::{ZSettings, ZSummary, ZWriter};
use crate::output::Progress;
use crate::{Error, Result};

/// How many chunks are read at once.
const CHUNKS: usize = 8;

/// Where to write a layer or ZFile, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The file.
    pub output: OutputSettings,
    /// How to compress it, if at all.
    pub compression: Option<ZSettings>,
}

/// What a new layer is to hold and to say about itself.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    /// Size of the disk in bytes; by default that of the new disk. Rounded up to a sector.
    pub virtual_size: Option<u64>,
    /// The layer's name.
    pub uuid: Option<Uuid>,
    /// Name of the layer below; by default that of the base's topmost layer.
    pub parent_uuid: Option<Uuid>,
    /// Free text, at most 256 bytes.
    pub tag: Vec<u8>,
    /// Bytes in which disks are compared: a power of two, 512 to 64 KiB.
    pub granule: u64,
}

impl Default for LayerPlan {
    fn default() -> Self {
        Self {
            virtual_size: None,
            uuid: None,
            parent_uuid: None,
            tag: Vec::new(),
            granule: 4096,
        }
    }
}

/// A layer that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltLayer {
    /// The file.
    pub written: Written,
    /// The layer in it.
    pub layer: LayerSummary,
    /// The ZFile around it.
    pub zfile: Option<ZSummary>,
    /// What its header says.
    pub settings: LayerSettings,
}

/// What a new layer is to lie on.
pub struct Base {
    disk: SharedSource,
    top: Option<Uuid>,
}

impl Base {
    /// The disk that the layers in `files` make, bottom first.
    pub fn of_layers(files: &[PathBuf]) -> Result<Self> {
        let stack = Stack::open(files)?;
        let top = stack.layers().last().and_then(Layer::uuid);
        Ok(Self {
            disk: Arc::new(stack.into_disk()),
            top,
        })
    }

    /// The raw disk image `file`, or what it is if it is a ZFile.
    pub fn of_raw(file: &Path) -> Result<Self> {
        Ok(Self {
            disk: compressible(file)?,
            top: None,
        })
    }
}

/// Makes a layer that turns `base` (zeros, if there is none) into `new`.
///
/// # Errors
/// [`ImageError::Argument`] for sizes that do not fit; otherwise those of reading and writing.
pub fn build_layer(
    new: &dyn Source,
    base: Option<&Base>,
    plan: &LayerPlan,
    target: &Target,
    progress: &Progress,
) -> Result<BuiltLayer> {
    let granule = granule(plan.granule)?;
    let settings = LayerSettings {
        virtual_size: virtual_size(plan.virtual_size, new.size())?,
        uuid: plan.uuid,
        parent_uuid: plan.parent_uuid.or(base.and_then(|b| b.top)),
        tag: plan.tag.clone(),
    };
    let failed = |e| Error::io("write", &target.output.path, e);
    let sink = Sink::create(target)?;
    let mut writer = LayerWriter::new(sink, settings.clone()).map_err(failed)?;
    let comparison = Comparison {
        new,
        base: base.map(|b| &*b.disk),
        size: settings.virtual_size,
        granule,
    };
    comparison.run::<Error>(
        |at, change| {
            match change {
                Change::Data(bytes) => writer.data(at / SECTOR, bytes),
                Change::Zeros(length) => writer.zeros(at / SECTOR, length / SECTOR),
            }
            .map_err(failed)
        },
        |bytes| progress.add(bytes),
    )?;
    let (sink, layer) = writer.finish().map_err(failed)?;
    let (written, zfile) = sink.finish(&target.output.path)?;
    Ok(BuiltLayer {
        written,
        layer,
        zfile,
        settings,
    })
}

fn granule(bytes: u64) -> Result<usize, ImageError> {
    if bytes.is_power_of_two() && (512..=65536).contains(&bytes) {
        return Ok(bytes as usize);
    }
    Err(ImageError::Argument(format!(
        "granularity {bytes}: a power of two from 512 to 65536 is needed"
    )))
}

/// The size of the disk for a new one of `content` bytes, in whole sectors.
fn virtual_size(wanted: Option<u64>, content: u64) -> Result<u64, ImageError> {
    let size = wanted.unwrap_or(content);
    if size < content {
        return Err(ImageError::Argument(format!(
            "virtual size {size} cuts off a disk of {content} bytes"
        )));
    }
    match size.div_ceil(SECTOR) {
        0 => Err(ImageError::Argument(
            "the disk is empty; give a virtual size".to_owned(),
        )),
        // An entry may not end at the very end: the last sector's number means padding.
        sectors if sectors < MAX_SECTORS => Ok(sectors * SECTOR),
        _ => Err(ImageError::Argument(format!(
            "virtual size {size}: less than {} bytes can be addressed",
            MAX_SECTORS * SECTOR
        ))),
    }
}

/// A file that was compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compressed {
    /// The file.
    pub written: Written,
    /// The ZFile in it; `None` if it was only wrapped.
    pub zfile: Option<ZSummary>,
    /// Bytes that were read.
    pub original_size: u64,
}

/// What to compress of a file: an LSMT file or the content of a ZFile without their wrapper, and
/// of anything else all of it.
pub fn compressible(file: &Path) -> Result<SharedSource> {
    let blob = Blob::open(file)?;
    Ok(match blob.shape() {
        Shape::Plain(_) => Arc::clone(blob.stored()),
        Shape::Zfile(_) | Shape::Lsmt => blob.content(),
    })
}

/// Writes `content` as a ZFile, or, if `target` has no compression, wraps it as it is.
pub fn compress(content: &dyn Source, target: &Target, progress: &Progress) -> Result<Compressed> {
    let path = &target.output.path;
    let mut sink = Sink::create(target)?;
    copy(content, progress, |bytes| {
        sink.write_all(bytes)
            .map_err(|e| Error::io("write", path, e))
    })?;
    let (written, zfile) = sink.finish(path)?;
    Ok(Compressed {
        written,
        zfile,
        original_size: content.size(),
    })
}

/// Hands all of `content` to `take`, in order, read by several threads.
pub(super) fn copy(
    content: &dyn Source,
    progress: &Progress,
    mut take: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut at = 0;
    while at < content.size() {
        let end = content.size().min(at + CHUNK * CHUNKS as u64);
        let starts: Vec<_> = (at..end).step_by(CHUNK as usize).collect();
        let chunks: Vec<Result<Vec<u8>, ReadError>> = starts
            .par_iter()
            .map(|&start| {
                let mut bytes = vec![0; CHUNK.min(end - start) as usize];
                content.read_exact_at(start, &mut bytes)?;
                Ok(bytes)
            })
            .collect();
        for bytes in chunks {
            take(&bytes?)?;
        }
        progress.add(end - at);
        at = end;
    }
    Ok(())
}

/// What a layer is written into.
enum Sink {
    Plain(BlobWriter),
    Compressed(ZWriter<BlobWriter>),
}

impl Sink {
    fn create(target: &Target) -> Result<Self> {
        let blob = BlobWriter::create(&target.output)?;
        match target.compression {
            None => Ok(Self::Plain(blob)),
            Some(settings) => ZWriter::new(blob, settings)
                .map(Self::Compressed)
                .map_err(|e| Error::io("write", &target.output.path, e)),
        }
    }

    fn finish(self, path: &Path) -> Result<(Written, Option<ZSummary>)> {
        match self {
            Self::Plain(blob) => Ok((blob.finish()?, None)),
            Self::Compressed(writer) => {
                let (blob, summary) = writer.finish().map_err(|e| Error::io("write", path, e))?;
                Ok((blob.finish()?, Some(summary)))
            }
        }
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.write(bytes),
            Self::Compressed(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(blob) => blob.flush(),
            Self::Compressed(writer) => writer.flush(),
        }
    }
}
