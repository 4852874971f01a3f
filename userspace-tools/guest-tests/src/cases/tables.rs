// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Tables that must be refused, each with its error number, its reason, and, where a device or a
//! number of an image is at fault, the line in the log that names it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::ctx::{meminfo, target, Ctx, Disk, LoopSpec, SECTOR};
use crate::forge::{self, Codec, Layer, Zfile};
use crate::harness::Case;

/// Words that break the grammar, and the reason. In the words, `DEV` is a device that holds a
/// right file of `LEN` bytes, and `LAYER` is `DEV 0 LEN`.
type Words = (&'static str, &'static str);

const MISSING: &str = "Not enough arguments";
const OFFSET: &str = "Invalid device offset";
const LENGTH: &str = "Invalid device length";
const EXTENT: &str = "Device extent too large";
const COUNT: &str = "Invalid layer count";
const OPTIONS: &str = "Invalid number of options";
const NO_OPTION: &str = "Not enough options";
const EXTRA: &str = "Too many arguments";

const ZFILE: &[Words] = &[
    ("", MISSING),
    ("DEV", MISSING),
    ("DEV 0", MISSING),
    ("DEV x LEN", OFFSET),
    ("DEV -1 LEN", OFFSET),
    ("DEV +0 LEN", OFFSET),
    ("DEV 0x0 LEN", OFFSET),
    ("DEV 0.0 LEN", OFFSET),
    ("DEV 0s LEN", OFFSET),
    ("DEV 18446744073709551616 LEN", OFFSET),
    ("DEV 0 0", LENGTH),
    ("DEV 0 LENs", LENGTH),
    ("DEV 0 -LEN", LENGTH),
    ("DEV 0 +LEN", LENGTH),
    ("DEV 0 18446744073709551616", LENGTH),
    // 2^55 sectors are 0 bytes in 64 bits; 2^63 bytes are no signed number.
    ("DEV 36028797018963968 LEN", EXTENT),
    ("DEV 18446744073709551615 LEN", EXTENT),
    ("DEV 18014398509481984 1", EXTENT),
    ("DEV 18014398509481983 512", EXTENT),
    ("DEV 1 18446744073709551615", EXTENT),
    ("DEV 0 9223372036854775808", EXTENT),
    ("LAYER x", OPTIONS),
    ("LAYER -1", OPTIONS),
    ("LAYER ignore_crc", OPTIONS),
    ("LAYER 18446744073709551616", OPTIONS),
    ("LAYER 1", NO_OPTION),
    ("LAYER 2 ignore_crc", NO_OPTION),
    ("LAYER 18446744073709551615 ignore_crc", NO_OPTION),
    ("LAYER 1 ignore", "Unknown option"),
    ("LAYER 1 IGNORE_CRC", "Unknown option"),
    ("LAYER 2 ignore_crc ignore_crc", "Repeated option"),
    ("LAYER 0 ignore_crc", EXTRA),
    ("LAYER 1 ignore_crc more", EXTRA),
    // All words come before the device.
    ("/dev/none x LEN", OFFSET),
];

const LSMT: &[Words] = &[
    ("", MISSING),
    ("0", COUNT),
    ("0 LAYER", COUNT),
    ("256 LAYER", COUNT),
    ("4294967297 LAYER", COUNT),
    ("-1 LAYER", COUNT),
    ("+1 LAYER", COUNT),
    ("one LAYER", COUNT),
    ("LAYER", COUNT),
    ("1", MISSING),
    ("1 DEV 0", MISSING),
    ("2 LAYER", MISSING),
    ("2 LAYER DEV 0", MISSING),
    ("255 LAYER", MISSING),
    ("1 DEV zero LEN", OFFSET),
    ("2 LAYER DEV -1 LEN", OFFSET),
    ("1 DEV 0 none", LENGTH),
    ("2 LAYER DEV 0 0", LENGTH),
    ("1 DEV 36028797018963968 LEN", EXTENT),
    ("2 LAYER DEV 0 18446744073709551615", EXTENT),
    ("1 LAYER LAYER", OPTIONS),
    ("1 LAYER 1", NO_OPTION),
    ("1 LAYER 1 upper", "Unknown option"),
    ("1 LAYER 1 ignore_crc", "Unknown option"),
    ("1 LAYER 0 x", EXTRA),
    // All words come before the first device.
    ("2 /dev/none 0 LEN DEV x LEN", OFFSET),
    ("1 /dev/none 0 LEN 1", NO_OPTION),
];

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tables.zfile.grammar", |ctx| grammar(ctx, "zfile", ZFILE)),
        Case::new("tables.lsmt.grammar", |ctx| grammar(ctx, "lsmt", LSMT)),
        Case::new("tables.lsmt.too_many_layers", too_many_layers),
        Case::new("tables.no_such_device", no_such_device),
        Case::new("tables.device_too_small", device_too_small),
        Case::new("tables.wrong_length", wrong_length),
        Case::new("tables.not_what_they_say", not_what_they_say),
        Case::new("tables.lsmt.layers_without_size", no_size),
        Case::new("tables.lsmt.more_entries_than_memory", too_many_entries),
    ]
}

