// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! From an image's configuration to the devices that it needs: opens the layers, checks them, and
//! gives each device its identity. Nothing is set up.
//!
//! Every layer is checked here as the kernel will check it again, because here the message can name
//! file, offset and remedy.

use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use overlaybd_format::lsmt::{self, Uuid};
use overlaybd_format::map::virtual_size;
use overlaybd_format::{Bytes, Sectors, SECTOR};

use crate::config::{ImageConfig, LayerConfig, LAYERS_MAX};
use crate::dm::Name;
use crate::error::ExitCode;
use crate::identity::{Identity, Role};
use crate::image::blob::Blob;
use crate::image::source::{FileSource, Source};
use crate::image::ImageError;
use crate::loopdev::FileId;
use crate::{Error, Result};

mod seal;

pub use seal::{Demand, Seal, Signature};

/// How many bytes at either end of a layer are part of its identity: header and trailer.
const ENDS: usize = 4096;

/// What cannot become an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// There are more layers than lsmt takes, or none.
    #[error("{0} layers: an image has 1 to {LAYERS_MAX}")]
    Layers(usize),
    /// There is not one device a layer.
    #[error("{0} devices for {1} layers: name one for each layer, bottom first")]
    Devices(usize, usize),
    /// The layer begins in the middle of a sector.
    #[error("{path}: its payload begins at byte {offset}, not at a multiple of 512", path = path.display())]
    Misaligned {
        /// The file.
        path: PathBuf,
        /// Where its payload begins.
        offset: Bytes,
    },
}

impl PlanError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Devices(..) => ExitCode::Usage,
            Self::Layers(_) | Self::Misaligned { .. } => ExitCode::Invalid,
        }
    }
}

/// What changes how an image's layers are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Do not check the CRCs of compressed blocks.
    pub ignore_crc: bool,
    /// What is to be verified by hash trees.
    pub verity: Demand,
}

/// An image whose layers were opened and found good.
#[derive(Debug)]
pub struct Plan {
    /// Its layers, bottom first.
    pub layers: Vec<Layer>,
    /// Size of the disk in sectors.
    pub sectors: Sectors,
    /// What is odd, though not wrong: a sentence each.
    pub notes: Vec<String>,
}

/// A layer: an open file or block device, and where in it the layer lies.
#[derive(Debug)]
pub struct Layer {
    /// The name that it was opened with.
    pub path: PathBuf,
    /// It, open for reading.
    pub file: File,
    /// What kind of file it is.
    pub storage: Storage,
    /// First sector of the ZFile or LSMT file in it, behind a tar header if there is one.
    pub offset: Sectors,
    /// Exact length of the ZFile or LSMT file.
    pub length: Bytes,
    /// Whether the layer is compressed.
    pub form: Form,
    /// What vouches for the file, if something does: its parsers see nothing else.
    pub seal: Option<Seal>,
    /// What identifies the layer's content.
    content: Identity,
    /// What identifies the file as it is, wrapper included.
    whole: Identity,
}

/// What a layer lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// A file, which takes a loop device.
    File {
        /// Which one.
        id: FileId,
        /// Its length.
        length: Bytes,
    },
    /// A block device, which is used as it is.
    Device {
        /// Its number.
        dev: u64,
        /// Its length.
        length: Bytes,
    },
}

/// Whether a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// An LSMT file: lsmt reads it directly.
    Lsmt,
    /// An LSMT file in a ZFile: lsmt reads a zfile device.
    Zfile {
        /// Length of the LSMT file.
        original: Bytes,
        /// Whether zfile leaves block CRCs unchecked.
        ignore_crc: bool,
    },
}

/// What the stack needs to know of a layer's LSMT header.
struct Lineage {
    virtual_size: Bytes,
    uuid: Option<Uuid>,
    parent: Option<Uuid>,
}

