// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the crate needs from the program around it.

use core::cmp::min;
use core::fmt;
use core::ops::{DerefMut, Range};

use super::{Bytes, Error};

/// What can be stored in a [`Platform::Vec`].
pub trait Element: Copy + Default + Send + Sync + 'static {}

impl<T: Copy + Default + Send + Sync + 'static> Element for T {}

/// The services of the program around the crate: the kernel's or userspace's.
pub trait Platform {
    /// An owned array of fixed length.
    type Vec<T: Element>: DerefMut<Target = [T]> + Send + Sync;

    /// Allocates `len` elements, each with its default value.
    ///
    /// The lengths asked for come from files, bounded by the length of the file:
    /// an implementation has to fail quietly where there is not enough memory,
    /// and may not warn (in the kernel: `__GFP_NOWARN`).
    fn alloc<T: Element>(len: usize) -> Result<Self::Vec<T>, OutOfMemory>;

    /// CRC-32C of `data`, raw: `seed` is the register before the first byte, the
    /// result the register after the last, with no inversion.
    fn crc32c(seed: u32, data: &[u8]) -> u32;

    /// Called now and then in loops that no read interrupts, some of which a
    /// hostile file can make take seconds. The kernel may want to reschedule.
    fn relax() {}
}

/// There is not enough memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not enough memory")
    }
}

impl core::error::Error for OutOfMemory {}

/// A file, or a part of a device that holds one.
pub trait ReadAt {
    /// Why a read failed.
    type Error;

    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// Neither `offset` nor the length of `buf` has any alignment. The parsers
    /// never ask for bytes beyond the length that they were told.
    fn read_exact_at(&self, offset: Bytes, buf: &mut [u8]) -> Result<(), Self::Error>;
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    type Error = T::Error;

    fn read_exact_at(&self, offset: Bytes, buf: &mut [u8]) -> Result<(), Self::Error> {
        (**self).read_exact_at(offset, buf)
    }
}

/// Reads `buf` at `offset` and says where it failed.
pub(super) fn read<S: ReadAt + ?Sized>(
    src: &S,
    offset: Bytes,
    buf: &mut [u8],
) -> Result<(), Error<S::Error>> {
    src.read_exact_at(offset, buf)
        .map_err(|error| Error::Read { offset, error })
}

/// The most bytes that [`for_each_chunk`] reads at once; a multiple of every
/// record that is read with it.
const CHUNK: usize = 128 * 1024;

/// Reads `range` piece by piece and hands each piece to `take`.
///
/// Every piece but the last has [`CHUNK`] bytes.
pub(super) fn for_each_chunk<P: Platform, S: ReadAt + ?Sized>(
    src: &S,
    range: Range<Bytes>,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Error<S::Error>> {
    let mut buffer = P::alloc::<u8>(chunk_len(&range))?;
    let mut at = range.start;
    while at < range.end {
        let len = chunk_len(&(at..range.end));
        // The buffer is as long as the longest piece.
        let chunk = buffer.get_mut(..len).ok_or(Error::NoMemory)?;
        read(src, at, chunk)?;
        take(chunk);
        at = at.saturating_add(len as u64);
    }
    Ok(())
}

/// How much of `range` to read at once.
fn chunk_len(range: &Range<Bytes>) -> usize {
    let rest = range.end.saturating_sub(range.start);
    min(rest, CHUNK as u64) as usize
}

/// The bytes asked for lie beyond the end of a slice.
#[cfg(not(MODULE))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndOfData;

#[cfg(not(MODULE))]
impl fmt::Display for EndOfData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data end before that")
    }
}

#[cfg(not(MODULE))]
impl core::error::Error for EndOfData {}

/// A file in memory.
#[cfg(not(MODULE))]
impl ReadAt for [u8] {
    type Error = EndOfData;

    fn read_exact_at(&self, offset: Bytes, buf: &mut [u8]) -> Result<(), EndOfData> {
        let from = usize::try_from(offset).map_err(|_| EndOfData)?;
        let data = self.get(from..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(data.ok_or(EndOfData)?);
        Ok(())
    }
}
