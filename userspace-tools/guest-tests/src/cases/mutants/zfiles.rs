// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! ZFiles: header, trailer, index and blocks.

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::image::codec::Decompressor;
use ovbd::image::source::Std;
use overlaybd_format::zfile::{Algorithm, ZFile};
use rustix::io::Errno;

use super::{change_field, invalid, special, Bench, AT, ROOM, ROUNDS};
use crate::ctx::{Ctx, SECTOR};
use crate::forge::{self, Codec, Zfile};
use crate::read::Direct;
use crate::rng::Rng;

/// Bytes of the original file: four blocks and a part of one.
const ORIGINAL: usize = 20_000;
const BLOCK: usize = 4096;

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

pub fn all(ctx: &mut Ctx, codec: Codec) -> Result<()> {
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
