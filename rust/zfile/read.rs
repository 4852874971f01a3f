// SPDX-License-Identifier: GPL-2.0-only

//! The data path: from a bio to the blocks that it needs and back.
//!
//! The blocks of a bio lie back to back, so that one read of the device below
//! brings them all. A bio that needs more than [`MAX_READ`] is cut, and so is one
//! for which there is no buffer of that length; dm core sends the rest again.

use super::{
    cache::{Block, Key},
    Zfile, BLOCKS_BAD_CRC, BLOCKS_CORRUPT, BYTES_DECOMPRESSED, CACHE_HITS, READS_FAILED,
    RESERVE_WAITS, SECTORS_READ,
};
use crate::dm::{
    bio::{Mapped, ReadBio, Status},
    log::dm_err,
    read::{Extent, InFlight, Reader, MAX_PARTS},
    segments::{Cursor, Segments, Span},
    target::Target,
    work::{online_cpus, WorkQueue},
};
use crate::format::{
    zfile::{block_crc, BLOCK_CRC_LEN},
    Bytes, SECTOR,
};
use core::ops::Range;
use kernel::{
    alloc::flags::{GFP_NOWAIT, __GFP_NOWARN},
    prelude::*,
    sync::{
        atomic::{ordering, Atomic},
        UniqueArc,
    },
};

/// The most that one read brings, in bytes: what the allocator can be expected
/// to have in one piece.
pub(super) const MAX_READ: u32 = 256 * 1024;

/// The most that one bio decompresses, in bytes; zeros take next to nothing below.
const MAX_OUTPUT: Bytes = 1024 * 1024;

/// The least output that is worth being a part, and waking another CPU for, in bytes.
const MIN_PART: Bytes = 32 * 1024;

/// The unit of compression, a power of two: turns bytes of the original file into
/// blocks and back.
#[derive(Clone, Copy)]
pub(super) struct BlockSize {
    shift: u32,
}

impl BlockSize {
    /// `bytes` is a power of two.
    pub(super) fn new(bytes: u32) -> Self {
        Self {
            shift: bytes.trailing_zeros(),
        }
    }

    /// The block that holds byte `offset`.
    fn containing(self, offset: Bytes) -> u64 {
        offset.wrapping_shr(self.shift)
    }

    /// The first byte of `block`; no overflow for blocks of a file.
    fn start(self, block: u64) -> Bytes {
        block.wrapping_shl(self.shift)
    }
}

/// Blocks that follow each other, and what has to be read for them.
struct Run {
    blocks: Range<u64>,
    /// On the device below, in bytes from its beginning: whole logical blocks of it.
    extent: Range<Bytes>,
}

impl Run {
    /// The length of what has to be read, in bytes.
    fn len(&self) -> usize {
        self.extent.end.saturating_sub(self.extent.start) as usize
    }
}

/// One read: what it brings, and what its bio wants of that.
pub(crate) struct Job {
    /// The blocks that it brings.
    blocks: Range<u64>,
    /// Offset in the ZFile of the first byte that is read. Wraps below 0 where a logical
    /// block of the device below begins before the file.
    origin: Bytes,
    /// What the bio wants of the original file, in bytes.
    wanted: Range<Bytes>,
    /// Length of the read, in sectors.
    sectors: u32,
    parts: u32,
    /// Nobody waits for the data yet.
    readahead: bool,
    failed: Atomic<bool>,
}

/// Why a block cannot be had.
enum Fault {
    /// Its CRC is not that of the bytes that were read.
    Crc { stored: u32, computed: u32 },
    /// It does not decompress to as many bytes as it should.
    Corrupt,
}

impl Zfile {
    /// The blocks that hold `wanted`, a range of bytes of the original file.
    fn blocks_of(&self, wanted: &Range<Bytes>) -> Range<u64> {
        let last = self.blocks.containing(wanted.end.saturating_sub(1));
        let end = last.saturating_add(1).min(self.file.block_count());
        self.blocks.containing(wanted.start)..end
    }

