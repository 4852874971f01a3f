// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The least of up to 256 numbers, each of which may change at any time.

use super::{OutOfMemory, Platform};

/// What a player has that does not take part.
pub(super) const OUT: u64 = u64::MAX;

/// A tournament: players with a number each, the least of which is at hand.
///
/// A change costs a step for each round, without a branch that depends on the
/// numbers; for random ones that is several times faster than a heap.
///
/// # Invariants
///
/// There are `2 * players` nodes, `players` being a power of two. The last half of
/// them are the players. Each other node but the first, which is not used, holds
/// the lesser of nodes `2 * n` and `2 * n + 1`; node 1 holds the least of all.
pub(super) struct Tournament<P: Platform> {
    nodes: P::Vec<u64>,
}

impl<P: Platform> Tournament<P> {
    /// A tournament of at least `players` players, who are all out.
    pub(super) fn new(players: usize) -> Result<Self, OutOfMemory> {
        let players = players.checked_next_power_of_two().ok_or(OutOfMemory)?;
        let mut nodes = P::alloc(players.saturating_mul(2))?;
        nodes.fill(OUT);
        Ok(Self { nodes })
    }

    /// Puts all players out.
    pub(super) fn clear(&mut self) {
        self.nodes.fill(OUT);
    }

    /// The least number; [`OUT`] if all players are out.
    #[inline]
    pub(super) fn least(&self) -> u64 {
        self.nodes.get(1).copied().unwrap_or(OUT)
    }

    /// Gives `player` a number.
    #[inline]
    pub(super) fn set(&mut self, player: u8, number: u64) {
        let nodes: &mut [u64] = &mut self.nodes;
        let mut at = (nodes.len() / 2).wrapping_add(player.into());
        let mut least = number;
        while let Some(node) = nodes.get_mut(at) {
            *node = least;
            if at <= 1 {
                break;
            }
            let rival = nodes.get(at ^ 1).copied().unwrap_or(OUT);
            least = least.min(rival);
            at /= 2;
        }
    }
}
