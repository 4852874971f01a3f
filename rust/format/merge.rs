// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A stack of layers as one sequence of extents, in order and without gaps.
//!
//! For each sector the topmost layer with an entry for it decides; where there is
//! none, the sector reads as zeros. [`Merge`] sweeps over the disk once. Layers
//! whose next entry lies ahead hold a tournament, whose first one is next; those
//! that may have an entry at the current sector are bits of a set, the highest of
//! which decides. Entries that are hidden by higher layers are passed over when
//! their layer comes to the top. An entry enters tournament and set once at most,
//! which makes the sweep O(N log k) for N entries of k layers.

use core::cmp::min;

use super::lsmt::Entry;
use super::tournament::{Tournament, OUT};
use super::{OutOfMemory, Platform, Sectors};

/// The most layers in a stack.
pub(super) const MAX_LAYERS: usize = 255;

/// What a sector of the disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Zeros.
    Zero,
    /// A sector of a layer's file.
    Data {
        /// Number of the layer, from 0, the bottom one.
        layer: u8,
        /// Sector of its file.
        sector: Sectors,
    },
}

/// A [`Target`] in 64 bits: 55 bits of the sector in the layer's file, 8 bits of
/// layer number, and one that says that it is zeros instead.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    const LAYER_SHIFT: u32 = 55;
    const SECTOR_MASK: u64 = (1 << Self::LAYER_SHIFT) - 1;
    const ZERO: Self = Self(1 << 63);

    /// `sector`, which has 55 bits, of the file of `layer`.
    #[inline]
    fn data(layer: u8, sector: Sectors) -> Self {
        Self(sector & Self::SECTOR_MASK | u64::from(layer) << Self::LAYER_SHIFT)
    }

    /// What `entry` of `layer` holds at `sector`, which is not before it.
    #[inline]
    fn of(entry: &Entry, layer: u8, sector: Sectors) -> Self {
        if entry.zeroed() {
            return Self::ZERO;
        }
        let delta = sector.wrapping_sub(entry.start());
        Self::data(layer, entry.moffset().wrapping_add(delta))
    }

    #[inline]
    pub(super) fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// What is `delta` sectors further on.
    #[inline]
    pub(super) fn advance(self, delta: Sectors) -> Self {
        if self.is_zero() {
            return self;
        }
        Self(self.0.wrapping_add(delta))
    }

    #[inline]
    pub(super) fn target(self) -> Target {
        if self.is_zero() {
            return Target::Zero;
        }
        Target::Data {
            layer: (self.0 >> Self::LAYER_SHIFT) as u8,
            sector: self.0 & Self::SECTOR_MASK,
        }
    }
}

/// Sectors of the disk that are alike: zeros, or contiguous in one layer.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// First sector of the disk.
    pub(super) start: Sectors,
    /// Number of sectors, at least 1.
    pub(super) len: Sectors,
    /// What the first sector holds.
    pub(super) place: Place,
}

/// How many extents or entries are passed between two calls of [`Platform::relax`].
const RELAX: usize = 4096;

/// The extents of a disk, neighbours of which may continue each other.
pub(super) trait Sweep {
    /// Hands each extent to `take`, in order; can be done again.
    fn sweep(&mut self, take: impl FnMut(Extent));

    /// The same with extents joined that continue each other.
    fn sweep_joined<P: Platform>(&mut self, mut take: impl FnMut(Extent)) {
        let mut held: Option<Extent> = None;
        let mut extents: usize = 0;
        self.sweep(|next| {
            extents = extents.wrapping_add(1);
            if extents % RELAX == 0 {
                P::relax();
            }
            match &mut held {
                Some(last) if last.place.advance(last.len) == next.place => {
                    last.len = last.len.wrapping_add(next.len);
                }
                _ => {
                    if let Some(last) = held.replace(next) {
                        take(last);
                    }
                }
            }
        });
        if let Some(last) = held {
            take(last);
        }
    }
}

/// One layer; what [`Merge`] does, but faster.
pub(super) struct Single<'a> {
    /// The layer's entries, in order.
    pub(super) entries: &'a [Entry],
    /// Sectors of the disk.
    pub(super) size: Sectors,
}

impl Sweep for Single<'_> {
    fn sweep(&mut self, mut take: impl FnMut(Extent)) {
        let mut at = 0;
        let mut upto = |end: Sectors, place| {
            let end = min(end, self.size);
            if end > at {
                let len = end.wrapping_sub(at);
                take(Extent {
                    start: at,
                    len,
                    place,
                });
                at = end;
            }
        };
        for entry in self.entries {
            upto(entry.start(), Place::ZERO);
            upto(entry.end(), Place::of(entry, 0, entry.start()));
        }
        upto(self.size, Place::ZERO);
    }
}

/// A stack of layers, bottom first.
pub(super) struct Merge<'a, P: Platform, L> {
    layers: &'a [L],
    /// For each layer, the number of its next entry.
    next: P::Vec<usize>,
    /// Layers whose next entry begins ahead of `at`.
    ahead: Tournament<P>,
    /// Layers that may have an entry at `at`.
    here: LayerSet,
    at: Sectors,
    size: Sectors,
}

