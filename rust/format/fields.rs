// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Little-endian fields of a record, and their places in the file.

use super::{Bytes, Invalid, Rule};

/// Bytes of a record that are read; both formats use fewer and zero the rest.
pub(super) const LEN: usize = 512;

/// Bytes of the two magic numbers that every record begins with.
const MAGIC_LEN: usize = 24;

/// The magic numbers of a format.
pub(super) type Magic = [u8; MAGIC_LEN];

/// The first bytes of a record that stands at a known place in the file.
pub(super) struct Fields<'a> {
    bytes: &'a [u8; LEN],
    at: Bytes,
}

impl<'a> Fields<'a> {
    /// `bytes` were read at offset `at` of the file.
    pub(super) fn new(bytes: &'a [u8; LEN], at: Bytes) -> Self {
        Self { bytes, at }
    }

    /// The `N` bytes at `field`; zeros where the record is shorter, which no
    /// constant in this crate asks for.
    #[inline]
    pub(super) fn array<const N: usize>(&self, field: usize) -> [u8; N] {
        array(self.bytes, field)
    }

    #[inline]
    pub(super) fn u8(&self, field: usize) -> u8 {
        let [byte] = self.array(field);
        byte
    }

    #[inline]
    pub(super) fn u32(&self, field: usize) -> u32 {
        u32::from_le_bytes(self.array(field))
    }

    #[inline]
    pub(super) fn u64(&self, field: usize) -> u64 {
        u64::from_le_bytes(self.array(field))
    }

    /// What to say about a `field` that holds `found`.
    #[cold]
    pub(super) fn refuse(&self, rule: Rule, field: usize, found: u64, expected: u64) -> Invalid {
        let offset = self.at.saturating_add(field as Bytes);
        Invalid::new(rule, offset, found, expected)
    }

    /// Refuses a record that does not begin with `magic`; names the first eight
    /// bytes that differ.
    pub(super) fn check_magic(&self, magic: &Magic, rule: Rule) -> Result<(), Invalid> {
        for field in (0..MAGIC_LEN).step_by(8) {
            let found = self.u64(field);
            let expected = u64::from_le_bytes(array(magic, field));
            if found != expected {
                return Err(self.refuse(rule, field, found, expected));
            }
        }
        Ok(())
    }

    /// Refuses a `field` of 32 bits that does not hold `expected`.
    pub(super) fn check_u32(&self, rule: Rule, field: usize, expected: u32) -> Result<(), Invalid> {
        let found = self.u32(field);
        if found != expected {
            return Err(self.refuse(rule, field, found.into(), expected.into()));
        }
        Ok(())
    }
}

/// The `N` bytes of `bytes` at `at`; zeros where it is shorter.
#[inline]
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().unwrap_or([0; N])
}

/// Writes `value` over the bytes of `record` at `field`.
#[cfg(not(MODULE))]
pub(super) fn put<const N: usize>(record: &mut [u8], field: usize, value: [u8; N]) {
    let slot = record
        .get_mut(field..)
        .and_then(|rest| rest.first_chunk_mut());
    if let Some(slot) = slot {
        *slot = value;
    }
}
