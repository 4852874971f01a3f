// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Random numbers that a failure can be repeated with: the seed is printed.

use std::ops::Range;

/// A generator, and what tests ask of it.
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// The generator of a test: depends on its name, and on `OVBD_SEED` if that is set.
    pub fn for_test(name: &str) -> Self {
        let base = std::env::var("OVBD_SEED")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        // FNV-1a, so that tests differ from each other and are the same everywhere.
        let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325 ^ base, |hash, b| {
            (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A generator with a seed of its own, for another thread.
    pub fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number in `range`, or its start if it is empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        let count = range.end.saturating_sub(range.start).max(1);
        range.start + self.next() % count
    }

    /// An index below `len`, or 0.
    pub fn index(&mut self, len: usize) -> usize {
        self.within(0..len as u64) as usize
    }

    /// Puts things into any order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        self.0.shuffle(items);
    }

    /// A length from 1 to `max`, short and long ones equally often: uniform in the exponent.
    pub fn length(&mut self, max: u64) -> u64 {
        let bits = u64::from(max.max(1).ilog2()) + 1;
        let limit = (1u64 << self.within(1..bits + 1)).min(max.max(1));
        self.within(1..limit + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        let numbers = |mut rng: Rng| (0..4).map(|_| rng.next()).collect::<Vec<_>>();
        assert_eq!(numbers(Rng::for_test("a")), numbers(Rng::for_test("a")));
        assert_ne!(numbers(Rng::for_test("a")), numbers(Rng::for_test("b")));
    }

    #[test]
    fn numbers_stay_in_their_ranges() {
        let mut rng = Rng::for_test("ranges");
        for max in [1, 2, 3, 512, 1000, 1 << 40] {
            for _ in 0..200 {
                assert!((1..=max).contains(&rng.length(max)));
                assert!((5..5 + max).contains(&rng.within(5..5 + max)));
            }
        }
        assert_eq!(rng.within(7..7), 7);
        assert_eq!(rng.index(0), 0);
    }
}
