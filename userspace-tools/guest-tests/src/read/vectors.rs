// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Pieces of memory for one read, with guards between them that must stay as they are.

use std::io::IoSliceMut;

use anyhow::{ensure, Result};

use super::buffer::Buffer;
use crate::rng::Rng;

const SECTOR: usize = 512;
/// What guards hold, and what pieces hold before they are read into.
const GUARD: u8 = 0xc3;
/// Longest piece, sectors: more than a page, so that some cross one.
const PIECE_MAX: u64 = 24;
/// More than the 256 that a bio holds.
const PIECES_MAX: u64 = 300;

/// A guard and the piece behind it, in sectors.
#[derive(Clone, Copy, Debug)]
struct Piece {
    guard: usize,
    length: usize,
}

/// Memory for a vectored read.
pub struct Vectors {
    memory: Buffer,
    pieces: Vec<Piece>,
}

impl Vectors {
    /// Random pieces, together at most `room` sectors (and at least one).
    pub fn new(room: u64, rng: &mut Rng) -> Self {
        let mut left = room.max(1);
        let mut pieces = Vec::new();
        let count = rng.length(PIECES_MAX);
        while left > 0 && (pieces.len() as u64) < count {
            let length = rng.length(PIECE_MAX).min(left);
            left -= length;
            // Without a guard, neighbours may end up in one segment.
            let guard = rng.within(0..4) as usize;
            pieces.push(Piece {
                guard,
                length: length as usize,
            });
        }
        let sectors: usize = pieces.iter().map(|p| p.guard + p.length).sum();
        // One more guard at the end.
        let mut memory = Buffer::new((sectors + 1) * SECTOR, rng.index(8) * SECTOR);
        memory.all().fill(GUARD);
        Self { memory, pieces }
    }

    /// Bytes of all pieces.
    pub fn length(&self) -> usize {
        self.pieces.iter().map(|p| p.length * SECTOR).sum()
    }

    /// Bytes of each piece.
    pub fn lengths(&self) -> Vec<usize> {
        self.pieces.iter().map(|p| p.length * SECTOR).collect()
    }

    /// The pieces, to read into.
    pub fn slices(&mut self) -> Vec<IoSliceMut<'_>> {
        let mut slices = Vec::new();
        let mut rest = self.memory.all();
        for piece in &self.pieces {
            let (_, behind) = rest.split_at_mut(piece.guard * SECTOR);
            let (slice, behind) = behind.split_at_mut(piece.length * SECTOR);
            slices.push(IoSliceMut::new(slice));
            rest = behind;
        }
        slices
    }

    /// What the pieces hold, one after the other.
    pub fn gather(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.length());
        self.walk(|_, piece| all.extend_from_slice(piece));
        all
    }

    /// Fails if something was written beside the pieces.
    pub fn check_guards(&self) -> Result<()> {
        let mut broken = 0;
        let count = |guard: &[u8]| guard.iter().filter(|&&byte| byte != GUARD).count();
        let rest = self.walk(|guard, _| broken += count(guard));
        broken += count(rest);
        ensure!(
            broken == 0,
            "{broken} bytes beside the pieces were overwritten"
        );
        Ok(())
    }

    /// Gives each guard and the piece behind it; returns what is behind the last one.
    fn walk(&self, mut each: impl FnMut(&[u8], &[u8])) -> &[u8] {
        let mut rest = self.memory.bytes();
        for piece in &self.pieces {
            let (guard, behind) = rest.split_at(piece.guard * SECTOR);
            let (bytes, behind) = behind.split_at(piece.length * SECTOR);
            each(guard, bytes);
            rest = behind;
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_and_guards_do_not_touch() {
        let mut rng = Rng::for_test("vectors");
        for room in [1, 2, 7, 64, 5000] {
            let mut vectors = Vectors::new(room, &mut rng);
            let length = vectors.length();
            assert!((1..=room as usize).contains(&(length / SECTOR)));
            for slice in &mut vectors.slices() {
                slice.fill(1);
            }
            assert_eq!(vectors.gather(), vec![1; length]);
            vectors.check_guards().unwrap();
        }
    }

    #[test]
    fn a_write_beside_the_pieces_is_found() {
        let mut vectors = Vectors::new(100, &mut Rng::for_test("guards"));
        if let Some(last) = vectors.memory.all().last_mut() {
            *last = 0;
        }
        assert!(vectors.check_guards().is_err());
    }
}
