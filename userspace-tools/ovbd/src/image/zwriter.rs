// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Writing a ZFile: bytes go in front to back, blocks come out compressed.
//!
//! The caller fills one batch while a thread of the writer's own has the previous one compressed
//! by all CPUs and written. Memory: about four batches of 4 MiB, and 4 bytes a block for the
//! index. The result depends on nothing but content and settings, not on the number of threads.

use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{sync_channel, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use overlaybd_format::zfile::{block_crc, Algorithm, Header, MAX_BLOCK_SIZE, MIN_BLOCK_SIZE};
use overlaybd_format::Platform;
use rayon::prelude::*;

use super::codec::Compressor;
use super::source::Std;

/// Original bytes that are compressed in one go. A multiple of every block size.
const BATCH: usize = 4 << 20;

/// Original bytes that one task compresses: enough to make the hand-over cheap.
const TASK: usize = 128 << 10;

/// How to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZSettings {
    /// The codec.
    pub algorithm: Algorithm,
    /// Bytes of the original a block: a power of two from 4096 to 65536.
    pub block_size: u32,
    /// Whether a checksum follows each block.
    pub checksums: bool,
    /// Whether the header is overwritten with the trailer's fields at the end, as the reference
    /// tool does for layers. Readers take both.
    pub overwrite_header: bool,
}

impl Default for ZSettings {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Lz4,
            block_size: MIN_BLOCK_SIZE,
            checksums: true,
            overwrite_header: true,
        }
    }
}

impl ZSettings {
    fn check(&self) -> io::Result<()> {
        let size = self.block_size;
        if size.is_power_of_two() && (MIN_BLOCK_SIZE..=MAX_BLOCK_SIZE).contains(&size) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "block size {size} is no power of two from {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE}"
            ),
        ))
    }

    fn header(&self) -> Header {
        Header::new(self.algorithm, self.block_size, self.checksums)
    }
}

/// An output whose first bytes can be replaced once the rest is written.
pub trait Rewrite: Write {
    /// Writes `bytes` over what stands at `offset`.
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
}

/// A file in memory.
impl Rewrite for Vec<u8> {
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let place = usize::try_from(offset)
            .ok()
            .and_then(|start| self.get_mut(start..start.checked_add(bytes.len())?));
        place
            .ok_or_else(|| io::Error::other("rewriting what was not written"))?
            .copy_from_slice(bytes);
        Ok(())
    }
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZSummary {
    /// Length of the original, bytes.
    pub original_size: u64,
    /// Length of the ZFile, bytes.
    pub size: u64,
    /// Number of blocks.
    pub blocks: u64,
}

/// Compresses what is written to it into a ZFile.
pub struct ZWriter<W> {
    batch: Vec<u8>,
    /// `None` once the worker has failed.
    worker: Option<WorkerThread<W>>,
}

impl<W: Rewrite + Send + 'static> ZWriter<W> {
    /// Begins a ZFile at the current place of `out`, which has to be where
    /// [`Rewrite::rewrite`] counts from.
    pub fn new(out: W, settings: ZSettings) -> io::Result<Self> {
        settings.check()?;
        let worker = WorkerThread::start(Worker::new(out, settings)?)?;
        Ok(Self {
            batch: Vec::with_capacity(BATCH),
            worker: Some(worker),
        })
    }

    /// Writes what is left, index and trailer; returns the output.
    pub fn finish(mut self) -> io::Result<(W, ZSummary)> {
        if !self.batch.is_empty() {
            self.send()?;
        }
        let worker = self.worker.take().ok_or_else(stopped)?;
        worker.join()?.finish()
    }

    /// Hands the batch over. A worker that has failed is asked why.
    fn send(&mut self) -> io::Result<()> {
        let worker = self.worker.as_mut().ok_or_else(stopped)?;
        let empty = worker
            .returned
            .try_recv()
            .unwrap_or_else(|_| Vec::with_capacity(BATCH));
        let full = mem::replace(&mut self.batch, empty);
        if worker.batches.send(full).is_ok() {
            return Ok(());
        }
        match self.worker.take().map(WorkerThread::join) {
            Some(Err(error)) => Err(error),
            _ => Err(stopped()),
        }
    }
}

impl<W> Drop for ZWriter<W> {
    /// Waits for the worker, so that the output is closed when this is gone.
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("compression has stopped after an error")
}

