// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the kernel logged while it refused a table.
//!
//! The ioctl only says EINVAL; the sentence that helps is in the kernel's log. It is looked for
//! there, where reading it is allowed, and left out of the error where it is not.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::io::Errno;

use super::DevNo;

/// What comes before a target's message in the log.
const PREFIX: &str = "device-mapper: ";
/// More records than one refused table causes.
const RECORDS_MAX: usize = 4096;
/// The kernel's longest record.
const RECORD_LEN: usize = 8192;

/// The kernel's log from some moment on.
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// From now on.
    pub fn from_now() -> Self {
        let mut options = File::options();
        options
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
        let open = || {
            let mut log = options.open("/dev/kmsg")?;
            log.seek(SeekFrom::End(0))?;
            std::io::Result::Ok(log)
        };
        Self(open().ok())
    }

    /// Device-mapper's messages about `dev` since then.
    pub fn about(self, dev: DevNo) -> Vec<String> {
        let Some(mut log) = self.0 else {
            return Vec::new();
        };
        let mut messages = Vec::new();
        let mut record = [0; RECORD_LEN];
        for _ in 0..RECORDS_MAX {
            match log.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    messages.extend(message(&text, dev));
                }
                // Overtaken by newer records; the next read goes on with the oldest there is.
                Err(e) if Errno::from_io_error(&e) == Some(Errno::PIPE) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        messages
    }
}

/// The message in a record (`priority,number,time,flags;text`) if it is about `dev`.
fn message(record: &str, dev: DevNo) -> Option<String> {
    let (_, text) = record.split_once(';')?;
    let text = text.lines().next()?.strip_prefix(PREFIX)?;
    let dev = dev.to_string();
    let words = text.split(|c: char| c.is_whitespace() || ",()[]".contains(c));
    let names_it = words
        .map(|word| word.trim_end_matches(':'))
        .any(|word| word == dev);
    names_it.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_about_the_device_count() {
        let dev = DevNo(rustix::fs::makedev(253, 1));
        let line = "3,812,5,-;device-mapper: table: 253:1: zfile: Bad magic (-EINVAL)\n K=v\n";
        assert_eq!(
            message(line, dev).unwrap(),
            "table: 253:1: zfile: Bad magic (-EINVAL)"
        );
        for other in [
            "3,812,5,-;device-mapper: table: 253:11: zfile: Bad magic (-EINVAL)\n",
            "3,812,5,-;EXT4-fs (dm-1): 253:1 mounted\n",
            "no record",
        ] {
            assert_eq!(message(other, dev), None);
        }
    }
}
