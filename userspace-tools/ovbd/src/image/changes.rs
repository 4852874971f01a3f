// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a new layer has to hold: the differences between two disks.
//!
//! Disks are compared in granules (4 KiB unless asked otherwise): a granule that is the same in
//! both is left out, one that became zeros is recorded as such, and any other is data. Without a
//! base, the disk is compared with one of zeros. Holes on both sides are stepped over unread.

use rayon::prelude::*;

use super::source::{ReadError, Source};

/// How much is compared at once by one thread. A multiple of every granule.
pub const CHUNK: u64 = 1 << 20;

/// How many chunks are in memory at once.
const CHUNKS: usize = 8;

/// Zeros to compare with.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What a layer holds for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// So many bytes of zeros.
    Zeros(u64),
}

/// Whether `bytes` are all zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(ZEROS.len())
        .all(|part| part == &ZEROS[..part.len()])
}

/// A range of a chunk with one kind of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: usize,
    end: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Same,
    Zeros,
    Data,
}

/// The comparison of a new disk with what lies below it.
pub struct Comparison<'a> {
    /// The disk as it is to be.
    pub new: &'a dyn Source,
    /// The disk as it was; a disk of zeros if there is none.
    pub base: Option<&'a dyn Source>,
    /// Bytes to compare. Both disks read as zeros beyond their ends.
    pub size: u64,
    /// Bytes a granule: a power of two from 512 to [`CHUNK`].
    pub granule: usize,
}

impl Comparison<'_> {
    /// Calls `found` for each change in ascending order, with its place in bytes, and `passed`
    /// with the bytes that are dealt with.
    pub fn run<E: From<ReadError>>(
        &self,
        mut found: impl FnMut(u64, Change<'_>) -> Result<(), E>,
        passed: impl Fn(u64),
    ) -> Result<(), E> {
        let mut done = 0;
        while done < self.size {
            let starts = self.next_chunks(done);
            let chunks: Vec<_> = starts
                .par_iter()
                .map(|&start| self.examine(start))
                .collect();
            for chunk in chunks {
                chunk?.report(&mut found)?;
            }
            let end = match starts.last() {
                Some(last) => (last + CHUNK).min(self.size),
                None => self.size,
            };
            passed(end - done);
            done = end;
        }
        Ok(())
    }

    /// Where the next chunks begin that can hold a change, from `from` on.
    fn next_chunks(&self, from: u64) -> Vec<u64> {
        let mut starts = Vec::with_capacity(CHUNKS);
        let mut at = from;
        while starts.len() < CHUNKS {
            let data = self.next_data(at);
            if data >= self.size {
                break;
            }
            let start = data - data % CHUNK;
            starts.push(start);
            at = start + CHUNK;
        }
        starts
    }

    fn next_data(&self, from: u64) -> u64 {
        let end = |source: &dyn Source| {
            let data = source.next_data(from);
            if data >= source.size() {
                u64::MAX
            } else {
                data
            }
        };
        end(self.new).min(self.base.map_or(u64::MAX, end))
    }

    fn examine(&self, start: u64) -> Result<Examined, ReadError> {
        let length = CHUNK.min(self.size - start) as usize;
        let new = read_padded(self.new, start, length)?;
        let base = match self.base {
            Some(base) => Some(read_padded(base, start, length)?),
            None => None,
        };
        let runs = runs(self.granule, &new, base.as_deref());
        Ok(Examined { start, new, runs })
    }
}

/// A chunk and what it holds.
struct Examined {
    start: u64,
    new: Vec<u8>,
    runs: Vec<Run>,
}

impl Examined {
    fn report<E>(&self, found: &mut impl FnMut(u64, Change<'_>) -> Result<(), E>) -> Result<(), E> {
        for run in &self.runs {
            let place = self.start + run.start as u64;
            match run.kind {
                Kind::Same => {}
                Kind::Zeros => found(place, Change::Zeros((run.end - run.start) as u64))?,
                Kind::Data => found(place, Change::Data(&self.new[run.start..run.end]))?,
            }
        }
        Ok(())
    }
}

/// Reads `length` bytes at `offset`, zeros beyond the end.
pub fn read_padded(source: &dyn Source, offset: u64, length: usize) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0; length];
    let available = source.size().saturating_sub(offset).min(length as u64) as usize;
    if available > 0 {
        source.read_exact_at(offset, &mut bytes[..available])?;
    }
    Ok(bytes)
}

