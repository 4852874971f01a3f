// SPDX-License-Identifier: GPL-2.0-only

//! The limits that the bench measures against: what the kernel's own decompressors, checksum
//! and copy take for given blocks. Built only when asked for (`CONFIG_OVBD_LIMITS=m`), and no
//! part of dm-overlaybd.
//!
//! A write to `/dev/ovbd-limits` is one job: a header of four 32-bit numbers (which [`Job`], bytes
//! of a whole decompressed block, number of blocks, how often to go through them), the stored
//! length of each block as 32 bits, and the blocks back to back. It returns when the job is
//! done; a read then yields the nanoseconds it took, as 64 bits.

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

mod c {
    use kernel::ffi::{c_char, c_int, c_void};

    extern "C" {
        pub(super) fn LZ4_decompress_safe(
            source: *const c_char,
            dest: *mut c_char,
            compressed: c_int,
            capacity: c_int,
        ) -> c_int;
        pub(super) fn crc32c(seed: u32, data: *const c_void, length: usize) -> u32;
        pub(super) fn zstd_dctx_workspace_bound() -> usize;
        pub(super) fn zstd_init_dctx(workspace: *mut c_void, size: usize) -> *mut c_void;
        pub(super) fn zstd_decompress_dctx(
            context: *mut c_void,
            dest: *mut c_void,
            capacity: usize,
            source: *const c_void,
            length: usize,
        ) -> usize;
    }
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
        let zstd = Zstd::new(self.job)?;
        let start = Instant::<Monotonic>::now();
        for _ in 0..self.rounds {
            let mut blocks = self.blocks;
            for length in words(self.lengths) {
                let (block, rest) = blocks.split_at_checked(length as usize).ok_or(EINVAL)?;
                blocks = rest;
                self.one(block, &mut output, &zstd)?;
            }
        }
        Ok(start.elapsed().as_nanos())
    }

    #[inline]
    fn one(&self, block: &[u8], output: &mut [u8], zstd: &Zstd) -> Result {
        match self.job {
            Job::Lz4 => {
                let output = output.get_mut(..self.block_size).ok_or(EINVAL)?;
                // SAFETY: Both lengths are those of the slices, and fit in 32 bits.
                let written = unsafe {
                    c::LZ4_decompress_safe(
                        block.as_ptr().cast(),
                        output.as_mut_ptr().cast(),
                        block.len() as i32,
                        output.len() as i32,
                    )
                };
                if written < 0 {
                    return Err(EIO);
                }
            }
            Job::Zstd => {
                zstd.decompress(block, output.get_mut(..self.block_size).ok_or(EINVAL)?)?
            }
            Job::Crc32c => {
                // SAFETY: The length is that of the slice.
                let crc = unsafe { c::crc32c(!0, block.as_ptr().cast(), block.len()) };
                core::hint::black_box(crc);
            }
            Job::Copy => {
                let output = output.get_mut(..block.len()).ok_or(EINVAL)?;
                output.copy_from_slice(block);
                core::hint::black_box(output);
            }
        }
        Ok(())
    }
}

/// A zstd decoder, if the job needs one.
struct Zstd {
    workspace: KVVec<u8>,
    context: *mut kernel::ffi::c_void,
}

impl Zstd {
    fn new(job: Job) -> Result<Self> {
        if !matches!(job, Job::Zstd) {
            return Ok(Self {
                workspace: KVVec::new(),
                context: core::ptr::null_mut(),
            });
        }
        // SAFETY: No preconditions.
        let size = unsafe { c::zstd_dctx_workspace_bound() };
        let mut workspace = KVVec::<u8>::zeroed(size, GFP_KERNEL)?;
        // SAFETY: The workspace has that size and is kept as long as the context.
        let context = unsafe { c::zstd_init_dctx(workspace.as_mut_ptr().cast(), size) };
        if context.is_null() {
            return Err(EINVAL);
        }
        Ok(Self { workspace, context })
    }

    fn decompress(&self, block: &[u8], output: &mut [u8]) -> Result {
        if self.workspace.is_empty() {
            return Err(EINVAL);
        }
        // SAFETY: The context lives in the workspace; the lengths are those of the slices.
        let written = unsafe {
            c::zstd_decompress_dctx(
                self.context,
                output.as_mut_ptr().cast(),
                output.len(),
                block.as_ptr().cast(),
                block.len(),
            )
        };
        // Errors are numbers above any length.
        if written > output.len() {
            return Err(EIO);
        }
        Ok(())
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
