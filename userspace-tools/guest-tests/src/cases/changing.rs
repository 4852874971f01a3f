// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Images that change while they are read, as on the disk of a virtual machine whose host is
//! hostile: what was checked when the table was loaded is not what is there any more. Readers get
//! errors or bytes that were written there, and never what lies beside the image.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::{Id, Target};
use rustix::fs::{fadvise, Advice, OFlags};
use rustix::io::Errno;

use crate::ctx::{target, Ctx, Device, SECTOR};
use crate::forge::streams::{self, Stream};
use crate::forge::{self, put, Codec, Layer, Zfile};
use crate::harness::Case;
use crate::read::{Attempt, Buffer, Direct};
use crate::rig::load::{Load, Read};
use crate::rig::lower::{Lower, Placed};
use crate::rig::marker::{self, Marker};
use crate::rng::Rng;

/// How often something is overwritten.
const WRITES: u64 = 3000;
/// After so many, each reader has read, and a table is offered.
const BURST: u64 = 100;
/// Sectors of the marker before and behind the image.
const AROUND: u64 = 24;
/// Sectors of the disk that layers are for, and bytes of what ZFiles hold.
const DISK: u64 = 512;
const ORIGINAL: usize = (DISK * SECTOR) as usize;
const BLOCK: usize = 4096;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, codec) in [("lz4", Codec::Lz4), ("zstd", Codec::Zstd)] {
        for (checksums, verify) in [("", true), ("_unchecked", false)] {
            let name = format!("changing.zfile_{name}{checksums}");
            cases.push(Case::new(name, move |ctx| zfile(ctx, codec, verify)));
        }
    }
    cases.push(Case::new("changing.lsmt", lsmt));
    cases.push(Case::new("changing.lsmt_over_zfile", lsmt_over_zfile));
    cases
}

/// What a device may show at some bytes.
#[derive(Clone, Copy)]
enum Allowed<'a> {
    /// In each block what one of these has there.
    Blocks(&'a [Vec<u8>]),
    /// In each byte.
    Bytes(&'a [Vec<u8>]),
    /// Anything but the marker: it depends on what was overwritten when.
    Anything,
}

impl Allowed<'_> {
    fn check(self, at: usize, bytes: &[u8]) -> Result<()> {
        let fits = |from: usize, bytes: &[u8], versions: &[Vec<u8>]| {
            let to = from + bytes.len();
            versions.iter().any(|version| version[from..to] == *bytes)
        };
        match self {
            Self::Anything => Ok(()),
            Self::Bytes(versions) => {
                let wrong = (0..bytes.len()).find(|&n| !fits(at + n, &bytes[n..=n], versions));
                ensure!(wrong.is_none(), "byte {wrong:?} was never written there");
                Ok(())
            }
            Self::Blocks(versions) => {
                let mut from = at;
                while from < at + bytes.len() {
                    let to = ((from / BLOCK + 1) * BLOCK).min(at + bytes.len());
                    let part = &bytes[from - at..to - at];
                    ensure!(
                        fits(from, part, versions),
                        "bytes {from} to {to} were never there"
                    );
                    from = to;
                }
                Ok(())
            }
        }
    }
}

/// An image on a ramdisk, in versions of the same length.
struct Changing {
    disk: Placed,
    /// What the image's sectors hold in each version, with the marker behind the image's end.
    versions: Vec<Vec<u8>>,
}

impl Changing {
    /// The first version is the right one.
    fn new(ctx: &mut Ctx, files: Vec<Vec<u8>>) -> Result<Self> {
        let length = files[0].len();
        ensure!(files.iter().all(|file| file.len() == length), "lengths");
        let disk = Lower::RamDisk.with(ctx, AROUND, &files[0])?;
        let padded = length.next_multiple_of(SECTOR as usize);
        let versions = files.into_iter().map(|mut file| {
            file.extend(Marker::OUTSIDE.bytes(padded - length));
            file
        });
        let this = Self {
            disk,
            versions: versions.collect(),
        };
        let around = Marker::OUTSIDE.bytes((AROUND * SECTOR) as usize);
        let whole = [&around[..], &this.versions[0], &around].concat();
        this.write(0, &whole)?;
        Ok(this)
    }

    /// Overwrites whole sectors, past the page cache.
    fn write(&self, sector: u64, bytes: &[u8]) -> Result<()> {
        let flags = OFlags::DIRECT.bits() as i32;
        let file = File::options()
            .write(true)
            .custom_flags(flags)
            .open(&self.disk.path)?;
        let mut buffer = Buffer::new(bytes.len(), 0);
        buffer.all().copy_from_slice(bytes);
        file.write_all_at(buffer.all(), sector * SECTOR)?;
        Ok(())
    }

