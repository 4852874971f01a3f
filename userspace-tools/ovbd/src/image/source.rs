// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Where bytes come from: files, parts of them, and what the format crate needs to parse them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlaybd_format::{Element, OutOfMemory, Platform, ReadAt};
use rustix::fs::SeekFrom;

use super::zsource::BlockError;
use crate::verity::RootHash;
use crate::{Error, Result};

/// The most bytes that one table of an index may take. A small ZFile can decompress to an index
/// of any size; this is far beyond that of any image, and less than what brings a host down.
const INDEX_LIMIT: usize = 1 << 30;

/// Userspace as the format crate sees it.
#[derive(Clone, Copy, Debug)]
pub struct Std;

impl Platform for Std {
    type Vec<T: Element> = Vec<T>;

    fn alloc<T: Element>(len: usize) -> Result<Vec<T>, OutOfMemory> {
        if len
            .checked_mul(size_of::<T>())
            .is_none_or(|size| size > INDEX_LIMIT)
        {
            return Err(OutOfMemory);
        }
        let mut elements = Vec::new();
        elements.try_reserve_exact(len).map_err(|_| OutOfMemory)?;
        elements.resize(len, T::default());
        Ok(elements)
    }

    fn crc32c(seed: u32, data: &[u8]) -> u32 {
        // The crate inverts the register before and after.
        !crc32c::crc32c_append(!seed, data)
    }
}

/// Why bytes could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system call failed.
    #[error("{path}: cannot read {length} bytes at byte {offset}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Byte offset in the file.
        offset: u64,
        /// Bytes asked for.
        length: usize,
        /// Why.
        source: io::Error,
    },
    /// The bytes asked for lie beyond the end.
    #[error("{path}: ends at byte {end}, before the {length} bytes at byte {offset}", path = path.display())]
    End {
        /// The file.
        path: PathBuf,
        /// Byte offset in the source.
        offset: u64,
        /// Bytes asked for.
        length: usize,
        /// Length of the source in bytes.
        end: u64,
    },
    /// A block of a ZFile is corrupt.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// A root hash does not vouch for the bytes.
    #[error(
        "{path}: the {length} bytes at byte {offset} are not those that were sealed: their hash is \
         not the one in {tree}; fetch the file again",
        path = path.display(), tree = tree.display()
    )]
    Unverified {
        /// The file.
        path: PathBuf,
        /// Byte offset in the file of the block that was hashed.
        offset: u64,
        /// Its length.
        length: usize,
        /// The hash tree.
        tree: PathBuf,
    },
    /// A root hash does not vouch for a block of a hash tree.
    #[error(
        "{tree}: the hashes at byte {offset} are not those of the root hash {root}: the tree is \
         damaged; `ovbd seal --force {path}` makes it again",
        path = path.display(), tree = tree.display()
    )]
    UnverifiedTree {
        /// The hash tree.
        tree: PathBuf,
        /// Byte offset in it.
        offset: u64,
        /// The root hash.
        root: RootHash,
        /// The file that is to be checked by it.
        path: PathBuf,
    },
}

impl ReadError {
    /// Whether the bytes are wrong, as opposed to unreadable.
    pub fn is_corruption(&self) -> bool {
        match self {
            Self::Io { .. } => false,
            Self::End { .. }
            | Self::Block(_)
            | Self::Unverified { .. }
            | Self::UnverifiedTree { .. } => true,
        }
    }
}

/// Something of a fixed length that can be read anywhere, by several threads at once.
pub trait Source: ReadAt<Error = ReadError> + Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// The first byte at or after `from` that may be other than zero; `size()` if there is none.
    ///
    /// A cheap hint, to step over holes without reading them.
    fn next_data(&self, from: u64) -> u64 {
        from.min(self.size())
    }
}

/// A source that several owners share.
pub type SharedSource = Arc<dyn Source>;

/// Whether `length` bytes at `offset` lie within `size`.
pub(crate) fn within(size: u64, offset: u64, length: usize) -> bool {
    offset
        .checked_add(length as u64)
        .is_some_and(|end| end <= size)
}

/// A file or a block device.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    size: u64,
    is_device: bool,
}

impl FileSource {
    /// Opens `path` for reading. Its length is taken now.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        Self::new(file, path)
    }

    /// `file` was opened as `path`.
    pub fn new(file: File, path: PathBuf) -> Result<Self> {
        let kind = file
            .metadata()
            .map_err(|e| Error::io("examine", &path, e))?
            .file_type();
        if kind.is_dir() {
            let error = io::ErrorKind::IsADirectory.into();
            return Err(Error::io("read", path, error));
        }
        if kind.is_fifo() || kind.is_socket() {
            let reason = "a pipe cannot be read at any place; use a file";
            let error = io::Error::new(io::ErrorKind::InvalidInput, reason);
            return Err(Error::io("read", path, error));
        }
        // The size in a device's metadata is 0; seeking knows it.
        let size = rustix::fs::seek(&file, SeekFrom::End(0))
            .map_err(|e| Error::io("find the length of", &path, e.into()))?;
        Ok(Self {
            file,
            path,
            size,
            is_device: kind.is_block_device(),
        })
    }

    /// The name that it was opened with.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It, once more.
    pub fn file(&self) -> Result<File> {
        let again = self.file.try_clone();
        again.map_err(|e| Error::io("open", &self.path, e))
    }

    /// Whether it is a block device, whose end is not that of what is on it.
    pub fn is_device(&self) -> bool {
        self.is_device
    }
}

