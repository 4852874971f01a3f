// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The merged view of a stack of layers, in memory.
//!
//! The disk is divided into *segments*, without gaps: each is zeros or contiguous
//! data of one layer, and shorter than 2^32 sectors. A segment costs 12 bytes: a
//! key, the lower 32 bits of its first sector, and a value, where its data are. A
//! table of *buckets*, the aligned ranges of 2^`shift` sectors, says which segment
//! is the first to begin in each; there are 8 segments or more for each bucket on
//! average, so that this adds half a byte a segment at most. A lookup takes one
//! bucket, searches its keys, a cache line or two, and reads one value. Where
//! segments crowd in few buckets the search is longer, but logarithmic.
//!
//! Within a bucket, 32 bits order the keys, since `shift` is at most 32. Disks of
//! more than 2 TiB need at least a bucket for each 2^32 sectors, thus up to 16 bytes
//! a segment.

use core::convert::Infallible;
use core::{iter, slice};

use super::lsmt::{Entry, MAX_SECTORS};
use super::merge::{self, Merge, Place, Single, Sweep};
use super::{Bytes, Error, Invalid, OutOfMemory, Platform, Rule, Sectors, SECTOR};

pub use super::merge::Target;

/// The most layers in a stack.
pub const MAX_LAYERS: usize = merge::MAX_LAYERS;

/// Longest segment: a multiple of 1 MiB, so that cutting a long extent keeps the
/// alignment of what follows.
const MAX_SEGMENT: Sectors = (1 << 32) - 2048;

/// Segments for each bucket, on average and at least.
const BUCKET_LOAD: u64 = 8;

/// A bucket with fewer segments is searched in two steps.
const NEAR: usize = 32;

/// Largest `shift`.
const MAX_SHIFT: u32 = 32;

/// What is at a sector, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Sectors from the one looked up to the end of the segment, at least 1.
    pub len: Sectors,
    /// What the sector looked up holds.
    pub target: Target,
}

/// A segment and where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First sector of the disk.
    pub start: Sectors,
    /// Number of sectors, at least 1.
    pub len: Sectors,
    /// What the first sector holds.
    pub target: Target,
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
fn check_size(size: Sectors) -> Result<Sectors, Invalid> {
    let rule = match size {
        0 => Rule::VirtualSizeZero,
        1..=MAX_SECTORS => return Ok(size),
        _ => Rule::VirtualSizeLimit,
    };
    Err(Invalid::new(rule, 0, size, MAX_SECTORS))
}

/// Refuses no layers, and more than [`MAX_LAYERS`].
fn check_layers(count: usize) -> Result<(), Invalid> {
    if (1..=MAX_LAYERS).contains(&count) {
        return Ok(());
    }
    let (found, most) = (count as u64, MAX_LAYERS as u64);
    Err(Invalid::new(Rule::LayerCount, 0, found, most))
}

/// The merged, immutable index of a stack of layers.
///
/// # Invariants
///
/// * `keys` holds the first sector of each segment, ascending, and at last `size`,
///   all of them modulo 2^32; the first is 0. Segments are not empty and shorter
///   than 2^32 sectors.
/// * `values` has one item for each segment.
/// * `buckets` holds for each `b` up to one beyond the last the number of the
///   first segment that begins at sector `b << shift` or later.
pub struct Map<P: Platform> {
    keys: P::Vec<u32>,
    values: P::Vec<Place>,
    buckets: P::Vec<u32>,
    shift: u32,
    size: Sectors,
    data_segments: u64,
}

impl<P: Platform> Map<P> {
    /// Merges `layers`, bottom first, into a disk of `size` sectors.
    ///
    /// Entries are those of opened layers: sorted, without overlap, none empty.
    /// With others, sectors may be mapped wrongly, within the disk.
    ///
    /// Refuses no layers and more than [`MAX_LAYERS`], a size of 0 and one beyond
    /// 2^50 sectors.
    pub fn build<L: AsRef<[Entry]>>(
        layers: &[L],
        size: Sectors,
    ) -> Result<Self, Error<Infallible>> {
        check_layers(layers.len())?;
        check_size(size)?;
        let map = match layers {
            [layer] => {
                let entries = layer.as_ref();
                Self::assemble(Single { entries, size }, size)
            }
            _ => Self::assemble(Merge::<P, L>::new(layers, size)?, size),
        };
        Ok(map?)
    }

    /// Takes in a disk: once to count its segments, once to keep them.
    fn assemble(mut disk: impl Sweep, size: Sectors) -> Result<Self, OutOfMemory> {
        let mut segments: u64 = 0;
        for_each_segment::<P>(&mut disk, |_| segments = segments.wrapping_add(1));
        let mut map = Self::allocate(segments, size)?;
        map.fill(disk);
        Ok(map)
    }

    /// A map with room for `segments`.
    fn allocate(segments: u64, size: Sectors) -> Result<Self, OutOfMemory> {
        let shift = choose_shift(segments, size);
        // Bucket numbers, and segment numbers in them, have 32 bits.
        let segments = u32::try_from(segments).map_err(|_| OutOfMemory)?;
        let segments = usize::try_from(segments).map_err(|_| OutOfMemory)?;
        let buckets = usize::try_from(buckets(size, shift)).map_err(|_| OutOfMemory)?;
        Ok(Self {
            keys: P::alloc(segments.saturating_add(1))?,
            values: P::alloc(segments)?,
            buckets: P::alloc(buckets)?,
            shift,
            size,
            data_segments: 0,
        })
    }