    /// Where `blocks` are on the device below.
    fn run(&self, blocks: Range<u64>) -> Run {
        let stored = self.file.table().extent(blocks.clone());
        // No overflow: the constructor saw that the device holds the file.
        let mask = self.lower_block_mask;
        let start = self.start.wrapping_add(stored.start) & !mask;
        let end = self.start.wrapping_add(stored.end).wrapping_add(mask) & !mask;
        Run {
            blocks,
            extent: start..end,
        }
    }

    /// As much of `run`, from its first block on, as `room` bytes hold; one block at least.
    fn fit(&self, run: Run, room: usize) -> Run {
        if run.len() <= room {
            return run;
        }
        let Range { start, end } = run.blocks;
        let first = |count: u64| self.run(start..start.saturating_add(count));
        // The first `fits` blocks fit, `too_many` do not.
        let mut fits = 1;
        let mut too_many = end.saturating_sub(start);
        while too_many.saturating_sub(fits) > 1 {
            let middle = fits.midpoint(too_many);
            if first(middle).len() <= room {
                fits = middle;
            } else {
                too_many = middle;
            }
        }
        first(fits)
    }

    /// What of the original file `blocks` hold, up to the sector's end.
    fn content(&self, blocks: &Range<u64>) -> Range<Bytes> {
        self.blocks.start(blocks.start)..self.blocks.start(blocks.end)
    }

    /// Maps a read.
    pub(super) fn read<'a>(&'a self, mut bio: ReadBio<'a, Self>) -> Mapped<'a> {
        let start = bio.sector().saturating_mul(SECTOR);
        let len = u64::from(bio.sectors()).saturating_mul(SECTOR);
        let mut wanted = start..start.saturating_add(len.min(MAX_OUTPUT));
        let blocks = self.blocks_of(&wanted);
        if blocks.is_empty() {
            return bio.kill();
        }
        if self.serve_from_cache(&mut bio, &wanted, blocks.start) {
            return bio.end(Status::OK);
        }

        let wait = bio.may_wait();
        let room = match wait {
            true => MAX_READ.into(),
            // What would have to be split below is not read without waiting.
            false => self.device.max_bytes().min(MAX_READ.into()),
        };
        let run = self.fit(self.run(blocks), room as usize);
        let first = run.blocks.start;
        let least = || self.run(first..first.saturating_add(1)).len();
        let no_memory = || self.counters.add(RESERVE_WAITS, 1);
        let Some(buffer) = self.reserve.buffer(run.len(), least, wait, no_memory) else {
            return bio.end(Status::AGAIN);
        };
        let Run { blocks, extent } = self.fit(run, buffer.len());
        wanted.end = wanted.end.min(self.content(&blocks).end);
        bio.accept((wanted.end.saturating_sub(wanted.start) / SECTOR) as u32);

        let bytes = extent.end.saturating_sub(extent.start) as u32;
        let job = Job {
            origin: extent.start.wrapping_sub(self.start),
            sectors: bytes / SECTOR as u32,
            parts: self.part_count(&blocks),
            blocks,
            wanted,
            readahead: bio.is_readahead(),
            failed: Atomic::new(false),
        };
        let extent = Extent {
            sector: extent.start / SECTOR,
            bytes,
        };
        bio.fetch(&self.device, extent, buffer, job)
    }

    /// Into how many parts the work on `blocks` is worth splitting.
    fn part_count(&self, blocks: &Range<u64>) -> u32 {
        if online_cpus() == 1 {
            return 1;
        }
        let count = blocks.end.saturating_sub(blocks.start);
        let worth = self.blocks.start(count) / MIN_PART;
        worth.min(count).clamp(1, MAX_PARTS.into()) as u32
    }

    fn key(&self, block: u64) -> Key {
        Key {
            device: self.shared.device(),
            block,
        }
    }

