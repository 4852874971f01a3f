// SPDX-License-Identifier: GPL-2.0-only

//! The limits that the bench measures against: what the kernel's own decompressors, checksum
//! and copy take for given blocks. Built only when asked for (`CONFIG_OVBD_LIMITS=m`), and no
//! part of dm-overlaybd, but for the wrappers of what is measured.
//!
//! A write to `/dev/ovbd-limits` is one job: a header of four 32-bit numbers (which [`Job`], bytes
//! of a whole decompressed block, number of blocks, how often to go through them), the stored
//! length of each block as 32 bits, and the blocks back to back. It returns when the job is
//! done; a read then yields the nanoseconds it took, as 64 bits.

use dm::codec::{self, Zstd};
use kernel::{
    fs::{File, Kiocb},
    iov::{IovIterDest, IovIterSource},
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    new_mutex,
    prelude::*,
    sync::Mutex,
    time::{Instant, Monotonic},
};

module! {
    type: Limits,
    name: "ovbd_limits",
    authors: ["The dm-overlaybd developers"],
    description: "Measures the kernel's decompressors, for the bench of dm-overlaybd",
    license: "GPL v2",
}

// Both are dm-overlaybd's, which uses more of them.
#[allow(dead_code)]
mod bindings;
#[allow(dead_code)]
mod dm {
    pub(crate) mod codec;
    pub(crate) mod segments;
}

#[pin_data]
struct Limits {
    #[pin]
    device: MiscDeviceRegistration<Bench>,
}

impl kernel::InPlaceModule for Limits {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let options = MiscDeviceOptions {
            name: c"ovbd-limits",
        };
        try_pin_init!(Self {
            device <- MiscDeviceRegistration::register(options),
        })
    }
}

/// An open file: the time that its last job took.
#[pin_data]
struct Bench {
    #[pin]
    nanoseconds: Mutex<i64>,
}

#[vtable]
impl MiscDevice for Bench {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        KBox::try_pin_init(
            try_pin_init!(Self { nanoseconds <- new_mutex!(0) }),
            GFP_KERNEL,
        )
    }

    fn read_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let nanoseconds = *kiocb.file().nanoseconds.lock();
        Ok(iov.copy_to_iter(&nanoseconds.to_ne_bytes()))
    }

    fn write_iter(kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut request = KVVec::<u8>::new();
        let length = iov.copy_from_iter_vec(&mut request, GFP_KERNEL)?;
        let nanoseconds = Request::parse(&request)?.run()?;
        *kiocb.file().nanoseconds.lock() = nanoseconds;
        Ok(length)
    }
}

/// What to do with each block.
#[derive(Clone, Copy)]
enum Job {
    Lz4,
    Zstd,
    Crc32c,
    /// Copy what is stored.
    Copy,
}

impl Job {
    fn from_number(number: u32) -> Result<Self> {
        match number {
            0 => Ok(Self::Lz4),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::Crc32c),
            3 => Ok(Self::Copy),
            _ => Err(EINVAL),
        }
    }
}

const WORD: usize = 4;
const HEADER: usize = 4 * WORD;
const MAX_BLOCK: usize = 64 << 10;

/// A job with its blocks.
struct Request<'a> {
    job: Job,
    block_size: usize,
    rounds: u32,
    lengths: &'a [u8],
    blocks: &'a [u8],
}

impl<'a> Request<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER).ok_or(EINVAL)?;
        let mut header = words(header);
        let mut next = || header.next().ok_or(EINVAL);
        let (job, block_size, count) = (next()?, next()? as usize, next()? as usize);
        let rounds = next()?;
        let table = count.checked_mul(WORD).ok_or(EINVAL)?;
        let (lengths, blocks) = rest.split_at_checked(table).ok_or(EINVAL)?;
        let stored = words(lengths).fold(0usize, |sum, n| sum.saturating_add(n as usize));
        if stored != blocks.len() || block_size == 0 || block_size > MAX_BLOCK {
            return Err(EINVAL);
        }
        if words(lengths).any(|length| length as usize > 2 * MAX_BLOCK) {
            return Err(EINVAL);
        }
        Ok(Self {
            job: Job::from_number(job)?,
            block_size,
            rounds,
            lengths,
            blocks,
        })
    }

    fn run(&self) -> Result<i64> {
        let mut output = KVVec::<u8>::zeroed(2 * MAX_BLOCK, GFP_KERNEL)?;
        let mut zstd = match self.job {
            Job::Zstd => Some(Zstd::new()?),
            _ => None,
        };
        let start = Instant::<Monotonic>::now();
        for _ in 0..self.rounds {
            let mut blocks = self.blocks;
            for length in words(self.lengths) {
                let (block, rest) = blocks.split_at_checked(length as usize).ok_or(EINVAL)?;
                blocks = rest;
                self.one(block, &mut output, zstd.as_mut())?;
            }
        }
        Ok(start.elapsed().as_nanos())
    }

    #[inline]
    fn one(&self, block: &[u8], output: &mut [u8], zstd: Option<&mut Zstd>) -> Result {
        let length = match self.job {
            Job::Copy => block.len(),
            _ => self.block_size,
        };
        let output = output.get_mut(..length).ok_or(EINVAL)?;
        let done = match self.job {
            Job::Lz4 => codec::lz4(block, output.into()).is_some(),
            Job::Zstd => zstd
                .and_then(|zstd| zstd.decompress(block, output.into()))
                .is_some(),
            Job::Crc32c => {
                core::hint::black_box(codec::crc32c(!0, block));
                true
            }
            Job::Copy => {
                output.copy_from_slice(block);
                core::hint::black_box(output);
                true
            }
        };
        if done {
            Ok(())
        } else {
            Err(EIO)
        }
    }
}

/// 32-bit numbers.
fn words(bytes: &[u8]) -> impl Iterator<Item = u32> + '_ {
    bytes.chunks_exact(WORD).map(|word| {
        word.iter()
            .rev()
            .fold(0, |n, &byte| n << 8 | u32::from(byte))
    })
}
