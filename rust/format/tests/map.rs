// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Merge and lookup against an array of sectors, and at the limits.

mod common;

use std::cell::Cell;

use common::{Scarce, Std};
use overlaybd_format::lsmt::{Entry, MAX_SECTORS};
use overlaybd_format::map::{virtual_size, Extent, Map, Segment, Target, MAX_LAYERS};
use overlaybd_format::{Element, Error, Invalid, OutOfMemory, Platform, Rule};
use proptest::collection::vec;
use proptest::prelude::*;

/// Sectors of the disks that are compared sector by sector.
const DISK: u64 = 300;

/// A layer from gaps, lengths, places and whether they are zeros.
fn layer(pieces: &[(u64, u64, u64, bool)]) -> Vec<Entry> {
    let mut at = 0;
    let mut entry = |&(gap, len, moffset, zeroed): &(u64, u64, u64, bool)| {
        let start = at + gap;
        at = start + len;
        if zeroed {
            Entry::zeros(start, len, moffset)
        } else {
            Entry::data(start, len, moffset)
        }
    };
    pieces.iter().map(&mut entry).collect()
}

/// Any layer: some entries touch and continue each other, some lie beyond the disk.
fn any_layer() -> impl Strategy<Value = Vec<Entry>> {
    let gap = prop_oneof![Just(0u64), 0..5u64, 0..60u64];
    let moffset = prop_oneof![Just(8u64), 8..40u64];
    let piece = (gap, 1..30u64, moffset, prop::bool::weighted(0.2));
    vec(piece, 0..40).prop_map(|mut pieces| {
        for at in 1..pieces.len() {
            // Continue the one before it now and then.
            let (_, len, moffset, zeroed) = pieces[at - 1];
            if pieces[at].2 % 3 == 0 {
                pieces[at] = (0, pieces[at].1, moffset + len, zeroed);
            }
        }
        layer(&pieces)
    })
}

/// What each sector of the disk holds, layer by layer over an array.
fn naive(layers: &[Vec<Entry>], size: u64) -> Vec<Target> {
    let mut disk = vec![Target::Zero; size as usize];
    for (number, layer) in layers.iter().enumerate() {
        for entry in layer {
            for delta in 0..entry.len() {
                if let Some(sector) = disk.get_mut((entry.start() + delta) as usize) {
                    *sector = if entry.zeroed() {
                        Target::Zero
                    } else {
                        Target::Data {
                            layer: number as u8,
                            sector: entry.moffset() + delta,
                        }
                    };
                }
            }
        }
    }
    disk
}

/// What follows when a target is `delta` sectors further on.
fn advance(target: Target, delta: u64) -> Target {
    match target {
        Target::Zero => Target::Zero,
        Target::Data { layer, sector } => Target::Data {
            layer,
            sector: sector + delta,
        },
    }
}

/// Joins the sectors of an array where they continue each other.
fn runs(disk: &[Target]) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for (start, &target) in disk.iter().enumerate() {
        match runs.last_mut() {
            Some(run) if advance(run.target, run.len) == target => run.len += 1,
            _ => runs.push(Extent {
                start: start as u64,
                len: 1,
                target,
            }),
        }
    }
    runs
}