    /// Fills the bio from the cache with what it wants of its first block, if that is there,
    /// and cuts the bio to it. Only parts of blocks are looked for: whole blocks are not kept.
    fn serve_from_cache(
        &self,
        bio: &mut ReadBio<'_, Self>,
        wanted: &Range<Bytes>,
        block: u64,
    ) -> bool {
        let content = self.content(&(block..block.saturating_add(1)));
        if content.start == wanted.start && content.end <= wanted.end {
            return false;
        }
        let Some(kept) = self.shared.cache.cache().get(self.key(block)) else {
            return false;
        };
        let wanted = wanted.start..wanted.end.min(content.end);
        bio.accept((wanted.end.saturating_sub(wanted.start) / SECTOR) as u32);
        self.copy(&kept, block, &wanted, &mut bio.segments().cursor(0));
        self.counters.add(CACHE_HITS, 1);
        true
    }

    /// The part of `block` that is wanted, in bytes from the block's beginning.
    fn wanted_part(&self, block: u64, wanted: &Range<Bytes>) -> Range<usize> {
        let start = self.blocks.start(block);
        let size = u64::from(self.file.block_size());
        let from = wanted.start.saturating_sub(start).min(size);
        let to = wanted.end.saturating_sub(start).min(size);
        from as usize..to as usize
    }

    /// Writes what is wanted of `block`, with `content`; zeros behind its end.
    fn copy(&self, content: &[u8], block: u64, wanted: &Range<Bytes>, to: &mut Cursor<'_>) {
        let part = self.wanted_part(block, wanted);
        let end = part.end.min(content.len());
        let bytes = content.get(part.start..end).unwrap_or_default();
        to.write(bytes);
        to.zero(part.len().saturating_sub(bytes.len()));
    }

