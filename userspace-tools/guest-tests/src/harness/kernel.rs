// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The kernel that the tests run on, and what it has to say when they have ended.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};

/// Which kernel it is; the run says so, so that one that lacks what it is there for is noticed.
const KERNEL: &str = "OVBD_KERNEL";
/// What the module's being out of tree and unsigned leaves in `/proc/sys/kernel/tainted`.
const EXPECTED_TAINT: u64 = 1 << 12 | 1 << 13;
/// What KUnit leaves there.
const TESTED: u64 = 1 << 18;
const LEAKS: &str = "/sys/kernel/debug/kmemleak";
/// kmemleak says nothing about memory that is younger than five seconds.
const YOUNG: Duration = Duration::from_secs(6);
const MODULE: &str = "[dm_overlaybd]";

/// A kernel that tests run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's.
    Stock,
    /// One with everything that finds mistakes.
    Debug,
}

/// A look at the kernel after all tests.
pub type Check = (&'static str, fn() -> Result<()>);

impl Kernel {
    /// The one of this run.
    pub fn of_this_run() -> Result<Self> {
        match std::env::var(KERNEL).as_deref() {
            Ok("debug") => Ok(Self::Debug),
            Ok("stock") | Err(_) => Ok(Self::Stock),
            Ok(other) => bail!("{KERNEL} is \"{other}\", expected \"stock\" or \"debug\""),
        }
    }

    /// How long a test may take: far longer than any does on a quiet machine. Where others steal the
    /// emulated processor's time it has been twenty times that.
    pub fn limit(self) -> Duration {
        Duration::from_secs(match self {
            Self::Stock => 1200,
            Self::Debug => 2400,
        })
    }

    /// What is asked of it when all tests have ended.
    pub fn checks(self) -> &'static [Check] {
        const ALL: [Check; 3] = [
            ("kernel.not_tainted", not_tainted),
            ("kernel.locks_were_checked", locks_were_checked),
            ("kernel.nothing_is_lost", nothing_is_lost),
        ];
        match self {
            Self::Stock => &ALL[..1],
            Self::Debug => &ALL,
        }
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).context(path.to_owned())
}

fn not_tainted() -> Result<()> {
    let text = read("/proc/sys/kernel/tainted")?;
    let bits: u64 = text.trim().parse()?;
    let expected = match Kernel::of_this_run()? {
        Kernel::Stock => EXPECTED_TAINT,
        Kernel::Debug => EXPECTED_TAINT | TESTED,
    };
    ensure!(
        bits & !expected == 0,
        "/proc/sys/kernel/tainted is {bits}, expected no bits outside of {expected}"
    );
    Ok(())
}

/// After its first complaint, or when it has no more room, lockdep is off.
fn locks_were_checked() -> Result<()> {
    let stats = read("/proc/lockdep_stats")?;
    let on = |line: &str| {
        line.split_once("debug_locks:")
            .map(|(_, n)| n.trim() == "1")
    };
    ensure!(stats.lines().find_map(on) == Some(true), "{stats}");
    Ok(())
}

/// Memory that nobody has a pointer to.
fn nothing_is_lost() -> Result<()> {
    thread::sleep(YOUNG);
    // What has changed since the scan before is taken for in use.
    for _ in 0..2 {
        fs::write(LEAKS, "scan").context(LEAKS)?;
    }
    let report = read(LEAKS)?;
    let ours: Vec<&str> = lost(&report).filter(|object| is_ours(object)).collect();
    ensure!(ours.is_empty(), "kmemleak:\n{}", ours.join("\n"));
    Ok(())
}

/// The objects of kmemleak's report.
fn lost(report: &str) -> impl Iterator<Item = &str> {
    report.split("unreferenced object ").skip(1)
}

/// Whether the module took it, or one that is unloaded by now: then its functions have no names.
fn is_ours(object: &str) -> bool {
    let stack = object
        .split_once("backtrace")
        .map_or("", |(_, stack)| stack);
    let nameless = |line: &str| line.trim_start().starts_with("0x");
    stack.contains(MODULE) || stack.lines().any(nameless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_module_has_lost_is_told_from_the_rest() {
        let report = "unreferenced object 0xffff888003a1 (size 64):\n  comm \"a\", pid 1\n  \
            hex dump (first 32 bytes):\n    0x00 01\n  backtrace (crc 5):\n    kmalloc+0x1/0x2\n    \
            acpi_init+0x1/0x2\nunreferenced object 0xffff888003a2 (size 64):\n  comm \"b\", pid 2\n  \
            backtrace (crc 6):\n    kmalloc+0x1/0x2\n    ctr+0x1/0x2 [dm_overlaybd]\nunreferenced \
            object 0xffff888003a3 (size 8):\n  backtrace (crc 7):\n    0xffffffffa0001234\n";
        let ours: Vec<bool> = lost(report).map(is_ours).collect();
        assert_eq!(ours, [false, true, true]);
    }
}
