// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Writing the tar wrapper, in userspace only.

use core::fmt::{self, Write};

use super::super::fields::put;
use super::super::Bytes;
use super::{at, checksum, BLOCK, FILE, MAGIC, SIZE_LEN};

/// Name of the member.
const NAME: &[u8] = b"overlaybd.commit";

/// Mode of the member: a regular file, 0644.
const MODE: u64 = 0o100_644;

/// The largest size that fits a header; larger payloads need the pax form.
pub const MAX_USTAR_SIZE: Bytes = (1 << 33) - 1;

/// The header of a payload of `length` bytes in the short form; `None` if
/// larger than [`MAX_USTAR_SIZE`].
pub fn encode_ustar(length: Bytes) -> Option<[u8; BLOCK]> {
    (length <= MAX_USTAR_SIZE).then(|| member(length))
}

/// What stands ahead of a payload of `length` bytes in the pax form, byte by
/// byte as the reference writes it for root.
pub fn encode_pax(length: Bytes) -> [u8; 3 * BLOCK] {
    let mut bytes = [0; 3 * BLOCK];
    let record_len = pax_record_len(length);
    let mut header = [0; BLOCK];
    fill(&mut header, 0, b"overlaybd.pax");
    put_number::<SIZE_LEN>(&mut header, at::SIZE, record_len as u64);
    header[at::TYPE] = b'x';
    finish(&mut header);
    fill(&mut bytes, 0, &header);
    let mut record = Text(&mut bytes[BLOCK..2 * BLOCK]);
    // 47 bytes at most.
    let _ = writeln!(record, "{record_len} size={length}");
    fill(&mut bytes, 2 * BLOCK, &member(0));
    bytes
}

/// Zeros that follow a payload of `length` bytes: up to the end of its block,
/// and two blocks.
pub fn padding(length: Bytes) -> usize {
    let block = BLOCK as Bytes;
    let rest = (block - length % block) % block;
    rest as usize + 2 * BLOCK
}

/// Length of the record, which its own first number counts in.
fn pax_record_len(length: Bytes) -> usize {
    let fixed = " size=\n".len() + digits(length);
    let guess = fixed + digits(fixed as u64);
    fixed + digits(guess as u64)
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// The header of the member.
fn member(length: Bytes) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    fill(&mut block, 0, NAME);
    put_number_nul(&mut block, 100, MODE);
    put_number_nul(&mut block, 108, 0);
    put_number_nul(&mut block, 116, 0);
    put_number::<SIZE_LEN>(&mut block, at::SIZE, length);
    put_number::<SIZE_LEN>(&mut block, 136, 0);
    block[at::TYPE] = FILE;
    fill(&mut block, 265, b"root");
    fill(&mut block, 297, b"root");
    finish(&mut block);
    block
}

/// Adds magic and checksum.
fn finish(block: &mut [u8; BLOCK]) {
    put(block, at::MAGIC, MAGIC);
    let sum = checksum(block);
    put_number_nul(block, at::CHECKSUM, sum);
}

fn fill(block: &mut [u8], field: usize, text: &[u8]) {
    block[field..field + text.len()].copy_from_slice(text);
}

/// `value` in octal, right-aligned in a field of `N` bytes that ends with a
/// space.
fn put_number<const N: usize>(block: &mut [u8; BLOCK], field: usize, value: u64) {
    let mut bytes = [0; N];
    // The sizes of fields and the ranges of values are matched.
    let _ = write!(Text(&mut bytes), "{value:>width$o} ", width = N - 1);
    put(block, field, bytes);
}

/// The same in a field of 8 bytes that ends with a space and NUL.
fn put_number_nul(block: &mut [u8; BLOCK], field: usize, value: u64) {
    put_number::<7>(block, field, value);
}

/// Writes text over bytes, as far as it fits.
struct Text<'a>(&'a mut [u8]);

impl Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let bytes = core::mem::take(&mut self.0);
        let (to, rest) = bytes.split_at_mut_checked(text.len()).ok_or(fmt::Error)?;
        to.copy_from_slice(text.as_bytes());
        self.0 = rest;
        Ok(())
    }
}
