// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can be wrong with a ZFile.

use anyhow::Result;

use super::super::zfile::{DIGEST_AT, INDEX_DIGEST_AT};
use super::super::{block_crc, put, streams, Codec, Zfile};
use super::{flip, interesting, number, swap, word, Field, Which};

/// All 512 bytes of a record: what is not named is reserved.
const FIELDS: &[Field] = &[
    word("magic", 0, 8),
    word("second magic", 8, 8),
    word("second magic, its end", 16, 8),
    word("size", 24, 4),
    word("digest", DIGEST_AT, 4),
    word("flags", 32, 8),
    number("index offset", 40, 8),
    number("index size", 48, 8),
    number("original size", 56, 8),
    word("index digest", INDEX_DIGEST_AT, 4),
    word("reserved", 68, 4),
    number("block size", 72, 4),
    word("algorithm", 76, 1),
    word("level", 77, 1),
    word("use of a dictionary", 78, 1),
    word("padding", 79, 1),
    word("reserved, second", 80, 4),
    word("dictionary size", 84, 4),
    word("verify", 88, 1),
    word("padding, second", 89, 7),
    word("rest", 96, 8),
    word("end of the rest", 504, 8),
];

/// What a ZFile is like before something is wrong with it.
#[derive(Clone, Copy, Debug)]
pub struct ZfileForm {
    /// How blocks are stored.
    pub codec: Codec,
    /// Bytes of the original.
    pub length: usize,
    /// Bytes of it in a block.
    pub block_size: u32,
    /// A checksum follows each block.
    pub verify: bool,
    /// The header holds the trailer's fields.
    pub overwritten: bool,
}

impl ZfileForm {
    /// One of each kind.
    pub fn all(codec: Codec) -> [Self; 6] {
        [
            (20_000, 4096, true, false),
            (20_480, 4096, false, true),
            (1, 4096, true, true),
            (70_000, 65536, true, false),
            (33_000, 8192, false, false),
            (12_288, 4096, true, true),
        ]
        .map(|(length, block_size, verify, overwritten)| Self {
            codec,
            length,
            block_size,
            verify,
            overwritten,
        })
    }

    /// A right file of this form.
    pub fn make(&self, content: &[u8]) -> Zfile {
        let mut zfile = Zfile::new(content, self.block_size, self.codec, self.verify);
        if self.overwritten {
            zfile.overwrite_header();
        }
        zfile.seal();
        zfile
    }
}

/// A thing that is wrong.
#[derive(Clone, Debug)]
pub enum ZfileChange {
    /// A number in header or trailer; digests are right again behind it, or are `stale`.
    Record {
        which: Which,
        field: Field,
        value: u64,
        stale: bool,
    },
    /// A number in the index.
    Entry { block: usize, value: u32 },
    /// The index has its digest of before.
    StaleIndexDigest,
    /// Two numbers in the index are swapped.
    SwapEntries(usize, usize),
    /// The index has another number.
    MoreEntries(u32),
    /// The index lacks its last number.
    FewerEntries,
    /// Two blocks are swapped, their lengths and checksums along with them.
    SwapBlocks(usize, usize),
    /// A bit of what is stored for a block, whose checksum is then right again or is not.
    Flip {
        block: usize,
        bit: usize,
        checked: bool,
    },
    /// What is stored for a block lacks its end.
    Cut { block: usize, by: usize },
    /// A block is one of those that no compressor writes.
    Stream { block: usize, number: usize },
    /// A block that is all right but for its length.
    Resize { block: usize, length: usize },
    /// A bit of the whole file, which nothing makes up for.
    FlipFile(usize),
    /// The table gives another length.
    Told(u64),
}

impl ZfileChange {
    /// Whether it is about a record, of which most are refused.
    pub fn is_record(&self) -> bool {
        matches!(self, Self::Record { .. })
    }
}

