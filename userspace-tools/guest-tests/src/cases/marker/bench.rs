// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A disk full of the marker with many images on it, and devices to offer them to.

use std::fs;

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::Target;
use overlaybd_format::Invalid;
use rustix::io::Errno;

use super::stain::Stain;
use crate::ctx::{target, Ctx, Device, Disk, SECTOR};
use crate::forge::put;
use crate::read::{self, Attempt, Direct};
use crate::rig::lower;
use crate::rig::marker::{self, Marker};
use crate::rng::Rng;

/// So many images, half of which have one change, have each change alone.
const ALL: u64 = 6700;
/// Images that are on the disk together.
pub const BATCH: usize = 16;
/// Bytes of the disk.
const ROOM: usize = 2 << 20;
/// The most sectors of the marker in front of an image.
const GAP: u64 = 9;

/// Why a table must be refused.
pub struct Wrong {
    errno: Errno,
    reason: String,
    /// What the target itself says about it.
    line: String,
}

impl Wrong {
    /// A file at fault; `whose` is what the line begins with.
    pub fn file(whose: &str, invalid: &Invalid) -> Result<Self> {
        Ok(Self {
            errno: Errno::INVAL,
            reason: invalid.reason().to_str()?.to_owned(),
            line: format!("{whose}{invalid}"),
        })
    }

    /// A file that cannot be read from a byte on.
    pub fn unreadable(whose: &str, offset: u64) -> Self {
        let errno = Errno::IO;
        Self {
            errno,
            reason: "Cannot read device".to_owned(),
            line: format!(
                "{whose}reading byte {offset} on: error -{}",
                errno.raw_os_error()
            ),
        }
    }

    /// Nothing is at fault but what it is.
    pub fn itself(reason: &str) -> Self {
        Self {
            errno: Errno::INVAL,
            reason: reason.to_owned(),
            line: String::new(),
        }
    }
}

/// An image that a device has, and how it is read.
pub trait Image {
    /// What was done to it.
    fn name(&self) -> String;
    /// The words of the table.
    fn params(&self) -> &str;
    /// What it must be: sectors, or a refusal.
    fn expected(&self) -> Result<u64, &Wrong>;
    /// Reads it, from byte `base` of the device on.
    fn read(&self, reads: &mut Reads, base: u64, rng: &mut Rng) -> Result<()>;
}

/// What happened.
#[derive(Debug, Default)]
pub struct Tally {
    taken: u64,
    refused: u64,
    read: u64,
    failed: u64,
}

/// A disk, devices, and what happened with them.
pub struct Bench {
    pub disk: Disk,
    /// What may be between the disk and the images.
    pub between: Device,
    taking: Device,
    refusing: Device,
    stain: Stain,
    tally: Tally,
}

impl Bench {
    /// A disk with logical blocks of `block` bytes.
    pub fn new(ctx: &mut Ctx, block: &str) -> Result<Self> {
        let path = lower::null_blk(ctx, ROOM, &[("blocksize", block)])?;
        Ok(Self {
            disk: Disk::of(path)?,
            between: ctx.device()?,
            taking: ctx.device()?,
            refusing: ctx.device()?,
            stain: Stain::new(ctx)?,
            tally: Tally::default(),
        })
    }

    /// Puts files on the disk, with the marker between them. Returns what is on the disk, and where
    /// each file begins, sectors.
    pub fn lay_out(&self, rng: &mut Rng, files: &[&[u8]]) -> Result<(Vec<u8>, Vec<u64>)> {
        let mut all = Marker::OUTSIDE.bytes(ROOM);
        let mut next = 0;
        let mut starts = Vec::new();
        for file in files {
            let start = next + rng.length(GAP);
            let at = (start * SECTOR) as usize;
            ensure!(
                at + file.len() + SECTOR as usize <= ROOM,
                "the disk is full"
            );
            put(&mut all, at, file);
            starts.push(start);
            next = start + (file.len() as u64).div_ceil(SECTOR);
        }
        self.disk.write(0, &all)?;
        Ok((all, starts))
    }

    /// Offers each image: those that are wrong alone, the others together; these are read.
    pub fn offer(&mut self, ctx: &mut Ctx, kind: &str, images: &[impl Image]) -> Result<()> {
        let mut table = Vec::new();
        let mut placed = Vec::new();
        let mut next = 0u64;
        for image in images {
            match image.expected() {
                Err(wrong) => self
                    .refuse(ctx, kind, image.params(), wrong)
                    .with_context(|| image.name())?,
                Ok(sectors) => {
                    // A device has no more sectors than fit into 2^63 bytes.
                    if next + sectors > MOST_SECTORS {
                        self.take(ctx, &table, &placed)?;
                        (table, placed, next) = (Vec::new(), Vec::new(), 0);
                    }
                    table.push(target(next, sectors, kind, image.params()));
                    placed.push((image, next));
                    next += sectors;
                }
            }
        }
        self.take(ctx, &table, &placed)
    }

