// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Images that somebody made to do harm: every field wrong in turn, with right checksums around
//! it, so that the check of that field is what refuses. And images that are odd, but right.

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::image::source::Std;
use overlaybd_format::lsmt::Layer as OpenLayer;
use overlaybd_format::zfile::ZFile;
use overlaybd_format::{map, Error, Invalid};
use rustix::io::Errno;

use super::lsmt;
use crate::ctx::{Ctx, SECTOR};
use crate::forge::{self, put, Codec, Extent, Layer, Zfile};
use crate::harness::Case;
use crate::read;
use crate::rng::Rng;

/// What is wrong, how it is made wrong, and the reason that must be given.
type BadZfile = (&'static str, fn(&mut Zfile), &'static str);
type BadLayer = (&'static str, fn(&mut Layer), &'static str);

/// Bytes of the original, in blocks of 4096: four whole ones and a part.
const ORIGINAL: usize = 20_000;
const BLOCKS: u64 = 5;
/// Size of the disk that layers here are for, bytes.
const DISK: u64 = 1 << 20;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for &(name, spoil, reason) in ZFILES {
        cases.push(Case::new(format!("hostile.zfile.{name}"), move |ctx| {
            let mut zfile = sample_zfile(ctx.rng());
            spoil(&mut zfile);
            refuse_zfile(ctx, &zfile.bytes(), reason)
        }));
    }
    for &(name, spoil, reason) in LAYERS {
        cases.push(Case::new(format!("hostile.lsmt.{name}"), move |ctx| {
            let mut layer = sample_layer(ctx.rng());
            spoil(&mut layer);
            refuse_layer(ctx, &layer, reason)
        }));
    }
    cases.push(Case::new("hostile.zfile.checksums", wrong_digests));
    cases.push(Case::new(
        "hostile.lsmt.broken_layer_is_named",
        broken_layer_is_named,
    ));
    cases.push(Case::new("hostile.lsmt.odd_but_right", odd_but_right));
    cases
}

fn sample_zfile(rng: &mut Rng) -> Zfile {
    Zfile::new(&forge::content(ORIGINAL, rng), 4096, Codec::Lz4, true)
}

fn sample_layer(rng: &mut Rng) -> Layer {
    Layer::new(DISK)
        .data(0, &forge::content(4 * 512, rng))
        .data(16, &forge::content(4 * 512, rng))
        .zeros(100, 8)
}

/// Offers a file, and expects the very words that userspace finds for what is wrong with it.
fn refuse_zfile(ctx: &mut Ctx, bytes: &[u8], reason: &str) -> Result<()> {
    let length = bytes.len() as u64;
    let told = wrong(ZFile::<Std>::open(bytes, length).err())?;
    let disk = ctx.image(bytes)?;
    let params = format!("{} 0 {length}", disk.dev);
    let line = format!("{}: {told}", disk.dev);
    ctx.refused((ORIGINAL as u64).div_ceil(SECTOR), "zfile", &params)?
        .expect_line(Errno::INVAL, "zfile", reason, &line)
}

/// The same for a layer on top of a right one without a size.
fn refuse_layer(ctx: &mut Ctx, layer: &Layer, reason: &str) -> Result<()> {
    let bytes = layer.bytes();
    let layers = [Layer::new(0), layer.clone()];
    let (params, _) = lsmt::forged(ctx, &layers)?;
    let refusal = ctx.refused(DISK / SECTOR, "lsmt", &params)?;
    let line = match OpenLayer::<Std>::open(&bytes[..], bytes.len() as u64) {
        Ok(open) => map::virtual_size([0, open.virtual_size()].into_iter())
            .err()
            .context("userspace takes it")?
            .to_string(),
        Err(error) => {
            let below = params.split(' ').nth(1).context("no device")?;
            format!("layer 1 ({below}): {}", wrong(Some(error))?)
        }
    };
    refusal.expect_line(Errno::INVAL, "lsmt", reason, &line)
}

/// What is wrong with a file in memory.
fn wrong<E>(error: Option<Error<E>>) -> Result<Invalid> {
    match error {
        Some(Error::Invalid(invalid)) => Ok(invalid),
        Some(_) => bail!("userspace cannot read it"),
        None => bail!("userspace takes it"),
    }
}

/// Puts the index's offset in the trailer this much further, or less far.
fn move_index(zfile: &mut Zfile, by: i64) {
    let mut offset = [0; 8];
    offset.copy_from_slice(&zfile.trailer[40..48]);
    let offset = u64::from_le_bytes(offset).wrapping_add_signed(by);
    put(&mut zfile.trailer, 40, &offset.to_le_bytes());
}

