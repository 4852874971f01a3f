// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The kernel's log, and what in it means that something is broken.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// One text a line; the run's host looks for the same ones on the console.
const SPLATS: &str = "/etc/splats";
/// The kernel's longest record.
const RECORD_LEN: usize = 8192;
/// How many lines of a splat are shown.
const SHOWN: usize = 60;

/// The kernel's log from some moment on.
pub struct KernelLog {
    file: File,
    splats: Vec<String>,
}

impl KernelLog {
    /// From now on.
    pub fn open() -> io::Result<Self> {
        let mut file = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        let splats = fs::read_to_string(SPLATS).unwrap_or_default();
        let splats = splats.lines().filter(|line| !line.is_empty());
        Ok(Self {
            file,
            splats: splats.map(str::to_owned).collect(),
        })
    }

    /// What was logged since the last call.
    pub fn new_lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut record = [0; RECORD_LEN];
        loop {
            match self.file.read(&mut record) {
                Ok(length) => lines.extend(text(&String::from_utf8_lossy(&record[..length]))),
                // Overtaken by newer records; the next read goes on with the oldest there is.
                Err(e) if Errno::from_io_error(&e) == Some(Errno::PIPE) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return lines,
            }
        }
    }

    /// The same, if it means that something is broken; else nothing.
    pub fn splats(&mut self) -> Vec<String> {
        let lines = self.new_lines();
        splats_among(lines, &self.splats)
    }
}

/// The lines from the first one on that holds one of `texts`; nothing if none does.
fn splats_among(lines: Vec<String>, texts: &[String]) -> Vec<String> {
    let is_splat = |line: &String| texts.iter().any(|text| line.contains(text));
    let Some(first) = lines.iter().position(is_splat) else {
        return Vec::new();
    };
    let title = "the kernel logged:".to_owned();
    let shown = lines.into_iter().skip(first).take(SHOWN);
    std::iter::once(title).chain(shown).collect()
}

/// The message of a record, `priority,number,time,flags;text` and continuation lines.
fn text(record: &str) -> Option<String> {
    let (_, text) = record.split_once(';')?;
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splats_are_found_among_other_lines() {
        let lines = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect::<Vec<_>>();
        let texts = lines(&["WARNING: ", "Oops:"]);
        let quiet = lines(&["loop: module loaded", "EXT4-fs warning: none"]);
        assert!(splats_among(quiet, &texts).is_empty());
        let loud = lines(&["fine", "WARNING: CPU: 0 PID: 1", "RIP: 0"]);
        let found = splats_among(loud, &texts);
        assert_eq!(found[1..], ["WARNING: CPU: 0 PID: 1", "RIP: 0"]);
    }

    #[test]
    fn the_text_of_a_record() {
        assert_eq!(
            text("6,812,5,-;loop: module loaded\n K=v\n").as_deref(),
            Some("loop: module loaded")
        );
        assert_eq!(text("garbage"), None);
    }
}
