// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A binary heap of a fixed capacity.

use super::{OutOfMemory, Platform};

/// Numbers, the least of which is at hand.
///
/// # Invariants
///
/// The first `len` items are in use; none is less than its parent, where the
/// parent of item `n` is item `(n - 1) / 2`.
pub(super) struct Heap<P: Platform> {
    items: P::Vec<u64>,
    len: usize,
}

impl<P: Platform> Heap<P> {
    pub(super) fn new(capacity: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            items: P::alloc(capacity)?,
            len: 0,
        })
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// The least item.
    #[inline]
    pub(super) fn peek(&self) -> Option<u64> {
        self.used().first().copied()
    }

    /// Adds an item; one beyond the capacity is dropped.
    pub(super) fn push(&mut self, item: u64) {
        let mut hole = self.len;
        if hole >= self.items.len() {
            return;
        }
        self.len = hole.saturating_add(1);
        while let Some(parent) = hole.checked_sub(1).map(|n| n / 2) {
            let above = self.get(parent);
            if above <= item {
                break;
            }
            self.set(hole, above);
            hole = parent;
        }
        self.set(hole, item);
    }

    /// Removes the least item.
    pub(super) fn pop(&mut self) {
        let Some((&last, rest)) = self.used().split_last() else {
            return;
        };
        self.len = rest.len();
        let mut hole = 0;
        while let Some(child) = self.lesser_child(hole) {
            let below = self.get(child);
            if last <= below {
                break;
            }
            self.set(hole, below);
            hole = child;
        }
        self.set(hole, last);
    }

    /// The lesser child of the item at `parent`.
    #[inline]
    fn lesser_child(&self, parent: usize) -> Option<usize> {
        let left = parent.saturating_mul(2).saturating_add(1);
        match *self.used().get(left..)? {
            [] => None,
            [first, second, ..] if second < first => left.checked_add(1),
            _ => Some(left),
        }
    }

    #[inline]
    fn used(&self) -> &[u64] {
        self.items.get(..self.len).unwrap_or_default()
    }

    /// The item at `place`, which is in use.
    #[inline]
    fn get(&self, place: usize) -> u64 {
        self.items.get(place).copied().unwrap_or_default()
    }

    /// Sets the item at `place`, which is in use or has just gone out of it.
    #[inline]
    fn set(&mut self, place: usize, item: u64) {
        if let Some(slot) = self.items.get_mut(place) {
            *slot = item;
        }
    }
}
