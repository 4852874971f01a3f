// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a read costs, as the kernel's tracepoints tell: how often its work is handed over to
//! another task, what memory it takes, and what it asks of the device below.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use overlaybd_format::zfile::Algorithm;
use rustix::fs::{fadvise, Advice};
use rustix::io::Errno;

use crate::ctx::{Ctx, SECTOR};
use crate::forge::streams::{self, Stream};
use crate::forge::{self, Codec};
use crate::harness::Case;
use crate::read::{Buffer, Device, Direct, Mode};
use crate::rig::blocks::errno;
use crate::rig::lower::{self, Lower};
use crate::rig::sample::{self, Form};
use crate::rig::trace::Trace;
use crate::rig::{self, busy, Zfile, OFFSET};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("effort.hand_overs", hand_overs),
        Case::new("effort.busy_cpu", busy_cpu),
        Case::new("effort.buffers", buffers),
        Case::new("effort.cpus_that_come", cpus_that_come),
        Case::new("effort.readahead", readahead),
        Case::new("effort.bombs.lz4", |ctx| bombs(ctx, Codec::Lz4)),
        Case::new("effort.bombs.zstd", |ctx| bombs(ctx, Codec::Zstd)),
    ]
}

const SIZE: usize = 1 << 20;
/// Bytes of an image of broken blocks: more than one read of the device below brings.
const BOMBS: usize = 320 << 10;
/// Output that is worth a part of its own, bytes.
const PART: u64 = 32 << 10;
/// The most parts that a read is divided into.
const PARTS: u64 = 4;

/// A read is divided among the CPUs if it is long enough, and each part is handed over once; what
/// ends in the task that submitted it, as of a ramdisk, goes on there.
fn hand_overs(ctx: &mut Ctx) -> Result<()> {
    let cpus = thread::available_parallelism()?.get() as u64;
    for (lower, here) in [(Lower::RamDisk, 1), (Lower::NullTimer, 0)] {
        for block in [4 << 10, 64 << 10] {
            let content = sample::content(SIZE, ctx.rng());
            let form = Form::new(Algorithm::Lz4, block as u32);
            let zfile = Zfile::new(ctx, lower, form, content)?;
            let device = Device::open(zfile.path(), &zfile.content)?;
            let works = [(
                "workqueue/workqueue_queue_work",
                "workqueue == \"dm-zfile\"",
            )];
            let trace = Trace::new(ctx, &works)?;
            for length in [block, PART, 2 * PART, 192 << 10] {
                let blocks = length.div_ceil(block);
                let parts = (blocks * block / PART)
                    .min(blocks)
                    .clamp(1, PARTS.min(cpus));
                let mut buffer = Buffer::new(length as usize, 0);
                trace.clear()?;
                device.read(Mode::Direct, 0, buffer.all())?;
                let found = trace.lines()?.len() as u64;
                let expected = parts - here;
                ensure!(
                    found == expected,
                    "{lower:?}, blocks of {block}, {length} bytes: \
                     {found} hand-overs, expected {expected}"
                );
            }
        }
    }
    Ok(())
}

/// Each CPU has memory to decompress into, also one that was offline when the first device came: as
/// in virtual machines that are given more CPUs.
fn cpus_that_come(ctx: &mut Ctx) -> Result<()> {
    let cpus = thread::available_parallelism()?.get();
    ensure!(cpus > 1, "there is one CPU");
    let cpu = Path::new("/sys/devices/system/cpu").join(format!("cpu{}/online", cpus - 1));
    let form = Form::new(Algorithm::Lz4, 4 << 10);
    let content = sample::content(SIZE, ctx.rng());
    // 64 KiB for each.
    let scratch = [("kmem/kmalloc", "bytes_req == 65536")];
    let trace = Trace::new(ctx, &scratch)?;
    let online = cpu.clone();
    ctx.defer("CPU", move || Ok(fs::write(online, "1")?));
    for (state, expected) in [("0", cpus - 1), ("1", 1), ("1", 0)] {
        fs::write(&cpu, state).with_context(|| cpu.display().to_string())?;
        trace.clear()?;
        let zfile = Zfile::new(ctx, Lower::RamDisk, form, content.clone())?;
        let lines = trace.lines()?;
        // On its way, an allocation is several events.
        let pointer =
            |line: &String| Some(line.split("ptr=").nth(1)?.split(' ').next()?.to_owned());
        let found = lines
            .iter()
            .filter_map(pointer)
            .collect::<BTreeSet<_>>()
            .len();
        ensure!(found == expected, "{found}, expected {expected}: {lines:?}");
        Device::open(zfile.path(), &zfile.content)?.whole(Mode::Direct, SIZE)?;
    }
    Ok(())
}