/// Everything that can be wrong with a file of this form.
pub fn zfile_changes(form: ZfileForm) -> Vec<ZfileChange> {
    let zfile = form.make(&vec![0x11; form.length]);
    let length = zfile.bytes().len();
    let landmarks = landmarks(&zfile, form.length as u64, length as u64);
    let mut changes = records(&zfile, &landmarks);
    changes.extend(index(&zfile, &landmarks));
    changes.extend((0..zfile.blocks.len()).flat_map(|block| stored(&zfile, form, block)));
    changes.extend(
        (0..length * 8)
            .step_by(length * 8 / 61)
            .map(ZfileChange::FlipFile),
    );
    let told = interesting(length as u64, 20, &[512, 1023, 1024, length as u64 - 512]);
    changes.extend(told.into_iter().map(ZfileChange::Told));
    changes
}

/// Numbers that mean something in a file.
fn landmarks(zfile: &Zfile, original: u64, length: u64) -> Vec<u64> {
    let blocks = zfile.blocks.len() as u64;
    let end = length - 512;
    let mut landmarks = vec![blocks, original, length, end, end - 4 * blocks];
    landmarks.extend([512, 4096, 8192, 65536, 1 << 17]);
    landmarks.extend([27, 32, 40, 50, 60, 62].map(|shift| 1u64 << shift));
    landmarks
}

fn records(zfile: &Zfile, landmarks: &[u64]) -> Vec<ZfileChange> {
    let mut changes = Vec::new();
    for which in Which::ALL {
        let record = match which {
            Which::Header => &zfile.header,
            _ => &zfile.trailer,
        };
        for field in FIELDS {
            for value in field.values(record, landmarks) {
                // Digests that are not made right again are one check; once a field is enough.
                let first = value == field.get(record) ^ 1;
                for stale in [false, true].into_iter().take(1 + usize::from(first)) {
                    changes.push(ZfileChange::Record {
                        which,
                        field: *field,
                        value,
                        stale,
                    });
                }
            }
        }
    }
    changes
}

fn index(zfile: &Zfile, landmarks: &[u64]) -> Vec<ZfileChange> {
    let blocks = zfile.blocks.len();
    let mut changes = vec![
        ZfileChange::StaleIndexDigest,
        ZfileChange::FewerEntries,
        ZfileChange::SwapEntries(0, blocks - 1),
        ZfileChange::SwapEntries(0, 1),
        ZfileChange::SwapBlocks(0, blocks - 1),
        ZfileChange::SwapBlocks(0, 1),
    ];
    changes.extend([0, 1, 4, 5, u32::MAX].map(ZfileChange::MoreEntries));
    for block in [0, blocks / 2, blocks - 1] {
        let values = interesting(zfile.index[block].into(), 32, landmarks);
        let entry = |value| ZfileChange::Entry {
            block,
            value: value as u32,
        };
        changes.extend(values.into_iter().map(entry));
    }
    changes
}

/// What can be wrong with what is stored for a block.
fn stored(zfile: &Zfile, form: ZfileForm, block: usize) -> Vec<ZfileChange> {
    let stored = zfile.blocks[block].len();
    let bits = stored * 8;
    // Where the codec's own numbers are, and a few elsewhere.
    let bits = (0..48.min(bits)).chain([bits / 2, bits - 40, bits - 33, bits - 32, bits - 1]);
    let flip = |bit| {
        [false, true].map(|checked| ZfileChange::Flip {
            block,
            bit,
            checked,
        })
    };
    let mut changes: Vec<_> = bits.flat_map(flip).collect();
    let cut = |by| ZfileChange::Cut { block, by };
    changes.extend([1, 4, 5, stored / 2].map(cut));
    let streams = (0..streams_for(form.codec, &[0; 4096]).map_or(0, |all| all.len()))
        .map(|number| ZfileChange::Stream { block, number });
    changes.extend(streams);
    let size = form.block_size as usize;
    let resize = |length| ZfileChange::Resize { block, length };
    changes.extend([1, size / 2, size - 1, size, size + 1].map(resize));
    changes
}

fn streams_for(codec: Codec, content: &[u8]) -> Result<Vec<streams::Stream>> {
    match codec {
        Codec::Lz4 => streams::lz4(content),
        Codec::Zstd => streams::zstd(content),
    }
}

/// A file with something wrong.
pub struct BrokenZfile {
    zfile: Zfile,
    form: ZfileForm,
    content: Vec<u8>,
    flips: Vec<usize>,
    told: Option<u64>,
}

