// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What device-mapper's users expect of a target: status, table, messages, limits, and that
//! nothing can be written.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::Id;
use overlaybd_format::status::{LsmtStatus, ZfileStatus};
use rustix::io::Errno;

use super::{lsmt, zfile};
use crate::ctx::{output, target, Ctx, Device, SECTOR};
use crate::forge::{self, Layer};
use crate::harness::{Case, KernelLog};
use crate::read;

const ZFILE: &str = "zfile/text-lz4-16k.zfile";
const STACK: &str = "lsmt/stack*.zfile";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("contract.zfile.status_counts", zfile_status_counts),
        Case::new("contract.lsmt.status_counts", lsmt_status_counts),
        Case::new("contract.table_reloads", table_reloads),
        Case::new("contract.unknown_messages_are_refused", unknown_messages),
        Case::new("contract.zfile.limits", zfile_limits),
        Case::new("contract.lsmt.limits", lsmt_limits),
        Case::new("contract.writable_tables_are_refused", writable_tables),
        Case::new("contract.writes_are_refused", writes),
        Case::new("contract.late_writes_are_refused", late_writes),
        Case::new("contract.several_targets_in_a_table", several_targets),
        Case::new("contract.parents_that_do_not_fit_are_told", parents),
    ]
}

/// A device of each target.
fn both(ctx: &mut Ctx) -> Result<[Device; 2]> {
    let golden = ctx.golden()?;
    let zfile = zfile::device(ctx, &golden, golden.entry(ZFILE)?, "")?;
    let lsmt = lsmt::device(ctx, &golden, &golden.stack(STACK)?)?;
    Ok([zfile, lsmt])
}

fn zfile_status_counts(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let entry = golden.entry(ZFILE)?;
    let content = golden.content(entry)?;
    let device = zfile::device(ctx, &golden, entry, "")?;
    let fresh = ZfileStatus::parse(&ctx.status(&device)?)?;
    let size = content.len() as u64;
    ensure!(fresh.size == size && fresh.block_size == 16384, "{fresh:?}");
    ensure!(fresh.blocks == size.div_ceil(16384), "{fresh:?}");

    read::check_once(&device.path, content)?;
    let status = ZfileStatus::parse(&ctx.status(&device)?)?;
    ensure!(status.decompressed_bytes >= size, "{status:?}");
    let stored = entry.payload.length / SECTOR;
    // Each request is rounded out to sectors, so that a sector may be read twice.
    ensure!(
        (stored - 8..=stored * 2).contains(&status.read_sectors),
        "{status:?}, stored {stored} sectors"
    );
    let errors = status.crc_errors + status.decompress_errors + status.io_errors;
    ensure!(errors == 0, "{status:?}");

    ctx.dm()?.message(Id::Dev(device.dev.0), 0, "reset_stats")?;
    let reset = ZfileStatus::parse(&ctx.status(&device)?)?;
    ensure!(
        reset == fresh,
        "after reset_stats {reset:?}, at first {fresh:?}"
    );
    Ok(())
}

fn lsmt_status_counts(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let layers = golden.stack(STACK)?;
    let content = golden.content(layers.last().context("no layers")?)?;
    let sectors = content.len() as u64 / SECTOR;
    let device = lsmt::device(ctx, &golden, &layers)?;
    let fresh = LsmtStatus::parse(&ctx.status(&device)?)?;
    ensure!(fresh.layers == layers.len() as u64, "{fresh:?}");
    ensure!(fresh.size == sectors && fresh.extents > 0, "{fresh:?}");

    read::check_once(&device.path, content)?;
    let status = LsmtStatus::parse(&ctx.status(&device)?)?;
    ensure!(status.reads > fresh.reads, "{status:?}");
    ensure!((1..sectors).contains(&status.zero_sectors), "{status:?}");

    ctx.dm()?.message(Id::Dev(device.dev.0), 0, "reset_stats")?;
    let reset = LsmtStatus::parse(&ctx.status(&device)?)?;
    ensure!(
        reset.reads == 0 && reset.zero_sectors == 0 && reset.extents == fresh.extents,
        "{reset:?}"
    );
    Ok(())
}