/// No read waits for a CPU that does something else, though some of its work was handed over to it:
/// what has not begun when nothing is left to do is called off.
fn busy_cpu(ctx: &mut Ctx) -> Result<()> {
    const TIMES: usize = 8;
    let content = sample::content(SIZE, ctx.rng());
    let form = Form::new(Algorithm::Lz4, 4 << 10);
    let zfile = Zfile::new(ctx, Lower::RamDisk, form, content)?;
    let device = Device::open(zfile.path(), &zfile.content)?;
    let works = [
        (
            "workqueue/workqueue_queue_work",
            "workqueue == \"dm-zfile\"",
        ),
        ("workqueue/workqueue_execute_start", ""),
    ];
    let trace = Trace::new(ctx, &works)?;
    busy::during(ctx, || {
        (0..TIMES).try_for_each(|_| device.whole(Mode::Direct, SIZE))
    })?;
    let lines = trace.lines()?;
    let count = |event: &str| {
        let of_module = |line: &&String| line.contains("[dm_overlaybd]") && line.contains(event);
        lines.iter().filter(of_module).count()
    };
    let (queued, begun) = (
        count(" workqueue_queue_work:"),
        count(" workqueue_execute_start:"),
    );
    ensure!(queued >= TIMES, "{queued} hand-overs");
    ensure!(begun == 0, "of {queued} hand-overs {begun} were waited for");
    Ok(())
}

/// Flags with which a buffer is asked for, but for the one that is looked for.
const TRY: [&str; 3] = ["GFP_NOWAIT", "__GFP_NOMEMALLOC", "__GFP_NORETRY"];

/// A buffer of several pages is one compound page. There are file systems that hold a reference of
/// each page that they read into, NFS below a loop device with direct I/O for one: those of other
/// pages would be the only ones, and the page be free when they are given back.
fn buffers(ctx: &mut Ctx) -> Result<()> {
    const READ: usize = 256 << 10;
    let noise = forge::content(4 * READ, ctx.rng());
    let form = Form::new(Algorithm::Lz4, 64 << 10);
    let zfile = Zfile::new(ctx, Lower::NullTimer, form, noise)?;
    let device = Device::open(zfile.path(), &zfile.content)?;
    let trace = Trace::new(ctx, &[("kmem/mm_page_alloc", "order > 0")])?;
    for number in 0..4 {
        let mut buffer = Buffer::new(READ, 0);
        device.read(Mode::Direct, number * READ as u64, buffer.all())?;
    }
    let mut found = 0;
    for line in trace.lines()? {
        let (_, flags) = line.rsplit_once("gfp_flags=").context("gfp_flags")?;
        let (compound, mut others): (Vec<_>, Vec<_>) =
            flags.split('|').partition(|flag| *flag == "__GFP_COMP");
        others.sort_unstable();
        if others == TRY {
            ensure!(!compound.is_empty(), "{line}");
            found += 1;
        }
    }
    ensure!(found >= 4, "{found} buffers, expected one for each read");
    Ok(())
}

