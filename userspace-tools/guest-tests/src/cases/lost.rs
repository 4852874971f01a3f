// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What happens when the device below fails in earnest: sectors that cannot be read, in an
//! interrupt or with a status of their own, a file that was cut, a disk that is pulled out.
//! Reads that need what is lost get the error from below, and only those; when the device is
//! well again, so are they.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{ensure, Context as _, Result};
use overlaybd_format::zfile::Algorithm;
use rustix::io::Errno;

use crate::ctx::{output, Ctx, Disk, SECTOR};
use crate::harness::{Case, KernelLog};
use crate::read::Mode;
use crate::rig::blocks::{errno, meet, Blocks};
use crate::rig::load::{Load, Read};
use crate::rig::lower::{self, null_blk_control, Lower};
use crate::rig::sample::{self, Form};
use crate::rig::trace::{self, Trace, COMPLETE, REQUEST_ERROR};
use crate::rig::{self, until, Zfile};

/// Bytes of content; enough for a dozen blocks of 64 KiB.
const SIZE: usize = (768 << 10) + 1234;
const SCSI_OPTIONS: &str = "/sys/bus/pseudo/drivers/scsi_debug/opts";

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for form in Form::some() {
        let name = format!("lost.sectors.{form}");
        cases.push(Case::new(name, move |ctx| bad_sectors(ctx, form)));
    }
    cases.extend([
        Case::new("lost.sectors_are_told", bad_sectors_are_told),
        Case::new("lost.sectors_of_a_disk", bad_sectors_of_a_disk),
        Case::new("lost.header", bad_header),
        Case::new("lost.file_is_truncated", file_is_truncated),
        Case::new("lost.device_is_removed", device_is_removed),
        Case::new("lost.status_is_passed_up", status_is_passed_up),
        Case::new("lost.on_and_off", on_and_off),
        Case::new("lost.errors_are_passed_on", errors_are_passed_on),
    ]);
    cases
}

fn content(ctx: &mut Ctx) -> Vec<u8> {
    sample::content(SIZE, ctx.rng())
}

/// Sectors in the middle of what some blocks in the middle are read from.
fn some_sectors(blocks: &Blocks<'_>) -> Range<u64> {
    let middle = blocks.count() / 2;
    let first = blocks.sectors(middle);
    let last = blocks.sectors(middle + 1);
    first.end - 1..last.start + 1 + (last.end - last.start) / 2
}

/// Which blocks need a sector of `bad`.
fn needs<'a>(blocks: &'a Blocks<'_>, bad: &'a Range<u64>) -> impl Fn(usize) -> Option<Errno> + 'a {
    move |block| meet(&blocks.sectors(block), bad).then_some(Errno::IO)
}

/// Some sectors below cannot be read.
fn bad_sectors(ctx: &mut Ctx, form: Form) -> Result<()> {
    let content = content(ctx);
    let (zfile, linear) = Zfile::over_linear(ctx, Lower::Disk, form, content)?;
    let padded = zfile.padded();
    let blocks = Blocks::new(&zfile, &padded)?;
    let bad = some_sectors(&blocks);
    linear.fail(ctx, &bad)?;

    let failed = blocks.check(needs(&blocks, &bad))?;
    ensure!(failed > 0, "no block was bad");
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == failed, "{failed} failed: {status}");
    let errors = status.crc_errors + status.decompress_errors;
    ensure!(errors == 0, "{status}");
    random_ranges(ctx, &blocks, &bad)?;

    linear.recover(ctx)?;
    blocks.check(|_| None).context("recovered")?;
    blocks
        .device
        .whole(Mode::Buffered, 1 << 20)
        .context("recovered, through the page cache")
}

