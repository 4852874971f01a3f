// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Waiting for a process, passing signals on to it meanwhile.

use std::io;
use std::process::Child;

use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};

use crate::sys::{Received, Signals};

/// What shells add to a signal's number.
const SIGNALLED: i32 = 128;

/// Waits until `child` has ended, and for all others that end meanwhile; gives its exit code.
pub(super) fn until_end(child: &Child, signals: &Signals) -> io::Result<u8> {
    let child = Pid::from_child(child);
    loop {
        match signals.wait()? {
            Received::ChildEnded => {
                if let Some(status) = reap(child)? {
                    return Ok(code(status));
                }
            }
            // It may have ended just now; then there is nobody to tell.
            Received::ToPassOn(signal) => drop(rustix::process::kill_process(child, signal)),
            // From the terminal, which tells all of them.
            Received::Other => {}
        }
    }
}

/// Takes note of all processes that have ended; gives the status of `child` if it is one of them.
fn reap(child: Pid) -> io::Result<Option<WaitStatus>> {
    let mut found = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == child => found = Some(status),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(Errno::CHILD) => return Ok(found),
            Err(e) => return Err(e.into()),
        }
    }
}

fn code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| SIGNALLED + signal);
    let code = status.exit_status().or(signal).unwrap_or(SIGNALLED);
    u8::try_from(code).unwrap_or(u8::MAX)
}