    /// Overwrites some of the image by what a version has there.
    fn change(&self, rng: &mut Rng) -> Result<()> {
        let version = &self.versions[rng.index(self.versions.len())];
        let sectors = version.len() as u64 / SECTOR;
        let from = rng.within(0..sectors);
        let to = from + rng.length(sectors - from);
        let bytes = &version[(from * SECTOR) as usize..(to * SECTOR) as usize];
        self.write(AROUND + from, bytes)
    }

    /// Makes it right again.
    fn restore(&self) -> Result<()> {
        self.write(AROUND, &self.versions[0])
    }

    /// The words of a table line.
    fn words(&self) -> String {
        self.disk.words()
    }

    /// Reads the last of `devices`, which stand on each other, while the image changes and tables for
    /// it are offered; then all is right.
    fn run(
        &self,
        ctx: &mut Ctx,
        devices: &[&Device],
        right: &[u8],
        allowed: Allowed<'_>,
    ) -> Result<()> {
        let device = devices.last().context("no device")?;
        let direct = Direct::open(&device.path)?;
        let buffered = File::open(&device.path)?;
        let one = |rng: &mut Rng| {
            let (at, length) = place(rng);
            look(
                direct.attempt(at, length, Marker::BEFORE.word()),
                at,
                allowed,
            )
        };
        let pieces = |rng: &mut Rng| {
            let (at, length) = place(rng);
            look(
                direct.scatter(at, length, Marker::BEFORE.word()),
                at,
                allowed,
            )
        };
        let cached = |rng: &mut Rng| {
            let (at, length) = place(rng);
            let mut bytes = Marker::BEFORE.bytes(length);
            let result = buffered.read_exact_at(&mut bytes, at);
            fadvise(&buffered, 0, None, Advice::DontNeed)?;
            look((result, bytes), at, allowed)
        };
        let readers: [Read<'_>; 4] = [&one, &one, &pieces, &cached];
        let table = ctx.dm()?.table(Id::Dev(device.dev.0))?;
        let other = ctx.device()?;
        let mut rng = ctx.rng().fork();
        Load::with(&mut rng.fork(), &readers, |load| {
            for number in 0..WRITES {
                self.change(&mut rng)?;
                if number % BURST == 0 {
                    load.more(1)?;
                    activate(ctx, &other, &table, &mut rng)?;
                }
            }
            Ok(())
        })?;
        self.restore()?;
        // Tables are loaded anew, because blocks that were decompressed meanwhile are kept.
        for device in devices {
            let table = ctx.dm()?.table(Id::Dev(device.dev.0))?;
            ctx.load(device, &table)?;
        }
        let again = Direct::open(&device.path)?.read(0, right.len())?;
        ensure!(again == right, "wrong bytes after all");
        Ok(())
    }
}

/// A table for an image that changes meanwhile is taken or refused, and what is taken shows nothing
/// but the image.
fn activate(ctx: &mut Ctx, device: &Device, table: &[Target], rng: &mut Rng) -> Result<()> {
    if let Err(refusal) = ctx.offer(device, table)? {
        let expected = [Errno::INVAL, Errno::IO];
        ensure!(expected.contains(&refusal.errno), "{refusal:#?}");
        return Ok(());
    }
    let direct = Direct::open(&device.path)?;
    for _ in 0..4 {
        let (at, length) = place(rng);
        let attempt = direct.attempt(at, length, Marker::BEFORE.word());
        look(attempt, at, Allowed::Anything)?;
    }
    Ok(())
}

/// Some sectors: byte offset and length.
fn place(rng: &mut Rng) -> (u64, usize) {
    let from = rng.within(0..DISK);
    let count = rng.length(DISK - from);
    (from * SECTOR, (count * SECTOR) as usize)
}

/// Looks at what was read.
fn look(attempt: Attempt, at: u64, allowed: Allowed<'_>) -> Result<()> {
    let (result, bytes) = attempt;
    marker::nothing_shows(&result, &bytes)?;
    match result {
        Ok(()) => allowed.check(at as usize, &bytes),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => Ok(()),
        Err(error) => bail!("{error}"),
    }
    .with_context(|| format!("{} bytes at {at}", bytes.len()))
}

/// Noise, and zeros, as long as a file.
fn junk(ctx: &mut Ctx, length: usize) -> [Vec<u8>; 2] {
    [forge::content(length, ctx.rng()), vec![0; length]]
}

/// The file with malformed streams in all blocks, which are as long as before, and whose checksums
/// are right.
fn malformed(zfile: &Zfile, streams: &[Stream], verify: bool) -> Vec<u8> {
    let mut bytes = zfile.bytes();
    // What follows a stream that is nearly whole could make it right.
    let is_short = |stream: &&Stream| stream.content.is_none() && stream.bytes.len() < BLOCK / 2;
    let streams = streams.iter().filter(is_short);
    for (block, stream) in (0..zfile.blocks.len()).zip(streams.cycle()) {
        let (at, length) = zfile.block_place(block);
        let payload = at..at + length - if verify { 4 } else { 0 };
        let end = stream.bytes.len().min(payload.len());
        put(&mut bytes, at, &stream.bytes[..end]);
        if verify {
            let crc = forge::block_crc(&bytes[payload.clone()]).to_le_bytes();
            put(&mut bytes, payload.end, &crc);
        }
    }
    bytes
}

fn zfile(ctx: &mut Ctx, codec: Codec, verify: bool) -> Result<()> {
    let contents = [0; 2].map(|_| forge::content(ORIGINAL, ctx.rng()));
    let zfiles = contents
        .each_ref()
        .map(|content| Zfile::new(content, BLOCK as u32, codec, verify));
    let streams = match codec {
        Codec::Lz4 => streams::lz4(&contents[0][..BLOCK])?,
        Codec::Zstd => streams::zstd(&contents[0][..BLOCK])?,
    };
    let mut files = zfiles.each_ref().map(Zfile::bytes).to_vec();
    files.push(malformed(&zfiles[0], &streams, verify));
    files.extend(junk(ctx, files[0].len()));
    let changing = Changing::new(ctx, files)?;
    let device = ctx.target(DISK, "zfile", &changing.words())?;
    let allowed = match verify {
        true => Allowed::Blocks(&contents),
        false => Allowed::Anything,
    };
    changing.run(ctx, &[&device], &contents[0], allowed)
}

/// A layer whose extents are everywhere on its disk, and its data.
fn layer(data: &[u8]) -> Layer {
    let mut layer = Layer::new(DISK * SECTOR);
    let (mut start, mut rest) = (3, data);
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(rest.len().min(20 * SECTOR as usize));
        layer = layer.data(start, part);
        (start, rest) = (start + 23, behind);
    }
    layer
}

