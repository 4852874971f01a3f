// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The arguments of the two targets in a device-mapper table.
//!
//! ```text
//! zfile <device> <offset, sectors> <length, bytes> [<#opts> ignore_crc]
//! lsmt <#layers> {<device> <offset, sectors> <length, bytes>}... [<#opts>]
//! ```
//!
//! Words come as device-mapper splits them. What is parsed prints as it was, in
//! its shortest form.

use core::ffi::CStr;
use core::fmt::{self, Write as _};

use super::{Bytes, Sectors, SECTOR};

/// The option of `zfile` that leaves block CRCs unchecked.
const IGNORE_CRC: &str = "ignore_crc";

/// What is wrong with the arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgError {
    /// There are too few.
    Missing,
    /// The offset is no decimal number of sectors.
    Offset,
    /// The length is no decimal number of bytes, or 0.
    Length,
    /// Offset and length add up to 2^63 bytes or more.
    Extent,
    /// The number of layers is no decimal number from 1 to 255.
    LayerCount,
    /// The number of options is no decimal number.
    OptionCount,
    /// There are fewer options than their number says.
    OptionMissing,
    /// An option is not known.
    OptionUnknown,
    /// An option is there twice.
    OptionRepeated,
    /// Words are left over.
    Extra,
}

impl ArgError {
    /// About four words, in the style of `ti->error`.
    pub fn reason(self) -> &'static CStr {
        match self {
            ArgError::Missing => c"Not enough arguments",
            ArgError::Offset => c"Invalid device offset",
            ArgError::Length => c"Invalid device length",
            ArgError::Extent => c"Device extent too large",
            ArgError::LayerCount => c"Invalid layer count",
            ArgError::OptionCount => c"Invalid number of options",
            ArgError::OptionMissing => c"Not enough options",
            ArgError::OptionUnknown => c"Unknown option",
            ArgError::OptionRepeated => c"Repeated option",
            ArgError::Extra => c"Too many arguments",
        }
    }
}

impl fmt::Display for ArgError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason().to_str().unwrap_or_default())
    }
}

impl core::error::Error for ArgError {}

/// A layer in the arguments of `lsmt`: a file on a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerArg<'a> {
    /// The device, as device-mapper names it.
    pub device: &'a str,
    /// Where the file begins.
    pub offset: Sectors,
    /// Its exact length, not 0.
    pub length: Bytes,
}

impl<'a> LayerArg<'a> {
    /// Parses the next three words.
    fn parse(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, ArgError> {
        let mut next = || words.next().ok_or(ArgError::Missing);
        let (device, offset, length) = (next()?, next()?, next()?);
        let offset = number(offset).ok_or(ArgError::Offset)?;
        let length = number(length).ok_or(ArgError::Length)?;
        if length == 0 {
            return Err(ArgError::Length);
        }
        let end = offset
            .checked_mul(SECTOR)
            .and_then(|b| b.checked_add(length));
        if end.and_then(|end| i64::try_from(end).ok()).is_none() {
            return Err(ArgError::Extent);
        }
        Ok(Self {
            device,
            offset,
            length,
        })
    }
}

impl fmt::Display for LayerArg<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = Word(self.device);
        write!(f, "{device} {} {}", self.offset, self.length)
    }
}

/// The arguments of `zfile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZfileArgs<'a> {
    /// The device, as device-mapper names it.
    pub device: &'a str,
    /// Where the ZFile begins.
    pub offset: Sectors,
    /// Its exact length.
    pub length: Bytes,
    /// Leave block CRCs unchecked.
    pub ignore_crc: bool,
}

impl<'a> ZfileArgs<'a> {
    /// Parses all arguments.
    pub fn parse(words: impl IntoIterator<Item = &'a str>) -> Result<Self, ArgError> {
        let mut words = words.into_iter();
        let LayerArg {
            device,
            offset,
            length,
        } = LayerArg::parse(&mut words)?;
        let mut args = Self {
            device,
            offset,
            length,
            ignore_crc: false,
        };
        for _ in 0..option_count(&mut words)? {
            args.set_option(words.next().ok_or(ArgError::OptionMissing)?)?;
        }
        no_more(words)?;
        Ok(args)
    }