fn index_offset(zfile: &mut Zfile, offset: u64) {
    put(&mut zfile.trailer, 40, &offset.to_le_bytes());
}

fn block_count(zfile: &mut Zfile, count: u64) {
    put(&mut zfile.trailer, 48, &count.to_le_bytes());
}

fn original_size(zfile: &mut Zfile, size: u64) {
    put(&mut zfile.trailer, 56, &size.to_le_bytes());
}

fn block_size(zfile: &mut Zfile, size: u32) {
    zfile.put_both(72, &size.to_le_bytes());
}

fn trailer_flags(zfile: &mut Zfile, flags: u64) {
    put(&mut zfile.trailer, 32, &flags.to_le_bytes());
}

const MAGIC: &str = "ZFile magic mismatch";
const BLOCK_SIZE: &str = "Invalid ZFile block size";
const INDEX_END: &str = "ZFile index must end at trailer";
const BLOCK_COUNT: &str = "ZFile block count mismatch";
const TOO_SHORT: &str = "ZFile block too short";
const TOO_LONG: &str = "ZFile block too long";
const BLOCKS_END: &str = "ZFile blocks must end at index";

#[rustfmt::skip] // a table: one line each
const ZFILES: &[BadZfile] = &[
    ("magic", |z| z.header[0] ^= 1, MAGIC),
    ("second_magic", |z| z.header[23] ^= 1, MAGIC),
    ("trailer_magic", |z| z.trailer[5] ^= 1, "ZFile trailer magic mismatch"),
    ("record_size", |z| z.put_both(24, &95u32.to_le_bytes()), "Invalid ZFile header size"),
    ("header_is_a_trailer", |z| z.header[32] = 0x12, "ZFile header flag missing"),
    ("trailer_is_a_header", |z| trailer_flags(z, 0x17), "ZFile trailer flag mismatch"),
    ("index_file", |z| trailer_flags(z, 0x14), "ZFile is not a data file"),
    ("not_sealed", |z| trailer_flags(z, 0x12), "ZFile is not sealed"),
    ("compressed_index", |z| trailer_flags(z, 0x36), "Compressed index not supported"),
    ("compressed_index_in_the_header", |z| z.header[32] |= 0x20, "Compressed index not supported"),
    ("algorithm_0", |z| z.put_both(76, &[0]), "Unknown compression algorithm"),
    ("algorithm_3", |z| z.put_both(76, &[3]), "Unknown compression algorithm"),
    ("block_size_0", |z| block_size(z, 0), BLOCK_SIZE),
    ("block_size_2048", |z| block_size(z, 2048), BLOCK_SIZE),
    ("block_size_4097", |z| block_size(z, 4097), BLOCK_SIZE),
    ("block_size_12288", |z| block_size(z, 12288), BLOCK_SIZE),
    ("block_size_131072", |z| block_size(z, 131_072), BLOCK_SIZE),
    ("block_size_2_31", |z| block_size(z, 1 << 31), BLOCK_SIZE),
    ("verify_2", |z| z.put_both(88, &[2]), "Invalid ZFile verify field"),
    ("dictionary", |z| z.put_both(78, &[1]), "Dictionaries not supported"),
    ("dictionary_size", |z| z.put_both(84, &[1]), "Dictionaries not supported"),
    ("header_differs", |z| put(&mut z.header, 72, &8192u32.to_le_bytes()), "ZFile header and trailer differ"),
    ("header_has_another_size", |z| { z.overwrite_header(); original_size(z, 20_001) }, "ZFile header and trailer differ"),
    ("index_at_0", |z| index_offset(z, 0), "ZFile index inside header"),
    ("index_at_511", |z| index_offset(z, 511), "ZFile index inside header"),
    ("index_at_the_end_of_numbers", |z| index_offset(z, u64::MAX), INDEX_END),
    ("index_further", |z| move_index(z, 4), INDEX_END),
    ("index_less_far", |z| move_index(z, -4), INDEX_END),
    ("blocks_0", |z| block_count(z, 0), INDEX_END),
    ("blocks_less", |z| block_count(z, BLOCKS - 1), INDEX_END),
    ("blocks_more", |z| block_count(z, BLOCKS + 1), INDEX_END),
    ("blocks_2_27", |z| block_count(z, 1 << 27), INDEX_END),
    ("blocks_2_62", |z| block_count(z, 1 << 62), INDEX_END),
    ("blocks_2_64", |z| block_count(z, u64::MAX), INDEX_END),
    ("one_block_too_many", |z| { z.index.push(5); block_count(z, BLOCKS + 1) }, BLOCK_COUNT),
    ("original_0", |z| original_size(z, 0), BLOCK_COUNT),
    ("original_longer", |z| original_size(z, 5 * 4096 + 1), BLOCK_COUNT),
    ("original_shorter", |z| original_size(z, 4 * 4096), BLOCK_COUNT),
    ("original_2_64", |z| original_size(z, u64::MAX), BLOCK_COUNT),
    ("index_checksum", |z| { z.index_digest = false; z.trailer[64] = 1 }, "ZFile index checksum mismatch"),
    ("block_of_0", |z| z.index[2] = 0, TOO_SHORT),
    ("block_of_a_checksum_only", |z| z.index[2] = 4, TOO_SHORT),
    ("block_too_long", |z| z.index[2] = 4096 + 4096 / 255 + 16 + 4 + 1, TOO_LONG),
    ("block_of_2_32", |z| z.index[4] = u32::MAX, TOO_LONG),
    ("blocks_beyond_the_index", |z| z.index[0] += 1, BLOCKS_END),
    ("gap_before_the_index", |z| z.index[4] -= 1, BLOCKS_END),
];

