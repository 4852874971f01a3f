// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Calls all of the crate, mounted as the kernel module mounts it. Compiled by
//! `no_panic.rs`; never run.
#![no_std]
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::all)]

#[path = "../../lib.rs"]
pub mod format;

use core::convert::Infallible;
use core::fmt::{self, Write};
use core::hint::black_box;
use core::ops::{Deref, DerefMut, Range};

use format::*;

/// Nothing that the optimiser can see through.
pub struct Opaque;

/// An array of a length that is not known.
pub struct Array<T> {
    items: [T; 64],
    len: usize,
}

impl<T> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.items.get(..self.len).unwrap_or_default()
    }
}

impl<T> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.items.get_mut(..self.len).unwrap_or_default()
    }
}

impl Platform for Opaque {
    type Vec<T: Element> = Array<T>;

    fn alloc<T: Element>(len: usize) -> Result<Array<T>, OutOfMemory> {
        let items = [T::default(); 64];
        let len = black_box(len);
        black_box(true)
            .then_some(Array { items, len })
            .ok_or(OutOfMemory)
    }

    fn crc32c(seed: u32, data: &[u8]) -> u32 {
        black_box(data);
        black_box(seed)
    }
}

impl ReadAt for Opaque {
    type Error = u8;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), u8> {
        black_box((offset, buf));
        black_box(Ok(()))
    }
}

type Words<'a> = core::str::SplitAsciiWhitespace<'a>;

pub fn zfile(length: u64) -> Result<zfile::ZFile<Opaque>, Error<u8>> {
    zfile::ZFile::open(&Opaque, length)
}

pub fn zfile_parts(zfile: &zfile::ZFile<Opaque>, n: u64) -> (u32, Range<u64>, usize, bool) {
    let table = zfile.table();
    let len = zfile.block_len(n);
    let agree = zfile.header() == zfile.trailer() && zfile.stored_len().contains(&len);
    (len, table.extent(n..black_box(n)), table.memory(), agree)
}

pub fn block_crc(bytes: &[u8]) -> u32 {
    zfile::block_crc::<Opaque>(bytes)
}

pub fn layer(length: u64) -> Result<lsmt::Layer<Opaque>, Error<u8>> {
    lsmt::Layer::open(&Opaque, length)
}

pub fn layer_parts(layer: &lsmt::Layer<Opaque>) -> (Option<(u64, u16)>, u64, bool) {
    let mismatch = lsmt::parent_mismatch(layer.uuid(), layer.parent_uuid());
    (layer.partial_tail(), layer.data_end(), mismatch)
}

pub fn entry(start: u64, len: u64, moffset: u64, tag: u8) -> [u8; 16] {
    let entry = lsmt::Entry::data(start, len, moffset).with_tag(tag);
    let zeros = lsmt::Entry::zeros(entry.end(), len, entry.moffset());
    black_box(zeros.is_padding());
    entry.encode()
}

pub fn uuid(text: &str) -> Option<lsmt::Uuid> {
    lsmt::Uuid::parse(text)
}

pub fn map(
    layers: &[lsmt::Layer<Opaque>],
    size: u64,
) -> Result<map::Map<Opaque>, Error<Infallible>> {
    map::Map::build(layers, size)
}

pub fn size(layers: &[lsmt::Layer<Opaque>]) -> Result<u64, Invalid> {
    map::virtual_size(layers.iter().map(|layer| layer.virtual_size()))
}

pub fn lookup(map: &map::Map<Opaque>, sector: u64) -> Option<map::Segment> {
    map.lookup(sector)
}

pub fn map_parts(map: &map::Map<Opaque>) -> (u64, u64, u64, usize) {
    let last = map.iter().fold(0, |_, extent| extent.start ^ extent.len);
    (last, map.segments(), map.data_segments(), map.memory())
}

pub fn blob(length: u64) -> Result<blob::Blob, Error<u8>> {
    blob::Blob::detect(&Opaque, length)
}

pub fn zfile_args<'a>(line: &'a str) -> Result<table::ZfileArgs<'a>, table::ArgError> {
    table::ZfileArgs::parse(line.split_ascii_whitespace())
}

pub fn lsmt_args<'a>(line: &'a str) -> Result<table::LsmtArgs<Words<'a>>, table::ArgError> {
    table::LsmtArgs::parse(line.split_ascii_whitespace())
}

pub fn lsmt_layer<'a>(
    args: &mut table::LsmtArgs<Words<'a>>,
) -> Result<Option<table::LayerArg<'a>>, table::ArgError> {
    args.next_layer()
}

pub fn lsmt_finish(args: table::LsmtArgs<Words<'_>>) -> Result<(), table::ArgError> {
    args.finish()
}

pub fn statuses(
    line: &str,
) -> Result<(status::ZfileStatus, status::LsmtStatus), status::StatusError> {
    Ok((
        status::ZfileStatus::parse(line)?,
        status::LsmtStatus::parse(line)?,
    ))
}

/// Somewhere to print to.
pub struct Out;

impl Write for Out {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        black_box(text);
        black_box(Ok(()))
    }
}

pub fn print(
    error: &Error<u8>,
    args: &table::ZfileArgs<'_>,
    layers: &[table::LayerArg<'_>],
    zfile: &status::ZfileStatus,
    lsmt: &status::LsmtStatus,
    entry: &lsmt::Entry,
    uuid: &lsmt::Uuid,
) -> fmt::Result {
    write!(Out, "{error} {args} {zfile} {lsmt} {entry:?} {uuid}")?;
    table::write_lsmt(&mut Out, layers.iter().copied())
}

pub fn reason(invalid: &Invalid, error: table::ArgError) -> usize {
    invalid.reason().count_bytes() ^ error.reason().count_bytes()
}
