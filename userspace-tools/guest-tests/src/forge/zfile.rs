// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! ZFiles.

use super::{block_crc, crc32c, put};

const RECORD: usize = 512;
const MAGIC: &[u8; 24] = b"ZFile\0\x01\0tuji.yyf@Alibaba";
/// Where the digest is in a record.
pub(super) const DIGEST_AT: usize = 28;
const FLAGS_AT: usize = 32;
/// Where the index's digest is in a record.
pub(super) const INDEX_DIGEST_AT: usize = 64;
const FLAG_OVERWRITTEN: u8 = 1 << 3;
const FLAG_DIGEST: u64 = 1 << 4;

/// How blocks are stored. Neither makes them smaller, which both formats allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// LZ4, all of it literals.
    Lz4,
    /// zstd, one raw block a frame.
    Zstd,
}

impl Codec {
    fn number(self) -> u8 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }

    fn store(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Lz4 => lz4_literals(bytes),
            Self::Zstd => zstd_raw(bytes),
        }
    }
}

/// A sequence of literals only: token, the length's rest in bytes of 255, the bytes.
fn lz4_literals(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    if length < 15 {
        return [&[(length as u8) << 4], bytes].concat();
    }
    let mut stored = vec![0xf0];
    stored.resize(1 + (length - 15) / 255, 0xff);
    stored[0] = 0xf0;
    stored.push(((length - 15) % 255) as u8);
    stored.extend_from_slice(bytes);
    stored
}

/// A frame of a single segment with a content size of four bytes, and one raw block.
fn zstd_raw(bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len() as u32;
    let block = (length << 3 | 1).to_le_bytes();
    let mut stored = vec![0x28, 0xb5, 0x2f, 0xfd, 0b1010_0000];
    stored.extend_from_slice(&length.to_le_bytes());
    stored.extend_from_slice(&block[..3]);
    stored.extend_from_slice(bytes);
    stored
}

/// What is stored for a block.
fn stored(content: &[u8], codec: Codec, verify: bool) -> Vec<u8> {
    let mut stored = codec.store(content);
    if verify {
        let crc = block_crc(&stored);
        stored.extend_from_slice(&crc.to_le_bytes());
    }
    stored
}

/// A ZFile in its parts.
#[derive(Clone, Debug)]
pub struct Zfile {
    /// The header; its digest is filled in at the end.
    pub header: [u8; RECORD],
    /// What is stored for each block, with its checksum.
    pub blocks: Vec<Vec<u8>>,
    /// Stored lengths.
    pub index: Vec<u32>,
    /// The trailer; its digest and the index's are filled in at the end.
    pub trailer: [u8; RECORD],
    /// Fill in the index's digest.
    pub index_digest: bool,
    /// Fill in the digests of header and trailer, where their flags say that there is one.
    pub record_digests: bool,
}

impl Zfile {
    /// A right one.
    pub fn new(content: &[u8], block_size: u32, codec: Codec, verify: bool) -> Self {
        let chunks = content.chunks(block_size as usize);
        let blocks: Vec<_> = chunks.map(|block| stored(block, codec, verify)).collect();
        let index: Vec<_> = blocks.iter().map(|block| block.len() as u32).collect();
        let mut header = [0; RECORD];
        put(&mut header, 0, MAGIC);
        put(&mut header, 24, &96u32.to_le_bytes());
        put(&mut header, 72, &block_size.to_le_bytes());
        header[76] = codec.number();
        header[88] = verify.into();
        let mut trailer = header;
        let end: usize = RECORD + blocks.iter().map(Vec::len).sum::<usize>();
        put(&mut header, 32, &0x13u64.to_le_bytes());
        put(&mut trailer, 32, &0x16u64.to_le_bytes());
        put(&mut trailer, 40, &(end as u64).to_le_bytes());
        put(&mut trailer, 48, &(index.len() as u64).to_le_bytes());
        put(&mut trailer, 56, &(content.len() as u64).to_le_bytes());
        Self {
            header,
            blocks,
            index,
            trailer,
            index_digest: true,
            record_digests: true,
        }
    }

    /// Stores `content` for a block, whatever its length.
    pub fn replace_block(&mut self, block: usize, content: &[u8], codec: Codec, verify: bool) {
        self.put_stored(block, stored(content, codec, verify));
    }