/// The table that a device shows makes the same device again.
fn table_reloads(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let entry = golden.entry(ZFILE)?;
    let [zfile, lsmt] = both(ctx)?;
    let careless = zfile::device(ctx, &golden, entry, " 1 ignore_crc")?;
    for (device, kind) in [(zfile, "zfile"), (careless, "zfile"), (lsmt, "lsmt")] {
        let info = ctx.dm()?.info(Id::Dev(device.dev.0))?;
        ensure!(info.is_some_and(|info| info.read_only), "not read-only");
        let sectors = ctx.dm()?.table(Id::Dev(device.dev.0))?[0].length;
        let params = ctx.table(&device)?;
        ctx.load(&device, &[target(0, sectors, kind, &params)])?;
        let again = ctx.table(&device)?;
        ensure!(again == params, "loaded {params}, shown {again}");
    }
    Ok(())
}

fn unknown_messages(ctx: &mut Ctx) -> Result<()> {
    for device in both(ctx)? {
        for text in ["reset", "reset_stats now", "RESET_STATS", ""] {
            let result = ctx.dm()?.message(Id::Dev(device.dev.0), 0, text);
            let Err(error) = result else {
                bail!("message \"{text}\" was taken");
            };
            ensure!(error.errno() == Some(Errno::INVAL), "{text}: {error}");
        }
    }
    Ok(())
}

/// A number among a device's limits.
pub fn limit(device: &Device, name: &str) -> Result<u64> {
    let node = device.path.file_name().context("node")?;
    let path = Path::new("/sys/block").join(node).join("queue").join(name);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(text.trim().parse()?)
}

fn zfile_limits(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    for (name, block) in [
        ("zfile/text-lz4-4k.zfile", 4096),
        ("zfile/text-zstd-64k.zfile", 65536),
    ] {
        let device = zfile::device(ctx, &golden, golden.entry(name)?, "")?;
        for (name, expected) in [
            ("logical_block_size", 512),
            ("physical_block_size", block),
            ("minimum_io_size", block),
            ("optimal_io_size", block),
        ] {
            let found = limit(&device, name)?;
            ensure!(found == expected, "{name} is {found}, expected {expected}");
        }
    }
    Ok(())
}

fn lsmt_limits(ctx: &mut Ctx) -> Result<()> {
    let [_, lsmt] = both(ctx)?;
    let block = limit(&lsmt, "logical_block_size")?;
    ensure!(block == 512, "logical_block_size is {block}");
    Ok(())
}

fn writable_tables(ctx: &mut Ctx) -> Result<()> {
    for device in both(ctx)? {
        let lines = ctx.dm()?.table(Id::Dev(device.dev.0))?;
        let line = lines.first().context("no table")?;
        let text = format!("0 {} {} {}", line.length, line.kind, line.params);
        let mut log = KernelLog::open()?;
        // The library only knows read-only tables.
        let result = output(&["dmsetup", "create", "writable", "--table", &text]);
        if result.is_ok() {
            output(&["dmsetup", "remove", "writable"])?;
            bail!("a writable table was taken: {text}");
        }
        let lines = log.new_lines();
        ensure!(
            lines.iter().any(|l| l.contains("Table must be read-only")),
            "the log does not give the reason: {lines:#?}"
        );
    }
    Ok(())
}

fn writes(ctx: &mut Ctx) -> Result<()> {
    for device in both(ctx)? {
        // The kernel may let it be opened, but takes no write.
        let written = fs::File::options()
            .write(true)
            .open(&device.path)
            .and_then(|file| file.write_all_at(&[0; 4096], 0));
        let Err(error) = written else {
            bail!("{} was written", device.path.display());
        };
        let errno = Errno::from_io_error(&error);
        ensure!(
            matches!(errno, Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)),
            "{error}"
        );
        let result = output(&["blkdiscard", "--force", &device.path.display().to_string()]);
        ensure!(result.is_err(), "a discard was taken");
    }
    Ok(())
}

