// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files with a few random changes, their checksums made right again so that the checks behind
//! them are reached. What the kernel makes of each is compared with what userspace does: refused
//! for the same reason, in the same words, or read to the same bytes.

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::image::codec::Decompressor;
use ovbd::image::source::Std;
use overlaybd_format::lsmt::{Entry, Layer as OpenLayer};
use overlaybd_format::map;
use overlaybd_format::zfile::{Algorithm, ZFile};
use overlaybd_format::{Error, Invalid};
use rustix::io::Errno;

use crate::ctx::{target, Ctx, Device, Disk, SECTOR};
use crate::forge::{self, put, Codec, Extent, Layer, Zfile};
use crate::golden::MARKER;
use crate::harness::Case;
use crate::read::Direct;
use crate::rng::Rng;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("mutants.zfile.lz4", |ctx| zfiles(ctx, Codec::Lz4)),
        Case::new("mutants.zfile.zstd", |ctx| zfiles(ctx, Codec::Zstd)),
        Case::new("mutants.lsmt", layers),
    ]
}

/// Bytes of the original file: four blocks and a part of one.
const ORIGINAL: usize = 20_000;
const BLOCK: usize = 4096;
/// Bytes of the disk that layers are for.
const DISK: u64 = 1 << 20;
/// Where files begin, sectors.
const AT: u64 = 1;
/// Room for any file here, bytes.
const ROOM: usize = 64 << 10;
/// Files of each kind.
const ROUNDS: u64 = 120;

/// A disk whose content is exchanged, and a device to try it with.
struct Bench {
    disk: Disk,
    device: Device,
    taken: u64,
    refused: u64,
}

impl Bench {
    fn new(ctx: &mut Ctx) -> Result<Self> {
        Ok(Self {
            disk: ctx.image(&vec![MARKER; ROOM])?,
            device: ctx.device()?,
            taken: 0,
            refused: 0,
        })
    }

    /// Puts a file on the disk, with the marker around it; returns all from its beginning on.
    fn put(&self, file: &[u8]) -> Result<Vec<u8>> {
        let mut all = vec![MARKER; ROOM];
        put(&mut all, (AT * SECTOR) as usize, file);
        self.disk.write(0, &all)?;
        Ok(all.split_off((AT * SECTOR) as usize))
    }

    /// Offers a table, and compares what becomes of it with `expected`: the sectors that it has,
    /// or the refusal and whose it is. Whether the table was taken.
    fn offer(
        &mut self,
        ctx: &mut Ctx,
        kind: &str,
        params: &str,
        expected: Result<u64, (&str, Invalid)>,
    ) -> Result<bool> {
        let sectors = expected.as_ref().copied().unwrap_or(1);
        let table = [target(0, sectors, kind, params)];
        match (ctx.offer(&self.device, &table)?, expected) {
            (Ok(()), Ok(_)) => self.taken += 1,
            (Err(refusal), Err((whose, invalid))) => {
                let reason = invalid.reason().to_str()?;
                let line = format!("{whose}{invalid}");
                refusal.expect_line(Errno::INVAL, kind, reason, &line)?;
                self.refused += 1;
                return Ok(false);
            }
            (Ok(()), Err((_, invalid))) => bail!("taken, although: {invalid}"),
            (Err(refusal), Ok(_)) => bail!("refused, although nothing is wrong: {refusal:#?}"),
        }
        Ok(true)
    }

    /// Both happened often enough to mean something.
    fn finish(&self) -> Result<()> {
        let (taken, refused) = (self.taken, self.refused);
        ensure!(
            taken > ROUNDS / 10 && refused > ROUNDS / 10,
            "{taken} taken, {refused} refused"
        );
        Ok(())
    }
}

/// The reason for which a file in memory is refused.
fn invalid<E>(error: Error<E>) -> Result<Invalid> {
    match error {
        Error::Invalid(invalid) => Ok(invalid),
        Error::NoMemory => bail!("out of memory"),
        Error::Read { offset, .. } => bail!("a read of byte {offset}, beyond the file"),
    }
}