    /// Stores something else for a block.
    pub fn put_stored(&mut self, block: usize, stored: Vec<u8>) {
        // A broken index may lack it.
        if let Some(entry) = self.index.get_mut(block) {
            *entry = stored.len() as u32;
        }
        self.blocks[block] = stored;
        let end = RECORD + self.blocks.iter().map(Vec::len).sum::<usize>();
        put(&mut self.trailer, 40, &(end as u64).to_le_bytes());
    }

    /// Becomes one of `count` blocks, all like the first one.
    pub fn repeat(&mut self, count: usize) {
        self.blocks.truncate(1);
        self.blocks.resize(count, self.blocks[0].clone());
        self.index = self.blocks.iter().map(|block| block.len() as u32).collect();
        let end = RECORD + self.blocks.iter().map(Vec::len).sum::<usize>();
        let mut size = [0; 4];
        size.copy_from_slice(&self.trailer[72..76]);
        let original = count as u64 * u64::from(u32::from_le_bytes(size));
        for (at, value) in [(40, end as u64), (48, count as u64), (56, original)] {
            put(&mut self.trailer, at, &value.to_le_bytes());
        }
    }

    /// Puts the trailer's fields into the header, too, as a writer does that can go back.
    pub fn overwrite_header(&mut self) {
        self.header = self.trailer;
        put(&mut self.header, 32, &0x1bu64.to_le_bytes());
    }

    /// Changes bytes of header and trailer alike.
    pub fn put_both(&mut self, at: usize, value: &[u8]) {
        put(&mut self.header, at, value);
        put(&mut self.trailer, at, value);
    }

    /// Where a block lies: first byte, and length with checksum.
    pub fn block_place(&self, block: usize) -> (usize, usize) {
        let before: usize = self.blocks.iter().take(block).map(Vec::len).sum();
        (RECORD + before, self.blocks[block].len())
    }

    /// Fills in the digests that belong to what is there now.
    pub fn seal(&mut self) {
        if self.index_digest {
            let digest = crc32c(0, &self.index_bytes()).to_le_bytes();
            put(&mut self.trailer, INDEX_DIGEST_AT, &digest);
            if self.header[FLAGS_AT] & FLAG_OVERWRITTEN != 0 {
                put(&mut self.header, INDEX_DIGEST_AT, &digest);
            }
        }
        if self.record_digests {
            seal_record(&mut self.header);
            seal_record(&mut self.trailer);
        }
    }

    fn index_bytes(&self) -> Vec<u8> {
        self.index.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    /// The file, with right checksums unless told otherwise.
    pub fn bytes(&self) -> Vec<u8> {
        let mut sealed = self.clone();
        sealed.seal();
        let index = sealed.index_bytes();
        [
            &sealed.header[..],
            &self.blocks.concat(),
            &index,
            &sealed.trailer,
        ]
        .concat()
    }
}

/// Fills in the digest of a header or trailer that has one.
fn seal_record(record: &mut [u8; RECORD]) {
    let mut flags = [0; 8];
    flags.copy_from_slice(&record[FLAGS_AT..FLAGS_AT + 8]);
    if u64::from_le_bytes(flags) & FLAG_DIGEST != 0 {
        put(record, DIGEST_AT, &[0; 4]);
        let digest = crc32c(0, &record[..]);
        put(record, DIGEST_AT, &digest.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use overlaybd_format::blob::{Blob, Kind};

    /// What is forged right has to be right for those who know better.
    #[test]
    fn the_real_decoders_agree() {
        let dir = std::env::temp_dir();
        for codec in [Codec::Lz4, Codec::Zstd] {
            for (length, verify) in [
                (1, true),
                (14, false),
                (15, true),
                (70_000, true),
                (8192, false),
            ] {
                let content = super::super::content(length, &mut Rng::for_test("forge"));
                let bytes = Zfile::new(&content, 4096, codec, verify).bytes();
                let found = Blob::detect(&bytes[..], bytes.len() as u64).unwrap();
                assert_eq!(found.kind, Kind::Zfile);
                let name = format!("guest-tests-{}-{codec:?}-{length}", std::process::id());
                let path = dir.join(name);
                std::fs::write(&path, &bytes).unwrap();
                let blob = ovbd::image::blob::Blob::open(&path).unwrap();
                std::fs::remove_file(&path).unwrap();
                let mut decoded = vec![0; length];
                blob.content().read_exact_at(0, &mut decoded).unwrap();
                assert!(decoded == content, "{codec:?} {length}");
            }
        }
    }
}
