// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Header and trailer of an LSMT file.

use super::super::fields::{Fields, Magic, LEN};
use super::super::{Bytes, Invalid, Part, Rule};
use super::Uuid;

/// Length of header and trailer on disk; only the first 390 bytes are used.
pub const SIZE: Bytes = 4096;

/// Bytes of the user tag.
pub const TAG_LEN: usize = 256;

/// Bits of [`Header::flags`]; others mean nothing.
pub mod flag {
    /// Set in a header, clear in a trailer.
    pub const HEADER: u32 = 1 << 0;
    /// Set in a data file, clear in an index file.
    pub const DATA: u32 = 1 << 1;
    /// The layer is sealed.
    pub const SEALED: u32 = 1 << 2;
    /// A sparse writable layer.
    pub const SPARSE: u32 = 1 << 4;
}

/// Offsets of the fields.
pub(super) mod at {
    pub(crate) const SIZE: usize = 24;
    pub(crate) const FLAGS: usize = 28;
    pub(crate) const INDEX_OFFSET: usize = 32;
    pub(crate) const INDEX_SIZE: usize = 40;
    pub(crate) const VIRTUAL_SIZE: usize = 48;
    pub(crate) const UUID: usize = 56;
    pub(crate) const PARENT_UUID: usize = 93;
    pub(crate) const VERSION: usize = 132;
    pub(crate) const SUB_VERSION: usize = 133;
    pub(crate) const TAG: usize = 134;
}

/// Both magic numbers.
pub(crate) const MAGIC: Magic = *b"LSMT\0\x01\x02\0\
    \x65\x7e\x63\xd2\x94\x44\x08\x4c\xa2\xd2\xc8\xec\x4f\xcf\xae\x8a";

/// Value of the size field.
pub(super) const FIELDS_SIZE: u32 = 390;

/// The newest version; 0 is that of files from before UUIDs.
pub(super) const VERSION: u8 = 1;

/// A header or trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// See [`flag`]; unknown bits are kept.
    pub flags: u32,
    /// Where the index begins.
    pub index_offset: Bytes,
    /// Number of index entries, with padding ones.
    pub index_size: u64,
    /// Size of the disk; 0 leaves it to the layers below.
    pub virtual_size: Bytes,
    /// Name of the layer.
    pub uuid: Option<Uuid>,
    /// Name of the layer below.
    pub parent_uuid: Option<Uuid>,
    /// 1, or 0 in old files.
    pub version: u8,
    /// Means nothing.
    pub sub_version: u8,
}

impl Header {
    /// Parses the first bytes of a header or trailer that was read at byte
    /// `offset` of the file.
    ///
    /// A UUID that cannot be parsed counts as none.
    pub fn parse(bytes: &[u8; LEN], offset: Bytes, part: Part) -> Result<Self, Invalid> {
        let fields = Fields::new(bytes, offset);
        let magic = match part {
            Part::Header => Rule::LsmtMagic,
            Part::Trailer => Rule::LsmtTrailerMagic,
        };
        fields.check_magic(&MAGIC, magic)?;
        fields.check_u32(Rule::LsmtRecordSize, at::SIZE, FIELDS_SIZE)?;
        Ok(Self {
            flags: flags(&fields, part)?,
            index_offset: fields.u64(at::INDEX_OFFSET),
            index_size: fields.u64(at::INDEX_SIZE),
            virtual_size: fields.u64(at::VIRTUAL_SIZE),
            uuid: Uuid::parse_field(&fields.array(at::UUID)),
            parent_uuid: Uuid::parse_field(&fields.array(at::PARENT_UUID)),
            version: version(&fields)?,
            sub_version: fields.u8(at::SUB_VERSION),
        })
    }

    /// A sealed layer, as its header says; one sealed in place does not.
    pub fn is_sealed(&self) -> bool {
        self.flags & flag::SEALED != 0
    }

    /// A data file, not an index file.
    pub fn is_data(&self) -> bool {
        self.flags & flag::DATA != 0
    }
}

/// The user tag of a header or trailer, without the NULs that fill it up.
pub fn user_tag(bytes: &[u8; LEN]) -> &[u8] {
    let tag = bytes.get(at::TAG..at::TAG + TAG_LEN).unwrap_or_default();
    tag.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn flags(fields: &Fields<'_>, part: Part) -> Result<u32, Invalid> {
    let flags = fields.u32(at::FLAGS);
    let (rule, right) = match part {
        Part::Header => (Rule::LsmtHeaderFlag, flags | flag::HEADER),
        Part::Trailer => (Rule::LsmtTrailerFlag, flags & !flag::HEADER),
    };
    fields.check_u32(rule, at::FLAGS, right)?;
    Ok(flags)
}

fn version(fields: &Fields<'_>) -> Result<u8, Invalid> {
    let version = fields.u8(at::VERSION);
    if version > VERSION {
        let (found, most) = (version.into(), VERSION.into());
        return Err(fields.refuse(Rule::LsmtVersion, at::VERSION, found, most));
    }
    Ok(version)
}