/// What is read ahead is so for the device below, too, which may give it up; and if it does, that
/// is no error yet.
fn readahead(ctx: &mut Ctx) -> Result<()> {
    let form = Form::new(Algorithm::Zstd, 16 << 10);
    let content = sample::content(SIZE, ctx.rng());
    let (zfile, linear) = Zfile::over_linear(ctx, Lower::Disk, form, content)?;
    let device = Device::open(zfile.path(), &zfile.content)?;
    let sectors = zfile.lower.device_sectors()?;
    let trace = Trace::of_queue(ctx, zfile.lower.dev)?;

    let file = device.file(Mode::Buffered);
    let ask = |ctx: &mut Ctx| -> Result<()> {
        fadvise(file, 0, None, Advice::WillNeed)?;
        // Waits for what is in flight.
        let dm = ctx.dm()?;
        dm.suspend(zfile.device.dev.0)?;
        dm.resume(zfile.device.dev.0, &Udev::begin())?;
        Ok(())
    };
    ask(ctx)?;
    let lines = trace.lines()?;
    ensure!(!lines.is_empty(), "nothing was read");
    let ahead = lines.iter().filter(|line| line.contains(" RA ")).count();
    ensure!(ahead == lines.len(), "{lines:#?}");

    crate::read::drop_caches()?;
    linear.fail(ctx, &(0..sectors))?;
    ask(ctx)?;
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == 0, "{status}");
    let mut buffer = Buffer::new(SECTOR as usize, 0);
    let result = device.read(Mode::Direct, 0, buffer.all());
    let found = errno(result.err().context("read")?)?;
    ensure!(found == Errno::IO, "{found:?}");
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == 1, "{status}");
    linear.recover(ctx)
}

/// A call of a decompressor: what it was given, and room for what it makes of it, bytes.
struct Call {
    stored: u64,
    room: u64,
}

impl Call {
    fn parse(line: &str) -> Result<Self> {
        let number = |name: &str| -> Result<u64> {
            let word = line
                .split_whitespace()
                .find_map(|word| word.strip_prefix(name));
            Ok(word.context(line.to_owned())?.parse()?)
        };
        Ok(Self {
            stored: number("stored=")?,
            room: number("room=")?,
        })
    }
}

/// An image of nothing but blocks that are as much work as a block can be. A request has each block
/// that it needs decompressed once, from what is stored for it into room for one block, and none
/// after one that is broken in the same part: all that it costs is bounded by its length.
fn bombs(ctx: &mut Ctx, codec: Codec) -> Result<()> {
    let calls = match codec {
        Codec::Lz4 => [("LZ4_decompress_safe", "stored=$arg3:u32 room=$arg4:u32")],
        Codec::Zstd => [("zstd_decompress_dctx", "stored=$arg5:u64 room=$arg3:u64")],
    };
    let trace = Trace::of_calls(ctx, &calls)?;
    let disk = lower::null_blk(ctx, 2 * BOMBS, &lower::TIMER)?;
    for block in [4096, 65536] {
        let content = forge::content(block, ctx.rng());
        let streams = match codec {
            Codec::Lz4 => streams::lz4(&content)?,
            Codec::Zstd => streams::zstd(&content)?,
        };
        for stream in streams {
            bomb(ctx, &trace, &disk, codec, (block, &stream))
                .with_context(|| format!("{}, blocks of {block}", stream.name))?;
        }
    }
    Ok(())
}

fn bomb(
    ctx: &mut Ctx,
    trace: &Trace,
    disk: &Path,
    codec: Codec,
    (block, stream): (usize, &Stream),
) -> Result<()> {
    let mut zfile = forge::Zfile::new(&vec![0; block], block as u32, codec, true);
    zfile.put_stream(0, &stream.bytes);
    zfile.repeat(BOMBS / block);
    let placed = Lower::put(disk, OFFSET, &zfile.bytes())?;
    let device = rig::device(ctx, &placed.words(), BOMBS)?;
    let direct = Direct::open(&device.path)?;
    for length in [SECTOR as usize, block, BOMBS] {
        trace.clear()?;
        let read = direct.read(0, length);
        ensure!(read.is_ok() == stream.content.is_some(), "{read:?}");
        let calls = trace.lines()?;
        let calls: Vec<_> = calls
            .iter()
            .map(|line| Call::parse(line))
            .collect::<Result<_>>()?;
        let blocks = length.div_ceil(block);
        let fits =
            |call: &Call| call.stored == stream.bytes.len() as u64 && call.room == block as u64;
        ensure!(calls.iter().all(fits), "{length} bytes: other lengths");
        let count = calls.len();
        let right = if read.is_ok() {
            count == blocks
        } else {
            (1..=blocks).contains(&count)
        };
        ensure!(right, "{length} bytes: {count} calls for {blocks} blocks");
    }
    drop(direct);
    ctx.remove(&device)
}
