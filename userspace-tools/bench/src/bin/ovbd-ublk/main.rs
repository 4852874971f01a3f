// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A block server in userspace that does what the zfile target does, to put a number on "why not
//! in userspace": the format code is the same, a request's blocks are read with one direct read
//! into registered memory through the queue's own io_uring, and decompressed by the C library LZ4
//! into the buffer that the driver takes, which is the only copy.
//!
//! `ovbd-ublk DEVICE OFFSET LENGTH` serves the ZFile that lies at byte OFFSET of DEVICE and has
//! LENGTH bytes as `/dev/ublkb0`, without checking checksums, until it is killed.
//! Before that it prints how many nanoseconds decompressing all blocks took by itself.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod ring;

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use io_uring::{opcode, types};
use libublk::ctrl::{UblkCtrl, UblkCtrlBuilder};
use libublk::helpers::IoBuf;
use libublk::io::{BufDescList, UblkDev, UblkIOCtx, UblkQueue};
use libublk::{sys, BufDesc, UblkError, UblkFlags, UblkIORes};
use ovbd::image::codec::Decompressor;
use ovbd::image::source::{FileSource, Part, Std};
use overlaybd_format::zfile::{ZFile, BLOCK_CRC_LEN};
use overlaybd_format::SECTOR;

const DEPTH: u16 = 64;
/// The largest request.
const REQUEST: u32 = 1 << 20;
/// Bytes that are decompressed at a time for measuring that.
const SAMPLE: u64 = 256 << 10;
const O_DIRECT: i32 = 0o40000;
const EIO: i32 = 5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match serve(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "ovbd-ublk: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &[String]) -> Result<()> {
    let [device, offset, length] = args else {
        bail!("Usage: ovbd-ublk DEVICE OFFSET LENGTH");
    };
    let server = Arc::new(Server::open(
        Path::new(device),
        offset.parse().context("OFFSET is no number")?,
        length.parse().context("LENGTH is no number")?,
    )?);
    let spent = server.decompress_all()?;
    writeln!(std::io::stdout(), "{}", spent.as_nanos())?;
    let control = UblkCtrlBuilder::default()
        .name("zfile")
        .id(0)
        .nr_queues(1)
        .depth(DEPTH)
        .io_buf_bytes(REQUEST)
        .dev_flags(UblkFlags::UBLK_DEV_F_ADD_DEV)
        .build()
        .context("cannot make a ublk device; is ublk_drv loaded?")?;
    let target = Arc::clone(&server);
    control
        .run_target(
            move |dev: &mut UblkDev| target.describe(dev),
            move |number, dev: &_| queue(&server, number, dev),
            |_: &UblkCtrl| {},
        )
        .context("serving failed")?;
    Ok(())
}

/// A ZFile and the device that it lies on.
struct Server {
    file: File,
    offset: u64,
    zfile: ZFile<Std>,
}

impl Server {
    fn open(device: &Path, offset: u64, length: u64) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(O_DIRECT)
            .open(device)
            .with_context(|| format!("cannot open {}", device.display()))?;
        let source = Arc::new(FileSource::open(device)?);
        let part = Part::new(source, PathBuf::from(device), offset, length);
        let zfile = ZFile::open(&part, length)
            .with_context(|| format!("{}: no ZFile at byte {offset}", device.display()))?;
        Ok(Self {
            file,
            offset,
            zfile,
        })
    }

    fn describe(&self, dev: &mut UblkDev) -> Result<(), UblkError> {
        let target = &mut dev.tgt;
        target.fds[usize::from(FILE)] = self.file.as_raw_fd();
        target.nr_fds = i32::from(FILE) + 1;
        target.dev_size = self.zfile.original_size() / SECTOR * SECTOR;
        target.params = sys::ublk_params {
            types: sys::UBLK_PARAM_TYPE_BASIC,
            basic: sys::ublk_param_basic {
                attrs: sys::UBLK_ATTR_READ_ONLY,
                logical_bs_shift: 9,
                physical_bs_shift: 12,
                io_opt_shift: 12,
                io_min_shift: 12,
                max_sectors: REQUEST / SECTOR as u32,
                dev_sectors: target.dev_size / SECTOR,
                ..Default::default()
            },
            ..Default::default()
        };
        Ok(())
    }

    /// The blocks that have the bytes `range` of the original.
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let size = u64::from(self.zfile.block_size());
        range.start / size..range.end.div_ceil(size)
    }

    /// Where `blocks` are stored on the device, rounded out to sectors.
    fn place(&self, blocks: &Range<u64>) -> Range<u64> {
        let extent = self.zfile.table().extent(blocks.clone());
        let start = (self.offset + extent.start) / SECTOR * SECTOR;
        start..(self.offset + extent.end).next_multiple_of(SECTOR)
    }

    /// Decompresses the bytes `range` out of `stored`, which was read from their place.
    fn decode(
        &self,
        decompressor: &mut Decompressor,
        range: &Range<u64>,
        stored: &[u8],
        output: &mut [u8],
    ) -> Option<()> {
        let blocks = self.blocks(range);
        let base = self.place(&blocks).start;
        let crc = if self.zfile.verify() {
            BLOCK_CRC_LEN
        } else {
            0
        };
        let size = u64::from(self.zfile.block_size());
        let mut spare = Vec::new();
        for block in blocks {
            let extent = self.zfile.table().extent(block..block + 1);
            let from = (self.offset + extent.start - base) as usize;
            let to = (self.offset + extent.end - base) as usize - crc as usize;
            let stored = stored.get(from..to)?;
            let start = block * size;
            let end = start + u64::from(self.zfile.block_len(block));
            let (first, last) = (start.max(range.start), end.min(range.end));
            let place = (first - range.start) as usize..(last - range.start) as usize;
            let output = output.get_mut(place)?;
            if (first, last) == (start, end) {
                decompressor.decompress(stored, output).ok()?;
                continue;
            }
            spare.resize((end - start) as usize, 0);
            decompressor.decompress(stored, &mut spare).ok()?;
            output.copy_from_slice(&spare[(first - start) as usize..(last - start) as usize]);
        }
        Some(())
    }

    /// What decompressing every block once takes.
    fn decompress_all(&self) -> Result<Duration> {
        let mut decompressor = Decompressor::new(self.zfile.algorithm())?;
        let mut stored = IoBuf::<u8>::new(self.scratch());
        let mut output = vec![0; SAMPLE as usize];
        let mut spent = Duration::ZERO;
        let mut at = 0;
        while at < self.zfile.original_size() {
            let range = at..(at + SAMPLE).min(self.zfile.original_size());
            let place = self.place(&self.blocks(&range));
            let stored = &mut stored.as_mut_slice()[..(place.end - place.start) as usize];
            self.file
                .read_exact_at(stored, place.start)
                .with_context(|| format!("cannot read at byte {}", place.start))?;
            let start = Instant::now();
            self.decode(&mut decompressor, &range, stored, &mut output)
                .with_context(|| format!("the blocks of byte {at} do not decompress"))?;
            spent += start.elapsed();
            at = range.end;
        }
        Ok(spent)
    }

    /// Bytes that the stored form of a request may have.
    fn scratch(&self) -> usize {
        let blocks = u64::from(REQUEST / self.zfile.block_size()) + 2;
        let longest = u64::from(*self.zfile.stored_len().end());
        (blocks * longest + 2 * SECTOR) as usize
    }
}

