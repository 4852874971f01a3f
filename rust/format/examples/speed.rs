// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Measures lookup, activation and memory:
//! `cargo run --release -p overlaybd-format --example speed`.
//!
//! The opponent of the lookup is a binary search over the 16-byte entries that the
//! reference keeps. Both are asked for the same random sectors of the disk, in one
//! process; the best of several rounds counts. With `--samples` only that, as the bench's lines
//! of JSON.

use std::hint::black_box;
use std::time::{Duration, Instant};

use overlaybd_format::lsmt::{Entry, Header, Layer};
use overlaybd_format::map::{Map, Segment, Target};
use overlaybd_format::zfile::{Algorithm, ZFile};
use overlaybd_format::{lsmt, zfile, Element, OutOfMemory, Platform};

struct Std;

impl Platform for Std {
    type Vec<T: Element> = Vec<T>;

    fn alloc<T: Element>(len: usize) -> Result<Vec<T>, OutOfMemory> {
        Ok(vec![T::default(); len])
    }

    fn crc32c(seed: u32, data: &[u8]) -> u32 {
        !crc32c::crc32c_append(!seed, data)
    }
}

/// Random numbers, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The least time that `work` takes.
fn best<T>(mut work: impl FnMut() -> T) -> Duration {
    let round = |_| {
        let begin = Instant::now();
        black_box(work());
        begin.elapsed()
    };
    (0..7).map(round).min().unwrap()
}

/// `count` entries of 1 to 32 sectors, each data of its own, after gaps of less
/// than `gap` sectors.
fn entries(count: u64, gap: u64, random: &mut Random) -> Vec<Entry> {
    let mut at = 0;
    let mut moffset = lsmt::DATA_START;
    let mut next = || {
        at += random.below(gap);
        let len = 1 + random.below(32);
        let entry = Entry::data(at, len, moffset);
        at += len;
        moffset += len + 1;
        entry
    };
    (0..count).map(|_| next()).collect()
}

/// What the opponent finds: the same as ours.
fn search(entries: &[Entry], sector: u64) -> Option<Segment> {
    let after = entries.partition_point(|entry| entry.start() <= sector);
    let entry = entries.get(after.checked_sub(1)?)?;
    let delta = sector - entry.start();
    let sector = entry.moffset() + delta;
    Some(Segment {
        len: entry.len().checked_sub(delta)?,
        target: Target::Data {
            layer: entry.tag(),
            sector,
        },
    })
}

/// What was found for a number of segments.
struct Lookup {
    segments: u64,
    /// Nanoseconds for each question.
    ours: f64,
    search: f64,
    /// For each segment.
    bytes: f64,
}

/// Asks for random sectors among `count` segments that fill `1/spread` of a disk.
fn lookup(count: u64, spread: u64) -> Lookup {
    let mut random = Random(count);
    let entries = entries(count, 1, &mut random);
    let used = entries.last().unwrap().end();
    let map = Map::<Std>::build(&[&entries[..]], used * spread).unwrap();
    let sectors: Vec<u64> = (0..1_000_000).map(|_| random.below(used)).collect();
    let sum = |segment: Option<Segment>| match segment {
        Some(Segment {
            len,
            target: Target::Data { sector, .. },
        }) => len ^ sector,
        _ => 0,
    };
    // Each question waits for the answer before it, as a reader does.
    let none = black_box(0);
    let each = |time: Duration| time.as_secs_f64() * 1e9 / sectors.len() as f64;
    let ours = each(best(|| {
        let next = |last: u64, s: &u64| sum(map.lookup(s ^ last & none));
        sectors.iter().fold(0, next)
    }));
    let search = each(best(|| {
        let next = |last: u64, s: &u64| sum(search(&entries, s ^ last & none));
        sectors.iter().fold(0, next)
    }));
    Lookup {
        segments: map.segments(),
        ours,
        search,
        bytes: map.memory() as f64 / map.segments() as f64,
    }
}

fn show(found: &Lookup, spread: u64) {
    let Lookup {
        segments,
        ours,
        search,
        bytes,
    } = found;
    println!(
        "lookup {segments:>8} segments, 1/{spread} of the disk: {ours:6.1} ns, \
         binary search {search:6.1} ns, ratio {:.2}, {bytes:.2} B/segment",
        ours / search
    );
}

/// As [`show`], for the bench.
fn sample(name: &str, found: &Lookup) {
    for (test, value) in [("lookup", found.ours), ("binary-search", found.search)] {
        println!(
            r#"{{"device":"{name}","test":"{test}","value":{value},"unit":"lookup-nanoseconds"}}"#
        );
    }
}

