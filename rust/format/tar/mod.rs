// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tar wrapper in which registries hold a blob.
//!
//! ```text
//! ustar header | payload | zeros                        payload at byte 512
//! pax header | record | ustar header | payload | zeros  payload at byte 1536
//! ```
//!
//! The pax record's `size` counts, if there is one; the ustar header behind it
//! then says 0. The payload is the only member.

#[cfg(not(MODULE))]
mod encode;

#[cfg(not(MODULE))]
pub use self::encode::{encode_pax, encode_ustar, padding, MAX_USTAR_SIZE};

use super::fields::array;
use super::platform::read;
use super::{Bytes, Error, Invalid, ReadAt, Rule};

/// Bytes of a tar block.
const BLOCK: usize = 512;

/// Offsets of the fields of a header.
mod at {
    pub(super) const SIZE: usize = 124;
    pub(super) const CHECKSUM: usize = 148;
    pub(super) const TYPE: usize = 156;
    pub(super) const MAGIC: usize = 257;
}

/// Magic and version of POSIX; GNU's differ, and are not recognised.
const MAGIC: [u8; 8] = *b"ustar\x0000";

/// Bytes of the size field.
const SIZE_LEN: usize = 12;

/// Bytes of the checksum field.
const CHECKSUM_LEN: usize = 8;

/// Where the payload of a wrapped blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// First byte in the file.
    pub offset: Bytes,
    /// Number of bytes.
    pub length: Bytes,
}

/// Looks for a tar wrapper at the beginning of a file of `length` bytes.
///
/// `None` if it is no tar archive at all; an error if it is one, but not of one of
/// the two forms.
pub fn detect<S: ReadAt + ?Sized>(
    src: &S,
    length: Bytes,
) -> Result<Option<Payload>, Error<S::Error>> {
    let mut block = [0; BLOCK];
    if length < BLOCK as Bytes {
        return Ok(None);
    }
    read(src, 0, &mut block)?;
    if !is_header(&block) {
        return Ok(None);
    }
    let payload = match member_type(&block) {
        Type::File => file_member(&block, 0)?,
        Type::Pax => pax_member(src, &mut block, length)?,
        Type::Other(found) => return Err(wrong_type(0, found).into()),
    };
    check_length(payload, length)?;
    Ok(Some(payload))
}

/// What a header stands for.
enum Type {
    File,
    Pax,
    Other(u8),
}

/// The type of a file member.
const FILE: u8 = b'0';

fn member_type(block: &[u8; BLOCK]) -> Type {
    let [found] = array(block, at::TYPE);
    match found {
        FILE | 0 => Type::File,
        b'x' => Type::Pax,
        other => Type::Other(other),
    }
}

fn wrong_type(offset: Bytes, found: u8) -> Invalid {
    invalid(Rule::TarType, offset, at::TYPE, found.into(), FILE.into())
}

/// Magic, version and checksum are those of a tar header.
fn is_header(block: &[u8; BLOCK]) -> bool {
    array(block, at::MAGIC) == MAGIC && stored_checksum(block) == Some(checksum(block))
}

fn stored_checksum(block: &[u8; BLOCK]) -> Option<u64> {
    octal(&array::<CHECKSUM_LEN>(block, at::CHECKSUM)).ok()
}

/// Sum of the header's bytes, those of the checksum field taken as spaces.
fn checksum(block: &[u8; BLOCK]) -> u64 {
    let sum = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0u64, |sum, &b| sum.wrapping_add(b.into()))
    };
    let field = array::<CHECKSUM_LEN>(block, at::CHECKSUM);
    let spaces = sum(&[b' '; CHECKSUM_LEN]);
    sum(block).wrapping_sub(sum(&field)).wrapping_add(spaces)
}

/// Octal digits, with spaces ahead, and spaces or NULs behind; the error is the
/// offset of the first wrong byte.
fn octal(field: &[u8]) -> Result<u64, usize> {
    let first = count(field, |byte| byte == b' ');
    let text = field.get(first..).unwrap_or_default();
    let digits = count(text, |byte| matches!(byte, b'0'..=b'7'));
    let end = first.saturating_add(digits);
    let behind = field.get(end..).unwrap_or_default();
    let blank = count(behind, |byte| matches!(byte, b' ' | 0));
    if digits == 0 || blank != behind.len() {
        return Err(end.saturating_add(blank));
    }
    let mut value: u64 = 0;
    for byte in text.iter().take(digits) {
        let digit = byte.wrapping_sub(b'0');
        value = value.checked_mul(8).ok_or(first)? | u64::from(digit);
    }
    Ok(value)
}

