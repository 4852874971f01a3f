// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Small valid files, to be broken by tests.
//!
//! Parts are built first and patched, then made consistent: digests and checksums
//! are right unless a test wants them wrong.

use overlaybd_format::lsmt::{self, Entry};
use overlaybd_format::zfile::{self, flag, Algorithm};
use overlaybd_format::Platform;

use super::Std;

/// Offset of the digest in a ZFile header or trailer.
pub const DIGEST: usize = 28;

/// A ZFile in parts.
#[derive(Clone)]
pub struct Zfile {
    pub header: [u8; 512],
    pub blocks: Vec<u8>,
    pub lengths: Vec<u32>,
    pub trailer: [u8; 512],
}

impl Zfile {
    /// Blocks of the given stored lengths, the last of which holds one byte.
    pub fn new(header: zfile::Header, lengths: &[u32]) -> Self {
        let full = (lengths.len() as u64).saturating_sub(1);
        let original = full * u64::from(header.block_size) + u64::from(!lengths.is_empty());
        let stored: u64 = lengths.iter().map(|&len| u64::from(len)).sum();
        let crc = Std::crc32c(0, &index(lengths));
        let trailer = header.trailer(512 + stored, lengths.len() as u64, original, crc);
        Self {
            header: header.encode::<Std>(),
            blocks: vec![0xb1; stored as usize],
            lengths: lengths.to_vec(),
            trailer: trailer.encode::<Std>(),
        }
    }

    /// Three LZ4 blocks of 4 KiB with CRCs: the middle one as long, the last one as
    /// short as can be.
    pub fn small() -> Self {
        Self::new(
            zfile::Header::new(Algorithm::Lz4, 4096, true),
            &[100, 4132, 5],
        )
    }

    /// The header takes over the trailer's fields.
    pub fn overwrite(mut self) -> Self {
        let trailer =
            zfile::Header::parse::<Std>(&self.trailer, 0, overlaybd_format::Part::Trailer);
        self.header = zfile::Header::overwritten(&trailer.unwrap()).encode::<Std>();
        self
    }

    /// Corrects the checksum of the index and the digests of header and trailer,
    /// where they have one.
    pub fn seal(mut self) -> Self {
        let crc = Std::crc32c(0, &index(&self.lengths));
        self.trailer[64..68].copy_from_slice(&crc.to_le_bytes());
        for record in [&mut self.header, &mut self.trailer] {
            seal_record(record);
        }
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let index = index(&self.lengths);
        [&self.header, &self.blocks[..], &index, &self.trailer].concat()
    }
}

fn index(lengths: &[u32]) -> Vec<u8> {
    lengths.iter().flat_map(|len| len.to_le_bytes()).collect()
}

/// Computes the digest of a record that has one.
fn seal_record(record: &mut [u8; 512]) {
    if u64::from(record[32]) & flag::DIGEST != 0 {
        record[DIGEST..DIGEST + 4].fill(0);
        let digest = Std::crc32c(0, record);
        record[DIGEST..DIGEST + 4].copy_from_slice(&digest.to_le_bytes());
    }
}

/// A sealed LSMT layer in parts.
#[derive(Clone)]
pub struct Lsmt {
    pub header: Vec<u8>,
    pub data: Vec<u8>,
    pub entries: Vec<Entry>,
    /// Bytes between index and trailer.
    pub rest: Vec<u8>,
    pub trailer: Vec<u8>,
}

impl Lsmt {
    /// A layer of `size` bytes with `data` bytes of data and an index.
    pub fn new(size: u64, data: u64, entries: &[Entry]) -> Self {
        let header = lsmt::Header::sealed(size, None, None);
        let trailer = header.trailer(4096 + data, entries.len() as u64);
        Self {
            header: header.encode(b"tag").to_vec(),
            data: vec![0xda; data as usize],
            entries: entries.to_vec(),
            rest: Vec::new(),
            trailer: trailer.encode(b"tag").to_vec(),
        }
    }

    /// Sixteen sectors of data, one of zeros, and padding between them.
    pub fn small() -> Self {
        let entries = [
            Entry::data(0, 8, 8),
            Entry::PADDING,
            Entry::zeros(8, 1, 16),
            Entry::data(20, 8, 16),
            Entry::PADDING,
        ];
        Self::new(64 * 512, 16 * 512, &entries)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let index: Vec<u8> = self.entries.iter().flat_map(Entry::encode).collect();
        [
            &self.header[..],
            &self.data,
            &index,
            &self.rest,
            &self.trailer,
        ]
        .concat()
    }
}