/// The file's number among those that the queue's ring knows; the first is the ublk device.
const FILE: u8 = 1;

/// Serves a queue until its device is gone.
fn queue(server: &Server, number: u16, dev: &UblkDev) {
    if let Err(error) = try_queue(server, number, dev) {
        // Nobody is left to tell if this fails.
        let _ = writeln!(std::io::stderr(), "ovbd-ublk: queue {number}: {error:#}");
    }
}

fn try_queue(server: &Server, number: u16, dev: &UblkDev) -> Result<()> {
    ring::init(DEPTH).context("cannot make a ring")?;
    let mut outputs = dev.alloc_queue_io_bufs();
    // The first requests must not pay for the memory.
    outputs.iter_mut().for_each(IoBuf::zero_buf);
    let stored: Vec<IoBuf<u8>> = (0..DEPTH).map(|_| IoBuf::new(server.scratch())).collect();
    let queue = UblkQueue::new(number, dev)?;
    ring::register(&stored).context("cannot register memory")?;
    let queue = queue.submit_fetch_commands_unified(BufDescList::Slices(Some(&outputs)))?;
    let worker = RefCell::new(Worker {
        server,
        decompressor: Decompressor::new(server.zfile.algorithm())?,
        outputs,
        stored,
    });
    queue.wait_and_handle_io(|q: &UblkQueue<'_>, tag: u16, io: &UblkIOCtx| {
        worker.borrow_mut().handle(q, tag, io);
    });
    Ok(())
}

/// A queue's memory, a piece for each request that may be under way.
struct Worker<'a> {
    server: &'a Server,
    decompressor: Decompressor,
    outputs: Vec<IoBuf<u8>>,
    stored: Vec<IoBuf<u8>>,
}

impl Worker<'_> {
    /// Begins a request, or ends it when its read has ended.
    fn handle(&mut self, q: &UblkQueue<'_>, tag: u16, io: &UblkIOCtx) {
        let request = q.get_iod(tag);
        let start = request.start_sector * SECTOR;
        let range = start..start + u64::from(request.nr_sectors) * SECTOR;
        let result = if io.is_tgt_io() {
            self.finish(tag, &range, io.result())
        } else if request.op_flags & 0xff == sys::UBLK_IO_OP_READ {
            match self.begin(q, tag, &range) {
                Some(()) => return,
                None => -EIO,
            }
        } else {
            -EIO
        };
        let output = BufDesc::Slice(self.outputs[usize::from(tag)].as_slice());
        // The queue is going down if this fails.
        let _ = q.complete_io_cmd_unified(tag, output, Ok(UblkIORes::Result(result)));
    }

    fn begin(&mut self, q: &UblkQueue<'_>, tag: u16, range: &Range<u64>) -> Option<()> {
        let place = self.server.place(&self.server.blocks(range));
        let length = (place.end - place.start) as usize;
        let memory = self.stored[usize::from(tag)]
            .as_mut_slice()
            .get_mut(..length)?;
        let read = opcode::ReadFixed::new(
            types::Fixed(FILE.into()),
            memory.as_mut_ptr(),
            length as u32,
            tag,
        )
        .offset(place.start)
        .build()
        .user_data(UblkIOCtx::build_user_data(
            tag,
            sys::UBLK_IO_OP_READ,
            0,
            true,
        ));
        q.ublk_submit_sqe_sync(read).ok()
    }

    /// The result of the request, as the kernel wants it.
    fn finish(&mut self, tag: u16, range: &Range<u64>, read: i32) -> i32 {
        let place = self.server.place(&self.server.blocks(range));
        let tag = usize::from(tag);
        let length = (place.end - place.start) as usize;
        if read != length as i32 {
            return -EIO;
        }
        let (stored, output) = (&self.stored[tag], &mut self.outputs[tag]);
        let decoded = self.server.decode(
            &mut self.decompressor,
            range,
            &stored.as_slice()[..length],
            output.as_mut_slice(),
        );
        // At most REQUEST bytes.
        decoded.map_or(-EIO, |()| (range.end - range.start) as i32)
    }
}