/// The content of `new`, run by run. Neighbouring granules of one kind are one run.
fn runs(granule: usize, new: &[u8], base: Option<&[u8]>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for start in (0..new.len()).step_by(granule) {
        let end = new.len().min(start + granule);
        let bytes = &new[start..end];
        let kind = match base {
            Some(base) if base[start..end] == *bytes => Kind::Same,
            Some(_) if is_zero(bytes) => Kind::Zeros,
            None if is_zero(bytes) => Kind::Same,
            _ => Kind::Data,
        };
        match runs.last_mut() {
            Some(last) if last.kind == kind => last.end = end,
            _ => runs.push(Run { start, end, kind }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlaybd_format::ReadAt;

    struct Memory(Vec<u8>);

    impl ReadAt for Memory {
        type Error = ReadError;

        fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
            let from = offset as usize;
            buf.copy_from_slice(&self.0[from..from + buf.len()]);
            Ok(())
        }
    }

    impl Source for Memory {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }

        fn next_data(&self, from: u64) -> u64 {
            let from = (from as usize).min(self.0.len());
            let zeros = self.0[from..].iter().take_while(|b| **b == 0).count();
            (from + zeros) as u64
        }
    }

    /// The changes as (start, length, is data), with what they make of `base`.
    fn changes(
        new: &Memory,
        base: Option<&Memory>,
        size: u64,
        granule: usize,
    ) -> (Vec<(u64, u64, bool)>, Vec<u8>) {
        let comparison = Comparison {
            new,
            base: base.map(|b| b as &dyn Source),
            size,
            granule,
        };
        let mut list = Vec::new();
        let mut result = base.map_or(Vec::new(), |b| b.0.clone());
        result.resize(size as usize, 0);
        let mut passed = std::sync::atomic::AtomicU64::new(0);
        comparison
            .run(
                |at, change| {
                    let from = at as usize;
                    match change {
                        Change::Data(bytes) => {
                            list.push((at, bytes.len() as u64, true));
                            result[from..from + bytes.len()].copy_from_slice(bytes);
                        }
                        Change::Zeros(length) => {
                            list.push((at, length, false));
                            result[from..from + length as usize].fill(0);
                        }
                    }
                    Ok::<_, ReadError>(())
                },
                |bytes| {
                    passed.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
                },
            )
            .unwrap();
        assert_eq!(*passed.get_mut(), size);
        (list, result)
    }

    #[test]
    fn zeros_are_skipped_without_a_base() {
        let mut new = vec![0; 20 << 20];
        new[5 << 20] = 1;
        new[(5 << 20) + 4096] = 2;
        new[(20 << 20) - 1] = 3;
        let new = Memory(new);
        let (list, result) = changes(&new, None, 20 << 20, 4096);
        assert_eq!(
            list,
            [(5 << 20, 8192, true), ((20 << 20) - 4096, 4096, true)]
        );
        assert!(result == new.0);
    }

    #[test]
    fn differences_and_new_zeros_are_found() {
        let base = Memory(vec![7; 1 << 20]);
        let mut new = base.0.clone();
        new[4096..12288].fill(0);
        new[512] = 8;
        let (list, result) = changes(&Memory(new.clone()), Some(&base), 1 << 20, 4096);
        assert_eq!(list, [(0, 4096, true), (4096, 8192, false)]);
        assert!(result == new);
        let (list, _) = changes(&Memory(new.clone()), Some(&base), 1 << 20, 512);
        assert_eq!(list, [(512, 512, true), (4096, 8192, false)]);
    }

    #[test]
    fn both_disks_end_in_zeros() {
        let long = Memory(vec![7; 3 << 20]);
        let short = Memory(vec![7; (1 << 20) + 100]);
        // The disk shrank: what is gone has to become zeros.
        let (list, result) = changes(&short, Some(&long), 3 << 20, 4096);
        assert_eq!(
            list,
            [
                (1 << 20, 4096, true),
                ((1 << 20) + 4096, (1 << 20) - 4096, false),
                (2 << 20, 1 << 20, false)
            ]
        );
        assert!(result[..short.0.len()] == short.0 && is_zero(&result[short.0.len()..]));
        // The disk grew.
        let (_, result) = changes(&long, Some(&short), 3 << 20, 4096);
        assert!(result == long.0);
    }

    #[test]
    fn errors_stop_the_comparison() {
        let new = Memory(vec![7; 1 << 20]);
        let comparison = Comparison {
            new: &new,
            base: None,
            size: 1 << 20,
            granule: 4096,
        };
        let failed = comparison.run(
            |offset, _| {
                Err(ReadError::End {
                    path: "x".into(),
                    offset,
                    length: 0,
                    end: 0,
                })
            },
            |_| {},
        );
        assert!(failed.is_err());
    }
}
