// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is fuzzed: one function a target, which takes any bytes and panics if the
//! format crate broke a promise.
//!
//! `./run SECONDS [TARGET...]` fuzzes with libFuzzer; `cargo test -p fuzz` runs the
//! targets once over the corpus, which `cargo run -p fuzz --example seed` wrote, and
//! over inputs that once failed.

mod model;

use std::convert::Infallible;

use overlaybd_format::blob::Blob;
use overlaybd_format::lsmt::{Entry, Layer, DATA_START, MAX_SECTORS};
use overlaybd_format::map::{virtual_size, Map, Segment, Target};
use overlaybd_format::status::{LsmtStatus, ZfileStatus};
use overlaybd_format::table::{write_lsmt, ArgError, LayerArg, LsmtArgs, ZfileArgs};
use overlaybd_format::zfile::ZFile;
use overlaybd_format::{tar, Element, Error, OutOfMemory, Platform, SECTOR};

/// A fuzz target.
pub type Fuzz = fn(&[u8]);

/// All targets by name, for the corpus.
pub const TARGETS: [(&str, Fuzz); 6] = [
    ("zfile", zfile),
    ("lsmt", lsmt),
    ("blob", blob),
    ("table", table),
    ("status", status),
    ("merge", merge),
];

/// The most that opening a file may allocate at once: the read buffer, and an index
/// as long as the longest input of libFuzzer.
const MOST_MEMORY: usize = 2 << 20;

/// A platform whose CRCs are all 0, so that the fuzzer gets past them, and which
/// does not believe that a small file needs much memory.
pub struct Lenient;

impl Platform for Lenient {
    type Vec<T: Element> = Vec<T>;

    fn alloc<T: Element>(len: usize) -> Result<Vec<T>, OutOfMemory> {
        let bytes = len.checked_mul(size_of::<T>()).expect("a length that fits");
        assert!(bytes <= MOST_MEMORY, "{bytes} bytes asked for");
        Ok(vec![T::default(); len])
    }

    fn crc32c(_seed: u32, _data: &[u8]) -> u32 {
        0
    }
}

/// Opens a ZFile: its blocks lie between header and index, back to back, and make
/// up the original file.
pub fn zfile(data: &[u8]) {
    let Ok(zfile) = ZFile::<Lenient>::open(data, data.len() as u64) else {
        return;
    };
    let table = zfile.table();
    let mut at = 512;
    let mut original = 0;
    for block in 0..zfile.block_count() {
        let extent = table.extent(block..block + 1);
        assert_eq!(extent.start, at);
        let stored = u32::try_from(extent.end - extent.start).expect("a short block");
        assert!(zfile.stored_len().contains(&stored));
        at = extent.end;
        original += u64::from(zfile.block_len(block));
    }
    assert_eq!(at, zfile.trailer().index_offset);
    assert_eq!(original, zfile.original_size());
    assert_eq!(table.start(u64::MAX), at);
    assert_eq!(at + 4 * zfile.block_count() + 512, data.len() as u64);
}

/// Opens a layer, and maps it alone: what is mapped lies in its data.
pub fn lsmt(data: &[u8]) {
    let Ok(layer) = Layer::<Lenient>::open(data, data.len() as u64) else {
        return;
    };
    assert!(layer.data_end() * SECTOR < data.len() as u64 + SECTOR);
    assert!(layer.user_tag().len() <= 256);
    let mut end = 0;
    for entry in layer.entries() {
        assert!(entry.start() >= end && entry.end() > entry.start());
        end = entry.end();
        assert!(entry.zeroed() || in_data(&layer, entry.moffset(), entry.len()));
    }
    assert!(end <= MAX_SECTORS);
    let Ok(size) = virtual_size([layer.virtual_size()].into_iter()) else {
        return;
    };
    // Larger disks are mapped in many segments; see `merge` for them.
    let size = size.min(1 << 36);
    let map = build(std::slice::from_ref(&layer), size);
    let mut at = 0;
    for extent in map.iter() {
        assert_eq!(extent.start, at);
        at += extent.len;
        if let Target::Data { layer: 0, sector } = extent.target {
            assert!(in_data(&layer, sector, extent.len));
        }
    }
    assert_eq!(at, size);
}

fn in_data(layer: &Layer<Lenient>, sector: u64, len: u64) -> bool {
    sector >= DATA_START && sector + len <= layer.data_end()
}