/// A number that may be special: limits of types and of the format, or close to what was there.
fn special(rng: &mut Rng, was: u64, length: u64) -> u64 {
    const NUMBERS: [u64; 22] = [
        0,
        1,
        2,
        4,
        5,
        511,
        512,
        4095,
        4096,
        8192,
        65_536,
        131_072,
        1 << 31,
        1 << 32,
        1 << 50,
        1 << 55,
        1 << 59,
        1 << 60,
        1 << 62,
        1 << 63,
        u32::MAX as u64,
        u64::MAX,
    ];
    match rng.index(6) {
        0 => NUMBERS[rng.index(NUMBERS.len())],
        1 => was.wrapping_add(rng.length(16)),
        2 => was.wrapping_sub(rng.length(16)),
        3 => was ^ 1 << rng.index(64),
        4 => rng.length(length),
        _ => rng.next() >> rng.index(64),
    }
}

/// Sets one of `fields`, offset and width, to something special.
fn change_field(rng: &mut Rng, record: &mut [u8], fields: &[(usize, usize)], length: u64) {
    let (at, width) = fields[rng.index(fields.len())];
    let mut was = [0; 8];
    was[..width].copy_from_slice(&record[at..at + width]);
    let value = special(rng, u64::from_le_bytes(was), length);
    put(record, at, &value.to_le_bytes()[..width]);
}

const ZFILE_FIELDS: &[(usize, usize)] = &[
    (24, 4), // size
    (32, 1), // flags
    (32, 8),
    (40, 8), // index_offset
    (48, 8), // index_size
    (56, 8), // original_file_size
    (72, 4), // block_size
    (76, 1), // algo
    (77, 1), // level
    (78, 1), // use_dict
    (84, 4), // dict_size
    (88, 1), // verify
    (89, 7), // padding
];

fn change_zfile(rng: &mut Rng, zfile: &mut Zfile) {
    let length = ORIGINAL as u64;
    let blocks = zfile.index.len();
    match rng.index(10) {
        0 => change_field(rng, &mut zfile.header, ZFILE_FIELDS, length),
        1 | 2 => change_field(rng, &mut zfile.trailer, ZFILE_FIELDS, length),
        3 => {
            change_field(rng, &mut zfile.trailer, ZFILE_FIELDS, length);
            let (header, trailer) = (&mut zfile.header, &zfile.trailer);
            header[40..].copy_from_slice(&trailer[40..]);
        }
        4 => {
            let entry = rng.index(blocks);
            zfile.index[entry] = special(rng, zfile.index[entry].into(), length) as u32;
        }
        5 => zfile.index.swap(0, blocks - 1),
        6 => zfile.index.push(rng.length(4096) as u32),
        7 => zfile.index_digest = false,
        // Blocks are only looked at when they are read.
        _ => {
            let block = rng.index(zfile.blocks.len());
            let block = &mut zfile.blocks[block];
            let at = rng.index(block.len().min(40));
            block[at] ^= 1 << rng.index(8);
        }
    }
}

fn zfiles(ctx: &mut Ctx, codec: Codec) -> Result<()> {
    let content = forge::content(ORIGINAL, ctx.rng());
    let mut bench = Bench::new(ctx)?;
    for round in 0..ROUNDS {
        let verify = ctx.rng().index(2) == 0;
        let mut zfile = Zfile::new(&content, BLOCK as u32, codec, verify);
        if ctx.rng().index(2) == 0 {
            zfile.overwrite_header();
        }
        for _ in 0..ctx.rng().length(3) {
            change_zfile(ctx.rng(), &mut zfile);
        }
        let bytes = zfile.bytes();
        let mut length = bytes.len() as u64;
        if ctx.rng().index(8) == 0 {
            length = special(ctx.rng(), length, length).clamp(1, (ROOM / 2) as u64);
        }
        one_zfile(ctx, &mut bench, &bytes, length).with_context(|| format!("round {round}"))?;
    }
    bench.finish()
}

