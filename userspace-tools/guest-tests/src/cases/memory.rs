// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reads go on when memory is short: by a device's reserve when no page can be had, and of a file
//! system whose files are evicted as soon as they are read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{ensure, Context as _, Result};
use overlaybd_format::zfile::Algorithm;
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::ctx::{meminfo, output, Ctx, SECTOR};
use crate::forge::{self, Extent, Layer};
use crate::harness::Case;
use crate::read::{self, Buffer, Device, Mode};
use crate::rig::load::{Load, Read};
use crate::rig::lower::{self, Lower};
use crate::rig::sample::{self, Form};
use crate::rig::scarce::{self, Scarce};
use crate::rig::stuck;
use crate::rig::trace::Trace;
use crate::rig::Zfile;
use crate::rng::Rng;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("memory.reserve", reserve),
        Case::new("memory.reserve_is_nobody_elses", nobody_elses),
        Case::new("memory.evicted_programs", evicted_programs),
        Case::new("memory.indexes_of_many_layers", indexes_of_many_layers),
    ]
}

const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = 48;
/// More than there may be pages left for.
const READERS: usize = 14;
/// Of each reader.
const READS: u64 = 8;

/// Noise is stored longer than it is, so that each block needs more than 64 KiB to be read into:
/// 2^ORDER pages.
fn noise(ctx: &mut Ctx) -> Result<Zfile> {
    let content = forge::content((BLOCKS * BLOCK) as usize, ctx.rng());
    // 2 ms: so that all readers wait for it at the same time.
    let slow = [("irqmode", "2"), ("completion_nsec", "2000000")];
    let disk = lower::null_blk(ctx, 2 * content.len(), &slow)?;
    let zfile = Zfile::on(ctx, &disk, FORM, content)?;
    let longest = sample::extents(&zfile.file)?.into_iter();
    let longest = longest.map(|extent| extent.end - extent.start).max();
    ensure!(
        longest.is_some_and(|bytes| (BLOCK..2 * BLOCK).contains(&bytes)),
        "blocks of noise are stored in up to {longest:?} bytes"
    );
    Ok(zfile)
}

const FORM: Form = Form::new(Algorithm::Lz4, BLOCK as u32);

/// Reads `blocks` blocks, from any of them on.
fn read_blocks(device: &Device<'_>, blocks: u64, rng: &mut Rng) -> Result<()> {
    let offset = rng.within(0..BLOCKS - blocks + 1) * BLOCK;
    let mut buffer = Buffer::new((blocks * BLOCK) as usize, 0);
    device.read(Mode::Direct, offset, buffer.all())
}

/// The same for one block and without waiting: whether there was an answer.
fn read_at_once(device: &Device<'_>, rng: &mut Rng) -> Result<bool> {
    let offset = rng.within(0..BLOCKS) * BLOCK;
    device.at_once(offset, BLOCK as usize)
}

/// Several readers of a device, none of which finds pages: who does not have the reserve waits
/// for it, or is told to come again, and a long read is done in as many pieces as it takes.
fn reserve(ctx: &mut Ctx) -> Result<()> {
    let zfile = noise(ctx)?;
    let device = Device::open(zfile.path(), &zfile.content)?;
    let single: Read<'_> = &|rng| read_blocks(&device, 1, rng);
    let long: Read<'_> = &|rng| read_blocks(&device, 3, rng);
    let turned_away = AtomicU64::new(0);
    let at_once: Read<'_> = &|rng| {
        let answered = read_at_once(&device, rng)?;
        turned_away.fetch_add(u64::from(!answered), Ordering::Relaxed);
        Ok(())
    };
    let mut readers = vec![single; READERS];
    readers.extend([long, at_once]);
    let order = scarce::ORDER;
    // A page that is none: the allocator had none.
    let failed = format!("order == {order} && pfn == 0xffffffffffffffff");
    let trace = Trace::new(ctx, &[("kmem/mm_page_alloc", &failed)])?;
    // Before there is a reader, who would keep going by the pages that it has.
    let scarce = Scarce::new(ctx)?;
    trace.clear()?;
    let free = Load::with(ctx.rng(), &readers, |load| {
        load.more(READS)?;
        let turned_away = turned_away.load(Ordering::Relaxed);
        ensure!(turned_away > 0, "nobody was told to come again");
        Ok(fs::read_to_string("/proc/buddyinfo")?)
    })?;
    // To look at the trace takes a large piece as well.
    drop(scarce);
    let waits = trace.lines()?.len() as u64;
    ensure!(
        waits > READS * READERS as u64 / 2,
        "only {waits} reads found no page; there were\n{free}"
    );
    let status = zfile.status(ctx)?;
    ensure!(status.io_errors == 0, "{status}");
    ensure!(
        status.reserve_waits > READS * READERS as u64 / 2,
        "{status}"
    );
    // What was lent came back.
    device.whole(Mode::Direct, BLOCK as usize)
}