/// Reads that begin and end anywhere, longer than a block.
fn random_ranges(ctx: &mut Ctx, blocks: &Blocks<'_>, bad: &Range<u64>) -> Result<()> {
    let is_bad = needs(blocks, bad);
    for _ in 0..100 {
        let start = ctx.rng().within(0..blocks.device.size() / SECTOR) * SECTOR;
        let room = (blocks.device.size() - start) / SECTOR;
        let end = start + ctx.rng().length(room.min(400)) * SECTOR;
        let needed = (0..blocks.count()).filter(|&b| meet(&blocks.content(b), &(start..end)));
        let expected = needed.filter_map(&is_bad).next().map_or(Ok(()), Err);
        let result = blocks.read(start..end)?;
        ensure!(
            result == expected,
            "{start}..{end}: {result:?}, expected {expected:?}"
        );
    }
    Ok(())
}

/// In the log: which device, which block, and not a line for every read.
fn bad_sectors_are_told(ctx: &mut Ctx) -> Result<()> {
    let form = Form::new(Algorithm::Lz4, 16 << 10);
    let content = content(ctx);
    let (zfile, linear) = Zfile::over_linear(ctx, Lower::Disk, form, content)?;
    let padded = zfile.padded();
    let blocks = Blocks::new(&zfile, &padded)?;
    let length = |&block: &usize| blocks.extent(block).end - blocks.extent(block).start;
    let block = (0..blocks.count()).max_by_key(length).context("no block")?;
    let bad = blocks.sectors(block).start + 1..blocks.sectors(block).start + 2;
    linear.fail(ctx, &bad)?;
    let mut log = KernelLog::open()?;
    let reads = 500;
    for _ in 0..reads {
        let result = blocks.read(blocks.content(block))?;
        ensure!(result == Err(Errno::IO), "{result:?}");
    }
    let name = format!("zfile: {}: blocks {block} to {block}: ", zfile.device.dev);
    let below = format!("reading {} failed, error -5", linear.device.dev);
    let lines = log.new_lines();
    let ours = |line: &&String| line.contains(&name) && line.contains(&below);
    let told = lines.iter().filter(ours).count();
    ensure!(told > 0, "nothing like \"{name}{below}\" in {lines:?}");
    ensure!(told < reads / 4, "{told} lines for {reads} reads");
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == reads as u64, "{status}");
    linear.recover(ctx)?;
    // And nothing is told when there is nothing to tell.
    let mut log = KernelLog::open()?;
    blocks.check(|_| None)?;
    let lines = log.new_lines();
    ensure!(
        !lines.iter().any(|line| line.contains("zfile")),
        "{lines:?}"
    );
    Ok(())
}

/// A device cannot be set up if what describes it cannot be read.
fn bad_header(ctx: &mut Ctx) -> Result<()> {
    let form = Form::new(Algorithm::Lz4, 4 << 10);
    let content = content(ctx);
    let (zfile, linear) = Zfile::over_linear(ctx, Lower::Disk, form, content)?;
    let words = zfile.lower.words_on(linear.device.dev);
    let sectors = (SIZE as u64).div_ceil(SECTOR);
    let end = (zfile.lower.length - 1) / SECTOR + rig::OFFSET;
    // The header; the index; the trailer.
    for bad in [rig::OFFSET, end - 2, end] {
        linear.fail(ctx, &(bad..bad + 1))?;
        let refusal = ctx.refused(sectors, "zfile", &words)?;
        refusal.expect(Errno::IO, "Cannot read device")?;
        let told = |line: &String| line.contains("reading byte") && line.contains("error -5");
        ensure!(refusal.log.iter().any(told), "{bad}: {:?}", refusal.log);
    }
    linear.recover(ctx)?;
    rig::device(ctx, &words, SIZE).map(drop)
}

/// A device that works for a second, and then fails for one.
fn on_and_off(ctx: &mut Ctx) -> Result<()> {
    let form = Form::new(Algorithm::Zstd, 32 << 10);
    let content = content(ctx);
    let (zfile, linear) = Zfile::over_linear(ctx, Lower::NullSoftirq, form, content)?;
    let padded = zfile.padded();
    let blocks = Blocks::new(&zfile, &padded)?;
    linear.become_a(ctx, "flakey", " 1 1 1 error_reads")?;
    let seconds = Duration::from_secs(30);
    for fails in [true, false, true, false] {
        until("the device changes its mind", seconds, || {
            let block = ctx.rng().index(blocks.count());
            let result = blocks.read(blocks.content(block))?;
            ensure!(matches!(result, Ok(()) | Err(Errno::IO)), "{result:?}");
            Ok(result.is_err() == fails)
        })?;
    }
    linear.recover(ctx)?;
    blocks.check(|_| None).map(drop)
}