fn one_zfile(ctx: &mut Ctx, bench: &mut Bench, bytes: &[u8], length: u64) -> Result<()> {
    let all = bench.put(bytes)?;
    let file = &all[..usize::try_from(length)?];
    let params = format!("{} {AT} {length}", bench.disk.dev);
    let below = format!("{}: ", bench.disk.dev);
    let open = match ZFile::<Std>::open(file, length) {
        Ok(open) => open,
        Err(error) => {
            let invalid = invalid(error)?;
            return bench
                .offer(ctx, "zfile", &params, Err((&below, invalid)))
                .map(drop);
        }
    };
    let sectors = open.original_size().div_ceil(SECTOR);
    if sectors == 0 || !bench.offer(ctx, "zfile", &params, Ok(sectors))? {
        return Ok(());
    }
    let reads = Direct::open(&bench.device.path)?;
    let size = u64::from(open.block_size());
    for block in 0..open.block_count() {
        let expected = decode(&open, file, block)?;
        let at = block * size;
        let length = (sectors * SECTOR - at).min(size);
        match (reads.read(at, length as usize), expected) {
            (Ok(read), Some(mut expected)) => {
                expected.resize(length as usize, 0);
                ensure!(read == expected, "block {block}: wrong bytes");
            }
            (Err(error), None) => ensure!(
                Errno::from_io_error(&error) == Some(Errno::IO),
                "block {block}: {error}"
            ),
            (Ok(_), None) => bail!("block {block}: read, but userspace cannot decode it"),
            (Err(error), Some(_)) => bail!("block {block}: {error}, but userspace decodes it"),
        }
    }
    Ok(())
}

/// What a block holds; nothing if it cannot be decoded.
fn decode(open: &ZFile<Std>, file: &[u8], block: u64) -> Result<Option<Vec<u8>>> {
    let place = open.table().extent(block..block + 1);
    let mut stored = &file[usize::try_from(place.start)?..usize::try_from(place.end)?];
    if open.verify() {
        let (payload, crc) = stored
            .split_last_chunk()
            .context("no room for a checksum")?;
        if forge::block_crc(payload) != u32::from_le_bytes(*crc) {
            return Ok(None);
        }
        stored = payload;
    }
    let algorithm: Algorithm = open.algorithm();
    let mut content = vec![0; open.block_len(block) as usize];
    let decoded = Decompressor::new(algorithm)?.decompress(stored, &mut content);
    Ok(decoded.is_ok().then_some(content))
}

const LSMT_FIELDS: &[(usize, usize)] = &[
    (24, 4), // size
    (28, 1), // flags
    (28, 4),
    (32, 8), // index_offset
    (40, 8), // index_size
    (48, 8), // virtual_size
    (56, 1), // uuid
    (92, 1),
    (93, 1),  // parent uuid
    (132, 1), // version
    (133, 1), // sub-version
    (134, 8), // user tag
    (389, 8), // beyond it
];

fn change_layer(rng: &mut Rng, layer: &mut Layer) {
    let length = layer.data.len() as u64;
    let entries = layer.index.len();
    match rng.index(8) {
        0 => change_field(rng, &mut layer.header, LSMT_FIELDS, length),
        1 | 2 => change_field(rng, &mut layer.trailer, LSMT_FIELDS, length),
        3 => layer.index.insert(rng.index(entries + 1), Extent::PADDING),
        4 if entries > 1 => layer.index.swap(0, entries - 1),
        _ if entries > 0 => {
            let extent = &mut layer.index[rng.index(entries)];
            match rng.index(4) {
                0 => extent.start = special(rng, extent.start, DISK / SECTOR) % (1 << 50),
                1 => extent.length = special(rng, extent.length, 16) % (1 << 14),
                2 => extent.place = special(rng, extent.place, length / SECTOR) % (1 << 55),
                _ => extent.zeroed = !extent.zeroed,
            }
        }
        _ => {}
    }
}