impl Plan {
    /// Opens the layers of an image.
    ///
    /// # Errors
    /// The first layer that is missing or no sealed layer; layers that make no disk together.
    pub fn new(config: &ImageConfig, settings: Settings) -> Result<Self> {
        let count = config.layers.len();
        if !(1..=LAYERS_MAX).contains(&count) {
            return Err(PlanError::Layers(count).into());
        }
        let configs = settings.verity.applied(&config.layers)?;
        let mut layers = Vec::with_capacity(count);
        let mut lineages = Vec::with_capacity(count);
        for layer in &configs {
            let (layer, lineage) = Layer::open(layer, &settings)?;
            layers.push(layer);
            lineages.push(lineage);
        }
        let sectors = virtual_size(lineages.iter().map(|lineage| lineage.virtual_size))
            .map_err(ImageError::Stack)?;
        let mut notes = config.notes.clone();
        notes.extend(mismatches(&layers, &lineages));
        Ok(Self {
            layers,
            sectors,
            notes,
        })
    }

    /// The UUID of this image's device under this name. The same name with other layers, another
    /// order or other settings has another UUID.
    pub fn uuid(&self, name: &Name) -> String {
        let sectors = self.sectors.to_le_bytes();
        let layers: Vec<Identity> = self.layers.iter().map(Layer::identity).collect();
        let mut parts = vec![&b"image"[..], name.as_str().as_bytes(), &sectors];
        parts.extend(layers.iter().map(Identity::as_bytes));
        Identity::new(&parts).uuid(Role::Image)
    }

    /// Which targets the kernel needs, below the image first.
    pub fn targets(&self) -> Vec<&'static str> {
        let any = |what: fn(&Layer) -> bool| self.layers.iter().any(what);
        let verified = any(|layer| layer.seal.is_some()).then_some("verity");
        let compressed = any(|layer| layer.form != Form::Lsmt).then_some("zfile");
        let targets = [verified, compressed, Some("lsmt")];
        targets.into_iter().flatten().collect()
    }
}

/// Says which layers name another parent than the layer below them.
fn mismatches(layers: &[Layer], lineages: &[Lineage]) -> Vec<String> {
    let pairs = lineages.iter().zip(lineages.iter().skip(1));
    let uppers = layers.iter().skip(1);
    let wrong = pairs
        .zip(uppers)
        .filter(|((lower, upper), _)| lsmt::parent_mismatch(lower.uuid, upper.parent));
    wrong
        .map(|(_, layer)| {
            let path = layer.path.display();
            format!("{path}: was made for another layer than the one below it")
        })
        .collect()
}

impl Layer {
    fn open(config: &LayerConfig, settings: &Settings) -> Result<(Self, Lineage)> {
        let path = config.locate()?;
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        let shared = file.try_clone().map_err(|e| Error::io("open", &path, e))?;
        let source = FileSource::new(shared, path.clone())?;
        let storage = Storage::of(&file, &path, source.size())?;
        let (blob, seal) = match config.root_hash {
            None => (Blob::of(source)?, None),
            Some(root) => {
                let is_device = source.is_device();
                let (verified, seal) = Seal::open(source, config, root)?;
                let blob = Blob::of_source(verified, path.clone(), is_device)?;
                seal.check_size(&blob, config.size)?;
                (blob, Some(seal))
            }
        };
        blob.require_known()?;
        let lineage = {
            let lsmt = blob.layer()?;
            Lineage {
                virtual_size: lsmt.virtual_size(),
                uuid: lsmt.uuid(),
                parent: lsmt.parent_uuid(),
            }
        };
        let length = blob.stored().size();
        let offset = blob.wrapper().map_or(0, |wrapper| wrapper.offset);
        let ends = ends(&blob)?;
        let place = storage.parts();
        // Not the digest that a configuration claims: nobody has compared the file with it, and
        // whoever came first would decide what others read. A store has one file for each digest.
        let origin = match &seal {
            Some(seal) => seal.identity().as_bytes().to_vec(),
            None => place.clone(),
        };
        let layer = Self {
            file,
            storage,
            offset: aligned(&path, offset)?,
            length,
            form: match blob.zfile() {
                None => Form::Lsmt,
                Some(zfile) => Form::Zfile {
                    original: zfile.zfile().original_size(),
                    ignore_crc: settings.ignore_crc,
                },
            },
            content: Identity::new(&[b"content", &origin, &length.to_le_bytes(), &ends]),
            whole: Identity::new(&[b"whole", &place, &offset.to_le_bytes(), &ends]),
            seal,
            path,
        };
        Ok((layer, lineage))
    }