/// Sectors of the devices here; the last one is not full.
const SECTORS: u64 = 40;
/// The same in bytes.
const SIZE: usize = 20_000;

/// A disk, as tables name it, and the length of the right file on it.
struct Right {
    dev: String,
    length: usize,
    /// Bytes of the disk.
    room: u64,
}

impl Right {
    fn new(ctx: &mut Ctx, kind: &str) -> Result<Self> {
        let content = forge::content(SIZE, ctx.rng());
        let bytes = match kind {
            "zfile" => Zfile::new(&content, 4096, Codec::Lz4, true).bytes(),
            _ => Layer::new(SIZE as u64).data(3, &content[..4096]).bytes(),
        };
        let disk = ctx.image(&bytes)?;
        let node = disk.path.file_name().context("node")?;
        let sectors =
            fs::read_to_string(std::path::Path::new("/sys/block").join(node).join("size"))?;
        Ok(Self {
            dev: disk.dev.to_string(),
            length: bytes.len(),
            room: sectors.trim().parse::<u64>()? * SECTOR,
        })
    }

    /// Words of a table, with what stands for something replaced.
    fn words(&self, text: &str) -> String {
        text.replace("LAYER", "DEV 0 LEN")
            .replace("DEV", &self.dev)
            .replace("LEN", &self.length.to_string())
    }

    /// The table of the right file.
    fn table(&self, kind: &str) -> String {
        self.words(if kind == "lsmt" { "1 LAYER" } else { "LAYER" })
    }
}

fn grammar(ctx: &mut Ctx, kind: &str, tables: &[Words]) -> Result<()> {
    let right = Right::new(ctx, kind)?;
    // What is refused below is refused for its own reason, then.
    ctx.target(SECTORS, kind, &right.table(kind))?;
    for &(text, reason) in tables {
        ctx.refused(SECTORS, kind, &right.words(text))?
            .expect_line(Errno::INVAL, kind, reason, "")
            .with_context(|| format!("\"{text}\""))?;
    }
    Ok(())
}

/// 256 layers, rightly counted or not.
fn too_many_layers(ctx: &mut Ctx) -> Result<()> {
    let right = Right::new(ctx, "lsmt")?;
    let layers = |count: usize| right.words(&" LAYER".repeat(count));
    ctx.target(SECTORS, "lsmt", &format!("255{}", layers(255)))?;
    for (words, reason) in [
        (format!("256{}", layers(256)), COUNT),
        (format!("255{}", layers(256)), OPTIONS),
        (format!("255{}", layers(254)), MISSING),
    ] {
        ctx.refused(SECTORS, "lsmt", &words)?
            .expect_line(Errno::INVAL, "lsmt", reason, "")?;
    }
    Ok(())
}

fn no_such_device(ctx: &mut Ctx) -> Result<()> {
    let reason = "Device lookup failed";
    for kind in ["zfile", "lsmt"] {
        let right = Right::new(ctx, kind)?;
        let itself = ctx.target(SECTORS, kind, &right.table(kind))?;
        for (device, errno) in [
            ("/dev/none", Errno::NOENT),
            ("/proc/version", Errno::NOTBLK),
            ("/dev/null", Errno::NOTBLK),
            ("7:9999x", Errno::NOENT),
            ("259:99999", Errno::NXIO),
            (&itself.dev.to_string(), Errno::INVAL),
        ] {
            let (words, below) = match kind {
                "zfile" => (format!("{device} 0 8192"), device.to_owned()),
                _ => (
                    right.words(&format!("2 LAYER {device} 0 8192")),
                    format!("layer 1 ({device})"),
                ),
            };
            let line = format!("{below}: cannot open: error -{}", errno.raw_os_error());
            let table = [target(0, SECTORS, kind, &words)];
            let refusal = ctx.offer(&itself, &table)?.err();
            let refusal = refusal.with_context(|| format!("{words} was taken"))?;
            refusal.expect_line(errno, kind, reason, &line)?;
        }
    }
    Ok(())
}

fn device_too_small(ctx: &mut Ctx) -> Result<()> {
    for kind in ["zfile", "lsmt"] {
        let right = Right::new(ctx, kind)?;
        let room = right.room;
        for (offset, length) in [
            (0, room + 1),
            (room / SECTOR, 8192),
            (1, room),
            (room / SECTOR - 1, 8192),
            (1 << 53, 8192),
        ] {
            let dev = &right.dev;
            let (words, below) = match kind {
                "zfile" => (format!("{dev} {offset} {length}"), dev.clone()),
                _ => (
                    right.words(&format!("2 LAYER {dev} {offset} {length}")),
                    format!("layer 1 ({dev})"),
                ),
            };
            let end = offset * SECTOR + length;
            let line = format!("{below}: device ends at byte {room}, the file at byte {end}");
            ctx.refused(SECTORS, kind, &words)?.expect_line(
                Errno::OVERFLOW,
                kind,
                "Device too small",
                &line,
            )?;
        }
    }
    Ok(())
}