/// The file behind a loop device becomes shorter while it is in use, and long again.
fn file_is_truncated(ctx: &mut Ctx) -> Result<()> {
    for lower in [Lower::Loop, Lower::DirectLoop] {
        let form = Form::new(Algorithm::Lz4, 16 << 10);
        let content = content(ctx);
        let zfile = Zfile::new(ctx, lower, form, content)?;
        let padded = zfile.padded();
        let blocks = Blocks::new(&zfile, &padded)?;
        let behind = zfile.lower.backing_file()?;
        let all = fs::read(&behind)?;
        let end = zfile.lower.sector * SECTOR + zfile.lower.length / 2;
        // To a page, so that what is there and what is not is no matter of the page cache.
        let end = end / 4096 * 4096;
        let file = File::options().write(true).open(&behind)?;
        file.set_len(end)?;
        let failed = blocks.check(|block| (blocks.extent(block).end > end).then_some(Errno::IO))?;
        ensure!(failed > 0, "no block was bad");
        let status = zfile.status(ctx)?;
        ensure!(status.io_errors == failed, "{failed} failed: {status}");

        file.write_all_at(&all, 0)?;
        file.sync_all()?;
        blocks.check(|_| None).context("recovered")?;
    }
    Ok(())
}

/// A disk that is pulled out while it is read: every reader gets an error, and none waits.
fn device_is_removed(ctx: &mut Ctx) -> Result<()> {
    for lower in [Lower::NullTimer, Lower::NullSoftirq] {
        let form = Form::new(Algorithm::Zstd, 32 << 10);
        let content = content(ctx);
        let zfile = Zfile::new(ctx, lower, form, content)?;
        let padded = zfile.padded();
        let blocks = Blocks::new(&zfile, &padded)?;
        let power = null_blk_control(&zfile.lower.path)?.join("power");
        let read: Read<'_> = &|rng| match blocks.device.random(Mode::Direct, 1, rng) {
            Ok(()) => Ok(()),
            Err(error) => {
                ensure!(
                    !power_is_on(&power)?,
                    "an error before it is removed: {error:#}"
                );
                is_loss(errno(error)?)
            }
        };
        Load::with(ctx.rng(), &[read; 4], |load| {
            load.more(10)?;
            fs::write(&power, "0")?;
            load.more(10)
        })?;
        let result = blocks.read(blocks.content(3))?;
        is_loss(result.err().unwrap_or(Errno::RANGE))?;
        ensure!(zfile.status(ctx)?.io_errors > 0, "no error was counted");
    }
    Ok(())
}

/// While it goes, it is off for those who ask before it is off for reads.
fn power_is_on(path: &Path) -> Result<bool> {
    Ok(fs::read_to_string(path)?.trim() == "1")
}

/// What the block layer says of a disk that is gone, or going.
pub fn is_loss(errno: Errno) -> Result<()> {
    let losses = [Errno::IO, Errno::NODEV, Errno::NXIO];
    ensure!(losses.contains(&errno), "{errno:?}");
    Ok(())
}

/// Errors that arrive in an interrupt.
fn bad_sectors_of_a_disk(ctx: &mut Ctx) -> Result<()> {
    for lower in [Lower::NullInline, Lower::NullSoftirq, Lower::NullTimer] {
        let form = Form::new(Algorithm::Lz4, 8 << 10);
        let content = content(ctx);
        let zfile = Zfile::new(ctx, lower, form, content)?;
        let padded = zfile.padded();
        let blocks = Blocks::new(&zfile, &padded)?;
        let bad = some_sectors(&blocks);
        let control = null_blk_control(&zfile.lower.path)?.join("badblocks");
        let range = format!("{}-{}", bad.start, bad.end - 1);
        fs::write(&control, format!("+{range}")).context(range.clone())?;
        let failed = blocks.check(needs(&blocks, &bad))?;
        let status = zfile.status(ctx)?;
        ensure!(status.io_errors == failed, "{failed} failed: {status}");
        fs::write(&control, format!("-{range}")).context(range)?;
        blocks.check(|_| None).context("recovered")?;
    }
    Ok(())
}

