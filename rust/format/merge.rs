// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A stack of layers as one sequence of extents, in order and without gaps.
//!
//! For each sector the topmost layer with an entry for it decides; where there is
//! none, the sector reads as zeros. [`Merge`] sweeps over the disk once. Layers
//! whose next entry lies ahead wait in a heap, ordered by its first sector; those
//! that may have an entry at the current sector are bits of a set, the highest of
//! which decides. Entries that are hidden by higher layers are passed over when
//! their layer comes to the top. An entry enters heap and set at most once, which
//! makes the sweep O(N log k) for N entries of k layers.

use core::cmp::min;
use core::slice;

use super::heap::Heap;
use super::lsmt::{Entry, MAX_SECTORS};
use super::{Bytes, Invalid, OutOfMemory, Platform, Rule, Sectors, SECTOR};

/// The most layers in a stack.
pub const MAX_LAYERS: usize = 255;

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

impl Target {
    /// What is `delta` sectors further on.
    #[inline]
    pub fn advance(self, delta: Sectors) -> Self {
        match self {
            Target::Zero => Target::Zero,
            Target::Data { layer, sector } => Target::Data {
                layer,
                sector: sector.wrapping_add(delta),
            },
        }
    }
}

/// Sectors of the disk that are alike: zeros, or contiguous in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First sector of the disk.
    pub start: Sectors,
    /// Number of sectors, at least 1.
    pub len: Sectors,
    /// What the first sector holds.
    pub target: Target,
}

impl Extent {
    /// The sector behind the last one.
    #[inline]
    pub fn end(&self) -> Sectors {
        self.start.wrapping_add(self.len)
    }

    /// Whether `next`, which begins where this ends, continues it.
    #[inline]
    fn continues(&self, next: &Extent) -> bool {
        self.target.advance(self.len) == next.target
    }
}

/// Size of the disk that a stack makes, in sectors, from the virtual sizes of its
/// layers in bytes, bottom first.
///
/// The topmost layer with a size decides; a size that is no multiple of a sector
/// is rounded up.
pub fn virtual_size(layers: impl Iterator<Item = Bytes>) -> Result<Sectors, Invalid> {
    let size = layers.filter(|&size| size != 0).last().unwrap_or(0);
    check_size(size.div_ceil(SECTOR))
}

/// Refuses a size of 0 and one beyond the format's address space.
pub(super) fn check_size(size: Sectors) -> Result<Sectors, Invalid> {
    let rule = match size {
        0 => Rule::VirtualSizeZero,
        1..=MAX_SECTORS => return Ok(size),
        _ => Rule::VirtualSizeLimit,
    };
    Err(Invalid::new(rule, 0, size, MAX_SECTORS))
}

/// Refuses no layers, and more than [`MAX_LAYERS`].
pub(super) fn check_layers(count: usize) -> Result<(), Invalid> {
    match count {
        1..=MAX_LAYERS => Ok(()),
        _ => {
            let (found, most) = (count as u64, MAX_LAYERS as u64);
            Err(Invalid::new(Rule::LayerCount, 0, found, most))
        }
    }
}

/// A sequence of extents that can be gone through again.
pub trait Sweep: Iterator<Item = Extent> {
    /// Goes back to the first extent.
    fn restart(&mut self);
}

/// The extents of one layer; what [`Merge`] yields for it, but faster.
pub struct Single<'a> {
    entries: &'a [Entry],
    rest: slice::Iter<'a, Entry>,
    /// The next entry, when a gap ahead of it was yielded.
    held: Option<Entry>,
    at: Sectors,
    size: Sectors,
}

impl<'a> Single<'a> {
    /// The extents of a disk of `size` sectors.
    pub fn new(entries: &'a [Entry], size: Sectors) -> Self {
        Self {
            entries,
            rest: entries.iter(),
            held: None,
            at: 0,
            size,
        }
    }

    /// Yields what is there up to `end`.
    #[inline]
    fn extent(&mut self, end: Sectors, target: Target) -> Option<Extent> {
        let start = self.at;
        self.at = min(end, self.size);
        let len = self.at.checked_sub(start)?;
        (len != 0).then_some(Extent { start, len, target })
    }
}

impl Iterator for Single<'_> {
    type Item = Extent;

    #[inline]
    fn next(&mut self) -> Option<Extent> {
        let next = self.held.take().or_else(|| self.rest.next().copied());
        match next {
            Some(entry) if entry.start() <= self.at => {
                self.extent(entry.end(), entry.target(0, self.at))
            }
            Some(entry) => {
                self.held = Some(entry);
                self.extent(entry.start(), Target::Zero)
            }
            None => self.extent(self.size, Target::Zero),
        }
    }
}

impl Sweep for Single<'_> {
    fn restart(&mut self) {
        *self = Self::new(self.entries, self.size);
    }
}