impl<'a, P: Platform, L: AsRef<[Entry]>> Merge<'a, P, L> {
    /// A disk of `size` sectors; at most [`MAX_LAYERS`] of `layers` count.
    pub(super) fn new(layers: &'a [L], size: Sectors) -> Result<Self, OutOfMemory> {
        let layers = layers.get(..MAX_LAYERS).unwrap_or(layers);
        Ok(Self {
            layers,
            next: P::alloc(layers.len())?,
            ahead: Tournament::new(layers.len())?,
            here: LayerSet::default(),
            at: 0,
            size,
        })
    }

    /// Goes back to the first sector, where every layer may have an entry.
    fn restart(&mut self) {
        self.at = 0;
        self.ahead.clear();
        for (layer, next) in (0..=u8::MAX).zip(self.next.iter_mut()) {
            *next = 0;
            self.here.insert(layer);
        }
    }

    /// The layer ahead whose entry begins first.
    #[inline]
    fn first_ahead(&self) -> Ahead {
        Ahead(self.ahead.least())
    }

    /// Moves a layer whose next entry has been reached to those that are here.
    #[inline]
    fn arrive(&mut self, layer: u8) {
        self.ahead.set(layer, OUT);
        self.here.insert(layer);
    }

    /// The topmost layer with an entry at `at`, and the entry.
    fn topmost(&mut self) -> Option<(u8, Entry)> {
        while let Some(layer) = self.here.highest() {
            match self.pass(layer) {
                Some(entry) if entry.start() <= self.at => return Some((layer, entry)),
                Some(entry) => {
                    self.here.remove(layer);
                    self.ahead.set(layer, Ahead::new(entry.start(), layer).0);
                }
                None => self.here.remove(layer),
            }
        }
        None
    }

    /// Passes over entries of `layer` that end at `at` or before; the next one.
    #[inline]
    fn pass(&mut self, layer: u8) -> Option<Entry> {
        let entries = self.layers.get(usize::from(layer))?.as_ref();
        let next = self.next.get_mut(usize::from(layer))?;
        loop {
            let entry = entries.get(*next)?;
            if entry.end() > self.at {
                return Some(*entry);
            }
            *next = next.wrapping_add(1);
            if *next % RELAX == 0 {
                P::relax();
            }
        }
    }

    /// Where `layer`, which has an entry up to `end`, gets hidden, or `end`.
    ///
    /// Lower layers that begin before that need not stop the sweep: they
    /// arrive, and wait until they come to the top.
    fn visible_end(&mut self, layer: u8, end: Sectors) -> Sectors {
        loop {
            let ahead = self.first_ahead();
            if ahead.start() >= end {
                return end;
            }
            if ahead.layer() > layer {
                return ahead.start();
            }
            self.arrive(ahead.layer());
        }
    }
}

impl<P: Platform, L: AsRef<[Entry]>> Sweep for Merge<'_, P, L> {
    fn sweep(&mut self, mut take: impl FnMut(Extent)) {
        self.restart();
        while self.at < self.size {
            let start = self.at;
            while self.first_ahead().start() <= start {
                self.arrive(self.first_ahead().layer());
            }
            let (end, place) = match self.topmost() {
                Some((layer, entry)) => {
                    let end = self.visible_end(layer, min(entry.end(), self.size));
                    (end, Place::of(&entry, layer, start))
                }
                None => (min(self.first_ahead().start(), self.size), Place::ZERO),
            };
            self.at = end;
            let len = end.wrapping_sub(start);
            take(Extent { start, len, place });
        }
    }
}

/// A layer and the first sector of its next entry as one number, ordered by the
/// sector: 50 bits and 8 bits. [`OUT`] is a sector that no disk has.
struct Ahead(u64);

impl Ahead {
    #[inline]
    fn new(start: Sectors, layer: u8) -> Self {
        Self(start << 8 | u64::from(layer))
    }

    #[inline]
    fn start(&self) -> Sectors {
        self.0 >> 8
    }

    #[inline]
    fn layer(&self) -> u8 {
        self.0 as u8
    }
}

/// A set of layers.
#[derive(Clone, Copy, Default)]
struct LayerSet([u64; 4]);

impl LayerSet {
    #[inline]
    fn insert(&mut self, layer: u8) {
        if let Some(word) = self.0.get_mut(usize::from(layer / 64)) {
            *word |= 1 << (layer % 64);
        }
    }

    #[inline]
    fn remove(&mut self, layer: u8) {
        if let Some(word) = self.0.get_mut(usize::from(layer / 64)) {
            *word &= !(1 << (layer % 64));
        }
    }

    #[inline]
    fn highest(&self) -> Option<u8> {
        let [a, b, c, d] = self.0;
        let words = [(d, 192u8), (c, 128), (b, 64), (a, 0)];
        let (word, base) = words.into_iter().find(|(word, _)| *word != 0)?;
        let bit = word.leading_zeros() ^ 63;
        Some(base.wrapping_add(bit as u8))
    }
}