fn lsmt(ctx: &mut Ctx) -> Result<()> {
    const DATA: usize = 400 * SECTOR as usize;
    let [noise, zeros] = junk(ctx, DATA);
    let contents = [0; 2].map(|_| forge::content(DATA, ctx.rng()));
    let layers = contents
        .iter()
        .chain([&noise, &zeros])
        .map(|data| layer(data));
    let layers: Vec<_> = layers.collect();
    let mut files: Vec<_> = layers.iter().map(Layer::bytes).collect();
    // Where the index and the records are, these versions are junk, too.
    for (file, fill) in files[2..].iter_mut().zip([0x5f, 0]) {
        file[..4096].fill(fill);
        file[4096 + DATA..].fill(fill);
    }
    let shown = layers.iter().map(|layer| {
        let mut disk = vec![0; ORIGINAL];
        layer.apply(&mut disk);
        disk
    });
    let shown: Vec<_> = shown.collect();
    let changing = Changing::new(ctx, files)?;
    let device = ctx.target(DISK, "lsmt", &format!("1 {}", changing.words()))?;
    changing.run(ctx, &[&device], &shown[0], Allowed::Bytes(&shown))
}

fn lsmt_over_zfile(ctx: &mut Ctx) -> Result<()> {
    let contents = [0; 2].map(|_| forge::content(400 * SECTOR as usize, ctx.rng()));
    let layers = contents.each_ref().map(|data| layer(data));
    let zfiles = layers
        .each_ref()
        .map(|layer| Zfile::new(&layer.bytes(), BLOCK as u32, Codec::Lz4, false));
    let mut files = zfiles.each_ref().map(Zfile::bytes).to_vec();
    files.extend(junk(ctx, files[0].len()));
    let changing = Changing::new(ctx, files)?;
    let length = layers[0].bytes().len() as u64;
    let line = target(0, length.div_ceil(SECTOR), "zfile", &changing.words());
    let below = ctx.device_of(&[line])?;
    let device = ctx.target(DISK, "lsmt", &format!("1 {} 0 {length}", below.dev))?;
    let mut right = vec![0; ORIGINAL];
    layers[0].apply(&mut right);
    changing.run(ctx, &[&below, &device], &right, Allowed::Anything)
}