impl ReadAt for FileSource {
    type Error = ReadError;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if !within(self.size, offset, buf.len()) {
            return Err(ReadError::End {
                path: self.path.clone(),
                offset,
                length: buf.len(),
                end: self.size,
            });
        }
        self.file
            .read_exact_at(buf, offset)
            .map_err(|source| ReadError::Io {
                path: self.path.clone(),
                offset,
                length: buf.len(),
                source,
            })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn next_data(&self, from: u64) -> u64 {
        if from >= self.size {
            return self.size;
        }
        // Moves the file's position, which nothing here uses: all reads are positioned.
        match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(data) => data.min(self.size),
            // No data up to the end.
            Err(rustix::io::Errno::NXIO) => self.size,
            // The file system cannot tell.
            Err(_) => from,
        }
    }
}

/// A part of another source: what lies in a tar.
pub struct Part {
    whole: SharedSource,
    path: PathBuf,
    offset: u64,
    size: u64,
}

impl Part {
    /// The `size` bytes at `offset` of `whole`, which was opened as `path`. A part that reaches
    /// beyond the end of `whole` fails where it is read there.
    pub fn new(whole: SharedSource, path: PathBuf, offset: u64, size: u64) -> Self {
        Self {
            whole,
            path,
            offset,
            size,
        }
    }
}

impl ReadAt for Part {
    type Error = ReadError;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let place = self.offset.checked_add(offset);
        match place {
            Some(place) if within(self.size, offset, buf.len()) => {
                self.whole.read_exact_at(place, buf)
            }
            _ => Err(ReadError::End {
                path: self.path.clone(),
                offset,
                length: buf.len(),
                end: self.size,
            }),
        }
    }
}

impl Source for Part {
    fn size(&self) -> u64 {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn crc_is_raw() {
        // The register starts at 0: leading zeros do not change it.
        assert_eq!(Std::crc32c(0, &[0; 9]), 0);
        // The check value of CRC-32C, which inverts before and after.
        assert_eq!(!Std::crc32c(!0, b"123456789"), 0xe306_9283);
        let joined = Std::crc32c(Std::crc32c(100_007, b"1234"), b"56789");
        assert_eq!(Std::crc32c(100_007, b"123456789"), joined);
    }

    fn file(content: &[u8]) -> (tempfile::NamedTempFile, Arc<FileSource>) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        let source = Arc::new(FileSource::open(file.path()).unwrap());
        (file, source)
    }

    #[test]
    fn memory_has_a_limit() {
        assert_eq!(Std::alloc::<u64>(INDEX_LIMIT / 8 + 1), Err(OutOfMemory));
        assert_eq!(Std::alloc::<u64>(usize::MAX), Err(OutOfMemory));
        assert_eq!(Std::alloc::<u64>(3), Ok(vec![0; 3]));
    }

    #[test]
    fn a_file_ends_where_it_ends() {
        let (_keep, source) = file(b"0123456789");
        let mut buf = [0; 4];
        source.read_exact_at(6, &mut buf).unwrap();
        assert_eq!(&buf, b"6789");
        assert!(matches!(
            source.read_exact_at(7, &mut buf),
            Err(ReadError::End { end: 10, .. })
        ));
        assert!(source.read_exact_at(u64::MAX, &mut buf).is_err());
    }

    #[test]
    fn a_part_shows_nothing_beyond_itself() {
        let (_keep, source) = file(b"0123456789");
        let part = Part::new(source, "x".into(), 2, 5);
        let mut buf = [0; 3];
        part.read_exact_at(2, &mut buf).unwrap();
        assert_eq!(&buf, b"456");
        assert!(part.read_exact_at(3, &mut buf).is_err());
        assert!(part.read_exact_at(u64::MAX, &mut buf).is_err());
    }

    #[test]
    fn holes_are_stepped_over() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(10 << 20).unwrap();
        file.as_file().write_all_at(&[1; 4096], 4 << 20).unwrap();
        let source = FileSource::open(file.path()).unwrap();
        let data = source.next_data(0);
        // A file system without holes says 0, which is right as well.
        assert!(data == 4 << 20 || data == 0);
        assert_eq!(source.next_data(10 << 20), 10 << 20);
        assert_eq!(source.next_data(u64::MAX), 10 << 20);
    }

    #[test]
    fn a_folder_is_no_source() {
        assert!(FileSource::open(std::env::temp_dir()).is_err());
    }
}