fn entry(layer: &mut Layer, number: usize, change: fn(&mut Extent)) {
    change(&mut layer.index[number]);
}

fn lsmt_flags(layer: &mut Layer, header: u32, trailer: u32) {
    put(&mut layer.header, 28, &header.to_le_bytes());
    put(&mut layer.trailer, 28, &trailer.to_le_bytes());
}

fn lsmt_index(layer: &mut Layer, offset: u64, entries: u64) {
    put(&mut layer.trailer, 32, &offset.to_le_bytes());
    put(&mut layer.trailer, 40, &entries.to_le_bytes());
}

fn virtual_size(layer: &mut Layer, size: u64) {
    layer.put_both(48, &size.to_le_bytes());
}

const LSMT_MAGIC: &str = "LSMT magic mismatch";
const LSMT_INDEX_END: &str = "LSMT index beyond file";
const OVERLAP: &str = "Index entries overlap";
const ORDER: &str = "Index entries out of order";
const MAPS_HEADER: &str = "Index entry maps the header";
const BEYOND_DATA: &str = "Index entry beyond data";
const FAR_OUT: &str = "Index entry too far out";
const VIRTUAL_SIZE: &str = "Virtual size too large";

#[rustfmt::skip] // a table: one line each
const LAYERS: &[BadLayer] = &[
    ("magic", |l| l.header[0] ^= 1, LSMT_MAGIC),
    ("second_magic", |l| l.header[23] ^= 1, LSMT_MAGIC),
    ("trailer_magic", |l| l.trailer[8] ^= 1, "LSMT trailer magic mismatch"),
    ("record_size", |l| l.put_both(24, &391u32.to_le_bytes()), "Invalid LSMT header size"),
    ("version_2", |l| l.put_both(132, &[2]), "Unknown LSMT version"),
    ("header_is_a_trailer", |l| lsmt_flags(l, 6, 6), "LSMT header flag missing"),
    ("trailer_is_a_header", |l| lsmt_flags(l, 7, 7), "LSMT trailer flag mismatch"),
    ("index_file", |l| lsmt_flags(l, 5, 4), "Layer is an index file"),
    ("not_sealed", |l| lsmt_flags(l, 7, 2), "Layer is not sealed"),
    ("writable", |l| { lsmt_flags(l, 3, 6); l.trailer[0] = 0 }, "Layer is writable, not sealed"),
    ("index_at_0", |l| lsmt_index(l, 0, 3), "LSMT index inside header"),
    ("index_at_4095", |l| lsmt_index(l, 4095, 3), "LSMT index inside header"),
    ("index_in_the_trailer", |l| lsmt_index(l, 4096 + 4096, 4), LSMT_INDEX_END),
    ("index_at_the_end_of_numbers", |l| lsmt_index(l, u64::MAX, 3), LSMT_INDEX_END),
    ("entries_2_60", |l| lsmt_index(l, 8192, 1 << 60), LSMT_INDEX_END),
    ("entries_2_64", |l| lsmt_index(l, 8192, u64::MAX), LSMT_INDEX_END),
    ("empty_entry", |l| entry(l, 1, |e| e.length = 0), "Empty index entry"),
    ("out_of_order", |l| l.index.swap(0, 1), ORDER),
    ("overlap", |l| entry(l, 1, |e| e.start = 3), OVERLAP),
    ("twice_the_same", |l| entry(l, 1, |e| e.start = 0), OVERLAP),
    ("data_in_the_header", |l| entry(l, 0, |e| e.place = 7), MAPS_HEADER),
    ("zeros_beyond_2_50", |l| entry(l, 2, |e| e.start = (1 << 50) - 8 + 1), FAR_OUT),
    ("data_at_0", |l| entry(l, 0, |e| e.place = 0), MAPS_HEADER),
    ("data_in_the_index", |l| entry(l, 1, |e| e.place = 13), BEYOND_DATA),
    ("data_beyond_the_file", |l| entry(l, 1, |e| e.place = 1 << 20), BEYOND_DATA),
    ("data_at_the_end_of_numbers", |l| entry(l, 1, |e| e.place = (1 << 55) - 1), BEYOND_DATA),
    ("entry_beyond_2_50", |l| entry(l, 2, |e| { e.start = (1 << 50) - 2; e.length = 16383 }), FAR_OUT),
    ("no_size", |l| virtual_size(l, 0), "Virtual size is zero"),
    ("size_2_59_and_more", |l| virtual_size(l, (1 << 59) + 1), VIRTUAL_SIZE),
    ("size_2_64", |l| virtual_size(l, u64::MAX), VIRTUAL_SIZE),
];

