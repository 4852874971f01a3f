// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Unpacking: the payload of a tar, the content of a ZFile, the disk that layers make.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use rayon::prelude::*;

use super::atomic::AtomicFile;
use super::blob::Blob;
use super::build::copy;
use super::changes::{is_zero, CHUNK};
use super::error::ImageError;
use super::source::{SharedSource, Source};
use super::stack::Stack;
use crate::output::Progress;
use crate::{Error, Result};

/// Zeros of this length and alignment become holes.
const HOLE: usize = 4096;

/// How far to unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Out of the tar.
    Blob,
    /// Out of tar and ZFile.
    Content,
    /// To the disk that the layers make, merged.
    Disk,
}

/// What `files` hold, down to `depth`; without one, as deep as it goes.
///
/// # Errors
/// Several files make sense only as the layers of a disk, bottom first.
pub fn open(files: &[PathBuf], depth: Option<Depth>) -> Result<SharedSource> {
    let [file] = files else {
        return match depth {
            None | Some(Depth::Disk) => Ok(Arc::new(Stack::open(files)?.into_disk())),
            Some(_) => Err(ImageError::Argument(format!(
                "{} files make one disk only together; name one file to unpack it less far",
                files.len()
            ))
            .into()),
        };
    };
    let blob = Blob::open(file)?;
    let depth = match depth {
        Some(depth) => depth,
        None if blob.holds_lsmt()? => Depth::Disk,
        None => Depth::Content,
    };
    match depth {
        Depth::Disk => Ok(Arc::new(Stack::of(vec![blob])?.into_disk())),
        Depth::Content => {
            blob.require_known()?;
            Ok(blob.content())
        }
        Depth::Blob => {
            blob.require_known()?;
            Ok(Arc::clone(blob.stored()))
        }
    }
}

/// Writes `source` to a new file, with holes where it has zeros.
pub fn to_file(
    source: &dyn Source,
    path: PathBuf,
    replace: bool,
    progress: &Progress,
) -> Result<()> {
    let output = AtomicFile::create(path, replace)?;
    let failed = |e| Error::io("write", output.target(), e);
    output.file().set_len(source.size()).map_err(failed)?;
    data_chunks(source)
        .par_bridge()
        .try_for_each(|start| -> Result<()> {
            let length = CHUNK.min(source.size() - start);
            let mut bytes = vec![0; length as usize];
            source.read_exact_at(start, &mut bytes)?;
            write_sparse(output.file(), start, &bytes).map_err(failed)?;
            progress.add(length);
            Ok(())
        })?;
    output.commit()
}

/// Where the chunks begin that may hold something.
fn data_chunks(source: &dyn Source) -> impl Iterator<Item = u64> + Send + '_ {
    let mut next = 0;
    std::iter::from_fn(move || {
        let data = source.next_data(next);
        let start = data - data % CHUNK;
        next = start + CHUNK;
        (data < source.size()).then_some(start)
    })
}

/// Writes what is not zero.
fn write_sparse(file: &File, start: u64, bytes: &[u8]) -> io::Result<()> {
    let mut from = 0;
    while from < bytes.len() {
        let zeros = run(&bytes[from..], true);
        let data = run(&bytes[from + zeros..], false);
        let piece = &bytes[from + zeros..from + zeros + data];
        file.write_all_at(piece, start + (from + zeros) as u64)?;
        from += zeros + data;
    }
    Ok(())
}

/// Length of the longest beginning of `bytes` that is all zero, or without zeros, in holes.
fn run(bytes: &[u8], zero: bool) -> usize {
    bytes
        .chunks(HOLE)
        .take_while(|piece| is_zero(piece) == zero)
        .map(<[u8]>::len)
        .sum()
}

/// Writes all of `source` to `out`, zeros too.
pub fn to_stream(source: &dyn Source, out: &mut dyn Write, progress: &Progress) -> Result<()> {
    let result = copy(source, progress, |bytes| {
        out.write_all(bytes).map_err(Error::Output)
    })
    .and_then(|()| out.flush().map_err(Error::Output));
    match result {
        // A reader that has seen enough is no error.
        Err(Error::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
