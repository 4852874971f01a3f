// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Names of layers, which the format keeps as text.

use core::fmt;

/// Bytes of the text, without the NUL behind it.
const TEXT_LEN: usize = 36;

/// Bytes of a field that holds a UUID.
pub(super) const FIELD_LEN: usize = TEXT_LEN + 1;

/// A UUID other than the one of all zeros, which stands for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Parses `XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX`, hexadecimal in either case;
    /// nothing else, and not all zeros.
    pub fn parse(text: &str) -> Option<Self> {
        Self::parse_bytes(text.as_bytes())
    }

    /// Parses a field of a header: the text, then NUL.
    pub(super) fn parse_field(field: &[u8; FIELD_LEN]) -> Option<Self> {
        let (end, text) = field.split_last()?;
        if *end != 0 {
            return None;
        }
        Self::parse_bytes(text)
    }

    fn parse_bytes(text: &[u8]) -> Option<Self> {
        if text.len() != TEXT_LEN {
            return None;
        }
        let mut value: u128 = 0;
        for (at, &byte) in text.iter().enumerate() {
            if is_dash(at) {
                if byte != b'-' {
                    return None;
                }
            } else {
                let digit = char::from(byte).to_digit(16)?;
                value = value << 4 | u128::from(digit);
            }
        }
        (value != 0).then(|| Self(value.to_be_bytes()))
    }

    /// The 16 bytes, in the order of the text.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A field of a header: the text in upper case, as the reference generates
    /// it, then NUL.
    #[cfg(not(MODULE))]
    pub(super) fn field(uuid: Option<Self>) -> [u8; FIELD_LEN] {
        let value = u128::from_be_bytes(uuid.map_or([0; 16], |uuid| uuid.0));
        let mut digits = (0..32u32).rev().map(|digit| value >> (4 * digit) & 15);
        core::array::from_fn(|at| match at {
            TEXT_LEN => 0,
            _ if is_dash(at) => b'-',
            _ => {
                let digit = digits.next().unwrap_or_default();
                let digit = char::from_digit(digit as u32, 16).unwrap_or('0');
                digit.to_ascii_uppercase() as u8
            }
        })
    }
}

/// Whether a dash stands at this place of the text.
fn is_dash(at: usize) -> bool {
    matches!(at, 8 | 13 | 18 | 23)
}

/// The text, in upper case.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}