/// A digest that is wrong is found before the field that it protects is believed.
fn wrong_digests(ctx: &mut Ctx) -> Result<()> {
    let right = sample_zfile(ctx.rng()).bytes();
    let end = right.len() - 512;
    for (at, reason) in [
        (28, "ZFile header checksum mismatch"),
        (511, "ZFile header checksum mismatch"),
        (end + 28, "ZFile trailer checksum mismatch"),
        (end + 300, "ZFile trailer checksum mismatch"),
        (end - 1, "ZFile index checksum mismatch"),
    ] {
        let mut wrong = right.clone();
        wrong[at] ^= 0x10;
        refuse_zfile(ctx, &wrong, reason).with_context(|| format!("byte {at}"))?;
    }
    Ok(())
}

/// Of several layers, the log names the one that is broken, and what is wrong with it.
fn broken_layer_is_named(ctx: &mut Ctx) -> Result<()> {
    let good = sample_layer(ctx.rng());
    let mut bad = sample_layer(ctx.rng());
    bad.index[1].length = 0;
    let (params, sectors) = lsmt::forged(ctx, &[good.clone(), good.clone(), bad, good])?;
    let refusal = ctx.refused(sectors, "lsmt", &params)?;
    refusal.expect(Errno::INVAL, "Empty index entry")?;
    let told = |line: &String| line.contains("layer 2") && line.contains("entry 1");
    ensure!(refusal.log.iter().any(told), "{:#?}", refusal.log);
    Ok(())
}

/// What looks wrong and is not: the format allows it.
fn odd_but_right(ctx: &mut Ctx) -> Result<()> {
    let bytes = forge::content(8 * 512, ctx.rng());
    let mut layer = Layer::new(DISK)
        .data(5, &bytes)
        .zeros(DISK / SECTOR - 1, 5)
        .data(DISK / SECTOR + 9, &bytes);
    // Padding may stand anywhere, and counts.
    layer.index.insert(1, Extent::PADDING);
    layer.index.insert(0, Extent::PADDING);
    layer.index.push(Extent::PADDING);
    let entries = layer.index.len() as u64;
    put(&mut layer.trailer, 40, &entries.to_le_bytes());
    // Flags and versions that are not known yet.
    lsmt_flags(&mut layer, 0xffff_fff7, 0xffff_fff6);
    layer.put_both(133, &[9]);
    let mut content = vec![0; DISK as usize];
    content[5 * 512..13 * 512].copy_from_slice(&bytes);
    let device = lsmt::of_forged(ctx, &[layer])?;
    read::check(&device.path, content, ctx.rng())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules that no single field breaks, or that other tests are for.
    const ELSEWHERE: [&str; 5] = [
        "ZfileLength",
        "LsmtLength",
        "ZfileDigest",
        "ZfileTrailerDigest",
        // The table's grammar comes first.
        "LayerCount",
    ];

    /// Every rule of the format is broken here by some file, but for those about tar archives,
    /// which the kernel never sees.
    #[test]
    fn every_rule_is_broken() {
        let rules = include_str!("../../../../rust/format/rule.rs");
        let mut count = 0;
        for line in rules.lines() {
            let Some((rule, text)) = line.split_once(" => (c\"") else {
                continue;
            };
            let rule = rule.trim().trim_start_matches("Rule::");
            let reason = text.split('"').next().unwrap();
            let outside = rule.starts_with("Tar") || rule == "BlobKind";
            let zfiles = ZFILES.iter().map(|bad| bad.2);
            let mut here = zfiles.chain(LAYERS.iter().map(|bad| bad.2));
            let broken = here.any(|found| found == reason);
            assert!(
                outside || broken || ELSEWHERE.contains(&rule),
                "{rule}: {reason}"
            );
            count += 1;
        }
        assert!(count > 50, "{count} rules in rule.rs");
    }
}