    /// The compressed bytes of `block` in `data`, after a look at their CRC.
    fn payload<'d>(&self, job: &Job, data: &'d [u8], block: u64) -> Result<&'d [u8], Fault> {
        let stored = self.file.table().extent(block..block.saturating_add(1));
        let place = |offset: Bytes| offset.wrapping_sub(job.origin) as usize;
        let stored = data
            .get(place(stored.start)..place(stored.end))
            .ok_or(Fault::Corrupt)?;
        if !self.file.verify() {
            return Ok(stored);
        }
        let (payload, crc) = stored
            .split_last_chunk::<{ BLOCK_CRC_LEN as usize }>()
            .ok_or(Fault::Corrupt)?;
        if self.ignore_crc {
            return Ok(payload);
        }
        let stored = u32::from_le_bytes(*crc);
        let computed = block_crc::<crate::dm::platform::Kernel>(payload);
        if stored != computed {
            return Err(Fault::Crc { stored, computed });
        }
        Ok(payload)
    }

    /// Fills the bio from `to` on with what it wants of `block`.
    fn fill(&self, job: &Job, data: &[u8], block: u64, to: &mut Cursor<'_>) -> Result<(), Fault> {
        let payload = self.payload(job, data, block)?;
        let len = self.file.block_len(block) as usize;
        let part = self.wanted_part(block, &job.wanted);
        let whole = part.start == 0 && part.end >= len;
        if whole {
            if let Some(span) = to.span(len) {
                if self.shared.decompress(payload, span) != Some(len) {
                    return Err(Fault::Corrupt);
                }
                to.zero(part.end.saturating_sub(len));
                return Ok(());
            }
        } else if let Some(content) = self.decompress_to_keep(payload, len)? {
            self.copy(&content, block, &job.wanted, to);
            self.shared.cache.cache().insert(self.key(block), content);
            return Ok(());
        }
        let mut scratch = self.shared.scratch().ok_or(Fault::Corrupt)?;
        let content = scratch
            .decompress(self.file.algorithm(), payload, len)
            .ok_or(Fault::Corrupt)?;
        self.copy(content, block, &job.wanted, to);
        Ok(())
    }

    /// Decompresses into memory of its own, or returns `None` if there is none.
    fn decompress_to_keep(&self, payload: &[u8], len: usize) -> Result<Option<Block>, Fault> {
        let flags = GFP_NOWAIT | __GFP_NOWARN;
        let Ok(content) = KVec::<u8>::zeroed(len, flags) else {
            return Ok(None);
        };
        let Ok(mut content) = UniqueArc::new(content, flags) else {
            return Ok(None);
        };
        let span = Span::from(content.as_mut_slice());
        if self.shared.decompress(payload, span) != Some(len) {
            return Err(Fault::Corrupt);
        }
        Ok(Some(content.into()))
    }

    /// Counts a block that cannot be had, and says so in the log.
    fn report(&self, block: u64, fault: &Fault) {
        let counter = match fault {
            Fault::Crc { .. } => BLOCKS_BAD_CRC,
            Fault::Corrupt => BLOCKS_CORRUPT,
        };
        self.counters.add(counter, 1);
        if !self.log.allows() {
            return;
        }
        let at = self.file.table().start(block);
        match fault {
            Fault::Crc { stored, computed } => dm_err!(
                Self::NAME,
                "{}: block {block} at byte {at} of {}: CRC {computed:#010x}, expected {stored:#010x}",
                self.name,
                self.device.name()
            ),
            Fault::Corrupt => dm_err!(
                Self::NAME,
                "{}: block {block} at byte {at} of {}: does not decompress to {} bytes",
                self.name,
                self.device.name(),
                self.file.block_len(block)
            ),
        }
    }

    /// Counts a read that the device below failed, and says so in the log.
    fn report_failed_read(&self, job: &Job, below: Status) {
        if below == Status::AGAIN || job.readahead {
            // Nothing is wrong, or it is not known yet: a submitter that asked not to wait
            // was told so, and a suspended dm device fails all readahead.
            return;
        }
        self.counters.add(READS_FAILED, 1);
        if self.log.allows() {
            dm_err!(
                Self::NAME,
                "{}: blocks {} to {}: reading {} failed, error {}",
                self.name,
                job.blocks.start,
                job.blocks.end.saturating_sub(1),
                self.device.name(),
                below.errno()
            );
        }
    }
}

impl Reader for Zfile {
    type Job = Job;

    fn queue(&self) -> &WorkQueue {
        &self.shared.queue
    }

    fn parts(&self, job: &Job) -> u32 {
        job.parts
    }

    fn process(&self, job: &Job, data: &[u8], bio: Segments<'_>, part: u32) {
        let count = job.blocks.end.saturating_sub(job.blocks.start);
        let boundary = |part: u32| {
            let offset = count.saturating_mul(part.into()) / u64::from(job.parts.max(1));
            job.blocks.start.saturating_add(offset)
        };
        let blocks = boundary(part)..boundary(part.saturating_add(1));
        let start = self.content(&blocks).start;
        let mut cursor = bio.cursor(start.saturating_sub(job.wanted.start) as usize);
        for block in blocks {
            if let Err(fault) = self.fill(job, data, block, &mut cursor) {
                self.report(block, &fault);
                job.failed.store(true, ordering::Relaxed);
                return;
            }
        }
    }

    fn finish(&self, job: &Job, below: Status) -> Status {
        if below != Status::OK {
            self.report_failed_read(job, below);
            return below;
        }
        self.counters.add(SECTORS_READ, job.sectors.into());
        if job.failed.load(ordering::Relaxed) {
            return Status::IO_ERROR;
        }
        let content = self.content(&job.blocks);
        let end = content.end.min(self.file.original_size());
        self.counters
            .add(BYTES_DECOMPRESSED, end.saturating_sub(content.start));
        Status::OK
    }
}

const _: () = {
    // What a read needs in front of every bio, of which dm core keeps 16 ready.
    assert!(size_of::<InFlight<Zfile>>() <= 768);
};
