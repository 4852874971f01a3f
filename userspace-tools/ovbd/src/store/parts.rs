// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Into which parts a blob is divided that several connections bring, and how far each of them is.
//!
//! That stands behind the blob's own bytes in the file of one that is arriving, and is cut off when
//! it is complete. All numbers are little-endian, 64 bits:
//!
//! ```text
//! 0          the blob's bytes, as far as they are there
//! SIZE       "ovbd arriving 1\n"
//! SIZE + 16  the size of a part
//! SIZE + 24  for each part, how many of its bytes are there, from its first on
//! ```
//!
//! A part's bytes are written before its number is, so that a process that is killed leaves a true
//! table. After a crash of the host it may be wrong; then the digest is, too, and the blob is
//! fetched anew.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const MAGIC: [u8; 16] = *b"ovbd arriving 1\n";
const NUMBER: usize = 8;
const HEAD: usize = MAGIC.len() + NUMBER;

/// The size of a part, bytes: large enough that asking for it costs little beside fetching it, small
/// enough that the hash, which is computed in order, is never far behind.
const PART: u64 = 16 << 20;
/// A blob has no more parts, but larger ones.
const PARTS_MAX: u64 = 1024;
/// To which the size of a part is rounded up.
const ALIGNMENT: u64 = 1 << 20;

/// How a blob is divided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Division {
    /// The blob's size, bytes.
    pub size: u64,
    /// The size of all parts but the last.
    part: u64,
}

impl Division {
    pub fn of(size: u64) -> Self {
        let least = size.div_ceil(PARTS_MAX).next_multiple_of(ALIGNMENT);
        Self {
            size,
            part: least.max(PART),
        }
    }

    /// How many parts there are; an empty blob has none.
    pub fn count(&self) -> usize {
        // At most PARTS_MAX.
        self.size.div_ceil(self.part) as usize
    }

    /// The bytes of part number `index`.
    pub fn range(&self, index: usize) -> Range<u64> {
        let start = (index as u64).saturating_mul(self.part).min(self.size);
        start..start.saturating_add(self.part).min(self.size)
    }

    /// The part that byte `offset` is in.
    pub fn part_of(&self, offset: u64) -> usize {
        (offset / self.part) as usize
    }

    fn length(&self, index: usize) -> u64 {
        let range = self.range(index);
        range.end - range.start
    }

    /// The size of the file with the table in it, bytes.
    fn file_size(&self) -> u64 {
        let table = HEAD + NUMBER * self.count();
        self.size.saturating_add(table as u64)
    }

    /// How much of each part is there, as the file says; nothing if what it says makes no sense.
    pub fn read(&self, file: &File) -> io::Result<Option<Vec<u64>>> {
        let length = file.metadata()?.len();
        let all = || (0..self.count()).map(|index| self.length(index));
        if length == self.size && length > 0 {
            // Complete, and without the table: it was about to get its name.
            return Ok(Some(all().collect()));
        }
        if length != self.file_size() {
            return Ok(None);
        }
        let mut table = vec![0; HEAD + NUMBER * self.count()];
        file.read_exact_at(&mut table, self.size)?;
        let (head, numbers) = table.split_at(HEAD);
        let numbers: Vec<u64> = numbers.chunks_exact(NUMBER).map(number).collect();
        let known = head[..MAGIC.len()] == MAGIC && number(&head[MAGIC.len()..]) == self.part;
        let fits = known && numbers.iter().zip(all()).all(|(have, most)| *have <= most);
        Ok(fits.then_some(numbers))
    }

    /// Writes the table.
    pub fn write(&self, file: &File, present: &[u64]) -> io::Result<()> {
        let numbers = [self.part].into_iter().chain(present.iter().copied());
        let mut table = MAGIC.to_vec();
        table.extend(numbers.flat_map(u64::to_le_bytes));
        file.write_all_at(&table, self.size)
    }

    /// Writes how much of part number `index` is there.
    pub fn note(&self, file: &File, index: usize, present: u64) -> io::Result<()> {
        let at = (HEAD + NUMBER * index) as u64;
        file.write_all_at(&present.to_le_bytes(), self.size.saturating_add(at))
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_divided_without_gap() {
        for size in [
            0,
            1,
            PART - 1,
            PART,
            PART + 1,
            5 * PART + 7,
            PARTS_MAX * PART + 1,
        ] {
            let division = Division::of(size);
            assert!(division.count() as u64 <= PARTS_MAX);
            let mut end = 0;
            for index in 0..division.count() {
                let range = division.range(index);
                assert_eq!((range.start, range.is_empty()), (end, false));
                assert_eq!(division.part_of(range.start), index);
                assert_eq!(division.part_of(range.end - 1), index);
                end = range.end;
            }
            assert_eq!(end, size);
        }
        // No size is too much for it.
        assert!(Division::of(u64::MAX).count() as u64 <= PARTS_MAX);
        assert_eq!(Division::of(u64::MAX).range(usize::MAX).start, u64::MAX);
    }

    #[test]
    fn a_table_is_read_with_suspicion() {
        let file = tempfile::tempfile().unwrap();
        let division = Division::of(2 * PART + 5);
        assert_eq!(division.read(&file).unwrap(), None);
        division.write(&file, &[0, 0, 0]).unwrap();
        division.note(&file, 1, PART).unwrap();
        division.note(&file, 2, 5).unwrap();
        assert_eq!(division.read(&file).unwrap(), Some(vec![0, PART, 5]));
        // More than a part has.
        division.note(&file, 2, 6).unwrap();
        assert_eq!(division.read(&file).unwrap(), None);
        division.note(&file, 2, 4).unwrap();
        for wrong in [0, MAGIC.len() as u64] {
            let mut byte = [0];
            file.read_exact_at(&mut byte, division.size + wrong)
                .unwrap();
            file.write_all_at(&[byte[0] ^ 1], division.size + wrong)
                .unwrap();
            assert_eq!(division.read(&file).unwrap(), None);
            file.write_all_at(&byte, division.size + wrong).unwrap();
        }
        assert_eq!(division.read(&file).unwrap(), Some(vec![0, PART, 4]));
        // Of another size.
        assert_eq!(Division::of(2 * PART + 6).read(&file).unwrap(), None);
        // Complete.
        file.set_len(division.size).unwrap();
        assert_eq!(division.read(&file).unwrap(), Some(vec![PART, PART, 5]));
    }
}
