// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Numbers that are the same in every run: what is measured must not depend on chance.

/// A generator (SplitMix64) with a fixed seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// The numbers below `count` in random order, the first `take` of them: none comes twice
    /// before all came once.
    pub fn order(&mut self, count: u64, take: usize) -> Vec<u64> {
        let mut order = Vec::with_capacity(take + count as usize);
        while order.len() < take && count > 0 {
            let mut round: Vec<u64> = (0..count).collect();
            for last in (1..round.len()).rev() {
                round.swap(last, self.below(last as u64 + 1) as usize);
            }
            order.append(&mut round);
        }
        order.truncate(take);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_has_every_number_once() {
        let mut order = Rng::new(1).order(100, 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
        assert_eq!(Rng::new(1).order(3, 10).len(), 10);
        assert!(Rng::new(1).order(0, 10).is_empty());
    }
}
