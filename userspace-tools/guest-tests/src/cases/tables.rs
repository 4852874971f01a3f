// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Tables that must be refused, each with its error number and its reason.

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::ctx::Ctx;
use crate::forge::{self, Codec, Layer, Zfile};
use crate::harness::Case;

/// Words, length in sectors (0: the right one), error number, reason. In the words, `DEV` is a
/// device that holds a right file of `LEN` bytes, and `FAR` is the first sector behind it.
type Bad = (&'static str, u64, Errno, &'static str);

const MISSING: &str = "Not enough arguments";
const OFFSET: &str = "Invalid device offset";
const LENGTH: &str = "Invalid device length";
const EXTENT: &str = "Device extent too large";
const COUNT: &str = "Invalid layer count";
const EXTRA: &str = "Too many arguments";

const ZFILE: &[Bad] = &[
    ("", 0, Errno::INVAL, MISSING),
    ("DEV", 0, Errno::INVAL, MISSING),
    ("DEV 0", 0, Errno::INVAL, MISSING),
    ("DEV x LEN", 0, Errno::INVAL, OFFSET),
    ("DEV -1 LEN", 0, Errno::INVAL, OFFSET),
    ("DEV +0 LEN", 0, Errno::INVAL, OFFSET),
    ("DEV 0x0 LEN", 0, Errno::INVAL, OFFSET),
    ("DEV 99999999999999999999 LEN", 0, Errno::INVAL, OFFSET),
    ("DEV 0 0", 0, Errno::INVAL, LENGTH),
    ("DEV 0 LENs", 0, Errno::INVAL, LENGTH),
    ("DEV 0 -LEN", 0, Errno::INVAL, LENGTH),
    ("DEV 18014398509481984 LEN", 0, Errno::INVAL, EXTENT),
    ("DEV 18446744073709551615 LEN", 0, Errno::INVAL, EXTENT),
    ("DEV 1 18446744073709551615", 0, Errno::INVAL, EXTENT),
    ("DEV 0 9223372036854775808", 0, Errno::INVAL, EXTENT),
    ("DEV 0 LEN x", 0, Errno::INVAL, "Invalid number of options"),
    ("DEV 0 LEN 1", 0, Errno::INVAL, "Not enough options"),
    ("DEV 0 LEN 1 ignore", 0, Errno::INVAL, "Unknown option"),
    (
        "DEV 0 LEN 2 ignore_crc ignore_crc",
        0,
        Errno::INVAL,
        "Repeated option",
    ),
    ("DEV 0 LEN 0 ignore_crc", 0, Errno::INVAL, EXTRA),
    ("DEV 0 LEN 1 ignore_crc more", 0, Errno::INVAL, EXTRA),
    ("/dev/none 0 LEN", 0, Errno::NOENT, "Device lookup failed"),
    ("DEV FAR LEN", 0, Errno::OVERFLOW, "Device too small"),
    ("DEV 1 LEN", 0, Errno::INVAL, "ZFile magic mismatch"),
    ("DEV 0 LEN", 1, Errno::INVAL, "Invalid target length"),
    ("DEV 0 LEN", 1 << 40, Errno::INVAL, "Invalid target length"),
    ("DEV 0 1023", 0, Errno::INVAL, "Length too small for ZFile"),
    (
        "DEV 0 1024",
        0,
        Errno::INVAL,
        "ZFile trailer magic mismatch",
    ),
];

