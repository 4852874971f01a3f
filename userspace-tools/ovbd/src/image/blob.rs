// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Opening a file, whatever it is: tar, ZFile, LSMT layer, or none of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd_format::blob::{Blob as Detected, Kind};
use overlaybd_format::lsmt::{Entry, Header, Layer, ENTRY_LEN};
use overlaybd_format::tar::Payload;
use overlaybd_format::{Error as FormatError, Invalid, Part as FilePart, ReadAt, Rule};

use super::device;
use super::error::{ImageError, Place};
use super::source::{FileSource, Part, ReadError, SharedSource, Source, Std};
use super::zsource::ZSource;
use crate::Result;

/// What a layer that points into an OCI tar is called.
const TURBO: &str = "a layer that points into an OCI tar (turboOCI)";

/// What the files of a writable layer are called.
const WRITABLE: &str = "a file of a writable layer";

/// What a file holds.
pub enum Shape {
    /// Nothing that we know. Why it is neither ZFile nor LSMT:
    Plain(Invalid),
    /// A ZFile.
    Zfile(Arc<ZSource>),
    /// An LSMT file that is not compressed.
    Lsmt,
}

/// An open file.
pub struct Blob {
    path: PathBuf,
    size: u64,
    wrapper: Option<Payload>,
    shape: Shape,
    stored: SharedSource,
}

impl Blob {
    /// Opens `path` and finds out what it is. Of a ZFile, header, trailer and index are checked.
    ///
    /// # Errors
    /// [`ImageError::Format`] for a broken ZFile. A file of another kind, a tar with other
    /// things in it among them, is not an error here; see [`Shape::Plain`].
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        Self::of(FileSource::open(path)?)
    }

    /// The same, of a file that is open.
    pub fn of(file: FileSource) -> Result<Self> {
        let (path, is_device) = (file.path().to_owned(), file.is_device());
        Self::of_source(Arc::new(file), path, is_device)
    }

    /// The same, of what was opened as `path`; on a device it may end before the device does.
    pub fn of_source(file: SharedSource, path: PathBuf, is_device: bool) -> Result<Self> {
        let size = file.size();
        let detected = match Detected::detect(&&*file, size) {
            Ok(detected) => detected,
            Err(FormatError::Invalid(invalid)) if is_other_file(invalid.rule) => {
                return Ok(Self {
                    path,
                    size,
                    wrapper: None,
                    shape: Shape::Plain(invalid),
                    stored: file,
                });
            }
            Err(error) => return Err(format_error(&path, Place::File, 0, error).into()),
        };
        let payload = detected.payload;
        // Of a file, the end is known; looking for it would read what nobody needs.
        let end = match is_device && !detected.wrapped {
            true => device::end(&*file, detected.kind)?,
            false => None,
        };
        let stored: SharedSource = if detected.wrapped {
            let (offset, length) = (payload.offset, payload.length);
            Arc::new(Part::new(file, path.clone(), offset, length))
        } else if let Some(end) = end {
            Arc::new(Part::new(file, path.clone(), 0, end))
        } else {
            file
        };
        let shape = match detected.kind {
            Kind::Lsmt => Shape::Lsmt,
            Kind::Zfile => {
                let zfile = ZSource::open(Arc::clone(&stored), path.clone(), payload.offset)
                    .map_err(|e| format_error(&path, Place::File, payload.offset, e))?;
                Shape::Zfile(Arc::new(zfile))
            }
        };
        Ok(Self {
            path,
            size,
            wrapper: detected.wrapped.then_some(payload),
            shape,
            stored,
        })
    }

    /// The name that it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Where in the file the ZFile or layer lies, if it is wrapped in a tar.
    pub fn wrapper(&self) -> Option<Payload> {
        self.wrapper
    }

    /// What the file, or the tar's payload, holds.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The ZFile, if it is one.
    pub fn zfile(&self) -> Option<&Arc<ZSource>> {
        match &self.shape {
            Shape::Zfile(zfile) => Some(zfile),
            _ => None,
        }
    }

    /// The file without its tar wrapper.
    pub fn stored(&self) -> &SharedSource {
        &self.stored
    }

    /// The file without tar wrapper and decompressed.
    pub fn content(&self) -> SharedSource {
        match &self.shape {
            Shape::Zfile(zfile) => Arc::clone(zfile) as SharedSource,
            _ => Arc::clone(&self.stored),
        }
    }

    /// What byte `offset` of the [`content`](Self::content) counts from in messages, and by how
    /// much it differs from the place in the file.
    fn content_place(&self, offset: u64) -> (Place, u64) {
        match &self.shape {
            Shape::Zfile(zfile) => {
                let number = offset / u64::from(zfile.zfile().block_size());
                let block = zfile.block_offset(number);
                (Place::Content { block }, 0)
            }
            _ => (Place::File, self.wrapper.map_or(0, |w| w.offset)),
        }
    }

    /// Refuses a file that is neither ZFile nor LSMT.
    pub fn require_known(&self) -> Result<()> {
        let Shape::Plain(invalid) = self.shape else {
            return Ok(());
        };
        let path = self.path.clone();
        let error = match invalid.rule {
            Rule::BlobKind if self.size == 0 => self.wrong_kind("empty", "a ZFile or an LSMT file"),
            Rule::BlobKind => self.wrong_kind("neither a ZFile nor an LSMT file", "one of these"),
            _ => ImageError::Format {
                path,
                place: Place::File,
                invalid,
            },
        };
        Err(error.into())
    }

    fn wrong_kind(&self, found: &str, expected: &'static str) -> ImageError {
        ImageError::Kind {
            path: self.path.clone(),
            found: found.to_owned(),
            expected,
        }
    }

    /// Whether the content is an LSMT file of some kind.
    pub fn holds_lsmt(&self) -> Result<bool> {
        match &self.shape {
            Shape::Lsmt => Ok(true),
            Shape::Plain(_) => Ok(false),
            Shape::Zfile(zfile) => {
                let mut magic = [0; 8];
                if zfile.size() < magic.len() as u64 {
                    return Ok(false);
                }
                zfile
                    .read_exact_at(0, &mut magic)
                    .map_err(ImageError::from)?;
                Ok(Kind::of(&magic) == Some(Kind::Lsmt))
            }
        }
    }

    /// Opens the sealed layer that is the content: checks header, trailer and index.
    pub fn layer(&self) -> Result<Layer<Std>> {
        let content = self.content();
        Layer::open(&&*content, content.size()).map_err(|error| self.layer_error(error).into())
    }

    fn layer_error(&self, error: FormatError<ReadError>) -> ImageError {
        if let FormatError::Invalid(invalid) = &error {
            if points_into_tar(&*self.content(), invalid) {
                return self.wrong_kind(TURBO, "a layer with its data in itself");
            }
            if self.lsmt_header().is_some_and(|header| !header.is_sealed())
                && is_unsealed(invalid.rule)
            {
                return self.wrong_kind(WRITABLE, "a sealed layer (commit or seal it first)");
            }
        }
        let offset = match &error {
            FormatError::Invalid(invalid) => invalid.offset,
            _ => 0,
        };
        let (place, base) = self.content_place(offset);
        format_error(&self.path, place, base, error)
    }

    /// The header of the LSMT file that is the content, sealed or not.
    pub fn lsmt_header(&self) -> Option<Header> {
        let mut bytes = [0; 512];
        self.content().read_exact_at(0, &mut bytes).ok()?;
        Header::parse(&bytes, 0, FilePart::Header).ok()
    }
}

