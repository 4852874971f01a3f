// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files with a few random changes, their checksums made right again so that the checks behind
//! them are reached. What the kernel makes of each is compared with what userspace does: refused
//! for the same reason, in the same words, or read to the same bytes.

mod layers;
mod zfiles;

use anyhow::{bail, ensure, Result};
use overlaybd_format::{Error, Invalid};
use rustix::io::Errno;

use crate::ctx::{target, Ctx, Device, Disk, SECTOR};
use crate::forge::{put, Codec};
use crate::golden::MARKER;
use crate::harness::Case;
use crate::rng::Rng;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("mutants.zfile.lz4", |ctx| zfiles::all(ctx, Codec::Lz4)),
        Case::new("mutants.zfile.zstd", |ctx| zfiles::all(ctx, Codec::Zstd)),
        Case::new("mutants.lsmt", layers::all),
    ]
}

/// Where files begin, sectors.
const AT: u64 = 1;
/// Room for any file here, bytes.
const ROOM: usize = 64 << 10;
/// Files of each kind.
const ROUNDS: u64 = 120;

/// A disk whose content is exchanged, and a device to try it with.
struct Bench {
    disk: Disk,
    device: Device,
    taken: u64,
    refused: u64,
}

impl Bench {
    fn new(ctx: &mut Ctx) -> Result<Self> {
        Ok(Self {
            disk: ctx.image(&vec![MARKER; ROOM])?,
            device: ctx.device()?,
            taken: 0,
            refused: 0,
        })
    }

    /// Puts a file on the disk, with the marker around it; returns all from its beginning on.
    fn put(&self, file: &[u8]) -> Result<Vec<u8>> {
        let mut all = vec![MARKER; ROOM];
        put(&mut all, (AT * SECTOR) as usize, file);
        self.disk.write(0, &all)?;
        Ok(all.split_off((AT * SECTOR) as usize))
    }

    /// Offers a table, and compares what becomes of it with `expected`: the sectors that it has,
    /// or the refusal and whose it is. Whether the table was taken.
    fn offer(
        &mut self,
        ctx: &mut Ctx,
        kind: &str,
        params: &str,
        expected: Result<u64, (&str, Invalid)>,
    ) -> Result<bool> {
        let sectors = expected.as_ref().copied().unwrap_or(1);
        let table = [target(0, sectors, kind, params)];
        match (ctx.offer(&self.device, &table)?, expected) {
            (Ok(()), Ok(_)) => self.taken += 1,
            (Err(refusal), Err((whose, invalid))) => {
                let reason = invalid.reason().to_str()?;
                let line = format!("{whose}{invalid}");
                refusal.expect_line(Errno::INVAL, kind, reason, &line)?;
                self.refused += 1;
                return Ok(false);
            }
            (Ok(()), Err((_, invalid))) => bail!("taken, although: {invalid}"),
            (Err(refusal), Ok(_)) => bail!("refused, although nothing is wrong: {refusal:#?}"),
        }
        Ok(true)
    }

    /// Both happened often enough to mean something.
    fn finish(&self) -> Result<()> {
        let (taken, refused) = (self.taken, self.refused);
        ensure!(
            taken > ROUNDS / 10 && refused > ROUNDS / 10,
            "{taken} taken, {refused} refused"
        );
        Ok(())
    }
}

/// The reason for which a file in memory is refused.
fn invalid<E>(error: Error<E>) -> Result<Invalid> {
    match error {
        Error::Invalid(invalid) => Ok(invalid),
        Error::NoMemory => bail!("out of memory"),
        Error::Read { offset, .. } => bail!("a read of byte {offset}, beyond the file"),
    }
}

/// A number that may be special: limits of types and of the format, or close to what was there.
fn special(rng: &mut Rng, was: u64, length: u64) -> u64 {
    const NUMBERS: [u64; 22] = [
        0,
        1,
        2,
        4,
        5,
        511,
        512,
        4095,
        4096,
        8192,
        65_536,
        131_072,
        1 << 31,
        1 << 32,
        1 << 50,
        1 << 55,
        1 << 59,
        1 << 60,
        1 << 62,
        1 << 63,
        u32::MAX as u64,
        u64::MAX,
    ];
    match rng.index(6) {
        0 => NUMBERS[rng.index(NUMBERS.len())],
        1 => was.wrapping_add(rng.length(16)),
        2 => was.wrapping_sub(rng.length(16)),
        3 => was ^ 1 << rng.index(64),
        4 => rng.length(length),
        _ => rng.next() >> rng.index(64),
    }
}

/// Sets one of `fields`, offset and width, to something special.
fn change_field(rng: &mut Rng, record: &mut [u8], fields: &[(usize, usize)], length: u64) {
    let (at, width) = fields[rng.index(fields.len())];
    let mut was = [0; 8];
    was[..width].copy_from_slice(&record[at..at + width]);
    let value = special(rng, u64::from_le_bytes(was), length);
    put(record, at, &value.to_le_bytes()[..width]);
}
