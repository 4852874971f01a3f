// SPDX-License-Identifier: GPL-2.0-only

//! The `zfile` target: the original file of a ZFile that lies on a block device.
//!
//! See `Documentation/admin-guide/device-mapper/dm-zfile.rst` for the grammar.

mod cache;
mod read;
mod shared;

pub(crate) use self::shared::Shared;

use self::{
    read::{BlockSize, MAX_READ},
    shared::Member,
};
use crate::{
    dm::{
        bio::{Mapped, MappedBio},
        construct::{Arguments, Below, Constructor, DeviceName, Refusal},
        counters::Counters,
        device::Device,
        limits::Limits,
        platform::{File, Kernel},
        ratelimit::RateLimit,
        read::InFlight,
        reserve::Reserve,
        status::{StatusKind, StatusWriter},
        target::{DeviceVisitor, Target},
    },
    format::{
        status::ZfileStatus,
        table::ZfileArgs,
        zfile::{Header, ZFile},
        Bytes, SECTOR,
    },
};
use core::fmt::Write as _;
use kernel::{ffi::c_int, prelude::*, sync::Arc};

/// The least reserve, in bytes; large blocks need more. See [`Reserve`].
const MIN_RESERVE: usize = 32 * 1024;

// Indices of the counters.
const SECTORS_READ: usize = 0;
const BYTES_DECOMPRESSED: usize = 1;
const CACHE_HITS: usize = 2;
const RESERVE_WAITS: usize = 3;
const BLOCKS_BAD_CRC: usize = 4;
const BLOCKS_CORRUPT: usize = 5;
const READS_FAILED: usize = 6;

/// A ZFile on a block device.
#[pin_data]
pub(crate) struct Zfile {
    device: Device,
    /// Where the ZFile lies on the device: sector, and length in bytes.
    offset: u64,
    length: Bytes,
    /// `offset` in bytes.
    start: Bytes,
    /// The device's logical block size, less 1.
    lower_block_mask: Bytes,
    file: ZFile<Kernel>,
    blocks: BlockSize,
    ignore_crc: bool,
    reserve: Arc<Reserve>,
    shared: Member,
    counters: Counters<7>,
    name: DeviceName,
    #[pin]
    log: RateLimit,
}

impl Zfile {
    /// Reads header, trailer and index.
    fn open(
        below: &Below<'_>,
        device: &Device,
        args: &ZfileArgs<'_>,
    ) -> Result<ZFile<Kernel>, Refusal> {
        let file = File::new(Self::NAME, below, device, args.offset, args.length)?;
        ZFile::open(&file, args.length)
            .map_err(|error| Refusal::unreadable(Self::NAME, format_args!("{below}"), &error))
    }
}

#[vtable]
impl Target for Zfile {
    const NAME: &'static CStr = c"zfile";
    const VERSION: [u32; 3] = [1, 1, 0];
    const FEATURES: u64 = crate::dm::target::NOWAIT;

    type PerBio = InFlight<Self>;
    type Shared = Shared;

    fn construct(
        ti: &mut Constructor<'_>,
        arguments: Arguments<'_>,
        shared: &Arc<Shared>,
    ) -> Result<Pin<KBox<Self>>, Refusal> {
        ti.check_read_only()?;
        let args = ZfileArgs::parse(arguments.words()).map_err(|e| Refusal::invalid(e.reason()))?;
        let name = ti.device_name();
        let below = Below {
            name: &name,
            layer: None,
            device: args.device,
        };
        let device = ti.open_word(Self::NAME, arguments, &below)?;
        let file = Self::open(&below, &device, &args)?;

        let size = file.original_size();
        if size == 0 {
            return Err(Refusal::invalid(c"Original file is empty"));
        }
        ti.check_length(Self::NAME, size)?;

        let lower_block = device.logical_block_size();
        let longest = file
            .stored_len()
            .end()
            .saturating_add(lower_block.saturating_mul(2));
        if longest > MAX_READ {
            return Err(Refusal::invalid(c"Logical block too large"));
        }
        let target = KBox::try_pin_init(
            try_pin_init!(Self {
                reserve: Reserve::new(MIN_RESERVE.max(longest as usize))?,
                shared: Member::new(shared, file.algorithm())?,
                counters: Counters::new()?,
                log <- RateLimit::new(),
                offset: args.offset,
                length: args.length,
                start: args.offset.saturating_mul(SECTOR),
                lower_block_mask: u64::from(lower_block).saturating_sub(1),
                blocks: BlockSize::new(file.block_size()),
                ignore_crc: args.ignore_crc,
                device,
                file,
                name,
            }? Error),
            GFP_KERNEL,
        )?;
        Ok(target)
    }

    fn map<'a>(&'a self, bio: MappedBio<'a, Self>) -> Mapped<'a> {
        match bio.into_read() {
            Ok(bio) => self.read(bio),
            Err(bio) => bio.kill(),
        }
    }

    fn status(&self, kind: StatusKind, out: &mut StatusWriter<'_>) -> core::fmt::Result {
        match kind {
            StatusKind::Info => {
                let [read_sectors, decompressed_bytes, cache_hits, reserve_waits, crc_errors, decompress_errors, io_errors] =
                    self.counters.sums();
                let status = ZfileStatus {
                    algorithm: self.file.algorithm(),
                    block_size: self.file.block_size().into(),
                    blocks: self.file.block_count(),
                    size: self.file.original_size(),
                    read_sectors,
                    decompressed_bytes,
                    cache_hits,
                    reserve_waits,
                    crc_errors,
                    decompress_errors,
                    io_errors,
                };
                write!(out, "{status}")
            }
            StatusKind::Table => {
                let args = ZfileArgs {
                    device: self.device.name(),
                    offset: self.offset,
                    length: self.length,
                    ignore_crc: self.ignore_crc,
                };
                write!(out, "{args}")
            }
            StatusKind::Ima => {
                let Header {
                    index_crc, digest, ..
                } = self.file.trailer();
                write!(
                    out,
                    ",device_name={},offset={},length={},size={},block_size={},ignore_crc={},digest={digest:08x},index_crc={index_crc:08x};",
                    self.device.name(),
                    self.offset,
                    self.length,
                    self.file.original_size(),
                    self.file.block_size(),
                    if self.ignore_crc { 'y' } else { 'n' },
                )
            }
        }
    }

    fn message(&self, arguments: Arguments<'_>) -> Result {
        arguments.expect_reset_stats()?;
        self.counters.reset();
        Ok(())
    }

    fn iterate_devices(&self, visit: &mut DeviceVisitor<'_>) -> c_int {
        // Rounded out to the logical blocks of the device, as the reads are.
        let mask = self.lower_block_mask;
        let start = self.start & !mask;
        let end = self.start.saturating_add(self.length).saturating_add(mask) & !mask;
        visit.visit(
            &self.device,
            start / SECTOR,
            end.saturating_sub(start) / SECTOR,
        )
    }

    fn io_hints(&self, limits: &mut Limits<'_>) {
        limits.detach(self.file.block_size());
    }
}