    /// Stores the segments, as many as there is room for.
    fn fill(&mut self, mut disk: impl Sweep) {
        let mut buckets = BucketFiller::new(&mut self.buckets, self.shift);
        let mut slots = self.keys.iter_mut().zip(self.values.iter_mut());
        let mut data: u64 = 0;
        for_each_segment::<P>(&mut disk, |segment| {
            buckets.add(segment.start);
            data = data.wrapping_add(u64::from(!segment.place.is_zero()));
            if let Some((key, value)) = slots.next() {
                *key = segment.start as u32;
                *value = segment.place;
            }
        });
        buckets.finish();
        self.data_segments = data;
        if let Some(end) = self.keys.last_mut() {
            *end = self.size as u32;
        }
    }

    /// What is at `sector`; `None` beyond the end of the disk.
    #[inline]
    pub fn lookup(&self, sector: Sectors) -> Option<Segment> {
        if sector >= self.size {
            return None;
        }
        let key = sector as u32;
        let bucket = sector.wrapping_shr(self.shift) as usize;
        let [first, end] = *self.buckets.get(bucket..)?.first_chunk()?;
        let (first, end) = (first as usize, end as usize);
        // Segments that begin in the bucket, up to the sector; the last of them
        // holds it, or, if there is none, the one that reaches into the bucket.
        let keys = self.keys.get(first..)?;
        let count = end.checked_sub(first)?;
        let before = match keys.first_chunk() {
            // All keys ascend, those of the buckets that follow as well.
            Some(near) if count < NEAR && self.size <= u32::MAX.into() => count_until(near, key),
            _ => keys.get(..count)?.partition_point(|&k| k <= key),
        };
        let segment = first.wrapping_add(before).checked_sub(1)?;
        let [start, next] = *self.keys.get(segment..)?.first_chunk()?;
        let place = *self.values.get(segment)?;
        Some(Segment {
            len: next.wrapping_sub(key).into(),
            target: place.advance(key.wrapping_sub(start).into()).target(),
        })
    }

    /// Size of the disk.
    pub fn size(&self) -> Sectors {
        self.size
    }

    /// Number of segments, with those of zeros.
    pub fn segments(&self) -> u64 {
        self.values.len() as u64
    }

    /// Number of segments with data.
    pub fn data_segments(&self) -> u64 {
        self.data_segments
    }

    /// Bytes of memory, but for the fixed-size part.
    pub fn memory(&self) -> usize {
        let keys = size_of_val::<[u32]>(&self.keys);
        let values = size_of_val::<[Place]>(&self.values);
        let buckets = size_of_val::<[u32]>(&self.buckets);
        keys.saturating_add(values).saturating_add(buckets)
    }

    /// The segments in order.
    pub fn iter(&self) -> impl Iterator<Item = Extent> + '_ {
        let mut start = 0;
        iter::from_fn(move || {
            let Segment { len, target } = self.lookup(start)?;
            let extent = Extent { start, len, target };
            start = start.wrapping_add(len);
            Some(extent)
        })
    }
}

/// How many of `keys`, which ascend, are `key` at most: fewer than all.
///
/// One in eight is looked at first, then the seven that follow: more of them than a binary search
/// needs, but none of a step waits for another one, and there is no loop whose end has to be guessed.
#[inline]
fn count_until(keys: &[u32; NEAR], key: u32) -> usize {
    let until = |n: usize| usize::from(keys[n % NEAR] <= key);
    let add = |count: usize, n: usize| count.wrapping_add(until(n));
    let far = [7, 15, 23].into_iter().fold(0, add).wrapping_mul(8);
    let between = [0, 1, 2, 3, 4, 5, 6].map(|n| far.wrapping_add(n));
    between.into_iter().fold(far, add)
}

/// Hands each segment of `disk` to `take`: its extents, joined where they continue
/// each other, and cut where they are too long.
fn for_each_segment<P: Platform>(disk: &mut impl Sweep, mut take: impl FnMut(merge::Extent)) {
    disk.sweep_joined::<P>(|mut rest| {
        while rest.len > MAX_SEGMENT {
            let len = MAX_SEGMENT;
            take(merge::Extent { len, ..rest });
            rest.start = rest.start.wrapping_add(len);
            rest.len = rest.len.wrapping_sub(len);
            rest.place = rest.place.advance(len);
        }
        take(rest);
    });
}

/// Size of a bucket that makes the table of them as fine as its memory allows.
fn choose_shift(segments: u64, size: Sectors) -> u32 {
    let most = segments / BUCKET_LOAD;
    let fits = |&shift: &u32| buckets(size, shift) <= most;
    (0..MAX_SHIFT).find(fits).unwrap_or(MAX_SHIFT)
}

/// Items of the bucket table for a disk of `size` sectors, which is not 0.
fn buckets(size: Sectors, shift: u32) -> u64 {
    let last = size.saturating_sub(1).wrapping_shr(shift);
    last.saturating_add(2)
}

/// Writes the bucket table while segments are added in order.
struct BucketFiller<'a> {
    rest: slice::IterMut<'a, u32>,
    /// First sector of the next bucket.
    start: Sectors,
    shift: u32,
    segments: u32,
}

impl<'a> BucketFiller<'a> {
    fn new(buckets: &'a mut [u32], shift: u32) -> Self {
        Self {
            rest: buckets.iter_mut(),
            start: 0,
            shift,
            segments: 0,
        }
    }

    /// Adds a segment that begins at `sector`.
    #[inline]
    fn add(&mut self, sector: Sectors) {
        while self.start <= sector {
            let Some(bucket) = self.rest.next() else {
                break;
            };
            *bucket = self.segments;
            self.start = self.start.wrapping_add(1u64.wrapping_shl(self.shift));
        }
        self.segments = self.segments.wrapping_add(1);
    }

    /// No segment begins in the remaining buckets.
    fn finish(self) {
        for bucket in self.rest {
            *bucket = self.segments;
        }
    }
}
