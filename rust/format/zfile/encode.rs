// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Writing header and trailer of a ZFile, in userspace only.

use super::super::fields::{put, LEN};
use super::super::{Bytes, Platform};
use super::header::{at, digest, flag, Algorithm, Header, FIELDS_SIZE, MAGIC};

impl Header {
    /// The header to begin a new file with.
    pub fn new(algorithm: Algorithm, block_size: u32, verify: bool) -> Self {
        Self {
            flags: flag::HEADER | flag::DATA | flag::DIGEST,
            digest: 0,
            index_offset: 0,
            blocks: 0,
            original_size: 0,
            index_crc: 0,
            block_size,
            algorithm,
            level: 0,
            verify,
        }
    }

    /// The trailer of the file, once its blocks and index are written.
    pub fn trailer(
        &self,
        index_offset: Bytes,
        blocks: u64,
        original_size: Bytes,
        index_crc: u32,
    ) -> Self {
        Self {
            flags: flag::DATA | flag::SEALED | flag::DIGEST,
            index_offset,
            blocks,
            original_size,
            index_crc,
            ..*self
        }
    }

    /// The header to overwrite a file's header with, given its trailer.
    pub fn overwritten(trailer: &Self) -> Self {
        let flags = flag::HEADER | flag::DATA | flag::OVERWRITTEN | flag::DIGEST;
        Self { flags, ..*trailer }
    }

    /// The bytes on disk; with [`flag::DIGEST`], the digest is computed.
    pub fn encode<P: Platform>(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, at::SIZE, FIELDS_SIZE.to_le_bytes());
        put(&mut bytes, at::FLAGS, self.flags.to_le_bytes());
        put(
            &mut bytes,
            at::INDEX_OFFSET,
            self.index_offset.to_le_bytes(),
        );
        put(&mut bytes, at::INDEX_SIZE, self.blocks.to_le_bytes());
        put(
            &mut bytes,
            at::ORIGINAL_SIZE,
            self.original_size.to_le_bytes(),
        );
        put(&mut bytes, at::INDEX_CRC, self.index_crc.to_le_bytes());
        put(&mut bytes, at::BLOCK_SIZE, self.block_size.to_le_bytes());
        put(&mut bytes, at::ALGORITHM, [self.algorithm.number()]);
        put(&mut bytes, at::LEVEL, [self.level]);
        put(&mut bytes, at::VERIFY, [self.verify.into()]);
        if self.has_digest() {
            let digest = digest::<P>(&bytes);
            put(&mut bytes, at::DIGEST, digest.to_le_bytes());
        }
        bytes
    }
}
