// SPDX-License-Identifier: GPL-2.0-only

//! The memory behind a bio.
//!
//! A bio's data is a list of segments of any length and alignment. Their pages
//! may at any time be written by somebody else (direct I/O into memory that is
//! shared), so that no Rust reference to them is ever made: they are only
//! written, through raw pointers, and what is read back is not relied on.

use crate::bindings;
use core::{marker::PhantomData, ptr};

/// Contiguous memory to be written.
///
/// # Invariants
///
/// `len` bytes from `at` on are writable for `'a`.
pub(crate) struct Span<'a> {
    at: *mut u8,
    len: usize,
    _memory: PhantomData<&'a mut [u8]>,
}

impl<'a> Span<'a> {
    /// The first byte.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.at
    }

    /// The length, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl<'a> From<&'a mut [u8]> for Span<'a> {
    fn from(slice: &'a mut [u8]) -> Self {
        // INVARIANT: A slice is writable memory.
        Self {
            at: slice.as_mut_ptr(),
            len: slice.len(),
            _memory: PhantomData,
        }
    }
}

/// The segments of a bio that has not ended.
///
/// # Invariants
///
/// `vecs` are segments with `iter.bi_size` bytes from `iter` on, valid for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Segments<'a> {
    vecs: *const bindings::bio_vec,
    iter: bindings::bvec_iter,
    _bio: PhantomData<&'a bindings::bio>,
}

impl<'a> Segments<'a> {
    /// # Safety
    ///
    /// `bio` is a read that does not end for `'a`.
    pub(super) unsafe fn from_raw(bio: *const bindings::bio) -> Self {
        // SAFETY: By the requirement of this function.
        let bio = unsafe { &*bio };
        // INVARIANT: The block layer keeps it for bios.
        Self {
            vecs: bio.bi_io_vec,
            iter: bio.bi_iter,
            _bio: PhantomData,
        }
    }

    /// The length of all segments, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.iter.bi_size as usize
    }

    /// A cursor at byte `offset`, or at the end if that is beyond it.
    pub(crate) fn cursor(&self, offset: usize) -> Cursor<'a> {
        // INVARIANT: `left` bytes follow `done` of `vec`, by the invariant of `Segments`.
        let mut cursor = Cursor {
            // SAFETY: `bi_idx` is a segment of the bio, or the end of its list.
            vec: unsafe { self.vecs.add(self.iter.bi_idx as usize) },
            done: self.iter.bi_offset as usize,
            left: self.len(),
            _bio: PhantomData,
        };
        cursor.skip(offset);
        cursor
    }
}

/// A position in the segments of a bio.
///
/// # Invariants
///
/// `left` bytes, in segments that are valid for `'a`, follow byte `done` of `vec`.
pub(crate) struct Cursor<'a> {
    vec: *const bindings::bio_vec,
    done: usize,
    left: usize,
    _bio: PhantomData<&'a bindings::bio>,
}

impl<'a> Cursor<'a> {
    /// What is left of the current segment: its address and length, at most `len`.
    /// `None` at the end.
    fn piece(&self, len: usize) -> Option<(*mut u8, usize)> {
        if self.left == 0 {
            return None;
        }
        // SAFETY: Something is left, so that `vec` is a segment, by the type's invariant.
        let vec = unsafe { &*self.vec };
        // SAFETY: The page is in the linear map (helpers.c refuses to build with high
        // memory), and the pages of a segment are contiguous there.
        let address = unsafe {
            bindings::dm_ovbd_page_address(vec.bv_page)
                .cast::<u8>()
                .add(vec.bv_offset as usize)
                .add(self.done)
        };
        let room = (vec.bv_len as usize).saturating_sub(self.done);
        Some((address, room.min(self.left).min(len)))
    }

    /// Moves on by `len` bytes, which are not more than [`Cursor::piece`] returned.
    fn advance(&mut self, len: usize) {
        // INVARIANT: The same bytes are left, less the first `len`.
        self.left -= len;
        self.done += len;
        // SAFETY: By the type's invariant, if something is left; otherwise `vec` is the
        // segment that was just read.
        if self.done >= unsafe { (*self.vec).bv_len } as usize {
            self.done = 0;
            // SAFETY: At most one beyond the last segment.
            self.vec = unsafe { self.vec.add(1) };
        }
    }

    /// Calls `write` with the address and length of each piece of the next `len` bytes.
    fn each_piece(&mut self, mut len: usize, mut write: impl FnMut(*mut u8, usize)) {
        while let Some((address, piece)) = self.piece(len) {
            if len == 0 {
                break;
            }
            if piece != 0 {
                write(address, piece);
            }
            self.advance(piece);
            len -= piece;
        }
    }

    /// The next `len` bytes, if they are contiguous in memory; moves on behind them.
    pub(crate) fn span(&mut self, len: usize) -> Option<Span<'a>> {
        let (at, room) = self.piece(len)?;
        if room < len {
            return None;
        }
        self.advance(len);
        // INVARIANT: `room` bytes are writable, by the invariant of `Cursor`.
        Some(Span {
            at,
            len,
            _memory: PhantomData,
        })
    }

    /// Writes `bytes`, as far as there is room, and moves on behind them.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let mut from = bytes.as_ptr();
        self.each_piece(bytes.len(), |to, len| {
            // SAFETY: `len` bytes are writable at `to`, and the pieces add up to no
            // more than `bytes`; private memory does not overlap the bio's.
            unsafe {
                ptr::copy_nonoverlapping(from, to, len);
                from = from.add(len);
            }
        });
    }

    /// Writes `len` zeros, as far as there is room, and moves on behind them.
    pub(crate) fn zero(&mut self, len: usize) {
        // SAFETY: `len` bytes are writable at `to`.
        self.each_piece(len, |to, len| unsafe { ptr::write_bytes(to, 0, len) });
    }

    /// Moves on by `len` bytes, as far as there are any.
    pub(crate) fn skip(&mut self, len: usize) {
        self.each_piece(len, |_, _| ());
    }
}