/// The extents of a stack of layers.
///
/// Neighbours may continue each other; see [`Coalesce`].
pub struct Merge<'a, P: Platform, L> {
    layers: &'a [L],
    /// For each layer, the number of its next entry.
    next: P::Vec<usize>,
    /// Layers whose next entry begins ahead of `at`, with its first sector.
    ahead: Heap<P>,
    /// Layers whose next entry begins at `at` or before.
    here: LayerSet,
    at: Sectors,
    size: Sectors,
}

impl<'a, P: Platform, L: AsRef<[Entry]>> Merge<'a, P, L> {
    /// The extents of a disk of `size` sectors; `layers` are named bottom first,
    /// and at most [`MAX_LAYERS`] of them count.
    pub fn new(layers: &'a [L], size: Sectors) -> Result<Self, OutOfMemory> {
        let layers = layers.get(..MAX_LAYERS).unwrap_or(layers);
        let mut merge = Self {
            layers,
            next: P::alloc(layers.len())?,
            ahead: Heap::new(layers.len())?,
            here: LayerSet::default(),
            at: 0,
            size,
        };
        merge.restart();
        Ok(merge)
    }

    /// The next entry of `layer` that ends beyond `at`.
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
        }
    }

    /// Moves layers whose entry has been reached from the heap to the set.
    #[inline]
    fn arrive(&mut self) {
        while let Some(ahead) = self.ahead.peek().map(Ahead) {
            if ahead.start() > self.at {
                break;
            }
            self.ahead.pop();
            self.here.insert(ahead.layer());
        }
    }

    /// The topmost layer with an entry at `at`, and the entry.
    fn topmost(&mut self) -> Option<(u8, Entry)> {
        while let Some(layer) = self.here.highest() {
            match self.pass(layer) {
                Some(entry) if entry.start() <= self.at => return Some((layer, entry)),
                Some(entry) => {
                    self.here.remove(layer);
                    self.ahead.push(Ahead::new(entry.start(), layer).0);
                }
                None => self.here.remove(layer),
            }
        }
        None
    }

    /// Where `layer`, which has an entry up to `end`, gets hidden, or `end`.
    ///
    /// Lower layers that begin before that need not stop the sweep: they move to
    /// the set, where they wait until they come to the top.
    fn visible_end(&mut self, layer: u8, end: Sectors) -> Sectors {
        while let Some(ahead) = self.ahead.peek().map(Ahead) {
            if ahead.start() >= end {
                break;
            }
            if ahead.layer() > layer {
                return ahead.start();
            }
            self.ahead.pop();
            self.here.insert(ahead.layer());
        }
        end
    }
}

impl<P: Platform, L: AsRef<[Entry]>> Iterator for Merge<'_, P, L> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let start = self.at;
        if start >= self.size {
            return None;
        }
        self.arrive();
        let (end, target) = match self.topmost() {
            Some((layer, entry)) => {
                let end = self.visible_end(layer, min(entry.end(), self.size));
                (end, entry.target(layer, start))
            }
            None => {
                let next = self.ahead.peek().map(|ahead| Ahead(ahead).start());
                (
                    next.map_or(self.size, |next| min(next, self.size)),
                    Target::Zero,
                )
            }
        };
        self.at = end;
        let len = end.saturating_sub(start);
        Some(Extent { start, len, target })
    }
}

impl<P: Platform, L: AsRef<[Entry]>> Sweep for Merge<'_, P, L> {
    fn restart(&mut self) {
        self.at = 0;
        self.ahead.clear();
        self.here = LayerSet::default();
        for (layer, next) in self.next.iter_mut().enumerate() {
            *next = 0;
            self.here.insert(layer as u8);
        }
    }
}

/// A layer and the first sector of its next entry as one number, ordered by the
/// sector: 50 bits and 8 bits.
struct Ahead(u64);

impl Ahead {
    fn new(start: Sectors, layer: u8) -> Self {
        Self(start << 8 | u64::from(layer))
    }

    fn start(&self) -> Sectors {
        self.0 >> 8
    }

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

/// Joins extents that continue each other.
pub struct Coalesce<I> {
    extents: I,
    held: Option<Extent>,
}

impl<I: Sweep> Coalesce<I> {
    /// Joins `extents`, which are at their beginning.
    pub fn new(extents: I) -> Self {
        Self {
            extents,
            held: None,
        }
    }
}

impl<I: Sweep> Iterator for Coalesce<I> {
    type Item = Extent;

    #[inline]
    fn next(&mut self) -> Option<Extent> {
        let mut extent = self.held.take().or_else(|| self.extents.next())?;
        for next in self.extents.by_ref() {
            if !extent.continues(&next) {
                self.held = Some(next);
                break;
            }
            extent.len = extent.len.wrapping_add(next.len);
        }
        Some(extent)
    }
}

impl<I: Sweep> Sweep for Coalesce<I> {
    fn restart(&mut self) {
        self.held = None;
        self.extents.restart();
    }
}
