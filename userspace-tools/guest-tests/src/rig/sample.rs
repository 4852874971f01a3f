// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files to test with, made in the guest: contents of which no two sectors are alike, unless
//! they are zeros, and ZFiles and layers of them.

use std::convert::Infallible;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use anyhow::{anyhow, Result};
use ovbd::image::layer::{LayerSettings, LayerWriter};
use ovbd::image::source::Std;
use ovbd::image::zwriter::{ZSettings, ZWriter};
use overlaybd_format::zfile::{Algorithm, ZFile};
use overlaybd_format::ReadAt;

use crate::ctx::{output, SECTOR};
use crate::rng::Rng;

const SECTOR_LEN: usize = SECTOR as usize;
/// The longest stretch of one kind, sectors.
const STRETCH: u64 = 96;

/// `length` bytes: text, noise and zeros in stretches that begin and end at any sector.
pub fn content(length: usize, rng: &mut Rng) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + SECTOR_LEN);
    let name = rng.next();
    while bytes.len() < length {
        let kind = rng.within(0..5);
        for _ in 0..rng.length(STRETCH) {
            let start = bytes.len();
            match kind {
                0 => {}
                1 | 2 => noise(&mut bytes, name, rng),
                _ => text(&mut bytes, name, rng),
            }
            bytes.resize(start + SECTOR_LEN, 0);
        }
    }
    bytes.truncate(length);
    bytes
}

/// Nothing that a compressor finds anything in.
fn noise(bytes: &mut Vec<u8>, name: u64, rng: &mut Rng) {
    let sector = (bytes.len() / SECTOR_LEN) as u64;
    bytes.extend((name ^ sector).to_le_bytes());
    bytes.extend((1..64).flat_map(|_| rng.next().to_le_bytes()));
}

/// A sentence, again and again.
fn text(bytes: &mut Vec<u8>, name: u64, rng: &mut Rng) {
    let sector = bytes.len() / SECTOR_LEN;
    let sentence = format!("sector {sector} of {name:x}, {}; ", rng.within(0..1000));
    bytes.extend(sentence.bytes().cycle().take(SECTOR_LEN));
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// The codec.
    pub algorithm: Algorithm,
    /// Bytes of a block.
    pub block_size: u32,
    /// Whether each block has a CRC.
    pub checksums: bool,
}

impl Form {
    /// With CRCs.
    pub const fn new(algorithm: Algorithm, block_size: u32) -> Self {
        Self {
            algorithm,
            block_size,
            checksums: true,
        }
    }

    /// Without.
    pub const fn unchecked(self) -> Self {
        Self {
            checksums: false,
            ..self
        }
    }

    /// All there are.
    pub fn all() -> Vec<Self> {
        let mut forms = Vec::new();
        for shift in 12..=16 {
            for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
                let form = Self::new(algorithm, 1 << shift);
                forms.extend([form, form.unchecked()]);
            }
        }
        forms
    }

    /// One of each block size; codecs, and CRCs or none, by turns.
    pub fn some() -> Vec<Self> {
        let all = Self::all();
        let turns = [0, 3, 2, 1, 0];
        let pick = |(four, turn): (&[Self], usize)| four.get(turn).copied();
        all.chunks(4).zip(turns).filter_map(pick).collect()
    }
}

impl fmt::Display for Form {
    /// For names of tests: `lz4-4k-nocrc`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}k", self.algorithm.name(), self.block_size >> 10)?;
        f.write_str(if self.checksums { "" } else { "-nocrc" })
    }
}

/// A ZFile that holds `content`.
pub fn zfile(content: &[u8], form: Form) -> Result<Vec<u8>> {
    let settings = ZSettings {
        algorithm: form.algorithm,
        block_size: form.block_size,
        checksums: form.checksums,
        ..ZSettings::default()
    };
    let mut writer = ZWriter::new(Vec::new(), settings)?;
    writer.write_all(content)?;
    let (bytes, _) = writer.finish()?;
    Ok(bytes)
}

/// Where a ZFile keeps each block, CRC included: bytes of the ZFile.
pub fn extents(zfile: &[u8]) -> Result<Vec<Range<u64>>> {
    let file = ZFile::<Std>::open(&Slice(zfile), zfile.len() as u64)
        .map_err(|error| anyhow!("a ZFile of our own is refused: {error:?}"))?;
    let extent = |block| file.table().extent(block..block + 1);
    Ok((0..file.block_count()).map(extent).collect())
}

/// A layer that has `content` (whole sectors) but for `holes`, ranges of sectors in ascending
/// order.
pub fn layer(content: &[u8], holes: &[Range<u64>]) -> Result<Vec<u8>> {
    let settings = LayerSettings {
        virtual_size: content.len() as u64,
        ..LayerSettings::default()
    };
    let mut writer = LayerWriter::new(Vec::new(), settings)?;
    let end = content.len() as u64 / SECTOR;
    let mut start = 0;
    for hole in holes.iter().cloned().chain(std::iter::once(end..end)) {
        let bytes = (start * SECTOR) as usize..(hole.start * SECTOR) as usize;
        if !bytes.is_empty() {
            writer.data(start, &content[bytes])?;
        }
        start = hole.end;
    }
    let (bytes, _) = writer.finish()?;
    Ok(bytes)
}

/// A file in memory, to be parsed. What lies behind the end reads as zeros, which no parser
/// accepts.
struct Slice<'a>(&'a [u8]);

impl ReadAt for Slice<'_> {
    type Error = Infallible;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Infallible> {
        let rest = self.0.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buf.len());
        buf[..length].copy_from_slice(&rest[..length]);
        buf[length..].fill(0);
        Ok(())
    }
}

/// Makes the file `image` of `size` bytes, an ext4 with what is in the folder `tree`.
pub fn ext4(tree: &Path, image: &Path, size: u64) -> Result<()> {
    File::create(image)?.set_len(size)?;
    let [tree, image] = [tree, image].map(|path| path.display().to_string());
    let options = ["-q", "-t", "ext4", "-O", "^has_journal", "-d"];
    let words = ["mke2fs"].into_iter().chain(options);
    let words: Vec<&str> = words.chain([tree.as_str(), &image]).collect();
    output(&words).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_sectors_are_alike() {
        let bytes = content(1 << 20, &mut Rng::for_test("content"));
        let mut sectors: Vec<&[u8]> = bytes.chunks(SECTOR_LEN).collect();
        let zeros = sectors.iter().filter(|s| s.iter().all(|&b| b == 0)).count();
        assert!((1..sectors.len() / 2).contains(&zeros), "{zeros} zeros");
        let count = sectors.len();
        sectors.sort_unstable();
        sectors.dedup();
        assert_eq!(sectors.len(), count - zeros + 1);
    }

    #[test]
    fn extents_lie_back_to_back() {
        let bytes = content(300_000, &mut Rng::for_test("extents"));
        for form in Form::all() {
            let extents = extents(&zfile(&bytes, form).unwrap()).unwrap();
            assert_eq!(
                extents.len(),
                300_000usize.div_ceil(form.block_size as usize)
            );
            assert_eq!(extents[0].start, 512);
            assert!(extents.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }

    #[test]
    fn some_forms_are_of_every_kind() {
        let some = Form::some();
        assert_eq!(some.len(), 5);
        assert!(some.iter().any(|form| !form.checksums));
        assert!(some.iter().any(|form| form.algorithm == Algorithm::Zstd));
    }
}
