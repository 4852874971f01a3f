// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can be wrong with a file, as values: changes can be listed, so that each is tried, drawn at
//! random, so that they meet, and printed, so that a failure says what was wrong.

mod layer;
mod plan;
mod zfile;

pub use layer::{layer_changes, BrokenLayer, LayerChange, LayerForm};
pub use plan::Plan;
pub use zfile::{zfile_changes, BrokenZfile, ZfileChange, ZfileForm};

/// A number in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    name: &'static str,
    at: usize,
    /// Bytes.
    width: usize,
    /// It counts or measures: every other number of the file is worth trying in its place.
    counts: bool,
}

/// A field that counts or measures something.
const fn number(name: &'static str, at: usize, width: usize) -> Field {
    Field {
        name,
        at,
        width,
        counts: true,
    }
}

/// Any other field.
const fn word(name: &'static str, at: usize, width: usize) -> Field {
    Field {
        name,
        at,
        width,
        counts: false,
    }
}

impl Field {
    fn get(&self, record: &[u8]) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.width].copy_from_slice(&record[self.at..self.at + self.width]);
        u64::from_le_bytes(bytes)
    }

    fn set(&self, record: &mut [u8], value: u64) {
        super::put(record, self.at, &value.to_le_bytes()[..self.width]);
    }

    /// What is worth trying in its place.
    fn values(&self, record: &[u8], landmarks: &[u64]) -> Vec<u64> {
        let landmarks = if self.counts { landmarks } else { &[] };
        interesting(self.get(record), self.width as u32 * 8, landmarks)
    }
}

/// Which records a change is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Header,
    Trailer,
    Both,
}

impl Which {
    const ALL: [Self; 3] = [Self::Header, Self::Trailer, Self::Both];

    /// Sets a field.
    fn set(self, field: &Field, value: u64, header: &mut [u8], trailer: &mut [u8]) {
        if self != Self::Trailer {
            field.set(header, value);
        }
        if self != Self::Header {
            field.set(trailer, value);
        }
    }
}

/// What is worth trying in place of a number of `bits` bits: the ends of its range, its neighbours,
/// its bits, and all `landmarks` with their neighbours.
fn interesting(was: u64, bits: u32, landmarks: &[u64]) -> Vec<u64> {
    let most = u64::MAX >> (64 - bits);
    let ends = [0, 1, most, most - 1, most / 2, most / 2 + 1];
    let near = |&n: &u64| [n.wrapping_sub(1), n, n.wrapping_add(1)];
    let flips = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63].map(|bit| was ^ 1 << bit);
    let mut values: Vec<u64> = ends.to_vec();
    values.extend(flips);
    values.extend([
        was.wrapping_mul(2),
        was / 2,
        !was,
        was.swap_bytes() >> (64 - bits),
    ]);
    values.extend(landmarks.iter().chain([&was]).flat_map(near));
    values.iter_mut().for_each(|value| *value &= most);
    values.sort_unstable();
    values.dedup();
    values.retain(|&value| value != was);
    values
}

/// Flips a bit; one beyond the end is none.
fn flip(bytes: &mut [u8], bit: usize) {
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
}

/// Swaps two elements, if there are both.
fn swap<T>(items: &mut [T], one: usize, other: usize) {
    if one.max(other) < items.len() {
        items.swap(one, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interesting_numbers_fit_and_differ() {
        for bits in [8, 14, 32, 50, 64] {
            let values = interesting(5, bits, &[100, 1 << 40]);
            let most = u64::MAX >> (64 - bits);
            for wanted in [0, 1, 4, 6, 99, 100, 101, most, most - 1] {
                assert!(values.contains(&wanted), "{wanted} of {bits} bits");
            }
            assert!(values.iter().all(|&value| value <= most && value != 5));
        }
    }

    #[test]
    fn a_field_is_where_it_says() {
        let field = number("n", 2, 4);
        let mut record = [0xee; 8];
        field.set(&mut record, 0x0403_0201);
        assert_eq!(record, [0xee, 0xee, 1, 2, 3, 4, 0xee, 0xee]);
        assert_eq!(field.get(&record), 0x0403_0201);
    }
}