fn layers(ctx: &mut Ctx) -> Result<()> {
    let mut bench = Bench::new(ctx)?;
    let data = forge::content(20 * 512, ctx.rng());
    let lower = Layer::new(DISK)
        .data(4, &data[..8 * 512])
        .data(90, &data[8 * 512..10 * 512]);
    for round in 0..ROUNDS {
        let mut upper = Layer::new(DISK)
            .data(0, &data[10 * 512..14 * 512])
            .data(16, &data[14 * 512..])
            .zeros(100, 8);
        if ctx.rng().index(4) == 0 {
            // The last sector of the data holds index bytes, too.
            upper.data.truncate(10 * 512 - 300);
            let index = upper.index.clone();
            upper = upper.with_index(index);
        }
        for _ in 0..ctx.rng().length(3) {
            change_layer(ctx.rng(), &mut upper);
        }
        let files = [lower.bytes(), upper.bytes()];
        one_stack(ctx, &mut bench, &files).with_context(|| format!("round {round}"))?;
    }
    bench.finish()
}

fn one_stack(ctx: &mut Ctx, bench: &mut Bench, files: &[Vec<u8>; 2]) -> Result<()> {
    let [lower, upper] = files;
    let mut both = lower.clone();
    both.resize(lower.len().next_multiple_of(512), MARKER);
    let second = AT + both.len() as u64 / SECTOR;
    both.extend_from_slice(upper);
    bench.put(&both)?;
    let dev = bench.disk.dev;
    let params = format!(
        "2 {dev} {AT} {} {dev} {second} {}",
        lower.len(),
        upper.len()
    );
    let below = format!("layer 1 ({dev}): ");
    let open = OpenLayer::<Std>::open(&lower[..], lower.len() as u64);
    let lower_open = open.map_err(|e| invalid(e).map_or_else(|e| e, |i| i.into()))?;
    let upper_open = match OpenLayer::<Std>::open(&upper[..], upper.len() as u64) {
        Ok(open) => open,
        Err(error) => {
            let invalid = invalid(error)?;
            return bench
                .offer(ctx, "lsmt", &params, Err((&below, invalid)))
                .map(drop);
        }
    };
    let sizes = [lower_open.virtual_size(), upper_open.virtual_size()];
    let expected = map::virtual_size(sizes.into_iter()).map_err(|invalid| ("", invalid));
    if !bench.offer(ctx, "lsmt", &params, expected)? {
        return Ok(());
    }
    let sectors = expected.map_err(|(_, invalid)| invalid)?;
    let model = Model {
        layers: [(&lower_open, lower), (&upper_open, upper)],
    };
    let mut places = vec![0, sectors - 1, ctx.rng().within(0..sectors)];
    let entries = lower_open.entries().iter().chain(upper_open.entries());
    for entry in entries {
        let last = entry.end() - 1;
        places.extend([
            entry.start().saturating_sub(1),
            entry.start(),
            last,
            last + 1,
        ]);
    }
    let reads = Direct::open(&bench.device.path)?;
    for sector in places.into_iter().filter(|&sector| sector < sectors) {
        let read = reads.read(sector * SECTOR, 512)?;
        ensure!(
            read == model.sector(sector),
            "wrong bytes at sector {sector}"
        );
    }
    Ok(())
}

/// Two layers, looked up one sector at a time.
struct Model<'a> {
    layers: [(&'a OpenLayer<Std>, &'a Vec<u8>); 2],
}

impl Model<'_> {
    fn sector(&self, sector: u64) -> Vec<u8> {
        let holds = |entry: &&Entry| (entry.start()..entry.end()).contains(&sector);
        for (layer, file) in self.layers.iter().rev() {
            let Some(entry) = layer.entries().iter().find(holds) else {
                continue;
            };
            if entry.zeroed() {
                break;
            }
            let at = (entry.moffset() + sector - entry.start()) * SECTOR;
            // Index bytes are no data.
            let end = layer.index_offset().min(at + SECTOR);
            let mut bytes = file[at as usize..end as usize].to_vec();
            bytes.resize(512, 0);
            return bytes;
        }
        vec![0; 512]
    }
}