/// From one error below to that of the reader it takes less than a second.
fn errors_are_passed_on(ctx: &mut Ctx) -> Result<()> {
    for lower in [Lower::NullInline, Lower::NullSoftirq, Lower::NullTimer] {
        let content = content(ctx);
        let zfile = Zfile::new(ctx, lower, Form::new(Algorithm::Lz4, 8 << 10), content)?;
        let padded = zfile.padded();
        let blocks = Blocks::new(&zfile, &padded)?;
        let bad = some_sectors(&blocks);
        let control = null_blk_control(&zfile.lower.path)?.join("badblocks");
        fs::write(&control, format!("+{}-{}", bad.start, bad.end - 1))?;
        let trace = Trace::new(ctx, &[(REQUEST_ERROR, ""), (COMPLETE, "error != 0")])?;
        let failed = blocks.check(needs(&blocks, &bad))?;
        let (below, above) = (zfile.lower.dev, zfile.device.dev);
        let delays = trace::delays(&trace.lines()?, &[REQUEST_ERROR], below, above)?;
        ensure!(delays.iter().all(|&s| s < 1.0), "{lower:?}: {delays:?} s");
        let passed_on = delays.len() as u64;
        ensure!(passed_on == failed, "{passed_on} errors of {failed}");
    }
    Ok(())
}

/// A disk that cannot read some sectors says why, and so does what stands on it.
fn status_is_passed_up(ctx: &mut Ctx) -> Result<()> {
    // A number that the module of the disk knows, 0x1234, and where a file of ours reaches.
    let (start, count) = (0x234, 4);
    let options = [
        "dev_size_mb=8".to_owned(),
        format!("medium_error_start={start}"),
        format!("medium_error_count={count}"),
    ];
    let mut words = vec!["modprobe", "scsi_debug"];
    words.extend(options.iter().map(String::as_str));
    output(&["modprobe", "sd_mod"])?;
    output(&words)?;
    ctx.defer("scsi_debug", || {
        until("scsi_debug is unused", Duration::from_secs(20), || {
            Ok(output(&["rmmod", "scsi_debug"]).is_ok())
        })
    });
    let disk = scsi_disk()?;
    let form = Form::new(Algorithm::Zstd, 16 << 10);
    let content = content(ctx);
    let zfile = Zfile::on(ctx, &disk.path, form, content)?;
    let padded = zfile.padded();
    let blocks = Blocks::new(&zfile, &padded)?;
    blocks.check(|_| None)?;

    // Bit 1: medium errors.
    fs::write(SCSI_OPTIONS, "2").context(SCSI_OPTIONS)?;
    let bad = start..start + count;
    let failed = blocks.check(|block| needs(&blocks, &bad)(block).map(|_| Errno::NODATA))?;
    ensure!(failed > 0, "no block was bad");
    fs::write(SCSI_OPTIONS, "0")?;
    blocks.check(|_| None).context("recovered").map(drop)
}

/// The disk of scsi_debug; it appears when the kernel has looked at it.
fn scsi_disk() -> Result<Disk> {
    let mut found = None;
    until("the disk of scsi_debug", Duration::from_secs(60), || {
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            let model = fs::read_to_string(entry.path().join("device/model"));
            let path = Path::new("/dev").join(entry.file_name());
            if model.is_ok_and(|model| model.trim() == "scsi_debug") && path.exists() {
                found = Some(path);
            }
        }
        Ok(found.is_some())
    })?;
    let path: PathBuf = found.context("no disk")?;
    lower::settled(&path)?;
    Disk::of(path)
}