/// The readers of one device have its reserve, and wait for what is below: those of another one find
/// no page either, and go on by its own.
fn nobody_elses(ctx: &mut Ctx) -> Result<()> {
    let content = forge::content((BLOCKS * BLOCK) as usize, ctx.rng());
    let (first, linear) = Zfile::over_linear(ctx, Lower::NullTimer, FORM, content)?;
    let second = noise(ctx)?;
    let one = Device::open(first.path(), &first.content)?;
    let other = Device::open(second.path(), &second.content)?;
    let single: Read<'_> = &|rng| read_blocks(&one, 1, rng);
    let whole: Read<'_> = &|_| other.whole(Mode::Direct, BLOCK as usize);
    let scarce = Scarce::new(ctx)?;
    // Who waits for the reserve does so because another one has it.
    let waits = |ctx: &mut Ctx| Ok(first.status(ctx)?.reserve_waits > 0);
    stuck::beside(ctx, &linear, &[single; READERS], waits, &[whole; 3])?;
    drop(scarce);
    let status = second.status(ctx)?;
    ensure!(status.reserve_waits > 0, "{status}");
    ensure!(status.io_errors == 0, "{status}");
    Ok(())
}

/// Layers whose indexes are small, one by one, are refused before there is no memory left for
/// others; the OOM killer would find nobody but this program.
fn indexes_of_many_layers(ctx: &mut Ctx) -> Result<()> {
    const LAYERS: usize = 255;
    // 1 MiB of them in each layer.
    const ENTRIES: u64 = (1 << 20) / 16;
    const PIECE: u64 = 8 << 20;
    let extents = (0..ENTRIES).map(|number| Extent {
        start: 2 * number,
        length: 1,
        place: 0,
        zeroed: true,
    });
    let sectors = 2 * ENTRIES;
    let layer = Layer::new(sectors * SECTOR).with_index(extents.collect());
    let layer = layer.bytes();
    let disk = ctx.image(&layer)?;
    let params = format!(
        "{LAYERS}{}",
        format!(" {} 0 {}", disk.dev, layer.len()).repeat(LAYERS)
    );

    let kept = meminfo("MemTotal")? / 16;
    let mut ballast = Vec::new();
    // A third of what the layers would take.
    while meminfo("MemAvailable")? > kept + LAYERS as u64 * ENTRIES * 16 / 3 {
        ballast.push(vec![1_u8; PIECE as usize]);
    }
    ctx.refused(sectors, "lsmt", &params)?
        .expect(Errno::NOMEM, "Cannot allocate index")
}

const CGROUPS: &str = "/sys/fs/cgroup";
/// Of the group in which the programs run, bytes: less than what they read in turn.
const GROUP_MEMORY: u64 = 6 << 20;
const IMAGE: &str = "/mnt/image";
const IMAGE_SIZE: usize = 24 << 20;
const FILES: usize = 4;
const FILE_SIZE: usize = 2 << 20;
const PROGRAMS: usize = 4;
const ROUNDS: usize = 2;