/// Number of bytes ahead of the first one that is not of a kind.
fn count(bytes: &[u8], kind: impl Fn(u8) -> bool) -> usize {
    let end = bytes.iter().position(|&byte| !kind(byte));
    end.unwrap_or(bytes.len())
}

/// The size field of the header that was read at `offset`.
fn size(block: &[u8; BLOCK], offset: Bytes) -> Result<Bytes, Invalid> {
    octal(&array::<SIZE_LEN>(block, at::SIZE))
        .map_err(|at| invalid(Rule::TarNumber, offset, at::SIZE, at as u64, 0))
}

/// The payload of a file member whose header was read at `offset`.
fn file_member(block: &[u8; BLOCK], offset: Bytes) -> Result<Payload, Invalid> {
    Ok(Payload {
        offset: offset.saturating_add(BLOCK as Bytes),
        length: size(block, offset)?,
    })
}

/// The payload of a file member that follows the pax header in `block`.
fn pax_member<S: ReadAt + ?Sized>(
    src: &S,
    block: &mut [u8; BLOCK],
    length: Bytes,
) -> Result<Payload, Error<S::Error>> {
    const RECORD: Bytes = BLOCK as Bytes;
    const MEMBER: Bytes = 2 * RECORD;
    const BEGIN: Bytes = 3 * RECORD;
    let pax_len = size(block, 0)?;
    if !(1..=RECORD).contains(&pax_len) {
        return Err(invalid(Rule::TarPaxSize, 0, at::SIZE, pax_len, RECORD).into());
    }
    if length < BEGIN {
        return Err(invalid(Rule::TarPayload, 0, 0, BEGIN, length).into());
    }
    read(src, RECORD, block)?;
    // At most 512.
    let record = block.get(..pax_len as usize).unwrap_or_default();
    let pax_size =
        pax_size(record).map_err(|at| invalid(Rule::TarPaxRecord, RECORD, at, at as u64, 0))?;
    read(src, MEMBER, block)?;
    if !is_header(block) {
        let [found] = array(block, 0);
        return Err(invalid(Rule::TarPaxMember, MEMBER, 0, u64::from(found), 0).into());
    }
    match member_type(block) {
        Type::File => {}
        Type::Pax => return Err(wrong_type(MEMBER, b'x').into()),
        Type::Other(found) => return Err(wrong_type(MEMBER, found).into()),
    }
    let member = file_member(block, MEMBER)?;
    let length = pax_size.unwrap_or(member.length);
    Ok(Payload { length, ..member })
}

/// The value of `size` in pax records, the last one if there are several; the
/// error is the offset of a malformed record.
fn pax_size(records: &[u8]) -> Result<Option<u64>, usize> {
    let mut size = None;
    let mut rest = records;
    while !rest.is_empty() {
        let at = records.len().saturating_sub(rest.len());
        let (record, next) = pax_record(rest).ok_or(at)?;
        if let Some(value) = record.strip_prefix(b"size=") {
            size = Some(decimal(value).ok_or(at)?);
        }
        rest = next;
    }
    Ok(size)
}

/// Splits off the first record, `length key=value\n`, where the length is that of
/// all of it; returns `key=value` and the rest.
fn pax_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = records.iter().position(|&byte| byte == b' ')?;
    let len = decimal(records.get(..space)?)?;
    let (record, rest) = records.split_at_checked(usize::try_from(len).ok()?)?;
    let (newline, text) = record.get(space..)?.split_last()?;
    let text = text.strip_prefix(b" ")?;
    (*newline == b'\n' && text.contains(&b'=')).then_some((text, rest))
}

/// Decimal digits, nothing else.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = char::from(byte).to_digit(10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

fn check_length(payload: Payload, length: Bytes) -> Result<(), Invalid> {
    let end = payload.offset.saturating_add(payload.length);
    if end > length {
        return Err(invalid(Rule::TarPayload, 0, 0, end, length));
    }
    Ok(())
}

fn invalid(rule: Rule, block: Bytes, field: usize, found: u64, expected: u64) -> Invalid {
    let offset = block.saturating_add(field as Bytes);
    Invalid::new(rule, offset, found, expected)
}