    fn refuse(&mut self, ctx: &mut Ctx, kind: &str, params: &str, wrong: &Wrong) -> Result<()> {
        let table = [target(0, 1, kind, params)];
        match ctx.offer(&self.refusing, &table)? {
            Ok(()) => bail!("taken, although: {} {}", wrong.reason, wrong.line),
            Err(refusal) => refusal.expect_line(wrong.errno, kind, &wrong.reason, &wrong.line)?,
        }
        self.tally.refused += 1;
        Ok(())
    }

    fn take(
        &mut self,
        ctx: &mut Ctx,
        table: &[Target],
        images: &[(&impl Image, u64)],
    ) -> Result<()> {
        if table.is_empty() {
            return Ok(());
        }
        if ctx.offer(&self.taking, table)?.is_err() {
            return self.find_the_refused(ctx, table, images);
        }
        self.stain.spread()?;
        let mut reads = Reads {
            device: Direct::open(&self.taking.path)?,
            tally: &mut self.tally,
        };
        for (image, start) in images {
            image
                .read(&mut reads, start * SECTOR, ctx.rng())
                .with_context(|| image.name())?;
            reads.tally.taken += 1;
        }
        Ok(())
    }

    /// Says which image it was.
    fn find_the_refused(
        &mut self,
        ctx: &mut Ctx,
        table: &[Target],
        images: &[(&impl Image, u64)],
    ) -> Result<()> {
        for (line, (image, _)) in table.iter().zip(images) {
            let alone = [target(0, line.length, &line.kind, &line.params)];
            if let Err(refusal) = ctx.offer(&self.taking, &alone)? {
                bail!(
                    "{}: refused, although nothing is wrong: {refusal:#?}",
                    image.name()
                );
            }
        }
        bail!("each is taken alone, but not all of them: {table:?}");
    }

    /// Counts what happened with another bench, too.
    pub fn and(mut self, other: Self) -> Self {
        let (mine, theirs) = (&mut self.tally, &other.tally);
        mine.taken += theirs.taken;
        mine.refused += theirs.refused;
        mine.read += theirs.read;
        mine.failed += theirs.failed;
        self
    }

    /// Both happened often enough to mean something; says how often. `left` changes were not had
    /// alone.
    pub fn finish(&self, name: &str, images: u64, left: usize) -> Result<()> {
        let Tally {
            taken,
            refused,
            read,
            failed,
        } = self.tally;
        // Not loud enough for a failure, but on the console.
        let text = format!(
            "<4>{name}: {images} images, {refused} refused, {taken} taken; \
             {read} reads, {failed} of which failed as they must; {left} changes not had alone"
        );
        fs::write("/dev/kmsg", text).context("/dev/kmsg")?;
        ensure!(taken + refused == images, "{:?}", self.tally);
        ensure!(left == 0 || images < ALL, "{left} changes not had alone");
        ensure!(
            taken > images / 10 && refused > images / 10,
            "{:?}",
            self.tally
        );
        Ok(())
    }
}

/// As many as `loff_t` has bytes for, and room for one more image of any size.
const MOST_SECTORS: u64 = 1 << 52;

/// Reads of a device.
pub struct Reads<'a> {
    pub device: Direct,
    tally: &'a mut Tally,
}

impl Reads<'_> {
    /// Looks at what a read brought. Nothing was expected: it must have failed.
    pub fn check(&mut self, attempt: Attempt, expected: Option<&[u8]>) -> Result<()> {
        let (result, bytes) = attempt;
        marker::nothing_shows(&result, &bytes)?;
        self.tally.read += 1;
        self.tally.failed += u64::from(result.is_err());
        match (result, expected) {
            (Ok(()), Some(expected)) => read::compare(0, &bytes, expected),
            (Err(error), None) => {
                let errno = Errno::from_io_error(&error);
                ensure!(errno == Some(Errno::IO), "{error}");
                Ok(())
            }
            (Ok(()), None) => bail!("read, but userspace cannot"),
            (Err(error), Some(_)) => bail!("{error}, but userspace can read it"),
        }
    }

    /// Reads some bytes in one piece.
    pub fn one(&mut self, at: u64, length: usize, expected: Option<&[u8]>) -> Result<()> {
        let attempt = self.device.attempt(at, length, Marker::BEFORE.word());
        self.check(attempt, expected)
            .with_context(|| format!("{length} bytes at {at}"))
    }

    /// The same into memory in which no block lies in one piece.
    pub fn scattered(&mut self, at: u64, length: usize, expected: Option<&[u8]>) -> Result<()> {
        let attempt = self.device.scatter(at, length, Marker::BEFORE.word());
        self.check(attempt, expected)
            .with_context(|| format!("{length} bytes at {at}, into pieces"))
    }
}