    fn set_option(&mut self, option: &str) -> Result<(), ArgError> {
        if option != IGNORE_CRC {
            return Err(ArgError::OptionUnknown);
        }
        if self.ignore_crc {
            return Err(ArgError::OptionRepeated);
        }
        self.ignore_crc = true;
        Ok(())
    }
}

impl fmt::Display for ZfileArgs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = LayerArg {
            device: self.device,
            offset: self.offset,
            length: self.length,
        };
        write!(f, "{file}")?;
        if self.ignore_crc {
            write!(f, " 1 {IGNORE_CRC}")?;
        }
        Ok(())
    }
}

/// The arguments of `lsmt`, on their way: their number first, then layer by layer,
/// then the rest. After an error, what is left means nothing.
pub struct LsmtArgs<I> {
    words: I,
    layers: u8,
    parsed: u8,
}

impl<'a, I: Iterator<Item = &'a str>> LsmtArgs<I> {
    /// Parses the number of layers.
    pub fn parse(words: impl IntoIterator<IntoIter = I>) -> Result<Self, ArgError> {
        let mut words = words.into_iter();
        let count = words.next().ok_or(ArgError::Missing)?;
        let layers = number(count).and_then(|n| u8::try_from(n).ok());
        let layers = layers.filter(|&n| n != 0).ok_or(ArgError::LayerCount)?;
        Ok(Self {
            words,
            layers,
            parsed: 0,
        })
    }

    /// Number of layers, not 0.
    pub fn layers(&self) -> u8 {
        self.layers
    }

    /// Parses the next layer, from the bottom up; `None` behind the last one.
    pub fn next_layer(&mut self) -> Result<Option<LayerArg<'a>>, ArgError> {
        if self.parsed >= self.layers {
            return Ok(None);
        }
        let layer = LayerArg::parse(&mut self.words)?;
        self.parsed = self.parsed.saturating_add(1);
        Ok(Some(layer))
    }

    /// Parses what follows the layers, of which those that were not asked for are
    /// parsed, too. There are no options yet.
    pub fn finish(mut self) -> Result<(), ArgError> {
        while self.next_layer()?.is_some() {}
        if option_count(&mut self.words)? != 0 {
            let option = self.words.next();
            return Err(option.map_or(ArgError::OptionMissing, |_| ArgError::OptionUnknown));
        }
        no_more(self.words)
    }
}

/// Prints the arguments of `lsmt`.
pub fn write_lsmt<'a>(
    out: &mut impl fmt::Write,
    layers: impl ExactSizeIterator<Item = LayerArg<'a>>,
) -> fmt::Result {
    write!(out, "{}", layers.len())?;
    for layer in layers {
        write!(out, " {layer}")?;
    }
    Ok(())
}

/// The number of options; 0 if there are no more words.
fn option_count<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<u64, ArgError> {
    match words.next() {
        None => Ok(0),
        Some(word) => number(word).ok_or(ArgError::OptionCount),
    }
}

fn no_more<'a>(mut words: impl Iterator<Item = &'a str>) -> Result<(), ArgError> {
    match words.next() {
        None => Ok(()),
        Some(_) => Err(ArgError::Extra),
    }
}

/// A decimal number of 64 bits: digits, no sign.
pub(super) fn number(word: &str) -> Option<u64> {
    if word.starts_with('+') {
        return None;
    }
    word.parse().ok()
}

/// A word as device-mapper's splitter reads it back: with a backslash ahead of
/// white space and of backslashes.
struct Word<'a>(&'a str);

impl fmt::Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_ascii_whitespace() || matches!(c, '\\' | '\x0b') {
                f.write_char('\\')?;
            }
            f.write_char(c)?;
        }
        Ok(())
    }
}
