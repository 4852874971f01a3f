// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Makes ZFiles and LSMT layers, right ones and wrong ones, by means of its own: what is tested
//! has no part in it. Every field can be changed before the checksums are computed, so that a
//! wrong field is found by its own check and not by a checksum.

pub mod change;
mod lsmt;
pub mod streams;
mod zfile;

pub use lsmt::{Extent, Layer};
pub use zfile::{Codec, Zfile};

use crate::rng::Rng;

/// Puts bytes over others; what does not fit is a mistake of the test.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// CRC-32C without inversion before or after, which is how the formats use it.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(seed, |crc, &byte| {
        (crc >> 8) ^ CRC_OF_BYTE[(crc as u8 ^ byte) as usize]
    })
}

/// What the polynomial makes of each byte.
const CRC_OF_BYTE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// What the checksum of a block begins with.
const BLOCK_SEED: u32 = 100_007;

/// The checksum of a compressed block.
pub fn block_crc(payload: &[u8]) -> u32 {
    crc32c(BLOCK_SEED, payload)
}

/// Bytes of which no two sectors are alike.
pub fn content(length: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&rng.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_that_rfc_3720_has_values_for() {
        // There it is inverted before and after.
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
    }
}
