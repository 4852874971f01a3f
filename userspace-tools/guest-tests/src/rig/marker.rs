// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Bytes that must never be read: patterns that are recognised wherever they begin, and in pieces.

use std::io;

use anyhow::{bail, ensure, Result};

/// Bytes in which a pattern is looked for; a piece of 7 bytes or more has such a word of it.
const WORD: usize = 4;

/// Eight bytes, no two alike, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker([u8; 8]);

impl Marker {
    /// What lies on a device below, beside the image.
    pub const OUTSIDE: Self = Self([0xe7, 0x0b, 0x93, 0x5d, 0xc4, 0x2e, 0xb8, 0x71]);
    /// What another image holds, and memory that has been freed.
    pub const FOREIGN: Self = Self([0x9d, 0xf2, 0x46, 0xab, 0x18, 0xd3, 0x6c, 0x85]);
    /// What memory holds that is to be read into.
    pub const BEFORE: Self = Self([0xca, 0x57, 0xe1, 0x34, 0x8f, 0xb6, 0x0d, 0x62]);

    /// The pattern.
    pub fn word(&self) -> &[u8] {
        &self.0
    }

    /// `length` bytes of it.
    pub fn bytes(&self, length: usize) -> Vec<u8> {
        self.0.iter().copied().cycle().take(length).collect()
    }

    /// Where there is a piece of it: the first place that is found, of any piece of seven bytes, and
    /// of many shorter ones.
    pub fn find(&self, bytes: &[u8]) -> Option<usize> {
        let is_piece = |word: &[u8]| {
            let phase = self.0.iter().position(|&byte| byte == word[0]);
            phase.is_some_and(|phase| (1..WORD).all(|n| word[n] == self.0[(phase + n) % 8]))
        };
        let found = bytes.chunks_exact(WORD).position(is_piece);
        found.map(|word| word * WORD)
    }
}

/// Nothing of what lies beside the image, or is another's, in memory that was read into. What was in
/// that memory before may stay only if the read failed.
pub fn nothing_shows(result: &io::Result<()>, bytes: &[u8]) -> Result<()> {
    for marker in [Marker::OUTSIDE, Marker::FOREIGN] {
        if let Some(at) = marker.find(bytes) {
            bail!("byte {at} of what was read is of {marker:?} ({result:?})");
        }
    }
    let unread = Marker::BEFORE.find(bytes);
    ensure!(
        result.is_err() || unread.is_none(),
        "byte {unread:?} was not written"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_wherever_they_are() {
        let marker = Marker::OUTSIDE.bytes(64);
        for phase in 0..8 {
            for at in 0..9 {
                for length in [7, 8, 20] {
                    let mut bytes = vec![0; 40];
                    bytes[at..at + length].copy_from_slice(&marker[phase..phase + length]);
                    let found = Marker::OUTSIDE.find(&bytes);
                    assert!(
                        found.is_some_and(|found| (at..at + 4).contains(&found)),
                        "{length} bytes at {at}, from {phase} on"
                    );
                    assert_eq!(Marker::FOREIGN.find(&bytes), None);
                }
            }
        }
    }

    #[test]
    fn patterns_have_nothing_in_common() {
        let all = [Marker::OUTSIDE, Marker::FOREIGN, Marker::BEFORE];
        let mut bytes: Vec<u8> = all.iter().flat_map(|marker| marker.0).collect();
        bytes.sort_unstable();
        bytes.dedup();
        assert_eq!(bytes.len(), 24);
    }
}