fn load(count: u64) {
    let entries = entries(count, 32, &mut Random(1));
    let data = entries.last().map(|e| e.moffset() + e.len()).unwrap() * 512;
    let index: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    let size = entries.last().unwrap().end() * 512;
    let header = Header::sealed(size, None, None);
    let trailer = header.trailer(data, count);
    let file = Sparse {
        data,
        head: header.encode(b"").to_vec(),
        tail: [index, trailer.encode(b"").to_vec()].concat(),
    };
    let length = file.data + file.tail.len() as u64;
    let open = best(|| Layer::<Std>::open(&file, length).ok());
    let layer = Layer::<Std>::open(&file, length).ok().unwrap();
    let build = best(|| Map::<Std>::build(std::slice::from_ref(&layer), size / 512).ok());
    println!("one layer of {count} entries: open {open:.1?}, build {build:.1?}");
}

/// A file with a hole between its head and its tail.
struct Sparse {
    data: u64,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl overlaybd_format::ReadAt for Sparse {
    type Error = std::convert::Infallible;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Self::Error> {
        let (bytes, at) = match offset.checked_sub(self.data) {
            Some(at) => (&self.tail, at as usize),
            None => (&self.head, offset as usize),
        };
        buf.copy_from_slice(&bytes[at..at + buf.len()]);
        Ok(())
    }
}

fn merge(layers: u64, each: u64) {
    let mut random = Random(3);
    // Thin layers, so that most of each shows.
    let spread = |entry: Entry| Entry::data(entry.start() * layers, entry.len(), entry.moffset());
    let mut layer = || {
        entries(each, 32, &mut random)
            .into_iter()
            .map(spread)
            .collect()
    };
    let stack: Vec<Vec<_>> = (0..layers).map(|_| layer()).collect();
    let size = stack.iter().map(|l| l.last().unwrap().end()).max().unwrap();
    let time = best(|| Map::<Std>::build(&stack, size).ok());
    let map = Map::<Std>::build(&stack, size).unwrap();
    println!(
        "{layers} layers of {each} entries: build {time:.1?}, {} segments, {:.2} B/segment",
        map.segments(),
        map.memory() as f64 / map.segments() as f64
    );
}

fn jump(blocks: u64, block_size: u32) {
    let header = zfile::Header::new(Algorithm::Lz4, block_size, true);
    let index: Vec<u8> = (0..blocks)
        .flat_map(|n| (1000 + n as u32 % 999).to_le_bytes())
        .collect();
    let stored: u64 = (0..blocks).map(|n| 1000 + n % 999).sum();
    let crc = Std::crc32c(0, &index);
    let end = zfile::SIZE + stored;
    let trailer = header.trailer(end, blocks, blocks * u64::from(block_size), crc);
    let file = Sparse {
        data: end,
        head: header.encode::<Std>().to_vec(),
        tail: [index, trailer.encode::<Std>().to_vec()].concat(),
    };
    let length = file.data + file.tail.len() as u64;
    let open = best(|| ZFile::<Std>::open(&file, length).ok());
    let zfile = ZFile::<Std>::open(&file, length).ok().unwrap();
    let mut random = Random(5);
    let ask: Vec<u64> = (0..1_000_000).map(|_| random.below(blocks)).collect();
    let time = best(|| {
        let extents = ask.iter().map(|&b| zfile.table().extent(b..b + 1));
        extents.fold(0, |a, e| a ^ e.start ^ e.end)
    });
    println!(
        "ZFile of {blocks} blocks of {block_size}: open {open:.1?}, extent {:.1} ns, {:.3} B/block",
        time.as_secs_f64() * 1e9 / ask.len() as f64,
        zfile.table().memory() as f64 / blocks as f64
    );
}

fn main() {
    if std::env::args().any(|arg| arg == "--samples") {
        sample("extents-24k", &lookup(24_000, 1));
        sample("extents-1m", &lookup(1_000_000, 1));
        return;
    }
    for count in [10_000, 24_000, 100_000, 1_000_000] {
        show(&lookup(count, 1), 1);
    }
    for count in [24_000, 1_000_000] {
        show(&lookup(count, 100), 100);
    }
    load(1_000_000);
    merge(255, 4096);
    merge(8, 125_000);
    jump(1_000_000, 4096);
    jump(1_000_000, 65536);
}
