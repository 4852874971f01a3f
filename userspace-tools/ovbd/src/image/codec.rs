// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Compression of single blocks.
//!
//! Both codecs are the C libraries behind safe bindings. zstd has no encoder in Rust of the same
//! strength. For LZ4 there is a good one (`lz4_flex`), but the C library is what the reference
//! tools and the kernel are built from: our LZ4 blocks come out byte for byte like the
//! reference's, and a block that [`Decompressor`] accepts is one that the kernel's
//! `LZ4_decompress_safe` accepts. It is the faster decoder, too (4 KiB blocks of binaries and
//! text on one core: 458 MiB/s in and 2427 out at ratio 0.539; `lz4_flex` with its safe decoder
//! 404, 1827 and 0.541).

use std::fmt;
use std::io;

use overlaybd_format::zfile::Algorithm;

/// The zstd level of the reference tools. Headers do not record it: their level field stays 0.
pub const ZSTD_LEVEL: i32 = 3;

/// Compresses blocks one by one, each on its own. Keeps its working memory between blocks.
pub enum Compressor {
    /// Plain LZ4 blocks.
    Lz4,
    /// One zstd frame a block, with content size, without checksum.
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressor {
    /// A compressor for `algorithm`.
    pub fn new(algorithm: Algorithm) -> io::Result<Self> {
        Ok(match algorithm {
            Algorithm::Lz4 => Self::Lz4,
            Algorithm::Zstd => Self::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL)?),
        })
    }

    /// Appends the compressed form of `block` (at most 64 KiB) to `out`; returns its length. It
    /// can be longer than the block.
    pub fn append(&mut self, block: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        let start = out.len();
        let length = match self {
            Self::Lz4 => {
                out.resize(start + lz4::block::compress_bound(block.len())?, 0);
                lz4::block::compress_to_buffer(block, None, false, &mut out[start..])?
            }
            Self::Zstd(context) => {
                out.resize(start + zstd::zstd_safe::compress_bound(block.len()), 0);
                context.compress_to_buffer(block, &mut out[start..])?
            }
        };
        out.truncate(start + length);
        Ok(length)
    }
}

/// Why a block does not decompress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// The compressed bytes break the format, or hold more than the block's size.
    Malformed,
    /// The block decompresses to another length.
    Length {
        /// Bytes that came out.
        found: usize,
        /// Bytes that belong into the block.
        expected: usize,
    },
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("does not decompress"),
            Self::Length { found, expected } => {
                write!(
                    f,
                    "decompresses to {found} bytes where {expected} were expected"
                )
            }
        }
    }
}

/// Decompresses blocks from anywhere: both decoders check their bounds.
pub enum Decompressor {
    /// Plain LZ4 blocks.
    Lz4,
    /// zstd frames.
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Decompressor {
    /// A decompressor for `algorithm`.
    pub fn new(algorithm: Algorithm) -> io::Result<Self> {
        Ok(match algorithm {
            Algorithm::Lz4 => Self::Lz4,
            Algorithm::Zstd => Self::Zstd(zstd::bulk::Decompressor::new()?),
        })
    }

    /// Decompresses `stored` into `block`, which it has to fill exactly.
    pub fn decompress(&mut self, stored: &[u8], block: &mut [u8]) -> Result<(), CodecError> {
        let expected = block.len();
        let found = match self {
            Self::Lz4 => {
                let limit = i32::try_from(expected).map_err(|_| CodecError::Malformed)?;
                lz4::block::decompress_to_buffer(stored, Some(limit), block)
            }
            Self::Zstd(context) => context.decompress_to_buffer(stored, block),
        }
        .map_err(|_| CodecError::Malformed)?;
        if found == expected {
            Ok(())
        } else {
            Err(CodecError::Length { found, expected })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Algorithm; 2] = [Algorithm::Lz4, Algorithm::Zstd];

    fn stored(algorithm: Algorithm, block: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let length = Compressor::new(algorithm)
            .unwrap()
            .append(block, &mut out)
            .unwrap();
        assert_eq!(out.len(), 6 + length);
        out.split_off(6)
    }

    #[test]
    fn blocks_come_back() {
        let noise: Vec<u8> = (0..65536u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8)
            .collect();
        for algorithm in BOTH {
            for block in [&noise[..], &noise[..1], &[0; 4096], &noise[..4095]] {
                let stored = stored(algorithm, block);
                let mut back = vec![0xa5; block.len()];
                Decompressor::new(algorithm)
                    .unwrap()
                    .decompress(&stored, &mut back)
                    .unwrap();
                assert!(back == block);
            }
        }
    }

    #[test]
    fn the_length_has_to_fit() {
        for algorithm in BOTH {
            let stored = stored(algorithm, &[7; 1000]);
            let mut decompressor = Decompressor::new(algorithm).unwrap();
            assert_eq!(
                decompressor.decompress(&stored, &mut [0; 1001]),
                Err(CodecError::Length {
                    found: 1000,
                    expected: 1001
                })
            );
            assert_eq!(
                decompressor.decompress(&stored, &mut [0; 999]),
                Err(CodecError::Malformed)
            );
        }
    }

    #[test]
    fn broken_blocks_are_refused() {
        for algorithm in BOTH {
            let stored = stored(algorithm, &[7; 1000]);
            let mut decompressor = Decompressor::new(algorithm).unwrap();
            let cut = &stored[..stored.len() - 1];
            assert!(decompressor.decompress(cut, &mut [0; 1000]).is_err());
            assert!(decompressor.decompress(&[], &mut [0; 1000]).is_err());
            assert!(decompressor
                .decompress(&[0xff; 64], &mut [0; 1000])
                .is_err());
        }
    }

    #[test]
    fn zstd_frames_have_a_size_and_no_checksum() {
        let stored = stored(Algorithm::Zstd, &[7; 1000]);
        let size = zstd::zstd_safe::get_frame_content_size(&stored);
        assert!(matches!(size, Ok(Some(1000))));
        assert_eq!(
            stored[4] & 0b100,
            0,
            "the frame header's checksum flag is set"
        );
    }
}