/// Rules that a file of a writable layer, which has no trailer, breaks first.
fn is_unsealed(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::LsmtLength | Rule::LsmtWritable | Rule::LsmtDataFlag
    )
}

/// Rules that say no more than that the file is none of ours.
fn is_other_file(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::BlobKind
            | Rule::TarType
            | Rule::TarNumber
            | Rule::TarPaxSize
            | Rule::TarPaxRecord
            | Rule::TarPaxMember
            | Rule::TarPayload
    )
}

/// An error of the format crate about `path`, where its offsets count from `base`.
pub(super) fn format_error(
    path: &Path,
    place: Place,
    base: u64,
    error: FormatError<ReadError>,
) -> ImageError {
    match error {
        FormatError::Read { error, .. } => ImageError::Read(error),
        FormatError::NoMemory => ImageError::NoMemory(path.to_owned()),
        FormatError::Invalid(mut invalid) => {
            invalid.offset = invalid.offset.saturating_add(base);
            ImageError::Format {
                path: path.to_owned(),
                place,
                invalid,
            }
        }
    }
}

/// Whether the entry that broke a rule about data places has them in a second file.
fn points_into_tar(content: &dyn Source, invalid: &Invalid) -> bool {
    let mut bytes = [0; ENTRY_LEN];
    matches!(invalid.rule, Rule::LsmtDataStart | Rule::LsmtDataEnd)
        && content.read_exact_at(invalid.offset, &mut bytes).is_ok()
        && Entry::decode(&bytes).tag() == 1
}
