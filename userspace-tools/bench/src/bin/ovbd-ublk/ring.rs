// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The ring of a queue's thread, tuned: only this thread uses it, what has ended is looked at when
//! it waits and not in between, and the memory that reads go to is mapped by the kernel once.

use std::cell::RefCell;
use std::io;

use io_uring::IoUring;
use libublk::helpers::IoBuf;
use libublk::io::{ublk_init_task_ring, with_task_io_ring};
use libublk::UblkError;

/// Makes the ring of this thread, before the crate would make one, for `depth` requests: each is
/// a command to the driver or a read.
pub fn init(depth: u16) -> Result<(), UblkError> {
    ublk_init_task_ring(|cell| {
        if cell.get().is_some() {
            return Ok(());
        }
        let entries = 2 * u32::from(depth);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(entries)
            .build(entries)?;
        // Just now it was empty.
        let _ = cell.set(RefCell::new(ring));
        Ok(())
    })
}

/// Makes `buffers` known to this thread's ring, by their numbers.
pub fn register(buffers: &[IoBuf<u8>]) -> io::Result<()> {
    let piece = |buffer: &IoBuf<u8>| libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let pieces: Vec<libc::iovec> = buffers.iter().map(piece).collect();
    // SAFETY: The kernel holds on to the pages by itself. What it writes there is what this thread's
    // reads ask for, whose results are waited for before the buffers are looked at or go away.
    with_task_io_ring(|ring| unsafe { ring.submitter().register_buffers(&pieces) })
}
