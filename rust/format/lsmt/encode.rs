// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Writing header and trailer of an LSMT file, in userspace only.

use super::super::fields::put;
use super::super::Bytes;
use super::header::{at, flag, Header, FIELDS_SIZE, MAGIC, SIZE, TAG_LEN, VERSION};
use super::Uuid;

impl Header {
    /// The header of a sealed layer.
    pub fn sealed(virtual_size: Bytes, uuid: Option<Uuid>, parent_uuid: Option<Uuid>) -> Self {
        Self {
            flags: flag::HEADER | flag::DATA | flag::SEALED,
            index_offset: 0,
            index_size: 0,
            virtual_size,
            uuid,
            parent_uuid,
            version: VERSION,
            sub_version: 1,
        }
    }

    /// The trailer of the layer, once its data and index are written.
    pub fn trailer(&self, index_offset: Bytes, index_size: u64) -> Self {
        Self {
            flags: self.flags & !flag::HEADER | flag::SEALED,
            index_offset,
            index_size,
            ..*self
        }
    }

    /// The bytes on disk; of `tag`, the first [`TAG_LEN`] bytes.
    pub fn encode(&self, tag: &[u8]) -> [u8; SIZE as usize] {
        let mut bytes = [0; SIZE as usize];
        put(&mut bytes, 0, MAGIC);
        put(&mut bytes, at::SIZE, FIELDS_SIZE.to_le_bytes());
        put(&mut bytes, at::FLAGS, self.flags.to_le_bytes());
        put(
            &mut bytes,
            at::INDEX_OFFSET,
            self.index_offset.to_le_bytes(),
        );
        put(&mut bytes, at::INDEX_SIZE, self.index_size.to_le_bytes());
        put(
            &mut bytes,
            at::VIRTUAL_SIZE,
            self.virtual_size.to_le_bytes(),
        );
        put(&mut bytes, at::UUID, Uuid::field(self.uuid));
        put(&mut bytes, at::PARENT_UUID, Uuid::field(self.parent_uuid));
        put(&mut bytes, at::VERSION, [self.version]);
        put(&mut bytes, at::SUB_VERSION, [self.sub_version]);
        for (at, byte) in tag.iter().take(TAG_LEN).enumerate() {
            put(&mut bytes, at::TAG + at, [*byte]);
        }
        bytes
    }
}