/// Programs on an image read files on it, and all of them together fit into memory badly: what
/// one reads evicts what the others run. Each has to come to its end with the right sums.
fn evicted_programs(ctx: &mut Ctx) -> Result<()> {
    let sums = ctx.tmp()?.join("sums");
    let zfile = mounted_image(ctx, &sums)?;
    let group = memory_group(ctx)?;
    read::drop_caches()?;
    let before = zfile.status(ctx)?.read_sectors;
    let programs: Vec<Child> = (0..PROGRAMS)
        .map(|_| program(&group, &sums))
        .collect::<Result<_>>()?;
    for program in programs {
        let result = program.wait_with_output()?;
        let said = String::from_utf8_lossy(&result.stderr);
        ensure!(result.status.success(), "{}: {said}", result.status);
    }
    let events = fs::read_to_string(group.join("memory.events"))?;
    let all_alive = events.lines().any(|line| line == "oom_kill 0");
    ensure!(all_alive, "memory.events: {events}");
    let status = zfile.status(ctx)?;
    let read = (status.read_sectors - before) * SECTOR;
    let once = (FILES * FILE_SIZE) as u64;
    ensure!(read > 2 * once, "{read} bytes were read, {once} are there");
    let errors = status.crc_errors + status.decompress_errors + status.io_errors;
    ensure!(errors == 0, "{status}");
    Ok(())
}

/// An ext4 with a program and files of noise, in a layer in a ZFile; `sums` becomes the list of
/// their sums.
fn mounted_image(ctx: &mut Ctx, sums: &Path) -> Result<Zfile> {
    let dir = ctx.scratch()?;
    let tree = dir.join("tree");
    fs::create_dir(&tree)?;
    fs::copy("/bin/busybox", tree.join("busybox"))?;
    let mut list = String::new();
    for number in 0..FILES {
        let name = number.to_string();
        let file = tree.join(&name);
        fs::write(&file, sample::content(FILE_SIZE, ctx.rng()))?;
        let line = output(&["md5sum", &file.display().to_string()])?;
        let (sum, _) = line.split_once(' ').context("md5sum")?;
        list.push_str(&format!("{sum}  {IMAGE}/{name}\n"));
    }
    fs::write(sums, list)?;
    let image = dir.join("image");
    sample::ext4(&tree, &image, IMAGE_SIZE as u64)?;
    let layer = sample::layer(&fs::read(&image)?, &[])?;
    let size = layer.len();
    let zfile = Zfile::new(ctx, Lower::Disk, FORM, layer)?;
    let params = format!("1 {} 0 {size}", zfile.device.dev);
    let lsmt = ctx.target(IMAGE_SIZE as u64 / SECTOR, "lsmt", &params)?;
    ctx.mount(&lsmt.path, Path::new(IMAGE), "ext4", MountFlags::RDONLY)?;
    Ok(zfile)
}

/// A control group whose programs have little memory.
fn memory_group(ctx: &mut Ctx) -> Result<PathBuf> {
    let root = Path::new(CGROUPS);
    if !root.join("cgroup.procs").exists() {
        // It stays for the next test: it is no place of a test's.
        rustix::mount::mount("cgroup2", root, "cgroup2", MountFlags::empty(), None)
            .context("mount cgroup2")?;
    }
    let set = |path: PathBuf, value: &str| {
        fs::write(&path, value).with_context(|| format!("{value} > {}", path.display()))
    };
    set(root.join("cgroup.subtree_control"), "+memory")?;
    let group = root.join(ctx.fresh());
    fs::create_dir(&group)?;
    let made = group.clone();
    ctx.defer("control group", move || Ok(fs::remove_dir(made)?));
    set(group.join("memory.max"), &GROUP_MEMORY.to_string())?;
    Ok(group)
}

/// Starts a program of the image that compares the sums of its files, in `group`.
fn program(group: &Path, sums: &Path) -> Result<Child> {
    let script = format!(
        "echo 0 >{}/cgroup.procs; for round in $(seq {ROUNDS}); do \
         {IMAGE}/busybox md5sum -c -s {} || exit 1; done",
        group.display(),
        sums.display()
    );
    let child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(child)
}
