// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Tables that the kernel does not take.

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::{DevNo, Error as DmError, Target};
use rustix::io::Errno;

use super::{target, Ctx, Device};
use crate::harness::KernelLog;

/// A refused table.
#[derive(Debug)]
pub struct Refusal {
    /// What the ioctl said.
    pub errno: Errno,
    /// What the kernel logged meanwhile.
    pub log: Vec<String>,
    /// Of the device that the table was for.
    dev: DevNo,
}

impl Ctx {
    /// Loads a read-only table, or says how it was refused.
    pub fn try_load(&mut self, device: &Device, table: &[Target]) -> Result<Result<(), Refusal>> {
        let mut log = KernelLog::open()?;
        match self.dm()?.load(device.dev.0, table) {
            Ok(()) => Ok(Ok(())),
            Err(error @ DmError::Request { .. }) => Ok(Err(Refusal {
                errno: error.errno().context("refused without an error number")?,
                log: log.new_lines(),
                dev: device.dev,
            })),
            Err(error) => Err(error.into()),
        }
    }

    /// Offers a read-only table: makes it live if it is taken, else says how it was refused.
    pub fn offer(&mut self, device: &Device, table: &[Target]) -> Result<Result<(), Refusal>> {
        let loaded = self.try_load(device, table)?;
        if loaded.is_ok() {
            self.dm()?.resume(device.dev.0, &Udev::begin())?;
        }
        Ok(loaded)
    }

    /// Loads a table that must be refused, and says how it was.
    pub fn refused(&mut self, sectors: u64, kind: &str, params: &str) -> Result<Refusal> {
        let device = self.device()?;
        match self.offer(&device, &[target(0, sectors, kind, params)])? {
            Ok(()) => bail!("a table that must be refused was taken: 0 {sectors} {kind} {params}"),
            Err(refusal) => Ok(refusal),
        }
    }
}

impl Refusal {
    /// Fails unless the table was refused with `errno`, and the kernel's log gives `reason`, which
    /// is what the target left in `ti->error`.
    pub fn expect(&self, errno: Errno, reason: &str) -> Result<()> {
        ensure!(
            self.errno == errno && self.log.iter().any(|line| line.contains(reason)),
            "refused with {:?}, expected {errno:?} for \"{reason}\"; the log: {:#?}",
            self.errno,
            self.log
        );
        Ok(())
    }

    /// The same for all that is logged: `reason` by device-mapper, `line` by the target `kind`
    /// itself, and nothing else by it. An empty `line`: it has nothing to add.
    pub fn expect_line(&self, errno: Errno, kind: &str, reason: &str, line: &str) -> Result<()> {
        let reason = format!("table: {}: {kind}: {reason} (", self.dev);
        self.expect(errno, &reason)?;
        let lines = self.lines(kind);
        let expected: &[&str] = if line.is_empty() { &[] } else { &[line] };
        ensure!(
            lines == expected,
            "{kind} logged {lines:?}, expected {expected:?}"
        );
        Ok(())
    }

    /// What the target `kind` left in `ti->error`, if device-mapper says so.
    pub fn reason(&self, kind: &str) -> Option<&str> {
        let begin = format!("table: {}: {kind}: ", self.dev);
        let mut lines = self.log.iter().filter_map(|line| line.split_once(&begin));
        let (_, rest) = lines.next()?;
        Some(rest.rsplit_once(" (").map_or(rest, |(reason, _)| reason))
    }

    /// What the target `kind` itself logged about the device.
    fn lines(&self, kind: &str) -> Vec<&str> {
        let begin = format!("{kind}: {}: ", self.dev);
        let lines = self.log.iter().filter_map(|line| line.split_once(&begin));
        lines.map(|(_, text)| text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_target_are_told_from_those_of_device_mapper() {
        let refusal = Refusal {
            errno: Errno::INVAL,
            log: vec![
                "dm_overlaybd: zfile: 253:1: 7:0: length 5, expected at least 6".to_owned(),
                "device-mapper: table: 253:1: zfile: Length too small (-EINVAL)".to_owned(),
                "device-mapper: ioctl: error adding target to table".to_owned(),
            ],
            dev: DevNo(rustix::fs::makedev(253, 1)),
        };
        let expect = |errno, kind, reason, line| refusal.expect_line(errno, kind, reason, line);
        let line = "7:0: length 5, expected at least 6";
        expect(Errno::INVAL, "zfile", "Length too small", line).unwrap();
        expect(Errno::INVAL, "zfile", "Length too small", "").unwrap_err();
        expect(Errno::INVAL, "zfile", "Length too", line).unwrap_err();
        expect(Errno::INVAL, "lsmt", "Length too small", "").unwrap_err();
        expect(Errno::NOENT, "zfile", "Length too small", line).unwrap_err();
        assert_eq!(refusal.reason("zfile"), Some("Length too small"));
        assert_eq!(refusal.reason("lsmt"), None);
    }
}
