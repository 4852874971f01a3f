// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The file that a layer is written to: with or without tar wrapper, complete or not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use overlaybd_format::tar;
use sha2::{Digest as _, Sha256};

use super::atomic::AtomicFile;
use super::digest::Digest;
use super::zwriter::Rewrite;
use crate::{Error, Result};

/// How a blob is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrapper {
    /// Not at all.
    None,
    /// In a tar with a pax header, as the reference tool does; the payload begins at byte 1536.
    Pax,
    /// In a tar with one plain header; the payload begins at byte 512 and is under 8 GiB.
    Ustar,
}

impl Wrapper {
    /// Bytes ahead of the payload.
    fn header_len(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Ustar => 512,
            Self::Pax => 1536,
        }
    }

    /// What stands ahead of a payload of `length` bytes.
    fn header(self, length: u64) -> io::Result<Vec<u8>> {
        Ok(match self {
            Self::None => Vec::new(),
            Self::Pax => tar::encode_pax(length).to_vec(),
            Self::Ustar => tar::encode_ustar(length)
                .ok_or_else(|| too_large(length))?
                .to_vec(),
        })
    }

    /// Zeros behind a payload of `length` bytes.
    fn padding(self, length: u64) -> usize {
        match self {
            Self::None => 0,
            Self::Pax | Self::Ustar => tar::padding(length),
        }
    }
}

fn too_large(length: u64) -> io::Error {
    let reason = format!("a payload of {length} bytes or more needs a pax header");
    io::Error::new(io::ErrorKind::FileTooLarge, reason)
}

/// Where to write, and in which form.
#[derive(Clone, Debug)]
pub struct OutputSettings {
    /// The file.
    pub path: PathBuf,
    /// Replace a file that is there already.
    pub replace: bool,
    /// The wrapper around the payload.
    pub wrapper: Wrapper,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Its name.
    pub path: PathBuf,
    /// Its length, bytes.
    pub size: u64,
    /// Its digest, by which a registry knows it.
    pub digest: Digest,
}

/// A blob in the making: what is written to it is its payload.
pub struct BlobWriter {
    file: AtomicFile,
    out: BufWriter<File>,
    wrapper: Wrapper,
    length: u64,
}

impl BlobWriter {
    /// Begins a file.
    pub fn create(settings: &OutputSettings) -> Result<Self> {
        let file = AtomicFile::create(settings.path.clone(), settings.replace)?;
        let failed = |e| Error::io("write", &settings.path, e);
        let mut out = BufWriter::new(file.file().try_clone().map_err(failed)?);
        // The wrapper is written once the length is known.
        let room = vec![0; settings.wrapper.header_len() as usize];
        out.write_all(&room).map_err(failed)?;
        Ok(Self {
            file,
            out,
            wrapper: settings.wrapper,
            length: 0,
        })
    }

    /// Adds the wrapper, takes the digest, and makes the file appear.
    pub fn finish(mut self) -> Result<Written> {
        let path = self.file.target().to_owned();
        let size = self.wrap().map_err(|e| Error::io("write", &path, e))?;
        let digest =
            digest_of(self.file.file(), |_| ()).map_err(|e| Error::io("read back", &path, e))?;
        self.file.commit()?;
        Ok(Written { path, size, digest })
    }

    fn wrap(&mut self) -> io::Result<u64> {
        let header = self.wrapper.header(self.length)?;
        let padding = self.wrapper.padding(self.length);
        self.out.write_all(&vec![0; padding])?;
        self.out.flush()?;
        self.file.file().write_all_at(&header, 0)?;
        Ok(self.wrapper.header_len() + self.length + padding as u64)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.length += written as u64;
        // Now rather than at the end, if it does not fit.
        if self.wrapper == Wrapper::Ustar && self.length > tar::MAX_USTAR_SIZE {
            return Err(too_large(self.length));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Rewrite for BlobWriter {
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.out.flush()?;
        let place = self.wrapper.header_len() + offset;
        self.file.file().write_all_at(bytes, place)
    }
}

/// The digest of a whole file; `passed` gets the number of bytes each time some were read.
pub(super) fn digest_of(file: &File, passed: impl Fn(u64)) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    loop {
        let got = file.read_at(&mut buffer, offset)?;
        if got == 0 {
            return Ok(Digest::of(hash));
        }
        hash.update(&buffer[..got]);
        offset += got as u64;
        passed(got as u64);
    }
}