    /// What lsmt reads for this layer: its content, with every setting that changes what is
    /// checked.
    pub fn identity(&self) -> Identity {
        match self.form {
            Form::Lsmt => Identity::new(&[b"lsmt", self.content.as_bytes()]),
            Form::Zfile { ignore_crc, .. } => {
                let checks: &[u8] = if ignore_crc { b"ignore_crc" } else { b"" };
                Identity::new(&[b"zfile", self.content.as_bytes(), checks])
            }
        }
    }

    /// What the device shows that joins this layer's file and its last `block`.
    pub fn joined_identity(&self, block: u32) -> Identity {
        Identity::new(&[b"joined", self.whole.as_bytes(), &block.to_le_bytes()])
    }

    /// The end of the layer in its file.
    pub fn end(&self) -> Bytes {
        (self.offset * SECTOR).saturating_add(self.length)
    }

    /// How much has to be there of the device that the file is on: up to the layer's end, or all that
    /// was sealed.
    pub fn needed(&self) -> Bytes {
        let sealed = self
            .seal
            .as_ref()
            .map(|seal| seal.tree.shape().data_length());
        sealed.unwrap_or_else(|| self.end())
    }

    /// Bytes of the blocks in which the file is read at least.
    pub fn block(&self) -> u32 {
        let sealed = self
            .seal
            .as_ref()
            .map(|seal| seal.tree.shape().data_block());
        sealed.unwrap_or(SECTOR as u32)
    }
}

impl Storage {
    pub(crate) fn of(file: &File, path: &Path, length: Bytes) -> Result<Self> {
        let meta = file.metadata().map_err(|e| Error::io("examine", path, e))?;
        if meta.file_type().is_block_device() {
            let dev = meta.rdev();
            return Ok(Self::Device { dev, length });
        }
        let id = FileId {
            dev: meta.dev(),
            inode: meta.ino(),
        };
        Ok(Self::File {
            id,
            length: meta.len(),
        })
    }

    /// Its length.
    pub fn length(self) -> Bytes {
        match self {
            Self::File { length, .. } | Self::Device { length, .. } => length,
        }
    }

    fn parts(self) -> Vec<u8> {
        let (kind, numbers) = match self {
            Self::File { id, length } => (b'f', [id.dev, id.inode, length]),
            Self::Device { dev, .. } => (b'd', [dev, 0, 0]),
        };
        let numbers = numbers.into_iter().flat_map(u64::to_le_bytes);
        [kind].into_iter().chain(numbers).collect()
    }
}

fn aligned(path: &Path, offset: Bytes) -> Result<Sectors, PlanError> {
    if offset % SECTOR == 0 {
        Ok(offset / SECTOR)
    } else {
        Err(PlanError::Misaligned {
            path: path.to_owned(),
            offset,
        })
    }
}

/// The first and the last bytes of a layer as it is stored.
///
/// They hold every size of the format and, in a ZFile, the checksum of all block lengths: a file
/// that was rewritten in place is not taken for what it was by accident.
fn ends(blob: &Blob) -> Result<Vec<u8>> {
    let stored = blob.stored();
    let length = stored.size().min(ENDS as u64) as usize;
    let mut bytes = vec![0; 2 * length];
    let (first, last) = bytes.split_at_mut(length);
    stored.read_exact_at(0, first).map_err(ImageError::from)?;
    stored
        .read_exact_at(stored.size() - length as u64, last)
        .map_err(ImageError::from)?;
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