fn build(layers: &[Vec<Entry>], size: u64) -> Map<Std> {
    Map::build(layers, size).unwrap_or_else(|error| panic!("{error}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The map is the array, in as few segments as can be.
    #[test]
    fn map_is_the_array(layers in vec(any_layer(), 1..9), size in 1..DISK) {
        let disk = naive(&layers, size);
        let map = build(&layers, size);
        let runs = runs(&disk);
        prop_assert_eq!(map.iter().collect::<Vec<_>>(), &runs[..]);
        prop_assert_eq!(map.segments(), runs.len() as u64);
        let data = runs.iter().filter(|run| run.target != Target::Zero).count();
        prop_assert_eq!(map.data_segments(), data as u64);
        prop_assert_eq!(map.size(), size);
        for run in runs {
            for delta in 0..run.len {
                let want = Segment { len: run.len - delta, target: advance(run.target, delta) };
                prop_assert_eq!(map.lookup(run.start + delta), Some(want));
            }
        }
        for beyond in [size, size + 1, 1 << 32, MAX_SECTORS, u64::MAX] {
            prop_assert_eq!(map.lookup(beyond), None);
        }
    }

    /// One layer takes a way of its own; an empty one on top changes nothing.
    #[test]
    fn single_is_merged(layer in any_layer(), size in 1..DISK) {
        let alone = build(std::slice::from_ref(&layer), size);
        let stack = build(&[layer, Vec::new()], size);
        prop_assert!(alone.iter().eq(stack.iter()));
    }

}

proptest! {
    // Such disks have a segment for each 2^32 sectors at least: many.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// On disks far larger than 32 bits count, near any boundary of 2^32 sectors.
    #[test]
    fn large_disks(
        layers in vec(vec((0u64..1 << 18, 0u64..4096, 1u64..3000), 0..20), 1..4),
        size in (1u64 << 32) - 2..=MAX_SECTORS,
    ) {
        let near = |&(window, before, len): &(u64, u64, u64)| {
            let start = (window << 32).saturating_sub(before);
            Entry::data(start, len, 8 + window)
        };
        let layers: Vec<Vec<Entry>> = layers.iter().map(|places| {
            let mut entries: Vec<_> = places.iter().map(near).collect();
            entries.sort_by_key(Entry::start);
            let mut end = 0;
            entries.retain(|entry| {
                let apart = entry.start() >= end && entry.end() <= MAX_SECTORS;
                if apart {
                    end = entry.end();
                }
                apart
            });
            entries
        }).collect();
        let map = build(&layers, size);
        // Every sector where something begins or ends, and its neighbours.
        let all = layers.iter().flatten();
        let edges = all.flat_map(|entry| [entry.start(), entry.end()]).chain([0, size]);
        for edge in edges {
            for sector in edge.saturating_sub(2)..edge + 2 {
                prop_assert_eq!(map.lookup(sector).map(|s| s.target), find(&layers, sector, size));
            }
        }
        // The segments cover the disk.
        let end = map.iter().try_fold(0, |at, extent| {
            (extent.start == at && extent.len > 0 && extent.len < 1 << 32)
                .then_some(at + extent.len)
        });
        prop_assert_eq!(end, Some(size));
        let bound = 16 * map.segments() + 64;
        prop_assert!(map.memory() as u64 <= bound, "{} > {}", map.memory(), bound);
    }
}

/// What a sector holds, by going through all entries.
fn find(layers: &[Vec<Entry>], sector: u64, size: u64) -> Option<Target> {
    if sector >= size {
        return None;
    }
    for (number, layer) in layers.iter().enumerate().rev() {
        for entry in layer {
            if (entry.start()..entry.end()).contains(&sector) {
                let delta = sector - entry.start();
                let target = Target::Data {
                    layer: number as u8,
                    sector: entry.moffset(),
                };
                return Some(advance(target, delta));
            }
        }
    }
    Some(Target::Zero)
}

fn sizes(sizes: &[u64]) -> Result<u64, Invalid> {
    virtual_size(sizes.iter().copied())
}

fn invalid(rule: Rule, found: u64, expected: u64) -> Invalid {
    Invalid {
        rule,
        offset: 0,
        item: 0,
        found,
        expected,
    }
}

#[test]
fn topmost_size_counts() {
    assert_eq!(sizes(&[512]), Ok(1));
    assert_eq!(sizes(&[4096, 512]), Ok(1));
    assert_eq!(sizes(&[512, 4096, 0, 0]), Ok(8));
    assert_eq!(sizes(&[1]), Ok(1));
    assert_eq!(sizes(&[513]), Ok(2));
    assert_eq!(sizes(&[MAX_SECTORS * 512]), Ok(MAX_SECTORS));
    // A lower layer may say anything.
    assert_eq!(sizes(&[u64::MAX, 512]), Ok(1));
    let zero = invalid(Rule::VirtualSizeZero, 0, MAX_SECTORS);
    assert_eq!(sizes(&[0, 0]), Err(zero));
    assert_eq!(sizes(&[]), Err(zero));
    let large = |found| Err(invalid(Rule::VirtualSizeLimit, found, MAX_SECTORS));
    assert_eq!(sizes(&[MAX_SECTORS * 512 + 1]), large(MAX_SECTORS + 1));
    assert_eq!(sizes(&[u64::MAX]), large(1 << 55));
}

#[test]
fn limits_of_build() {
    let build = |layers: usize, size| Map::<Std>::build(&vec![Vec::new(); layers], size).err();
    assert_eq!(build(1, 1), None);
    assert_eq!(build(MAX_LAYERS, 1), None);
    let count = |found| Some(Error::Invalid(invalid(Rule::LayerCount, found, 255)));
    assert_eq!(build(0, 1), count(0));
    assert_eq!(build(256, 1), count(256));
    let zero = invalid(Rule::VirtualSizeZero, 0, MAX_SECTORS);
    assert_eq!(build(1, 0), Some(Error::Invalid(zero)));
    let large = invalid(Rule::VirtualSizeLimit, MAX_SECTORS + 1, MAX_SECTORS);
    assert_eq!(build(1, MAX_SECTORS + 1), Some(Error::Invalid(large)));
}

/// A disk of zeros is one segment up to 2^32 sectors, and little more beyond.
#[test]
fn empty_disks() {
    for layers in [1, 2, 255] {
        let layers = vec![Vec::new(); layers];
        let map = build(&layers, DISK);
        assert_eq!((map.segments(), map.data_segments()), (1, 0));
        assert_eq!(
            map.lookup(7),
            Some(Segment {
                len: DISK - 7,
                target: Target::Zero
            })
        );
    }
    // The longest segment, and one sector more.
    let longest = (1 << 32) - 2048;
    assert_eq!(build(&[Vec::new()], longest).segments(), 1);
    assert_eq!(build(&[Vec::new()], longest + 1).segments(), 2);
    let map = build(&[Vec::new()], MAX_SECTORS);
    assert!(map.segments() <= (1 << 18) + 1);
    assert!(map.memory() <= 16 * map.segments() as usize + 64);
}

/// A contiguous run of many entries is one segment, cut below 2^32 sectors, on
/// whole MiB.
#[test]
fn long_runs_are_cut() {
    let len = 16383;
    let entries: Vec<_> = (0..600_000)
        .map(|n| Entry::data(n * len, len, 8 + n * len))
        .collect();
    let size = 600_000 * len;
    let map = build(&[entries], size);
    let segments: Vec<_> = map.iter().collect();
    assert_eq!(segments.len(), 3);
    let mut at = 0;
    for extent in segments {
        assert_eq!((extent.start, extent.start % 2048), (at, 0));
        assert!(extent.len < 1 << 32);
        assert_eq!(
            extent.target,
            Target::Data {
                layer: 0,
                sector: 8 + at
            }
        );
        at += extent.len;
    }
    assert_eq!(at, size);
}

/// 255 layers, each visible somewhere, and each hidden somewhere else.
#[test]
fn many_layers() {
    let layers: Vec<_> = (0..255u64)
        .map(|n| {
            vec![
                Entry::data(0, n + 1, 8),
                Entry::data(1000 + n, 1000 - n, 16),
            ]
        })
        .collect();
    let size = 2000;
    let map = build(&layers, size);
    let disk = naive(&layers, size);
    assert_eq!(map.iter().collect::<Vec<_>>(), runs(&disk));
    assert_eq!(
        map.lookup(999),
        Some(Segment {
            len: 1,
            target: Target::Zero
        })
    );
    let top = |sector| Target::Data { layer: 254, sector };
    assert_eq!(map.lookup(0).unwrap().target, top(8));
    assert_eq!(map.lookup(1999).unwrap().target, top(16 + 1999 - 1254));
}

/// The memory promised: 12.5 bytes a segment up to 2 TiB, and a constant.
#[test]
fn memory_is_bounded() {
    for count in [1u64, 10, 100, 1000, 24_000, 100_000] {
        for spread in [2, 3, 50] {
            let entry = |n| Entry::data(n * spread, 1, 8 + 2 * n);
            let entries: Vec<_> = (0..count).map(entry).collect();
            for size in [count * spread, 1 << 27, 1 << 32] {
                let map = build(std::slice::from_ref(&entries), size);
                let (memory, segments) = (map.memory() as u64, map.segments());
                assert!(memory <= segments * 25 / 2 + 32, "{count} {spread} {size}");
                // Not less, either: as many buckets as that allows, to the factor of
                // 2 by which they grow.
                assert!(
                    memory >= 12 * segments + 4 + segments / 4,
                    "{count} {spread} {size}"
                );
            }
        }
    }
}

/// All of a large index in one bucket: found all the same.
#[test]
fn crowded_bucket() {
    let entries: Vec<_> = (0..50_000)
        .map(|n| Entry::data(2 * n, 1, 8 + 3 * n))
        .collect();
    let map = build(&[entries], MAX_SECTORS);
    for n in 0..50_000 {
        let data = Target::Data {
            layer: 0,
            sector: 8 + 3 * n,
        };
        assert_eq!(
            map.lookup(2 * n),
            Some(Segment {
                len: 1,
                target: data
            })
        );
        assert_eq!(map.lookup(2 * n + 1).map(|s| s.target), Some(Target::Zero));
    }
}

/// Buckets with any number of segments, on disks on this side of 2^32 sectors, up to them and
/// beyond, where the keys that follow a bucket may be less than its own.
#[test]
fn buckets_of_any_length() {
    const SPANS: u64 = 4096;
    for (span, spans) in [
        (1 << 10, SPANS),
        (1 << 20, SPANS - 1),
        (1 << 20, SPANS),
        (1 << 20, SPANS + 40),
    ] {
        // 0 to 39 extents of a sector in each span.
        let starts = (0..spans).flat_map(|n| (0..n % 40).map(move |i| n * span + 2 * i));
        let entries: Vec<_> = starts
            .zip(0..)
            .map(|(at, n)| Entry::data(at, 1, 8 + 3 * n))
            .collect();
        let size = spans * span;
        let map = build(std::slice::from_ref(&entries), size);
        let mut next = entries.iter().peekable();
        let mut asked: Vec<_> = entries.iter().flat_map(|e| [e.start(), e.end()]).collect();
        asked.extend((1..=spans).map(|n| n * span - 1));
        asked.sort_unstable();
        for sector in asked {
            while next.next_if(|entry| entry.end() <= sector).is_some() {}
            let start = next.peek().map_or(size, |entry| entry.start());
            let expected = match next.peek() {
                Some(entry) if start <= sector => Segment {
                    len: 1,
                    target: Target::Data {
                        layer: 0,
                        sector: entry.moffset(),
                    },
                },
                _ => Segment {
                    len: start - sector,
                    target: Target::Zero,
                },
            };
            let found = map.lookup(sector);
            assert_eq!(
                found,
                (sector < size).then_some(expected),
                "{sector} of {size}"
            );
        }
    }
}

/// Entries that no opened layer has are mapped somehow, without harm.
#[test]
fn unchecked_entries_do_no_harm() {
    let wild = vec![
        Entry::data(50, 10, 1),
        Entry::data(40, 30, 1),
        Entry::data(45, 0, 1),
        Entry::default(),
        Entry::PADDING,
        Entry::data(10, 16383, 1),
        Entry::zeros(MAX_SECTORS - 2, 16383, 1),
    ];
    for layers in [
        vec![wild.clone()],
        vec![wild.clone(), wild.clone(), Vec::new()],
    ] {
        for size in [1, 49, 100, MAX_SECTORS] {
            let map = build(&layers, size);
            let covered = map.iter().map(|extent| extent.len).sum::<u64>();
            assert_eq!(covered, size);
        }
    }
}

/// Long loops give way to others.
#[test]
fn long_loops_relax() {
    thread_local!(static RELAXED: Cell<u32> = const { Cell::new(0) });

    struct Relaxing;

    impl Platform for Relaxing {
        type Vec<T: Element> = Vec<T>;

        fn alloc<T: Element>(len: usize) -> Result<Vec<T>, OutOfMemory> {
            Std::alloc(len)
        }

        fn crc32c(seed: u32, data: &[u8]) -> u32 {
            Std::crc32c(seed, data)
        }

        fn relax() {
            RELAXED.set(RELAXED.get() + 1);
        }
    }

    let entries: Vec<_> = (0..10_000).map(|n| Entry::data(n, 1, 8 + 2 * n)).collect();
    Map::<Relaxing>::build(&[entries], 10_000).ok().unwrap();
    // Twice in each of two passes.
    assert_eq!(RELAXED.get(), 4);
}

#[test]
fn lack_of_memory_is_passed_on() {
    for (layers, allocations) in [(1, 3), (2, 5)] {
        let layers = vec![vec![Entry::data(0, 1, 8)]; layers];
        for granted in 0..allocations {
            Scarce::grant(granted);
            assert_eq!(
                Map::<Scarce>::build(&layers, 9).err(),
                Some(Error::NoMemory)
            );
        }
        Scarce::grant(allocations);
        Map::<Scarce>::build(&layers, 9).ok().unwrap();
    }
}
