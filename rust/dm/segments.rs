// SPDX-License-Identifier: GPL-2.0-only

//! The memory behind a bio.
//!
//! A bio's data is a list of segments of any length and alignment. Their pages
//! may at any time be written by somebody else (direct I/O into memory that is
//! shared), so that no Rust reference to them is ever made: they are only
//! written, through raw pointers, and what is read back is not relied on.

use crate::bindings;
use core::{marker::PhantomData, ptr};
use kernel::page::PAGE_SIZE;

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
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    vec: *const bindings::bio_vec,
    done: usize,
    left: usize,
    _bio: PhantomData<&'a bindings::bio>,
}

impl<'a> Cursor<'a> {
    /// What is left of the current segment: its first page, the offset of the first byte in
    /// it, and its length, at most `len`. `None` at the end.
    fn piece(&self, len: usize) -> Option<(*mut bindings::page, usize, usize)> {
        if self.left == 0 {
            return None;
        }
        // SAFETY: Something is left, so that `vec` is a segment, by the type's invariant.
        let vec = unsafe { &*self.vec };
        let offset = (vec.bv_offset as usize).wrapping_add(self.done);
        // SAFETY: The pages of a segment follow each other, as their descriptors do.
        let page = unsafe { vec.bv_page.add(offset / PAGE_SIZE) };
        let room = (vec.bv_len as usize).saturating_sub(self.done);
        Some((page, offset % PAGE_SIZE, room.min(self.left).min(len)))
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

    /// Calls `visit` with the first page, the offset in it and the length of each piece of the
    /// next `len` bytes.
    pub(super) fn each_vec(
        &mut self,
        mut len: usize,
        mut visit: impl FnMut(*mut bindings::page, usize, usize),
    ) {
        while len != 0 {
            let Some((page, offset, piece)) = self.piece(len) else {
                break;
            };
            if piece != 0 {
                visit(page, offset, piece);
            }
            self.advance(piece);
            len -= piece;
        }
    }

    /// Calls `write` with the address and length of each piece of the next `len` bytes.
    fn each_piece(&mut self, len: usize, mut write: impl FnMut(*mut u8, usize)) {
        self.each_vec(len, |page, offset, piece| {
            // SAFETY: It is a page of a segment.
            write(unsafe { address(page, offset) }, piece);
        });
    }

    /// The next `len` bytes, if they are contiguous in memory; moves on behind them.
    pub(crate) fn span(&mut self, len: usize) -> Option<Span<'a>> {
        let (page, offset, room) = self.piece(len)?;
        if room < len {
            return None;
        }
        self.advance(len);
        // INVARIANT: `room` bytes are writable, by the invariant of `Cursor`.
        Some(Span {
            // SAFETY: It is a page of a segment.
            at: unsafe { address(page, offset) },
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
        self.each_vec(len, |_, _, _| ());
    }
}

/// The address of byte `offset` of `page`.
///
/// # Safety
///
/// It is a page of a segment, which has the byte.
unsafe fn address(page: *mut bindings::page, offset: usize) -> *mut u8 {
    // SAFETY: The page is in the linear map (helpers.c refuses to build with high memory), and
    // the pages of a segment are contiguous there.
    unsafe {
        bindings::dm_ovbd_page_address(page)
            .cast::<u8>()
            .add(offset)
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_segments)]
mod tests {
    use super::*;
    use kernel::{page::Page, prelude::*};

    /// Where the segments of a bio lie in memory: offset and length, bytes.
    type Places = &'static [(usize, usize)];

    const ODD: Places = &[(3, 1), (16, 512), (1024, 7), (1500, 600)];
    const WITH_EMPTY: Places = &[(0, 0), (16, 9), (600, 0), (700, 0), (1024, 7), (40, 0)];

    /// Bytes of memory, most of which are not the bio's.
    const MEMORY: usize = 2200;
    const UNTOUCHED: u8 = 0xa5;

    /// What is left of a bio: first segment, bytes of that which are done, bytes left.
    fn iter(index: u32, done: u32, size: u32) -> bindings::bvec_iter {
        bindings::bvec_iter {
            bi_idx: index,
            bi_offset: done,
            bi_size: size,
            ..Default::default()
        }
    }

    /// From the beginning; from within a segment; less than the segments hold; nothing.
    fn iters() -> [bindings::bvec_iter; 5] {
        [
            iter(0, 0, 1120),
            iter(1, 100, 1019),
            iter(1, 511, 8),
            iter(2, 3, 500),
            iter(3, 600, 0),
        ]
    }

    /// Where each byte of the bio lies in memory.
    fn bytes(places: Places, iter: bindings::bvec_iter) -> impl Iterator<Item = usize> {
        let (index, done, size) = (iter.bi_idx, iter.bi_offset, iter.bi_size);
        let segments = places.iter().skip(index as usize);
        let all = segments.flat_map(|&(offset, len)| offset..offset + len);
        all.skip(done as usize).take(size as usize)
    }

    /// Does `work` at byte `start` of a bio, and returns its memory.
    fn worked(
        places: Places,
        iter: bindings::bvec_iter,
        start: usize,
        work: impl FnOnce(&mut Cursor<'_>),
    ) -> Result<KVec<u8>> {
        let page = Page::alloc_page(GFP_KERNEL)?;
        // SAFETY: The page is ours, and in the linear map.
        let address = unsafe {
            let address = bindings::dm_ovbd_page_address(page.as_ptr()).cast::<u8>();
            address.write_bytes(UNTOUCHED, MEMORY);
            address
        };
        let mut vecs = KVec::new();
        for &(offset, len) in places {
            let vec = bindings::bio_vec {
                bv_page: page.as_ptr(),
                bv_offset: offset as u32,
                bv_len: len as u32,
            };
            vecs.push(vec, GFP_KERNEL)?;
        }
        let segments = Segments {
            vecs: vecs.as_ptr(),
            iter,
            _bio: PhantomData,
        };
        work(&mut segments.cursor(start));
        let mut after = KVec::new();
        // SAFETY: As above; nobody writes to it any more.
        let memory = unsafe { core::slice::from_raw_parts(address, MEMORY) };
        after.extend_from_slice(memory, GFP_KERNEL)?;
        Ok(after)
    }

    const STARTS: [usize; 12] = [0, 1, 2, 6, 8, 412, 512, 513, 520, 521, 1019, 2000];
    const LENGTHS: [usize; 9] = [0, 1, 6, 7, 9, 412, 512, 521, 2000];

    #[test]
    fn bytes_are_written_where_they_belong() -> Result {
        let mut source = KVec::new();
        for n in 0..MEMORY {
            source.push((n % 127) as u8, GFP_KERNEL)?;
        }
        for iter in iters() {
            for start in STARTS {
                for len in LENGTHS {
                    let memory = worked(ODD, iter, start, |to| to.write(&source[..len]))?;
                    let mut expected = KVec::from_elem(UNTOUCHED, MEMORY, GFP_KERNEL)?;
                    for (place, byte) in bytes(ODD, iter).skip(start).zip(&source[..len]) {
                        expected[place] = *byte;
                    }
                    assert!(memory[..] == expected[..]);
                }
            }
        }
        Ok(())
    }

    #[test]
    fn a_cursor_goes_on_behind_what_was_done() -> Result {
        for iter in iters() {
            for len in LENGTHS {
                let memory = worked(ODD, iter, 1, |to| {
                    to.write(&[1, 2, 3]);
                    to.zero(len);
                    to.skip(len);
                    to.write(&[4, 5]);
                })?;
                let mut expected = KVec::from_elem(UNTOUCHED, MEMORY, GFP_KERNEL)?;
                for (number, place) in bytes(ODD, iter).skip(1).enumerate() {
                    if number < 3 {
                        expected[place] = number as u8 + 1;
                    } else if number < 3 + len {
                        expected[place] = 0;
                    } else if (3 + 2 * len..5 + 2 * len).contains(&number) {
                        expected[place] = (number - 3 - 2 * len) as u8 + 4;
                    }
                }
                assert!(memory[..] == expected[..]);
            }
        }
        Ok(())
    }

    #[test]
    fn segments_without_bytes_are_passed() -> Result {
        let memory = worked(WITH_EMPTY, iter(0, 0, 16), 2, |to| to.write(&[1; 20]))?;
        for place in 0..MEMORY {
            let written = (18..25).contains(&place) || (1024..1031).contains(&place);
            assert_eq!(memory[place], if written { 1 } else { UNTOUCHED });
        }
        Ok(())
    }

    /// A span is all of what is asked for, in one segment, or nothing.
    #[test]
    fn spans_are_contiguous() -> Result {
        for iter in iters() {
            for start in STARTS {
                for len in LENGTHS {
                    let mut found = false;
                    let memory = worked(ODD, iter, start, |to| {
                        if let Some(mut span) = to.span(len) {
                            found = true;
                            // SAFETY: By the invariant of `Span`.
                            unsafe { ptr::write_bytes(span.as_mut_ptr(), 1, span.len()) };
                        }
                        to.write(&[2]);
                    })?;
                    let mut places = bytes(ODD, iter).skip(start).peekable();
                    let first = places.peek().copied();
                    let mut expected = KVec::from_elem(UNTOUCHED, MEMORY, GFP_KERNEL)?;
                    let run = bytes(ODD, iter)
                        .skip(start)
                        .zip(first.unwrap_or(0)..)
                        .take_while(|(place, number)| place == number)
                        .count();
                    assert_eq!(found, first.is_some() && run >= len);
                    if found {
                        for place in places.by_ref().take(len) {
                            expected[place] = 1;
                        }
                    }
                    if let Some(place) = places.next() {
                        expected[place] = 2;
                    }
                    assert!(memory[..] == expected[..]);
                }
            }
        }
        Ok(())
    }
}