fn build<L: AsRef<[Entry]>>(layers: &[L], size: u64) -> Map<Big> {
    let map: Result<_, Error<Infallible>> = Map::build(layers, size);
    map.expect("layers and size in range")
}

/// [`Lenient`] with as much memory as large disks need.
pub struct Big;

impl Platform for Big {
    type Vec<T: Element> = Vec<T>;

    fn alloc<T: Element>(len: usize) -> Result<Vec<T>, OutOfMemory> {
        Ok(vec![T::default(); len])
    }

    fn crc32c(_seed: u32, _data: &[u8]) -> u32 {
        0
    }
}

/// Looks what a blob is: its payload lies in it, and its length survives being
/// wrapped.
pub fn blob(data: &[u8]) {
    let length = data.len() as u64;
    let Ok(blob) = Blob::detect(data, length) else {
        return;
    };
    let payload = blob.payload;
    assert!(payload.offset + payload.length <= length);
    assert!(matches!(
        (blob.wrapped, payload.offset),
        (false, 0) | (true, 512 | 1536)
    ));
    let header = tar::encode_pax(payload.length);
    let again = tar::detect(&header[..], u64::MAX)
        .expect("a header")
        .expect("a tar");
    assert_eq!((again.offset, again.length), (1536, payload.length));
}

/// Parses table arguments: what is printed parses to the same.
pub fn table(data: &[u8]) {
    let Ok(line) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(args) = ZfileArgs::parse(line.split_ascii_whitespace()) {
        let printed = args.to_string();
        let words = split(&printed);
        assert_eq!(ZfileArgs::parse(words.iter().map(|word| &**word)), Ok(args));
    }
    if let Ok(layers) = lsmt_args(line.split_ascii_whitespace()) {
        let mut printed = String::new();
        write_lsmt(&mut printed, layers.iter().copied()).expect("a string takes all");
        let words = split(&printed);
        let again = lsmt_args(words.iter().map(|word| &**word));
        assert_eq!(again, Ok(layers));
    }
}

/// Parses all of the arguments of `lsmt`.
fn lsmt_args<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<LayerArg<'a>>, ArgError> {
    let mut args = LsmtArgs::parse(words)?;
    let mut layers = Vec::new();
    while let Some(layer) = args.next_layer()? {
        layers.push(layer);
    }
    assert_eq!(layers.len(), args.layers().into());
    args.finish()?;
    Ok(layers)
}

/// Splits a line as device-mapper does: at white space, but for what a backslash
/// precedes.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() || c == '\x0b' {
            words.push(String::new());
        } else {
            let c = if c == '\\' {
                chars.next().unwrap_or(c)
            } else {
                c
            };
            if let Some(word) = words.last_mut() {
                word.push(c);
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Parses status lines: what is printed parses to the same.
pub fn status(data: &[u8]) {
    let Ok(line) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(status) = ZfileStatus::parse(line) {
        assert_eq!(ZfileStatus::parse(&status.to_string()), Ok(status));
    }
    if let Ok(status) = LsmtStatus::parse(line) {
        assert_eq!(LsmtStatus::parse(&status.to_string()), Ok(status));
    }
}

/// What [`merge`] uses of its input, bytes: a few hundred entries. The search takes time in
/// proportion to the square of their number.
const MERGE_MOST: usize = 1024;

/// Merges a stack, and compares each lookup around an edge with a search through
/// all entries.
pub fn merge(data: &[u8]) {
    let data = &data[..data.len().min(MERGE_MOST)];
    let model::Stack { layers, size } = model::Stack::decode(data);
    let map = build(&layers, size);
    let mut at = 0;
    for extent in map.iter() {
        assert_eq!(extent.start, at);
        assert!(extent.len > 0 && extent.len < 1 << 32);
        at += extent.len;
    }
    assert_eq!(at, size);
    assert!(map.data_segments() <= map.segments());
    assert!(map.memory() as u64 <= 16 * map.segments() + 64);
    for sector in model::edges(&layers, size) {
        let want = model::find(&layers, sector, size);
        let found = map.lookup(sector);
        assert_eq!(found.map(|segment| segment.target), want, "sector {sector}");
        if let Some(Segment { len, target }) = found {
            let last = model::find(&layers, sector + len - 1, size);
            assert_eq!(last, Some(model::advance(target, len - 1)));
        }
    }
    assert_eq!(map.lookup(size), None);
}