const LSMT: &[Bad] = &[
    ("", 0, Errno::INVAL, MISSING),
    ("0", 0, Errno::INVAL, COUNT),
    ("256 DEV 0 LEN", 0, Errno::INVAL, COUNT),
    ("-1 DEV 0 LEN", 0, Errno::INVAL, COUNT),
    ("one DEV 0 LEN", 0, Errno::INVAL, COUNT),
    ("1", 0, Errno::INVAL, MISSING),
    ("1 DEV 0", 0, Errno::INVAL, MISSING),
    ("2 DEV 0 LEN", 0, Errno::INVAL, MISSING),
    ("2 DEV 0 LEN DEV 0", 0, Errno::INVAL, MISSING),
    (
        "1 DEV 0 LEN DEV 0 LEN",
        0,
        Errno::INVAL,
        "Invalid number of options",
    ),
    ("1 DEV 0 LEN 1 upper", 0, Errno::INVAL, "Unknown option"),
    ("1 DEV 0 LEN 0 x", 0, Errno::INVAL, EXTRA),
    ("1 DEV zero LEN", 0, Errno::INVAL, OFFSET),
    ("1 DEV 0 none", 0, Errno::INVAL, LENGTH),
    ("1 DEV 18446744073709551615 LEN", 0, Errno::INVAL, EXTENT),
    ("1 /dev/none 0 LEN", 0, Errno::NOENT, "Device lookup failed"),
    (
        "2 DEV 0 LEN /dev/none 0 LEN",
        0,
        Errno::NOENT,
        "Device lookup failed",
    ),
    ("1 DEV FAR LEN", 0, Errno::OVERFLOW, "Device too small"),
    ("1 DEV 1 LEN", 0, Errno::INVAL, "LSMT magic mismatch"),
    ("1 DEV 0 LEN", 1, Errno::INVAL, "Invalid target length"),
    (
        "1 DEV 0 8191",
        0,
        Errno::INVAL,
        "Length too small for layer",
    ),
    (
        "1 DEV 0 8192",
        0,
        Errno::INVAL,
        "LSMT trailer magic mismatch",
    ),
];

pub fn cases() -> Vec<Case> {
    let zfile = |ctx: &mut Ctx| {
        let content = forge::content(20_000, ctx.rng());
        let bytes = Zfile::new(&content, 4096, Codec::Lz4, true).bytes();
        refuse_all(ctx, "zfile", &bytes, 40, ZFILE)
    };
    let lsmt = |ctx: &mut Ctx| {
        let content = forge::content(4096, ctx.rng());
        let bytes = Layer::new(20_000).data(3, &content).bytes();
        refuse_all(ctx, "lsmt", &bytes, 40, LSMT)
    };
    vec![
        Case::new("tables.zfile.bad_ones_are_refused", zfile),
        Case::new("tables.lsmt.bad_ones_are_refused", lsmt),
        Case::new("tables.lsmt.layers_without_size_are_refused", no_size),
        Case::new("tables.device_on_itself_is_refused", on_itself),
    ]
}

fn refuse_all(ctx: &mut Ctx, kind: &str, bytes: &[u8], right: u64, bad: &[Bad]) -> Result<()> {
    let disk = ctx.image(bytes)?;
    let words = |text: &str| {
        text.replace("DEV", &disk.dev.to_string())
            .replace("LEN", &bytes.len().to_string())
            // The disk is a little longer than the file, and not twice as long.
            .replace("FAR", &(bytes.len() / 512 + 1).to_string())
    };
    // What is refused below is refused for its own reason, then.
    let good = words(if kind == "lsmt" {
        "1 DEV 0 LEN"
    } else {
        "DEV 0 LEN"
    });
    ctx.target(right, kind, &good)?;
    for &(text, sectors, errno, reason) in bad {
        let sectors = if sectors == 0 { right } else { sectors };
        ctx.refused(sectors, kind, &words(text))?
            .expect(errno, reason)
            .with_context(|| format!("\"{text}\", {sectors} sectors"))?;
    }
    Ok(())
}

fn no_size(ctx: &mut Ctx) -> Result<()> {
    let bytes = Layer::new(0).bytes();
    let disk = ctx.image(&bytes)?;
    let words = format!("{} 0 {}", disk.dev, bytes.len());
    for params in [format!("1 {words}"), format!("2 {words} {words}")] {
        ctx.refused(8, "lsmt", &params)?
            .expect(Errno::INVAL, "Virtual size is zero")?;
    }
    Ok(())
}

/// A live device must not become its own lower device.
fn on_itself(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content(8192, ctx.rng());
    let bytes = Zfile::new(&content, 4096, Codec::Lz4, true).bytes();
    let disk = ctx.image(&bytes)?;
    let device = ctx.target(16, "zfile", &format!("{} 0 {}", disk.dev, bytes.len()))?;
    let table = [crate::ctx::target(
        0,
        16,
        "zfile",
        &format!("{} 0 {}", device.dev, 4096),
    )];
    anyhow::ensure!(
        ctx.dm()?.load(device.dev.0, &table).is_err(),
        "a device was taken for its own lower device"
    );
    Ok(())
}
