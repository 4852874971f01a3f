// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Memory to read into, in pieces of every length at every place within a page.

use std::io::IoSliceMut;

use anyhow::{ensure, Context as _, Result};

use crate::ctx::SECTOR;
use crate::read;
use crate::rig::map::{Memory, Paging};

const SECTOR_LEN: usize = SECTOR as usize;
const PAGE: usize = 4096;
/// What the memory around the pieces holds, and the pieces before they are read into.
const GUARD: [u8; PAGE] = [0xc3; PAGE];

/// Memory with guards around what is read.
pub struct Arena {
    memory: Memory,
}

/// A part of an arena to read into, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub start: usize,
    /// How long it is.
    pub length: usize,
}

impl Arena {
    /// `length` bytes, or a few more.
    pub fn new(paging: Paging, length: usize) -> Result<Self> {
        Ok(Self {
            memory: Memory::new(paging, length)?,
        })
    }

    /// Reads `pieces` (ascending, not overlapping) at `offset` of `device` with one call, and
    /// compares them and the memory around them.
    pub fn read(&mut self, device: &read::Device<'_>, offset: u64, pieces: &[Piece]) -> Result<()> {
        self.memory.bytes_mut().fill(GUARD[0]);
        let length: usize = pieces.iter().map(|piece| piece.length).sum();
        let mut slices = self.slices(pieces);
        let file = device.file(read::Mode::Direct);
        let what = || format!("{length} bytes at {offset} in {} pieces", pieces.len());
        let got = rustix::io::preadv(file, &mut slices, offset).with_context(what)?;
        ensure!(got == length, "{}: got {got}", what());
        self.check(device, offset, pieces).with_context(what)
    }

    fn slices(&mut self, pieces: &[Piece]) -> Vec<IoSliceMut<'_>> {
        let mut slices = Vec::with_capacity(pieces.len());
        let mut rest = self.memory.bytes_mut();
        let mut at = 0;
        for piece in pieces {
            let (_, behind) = rest.split_at_mut(piece.start - at);
            let (slice, behind) = behind.split_at_mut(piece.length);
            slices.push(IoSliceMut::new(slice));
            rest = behind;
            at = piece.start + piece.length;
        }
        slices
    }

    fn check(&self, device: &read::Device<'_>, offset: u64, pieces: &[Piece]) -> Result<()> {
        let bytes = self.memory.bytes();
        let (mut from, mut at) = (offset, 0);
        for piece in pieces {
            let end = piece.start + piece.length;
            check_guard(&bytes[at..piece.start], at)?;
            let expected = device.expected(from, piece.length);
            read::compare(from, &bytes[piece.start..end], expected)
                .with_context(|| format!("{piece:?}"))?;
            from += piece.length as u64;
            at = end;
        }
        check_guard(&bytes[at..], at)
    }
}

fn check_guard(bytes: &[u8], at: usize) -> Result<()> {
    let touched = bytes.chunks(PAGE).any(|page| page != &GUARD[..page.len()]);
    ensure!(
        !touched,
        "something was written beside the pieces, from byte {at} of the memory on"
    );
    Ok(())
}

/// A piece of each length from 1 to 17 sectors at each sector of a page: 136 of them, 612 KiB
/// in all. Some touch the next one.
pub fn every_piece() -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut page = 0;
    for start in 0..8 {
        for sectors in 1..=17 {
            let piece = Piece {
                start: page + start * SECTOR_LEN,
                length: sectors * SECTOR_LEN,
            };
            pieces.push(piece);
            let end = piece.start + piece.length;
            page = end.next_multiple_of(PAGE) + (pieces.len() % 3) * PAGE;
        }
    }
    pieces
}

/// `count` pieces of a sector, each in a page of its own.
pub fn tiny_pieces(count: usize) -> Vec<Piece> {
    let piece = |index: usize| Piece {
        start: index * PAGE + index % 8 * SECTOR_LEN,
        length: SECTOR_LEN,
    };
    (0..count).map(piece).collect()
}

/// The first of `pieces` that hold `room` bytes or less.
pub fn fitting(pieces: &[Piece], room: u64) -> &[Piece] {
    let mut left = room;
    let fits = |piece: &&Piece| {
        let rest = left.checked_sub(piece.length as u64);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    &pieces[..pieces.iter().take_while(fits).count()]
}

/// Bytes of memory that `pieces` need.
pub fn span(pieces: &[Piece]) -> usize {
    pieces.last().map_or(0, |last| last.start + last.length) + PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_every_one_and_do_not_overlap() {
        let pieces = every_piece();
        let mut kinds: Vec<_> = pieces
            .iter()
            .map(|piece| (piece.start % PAGE, piece.length))
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 8 * 17);
        let apart = |pair: &[Piece]| pair[0].start + pair[0].length <= pair[1].start;
        assert!(pieces.windows(2).all(apart));
        assert!(tiny_pieces(1024).windows(2).all(apart));
        let length = |pieces: &[Piece]| pieces.iter().map(|p| p.length).sum::<usize>();
        // 1, 2 and 3 sectors; 4 more are too many.
        assert_eq!(length(fitting(&pieces, 5000)), 6 * SECTOR_LEN);
    }
}