/// A write that was begun when the device could still be written reaches the target, but not
/// the image.
fn late_writes(ctx: &mut Ctx) -> Result<()> {
    for device in both(ctx)? {
        let lines = ctx.dm()?.table(Id::Dev(device.dev.0))?;
        let line = lines.first().context("no table")?;
        let mut before = read::Buffer::new(4096, 0);
        let file = fs::File::open(&device.path)?;
        file.read_exact_at(before.all(), 0)?;
        drop(file);

        let load = |table: &str, flags: &[&str]| -> Result<()> {
            let words = ["dmsetup", "load", &device.name, "--table", table];
            output(&[&words[..], flags].concat())?;
            // Without a look at what waits in the page cache.
            output(&["dmsetup", "resume", "--nolockfs", &device.name])?;
            Ok(())
        };
        load(&format!("0 {} zero", line.length), &[])?;
        let file = fs::File::options().write(true).open(&device.path)?;
        file.write_all_at(&[0xee; 4096], 0)?;
        let table = format!("0 {} {} {}", line.length, line.kind, line.params);
        load(&table, &["--readonly"])?;
        let errno = file.sync_all().err().and_then(|e| Errno::from_io_error(&e));
        ensure!(errno == Some(Errno::IO), "{table}: written: {errno:?}");
        drop(file);
        let after = read::Direct::open(&device.path)?.read(0, 4096)?;
        ensure!(after == before.all(), "{table}: other bytes");
    }
    Ok(())
}

/// A line of a table may be any target, and a target need not begin at sector 0.
fn several_targets(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let entry = golden.entry(ZFILE)?;
    let layers = golden.stack(STACK)?;
    let lsmt = lsmt::device(ctx, &golden, &layers)?;
    let lsmt_params = ctx.table(&lsmt)?;
    let mut text = golden.content(entry)?;
    text.resize(text.len().next_multiple_of(SECTOR as usize), 0);
    let stack = golden.content(layers.last().context("no layers")?)?;
    let zfile_params = format!("{} {}", golden.dev(), entry.payload.words());

    let (text_sectors, stack_sectors) = (text.len() as u64 / SECTOR, stack.len() as u64 / SECTOR);
    let zeros = 7;
    let table = [
        target(0, zeros, "zero", ""),
        target(zeros, text_sectors, "zfile", &zfile_params),
        target(zeros + text_sectors, stack_sectors, "lsmt", &lsmt_params),
        target(
            zeros + text_sectors + stack_sectors,
            text_sectors,
            "zfile",
            &zfile_params,
        ),
    ];
    let device = ctx.device_of(&table)?;
    let content = [&[0; 7 * 512][..], &text, &stack, &text].concat();
    read::check(&device.path, content, ctx.rng())
}

/// A layer that names another parent than what lies below works, and the log says so.
fn parents(ctx: &mut Ctx) -> Result<()> {
    let uuid = |n: u8| format!("00000000-0000-4000-8000-0000000000{n:02}\0").into_bytes();
    for (parent, told) in [(1, false), (9, true)] {
        let bytes = forge::content(4096, ctx.rng());
        let mut lower = Layer::new(8192).data(0, &bytes);
        lower.put_both(56, &uuid(1));
        let mut upper = Layer::new(8192);
        upper.put_both(56, &uuid(2));
        upper.put_both(93, &uuid(parent));
        let mut log = KernelLog::open()?;
        let device = lsmt::of_forged(ctx, &[lower, upper])?;
        let lines = log.new_lines();
        let found = lines.iter().any(|line| line.contains("arent"));
        ensure!(found == told, "parent {parent}: {lines:#?}");
        ctx.remove(&device)?;
    }
    Ok(())
}
