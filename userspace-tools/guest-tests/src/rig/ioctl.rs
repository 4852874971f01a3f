// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Requests to block devices that no crate makes, for those who must not be allowed to.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fs::File;

use rustix::io::{Errno, Result};
use rustix::ioctl::{ioctl, Ioctl, IoctlOutput, Opcode};

/// Bytes that an argument has room for: more than any of the requests reads or writes.
const ROOM: usize = 4096;

/// A request to a block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What the kernel's headers call it.
    pub name: &'static str,
    opcode: Opcode,
    /// The second word of the argument, all else of which is 0.
    second: u64,
}

const fn request(name: &'static str, opcode: Opcode) -> Request {
    Request {
        name,
        opcode,
        second: 0,
    }
}

/// One whose argument is a range of bytes: the first page.
const fn range(name: &'static str, opcode: Opcode) -> Request {
    Request {
        name,
        opcode,
        second: 4096,
    }
}

/// All that would change something of a block device, of its queue or of the disk below, and the
/// ways to talk to the hardware below. None takes an argument of more than [`ROOM`] bytes, and none
/// has a pointer in the second word of it: all pointers are null.
pub const FORBIDDEN: &[Request] = &[
    request("BLKROSET", 0x125d),
    request("BLKRRPART", 0x125f),
    request("BLKFLSBUF", 0x1261),
    request("BLKRASET", 0x1262),
    request("BLKPG", 0x1269),
    request("BLKBSZSET", 0x4008_1271),
    range("BLKDISCARD", 0x1277),
    range("BLKSECDISCARD", 0x127d),
    range("BLKZEROOUT", 0x127f),
    request("BLKRESETZONE", 0x4010_1283),
    request("IOC_PR_REGISTER", 0x4018_70c8),
    request("IOC_PR_CLEAR", 0x4010_70cd),
    request("IOC_OPAL_SAVE", 0x4118_70dc),
    request("SG_IO", 0x2285),
    request("SCSI_IOCTL_SEND_COMMAND", 1),
    request("CDROMEJECT", 0x5309),
    request("HDIO_DRIVE_CMD", 0x031f),
    request("NVME_IOCTL_ADMIN_CMD", 0xc048_4e41),
    request("LOOP_CLR_FD", 0x4c01),
    request("FIFREEZE", 0xc004_5877),
];

/// One of [`FORBIDDEN`] with its argument.
struct Prepared<'a> {
    opcode: Opcode,
    argument: &'a mut [u8; ROOM],
}

// SAFETY: Requests are those of [`FORBIDDEN`]: the kernel reads and writes no more than the bytes
// of the argument, and what it holds is of no meaning afterwards.
unsafe impl Ioctl for Prepared<'_> {
    type Output = c_int;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> Result<c_int> {
        Ok(output)
    }
}

/// Makes a request; returns why it was refused.
pub fn attempt(file: &File, request: &Request) -> Result<()> {
    if !FORBIDDEN.contains(request) {
        return Err(Errno::INVAL);
    }
    let mut argument = [0; ROOM];
    argument[8..16].copy_from_slice(&request.second.to_ne_bytes());
    let prepared = Prepared {
        opcode: request.opcode,
        argument: &mut argument,
    };
    // SAFETY: As `Prepared` says; what is at stake is the device, which is a test's.
    unsafe { ioctl(file, prepared) }.map(drop)
}
