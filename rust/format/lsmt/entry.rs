// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! An entry of an LSMT index: sectors of the disk, and what is there.

use core::fmt;

use super::super::Sectors;

/// Bytes of an entry on disk.
pub const ENTRY_LEN: usize = 16;

/// End of the address space: entries end here at most.
pub const MAX_SECTORS: Sectors = 1 << START_BITS;

/// The longest entry.
pub const MAX_ENTRY_LEN: Sectors = (1 << LEN_BITS) - 1;

const START_BITS: u32 = 50;
const LEN_BITS: u32 = 14;
const MOFFSET_BITS: u32 = 55;
const TAG_SHIFT: u32 = 56;

/// `start` of an entry that is padding.
const PADDING: u64 = MAX_SECTORS - 1;

/// An index entry, kept as it is on disk; any bits make one.
///
/// | word | bits | field |
/// | --- | --- | --- |
/// | `range` | 0–49 | first sector of the disk |
/// | | 50–63 | length, sectors |
/// | `data` | 0–54 | first sector in the file |
/// | | 55 | zeroed |
/// | | 56–63 | tag |
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Entry {
    range: u64,
    data: u64,
}

impl Entry {
    /// Fills up an index, and means nothing.
    pub const PADDING: Self = Self {
        range: PADDING,
        data: 0,
    };

    /// `len` sectors from `start` on are in the file from sector `moffset` on.
    ///
    /// Bits that do not fit their fields are cut off.
    pub fn data(start: Sectors, len: Sectors, moffset: Sectors) -> Self {
        Self {
            range: (start & mask(START_BITS)) | (len & mask(LEN_BITS)) << START_BITS,
            data: moffset & mask(MOFFSET_BITS),
        }
    }

    /// `len` sectors from `start` on are zero; `moffset` is a note of how much
    /// data there was.
    pub fn zeros(start: Sectors, len: Sectors, moffset: Sectors) -> Self {
        let entry = Self::data(start, len, moffset);
        Self {
            data: entry.data | 1 << MOFFSET_BITS,
            ..entry
        }
    }

    /// The same with a tag.
    pub fn with_tag(self, tag: u8) -> Self {
        Self {
            data: (self.data & mask(TAG_SHIFT)) | u64::from(tag) << TAG_SHIFT,
            ..self
        }
    }

    /// Decodes the bytes on disk.
    #[inline]
    pub fn decode(bytes: &[u8; ENTRY_LEN]) -> Self {
        let word = |at| u64::from_le_bytes(super::super::fields::array(bytes, at));
        Self {
            range: word(0),
            data: word(8),
        }
    }

    /// The bytes on disk.
    pub fn encode(&self) -> [u8; ENTRY_LEN] {
        let words = u128::from(self.range) | u128::from(self.data) << 64;
        words.to_le_bytes()
    }

    /// Padding, to be skipped.
    #[inline]
    pub fn is_padding(&self) -> bool {
        self.start() == PADDING
    }

    /// First sector of the disk.
    #[inline]
    pub fn start(&self) -> Sectors {
        self.range & mask(START_BITS)
    }

    /// Length, at most [`MAX_ENTRY_LEN`].
    #[inline]
    pub fn len(&self) -> Sectors {
        self.range >> START_BITS
    }

    /// Of length 0, which is refused in an index.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sector behind the last one.
    #[inline]
    pub fn end(&self) -> Sectors {
        // 2^50 and 2^14 at most.
        self.start().wrapping_add(self.len())
    }

    /// First sector in the file; means nothing if zeroed.
    #[inline]
    pub fn moffset(&self) -> Sectors {
        self.data & mask(MOFFSET_BITS)
    }

    /// The range reads as zeros.
    #[inline]
    pub fn zeroed(&self) -> bool {
        self.data >> MOFFSET_BITS & 1 != 0
    }

    /// Means nothing but in layers that point into a second file.
    pub fn tag(&self) -> u8 {
        (self.data >> TAG_SHIFT) as u8
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_padding() {
            return f.write_str("padding");
        }
        write!(f, "{}+{} → ", self.start(), self.len())?;
        if self.zeroed() {
            f.write_str("zeros")?;
        } else {
            write!(f, "{}", self.moffset())?;
        }
        write!(f, " tag {}", self.tag())
    }
}

/// The lowest `bits` bits.
const fn mask(bits: u32) -> u64 {
    1u64.wrapping_shl(bits).wrapping_sub(1)
}