impl BrokenZfile {
    /// With nothing wrong yet.
    pub fn new(form: ZfileForm, content: Vec<u8>) -> Self {
        Self {
            zfile: form.make(&content),
            form,
            content,
            flips: Vec::new(),
            told: None,
        }
    }

    /// Makes a change; one for which there is nothing to change makes none.
    pub fn apply(&mut self, change: &ZfileChange) -> Result<()> {
        let zfile = &mut self.zfile;
        match *change {
            ZfileChange::Record {
                which,
                ref field,
                value,
                stale,
            } => {
                which.set(field, value, &mut zfile.header, &mut zfile.trailer);
                zfile.index_digest &= field.at != INDEX_DIGEST_AT;
                zfile.record_digests &= !stale && field.at != DIGEST_AT;
            }
            ZfileChange::Entry { block, value } => {
                if let Some(entry) = zfile.index.get_mut(block) {
                    *entry = value;
                }
            }
            ZfileChange::StaleIndexDigest => {
                zfile.index_digest = false;
                put(&mut zfile.trailer, INDEX_DIGEST_AT, &[0xee; 4]);
            }
            ZfileChange::SwapEntries(one, other) => swap(&mut zfile.index, one, other),
            ZfileChange::MoreEntries(value) => zfile.index.push(value),
            ZfileChange::FewerEntries => drop(zfile.index.pop()),
            ZfileChange::SwapBlocks(one, other) => {
                swap(&mut zfile.blocks, one, other);
                swap(&mut zfile.index, one, other);
            }
            ZfileChange::Flip {
                block,
                bit,
                checked,
            } => {
                let stored = &mut zfile.blocks[block];
                flip(stored, bit);
                if checked && self.form.verify {
                    checksum(stored);
                }
            }
            ZfileChange::Cut { block, by } => {
                let mut stored = zfile.blocks[block].clone();
                stored.truncate(stored.len().saturating_sub(by).max(1));
                zfile.put_stored(block, stored);
            }
            ZfileChange::Stream { block, number } => self.stream(block, number)?,
            ZfileChange::Resize { block, length } => {
                let content = vec![0x22; length];
                zfile.replace_block(block, &content, self.form.codec, self.form.verify);
            }
            ZfileChange::FlipFile(bit) => self.flips.push(bit),
            ZfileChange::Told(length) => self.told = Some(length),
        }
        Ok(())
    }

    /// Puts a stream in place of a block that is long enough for one.
    fn stream(&mut self, block: usize, number: usize) -> Result<()> {
        let size = self.form.block_size as usize;
        let content = self.content.chunks(size).nth(block).unwrap_or_default();
        if content.len() >= 4096 {
            let streams = streams_for(self.form.codec, content)?;
            self.zfile.put_stream(block, &streams[number].bytes);
        }
        Ok(())
    }

    /// The file, and the length that the table gives.
    pub fn finish(self) -> (Vec<u8>, u64) {
        let mut bytes = self.zfile.bytes();
        for bit in self.flips {
            flip(&mut bytes, bit);
        }
        let told = self.told.unwrap_or(bytes.len() as u64);
        (bytes, told)
    }
}

/// Makes the checksum of what is stored right again.
fn checksum(stored: &mut [u8]) {
    if let Some((payload, crc)) = stored.split_last_chunk_mut() {
        *crc = block_crc(payload).to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::content;
    use crate::rng::Rng;

    /// Each change, but for those that do nothing in some form, makes another file.
    #[test]
    fn changes_change() {
        let mut rng = Rng::for_test("changes of a ZFile");
        for codec in [Codec::Lz4, Codec::Zstd] {
            for form in ZfileForm::all(codec) {
                let content = content(form.length, &mut rng);
                let right = BrokenZfile::new(form, content.clone()).finish();
                let changes = zfile_changes(form);
                let mut same = 0;
                for change in changes.iter().step_by(5) {
                    let mut broken = BrokenZfile::new(form, content.clone());
                    broken.apply(change).unwrap();
                    same += usize::from(broken.finish() == right);
                }
                assert!(changes.len() > 800, "{form:?}: {}", changes.len());
                assert!(same < changes.len() / 40, "{form:?}: {same} do nothing");
            }
        }
    }
}