fn wrong_length(ctx: &mut Ctx) -> Result<()> {
    for kind in ["zfile", "lsmt"] {
        let right = Right::new(ctx, kind)?;
        for sectors in [1, SECTORS - 1, SECTORS + 1, 1 << 40] {
            let line = format!("length is {sectors} sectors, expected {SECTORS}");
            ctx.refused(sectors, kind, &right.table(kind))?
                .expect_line(Errno::INVAL, kind, "Invalid target length", &line)?;
        }
    }
    Ok(())
}

/// A right table, but for the place and the length of the file.
fn not_what_they_say(ctx: &mut Ctx) -> Result<()> {
    for (kind, words, reason) in [
        ("zfile", "DEV 1 LEN", "ZFile magic mismatch"),
        ("zfile", "DEV 0 1023", "Length too small for ZFile"),
        ("zfile", "DEV 0 1024", "ZFile trailer magic mismatch"),
        ("lsmt", "1 DEV 1 LEN", "LSMT magic mismatch"),
        ("lsmt", "1 DEV 0 8191", "Length too small for layer"),
        ("lsmt", "1 DEV 0 8192", "LSMT trailer magic mismatch"),
    ] {
        let words = Right::new(ctx, kind)?.words(words);
        ctx.refused(SECTORS, kind, &words)?
            .expect(Errno::INVAL, reason)?;
    }
    Ok(())
}

fn no_size(ctx: &mut Ctx) -> Result<()> {
    let bytes = Layer::new(0).bytes();
    let disk = ctx.image(&bytes)?;
    let words = format!("{} 0 {}", disk.dev, bytes.len());
    let line = "image: virtual size 0, expected a layer with a size";
    for params in [format!("1 {words}"), format!("2 {words} {words}")] {
        ctx.refused(8, "lsmt", &params)?.expect_line(
            Errno::INVAL,
            "lsmt",
            "Virtual size is zero",
            line,
        )?;
    }
    Ok(())
}

/// A file as long as it says, with an index that is larger than the machine's memory, or would leave
/// nothing of it to others: that is found before anything of it is read.
fn too_many_entries(ctx: &mut Ctx) -> Result<()> {
    const ENTRY: u64 = 16;
    let memory = meminfo("MemTotal")?;
    for bytes in [2 * memory, (memory - memory / 20) & !0xfff] {
        refuse_entries(ctx, bytes / ENTRY, ENTRY)?;
    }
    Ok(())
}

fn refuse_entries(ctx: &mut Ctx, entries: u64, size: u64) -> Result<()> {
    let mut layer = Layer::new(SIZE as u64);
    forge::put(&mut layer.trailer, 40, &entries.to_le_bytes());
    let index = layer.header.len() as u64;
    let trailer = index + entries * size;
    let length = trailer + layer.trailer.len() as u64;
    let path = ctx.tmp()?.join("sparse");
    let file = File::create(&path)?;
    file.write_all_at(&layer.header, 0)?;
    file.write_all_at(&layer.trailer, trailer)?;
    let disk = Disk::of(ctx.loop_device(&LoopSpec::of(path))?)?;

    let line = format!("layer 0 ({}): not enough memory for the index", disk.dev);
    ctx.refused(SECTORS, "lsmt", &format!("1 {} 0 {length}", disk.dev))?
        .expect_line(Errno::NOMEM, "lsmt", "Cannot allocate index", &line)
}

#[cfg(test)]
mod tests {
    /// What constructors refuse a table with, in their own words.
    const CONSTRUCTORS: &str = concat!(
        include_str!("../../../../rust/dm/construct.rs"),
        include_str!("../../../../rust/dm/platform.rs"),
        include_str!("../../../../rust/format/table.rs"),
        include_str!("../../../../rust/lsmt.rs"),
        include_str!("../../../../rust/zfile/mod.rs"),
    );

    /// The groups that expect them. What is wrong with a file is the matter of `hostile`.
    const GROUPS: &str = concat!(
        include_str!("below.rs"),
        include_str!("contract.rs"),
        include_str!("inject/constructor.rs"),
        include_str!("lost.rs"),
        include_str!("zfile.rs"),
    );

    /// Reasons that nothing here can lead to, and why.
    const ELSEWHERE: [(&str, &str); 1] = [(
        "Logical block too large",
        "those of Linux have 64 KiB at most",
    )];

    /// Every reason is expected of some table.
    #[test]
    fn every_reason_is_given() {
        // What is above this module: below it, reasons are named that nothing leads to.
        let here = include_str!("tables.rs")
            .split("#[cfg(test)]")
            .next()
            .unwrap();
        let reasons: Vec<_> = CONSTRUCTORS
            .split("c\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .filter(|reason| reason.starts_with(char::is_uppercase))
            .collect();
        assert!(reasons.len() > 20, "{reasons:?}");
        for reason in &reasons {
            let expected = here.contains(reason) || GROUPS.contains(reason);
            let elsewhere = ELSEWHERE.iter().any(|(other, _)| other == reason);
            assert!(expected != elsewhere, "{reason}");
        }
        for (reason, _) in ELSEWHERE {
            assert!(reasons.contains(&reason), "{reason}");
        }
    }
}