impl<W: Rewrite + Send + 'static> Write for ZWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(BATCH - self.batch.len());
        self.batch.extend_from_slice(&bytes[..taken]);
        if self.batch.len() == BATCH {
            self.send()?;
        }
        Ok(taken)
    }

    /// Only whole batches move on; `finish` does the rest.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread that the [`Worker`] lives on.
struct WorkerThread<W> {
    batches: SyncSender<Vec<u8>>,
    /// Buffers that the worker has done with.
    returned: Receiver<Vec<u8>>,
    thread: JoinHandle<io::Result<Worker<W>>>,
}

impl<W> WorkerThread<W> {
    /// Ends the thread after the batches that it has.
    fn join(self) -> io::Result<Worker<W>> {
        drop(self.batches);
        self.thread.join().map_err(|_| stopped())?
    }
}

impl<W: Rewrite + Send + 'static> WorkerThread<W> {
    fn start(mut worker: Worker<W>) -> io::Result<Self> {
        let (batches, incoming) = sync_channel::<Vec<u8>>(1);
        let (give_back, returned) = sync_channel(2);
        let work = move || {
            for mut batch in incoming {
                worker.compress(&batch)?;
                batch.clear();
                // Kept if there is room, freed if not.
                let _ = give_back.try_send(batch);
            }
            Ok(worker)
        };
        let thread = thread::Builder::new()
            .name("compress".to_owned())
            .spawn(work)?;
        Ok(Self {
            batches,
            returned,
            thread,
        })
    }
}

/// The half that compresses and writes.
struct Worker<W> {
    out: W,
    settings: ZSettings,
    /// Stored length of each block: the index.
    lengths: Vec<u32>,
    original_size: u64,
    position: u64,
}

impl<W: Rewrite> Worker<W> {
    fn new(mut out: W, settings: ZSettings) -> io::Result<Self> {
        let header = settings.header().encode::<Std>();
        out.write_all(&header)?;
        Ok(Self {
            out,
            settings,
            lengths: Vec::new(),
            original_size: 0,
            position: header.len() as u64,
        })
    }

    fn compress(&mut self, batch: &[u8]) -> io::Result<()> {
        let settings = self.settings;
        let tasks: Vec<_> = batch
            .par_chunks(TASK)
            .map(|blocks| Compressed::new(settings, blocks))
            .collect();
        for task in tasks {
            let task = task?;
            self.out.write_all(&task.bytes)?;
            self.position += task.bytes.len() as u64;
            self.lengths.extend_from_slice(&task.lengths);
        }
        self.original_size += batch.len() as u64;
        Ok(())
    }

    fn finish(mut self) -> io::Result<(W, ZSummary)> {
        let index: Vec<u8> = self.lengths.iter().flat_map(|n| n.to_le_bytes()).collect();
        let blocks = self.lengths.len() as u64;
        let trailer = self.settings.header().trailer(
            self.position,
            blocks,
            self.original_size,
            Std::crc32c(0, &index),
        );
        self.out.write_all(&index)?;
        let record = trailer.encode::<Std>();
        self.out.write_all(&record)?;
        if self.settings.overwrite_header {
            let header = Header::overwritten(&trailer).encode::<Std>();
            self.out.rewrite(0, &header)?;
        }
        let summary = ZSummary {
            original_size: self.original_size,
            size: self.position + (index.len() + record.len()) as u64,
            blocks,
        };
        Ok((self.out, summary))
    }
}

/// Some blocks in their stored form.
struct Compressed {
    bytes: Vec<u8>,
    lengths: Vec<u32>,
}

impl Compressed {
    fn new(settings: ZSettings, original: &[u8]) -> io::Result<Self> {
        let mut compressor = Compressor::new(settings.algorithm)?;
        let mut bytes = Vec::with_capacity(original.len());
        let mut lengths = Vec::new();
        for block in original.chunks(settings.block_size as usize) {
            let start = bytes.len();
            compressor.append(block, &mut bytes)?;
            if settings.checksums {
                let crc = block_crc::<Std>(&bytes[start..]);
                bytes.extend_from_slice(&crc.to_le_bytes());
            }
            // At most 64 KiB and the little that they can grow by.
            lengths.push((bytes.len() - start) as u32);
        }
        Ok(Self { bytes, lengths })
    }
}
