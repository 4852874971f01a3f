// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The least memory that was free during something.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};

use super::machine;

/// Debian's program, which busybox has not: it gives a thread real-time priority.
const CHRT: &str = "/opt/chrt";
/// Between two looks. Memory that is there for less than this may escape.
const PAUSE: Duration = Duration::from_micros(100);

/// Does `work`; returns by how many bytes the free memory was less meanwhile than before.
///
/// The kernel has no mark of its own for this: its own tables are not charged to any control group.
/// A thread with real-time priority looks again and again, and comes between whatever the
/// kernel does for another one.
pub fn during(work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let _lists = machine::ShortLists::new()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, begun) = mpsc::channel();
    let stopped = Arc::clone(&stop);
    let watcher = thread::spawn(move || watch(&stopped, &ready));
    // Without a watcher there is an error below.
    let before = begun.recv();
    let result = before.is_ok().then(work);
    stop.store(true, Ordering::Relaxed);
    let least = watcher.join().map_err(|_| anyhow!("the watcher died"))??;
    result.transpose()?;
    Ok(before?.saturating_sub(least))
}

/// Says what is free at first; returns the least there was.
fn watch(stop: &AtomicBool, ready: &mpsc::Sender<u64>) -> Result<u64> {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new(CHRT)
        .args(["--fifo", "--pid", "50", &thread])
        .status()
        .with_context(|| format!("cannot run {CHRT}"))?;
    ensure!(status.success(), "{CHRT}: {status}");
    let mut least = machine::free_memory()?;
    ready.send(least).context("nobody waits")?;
    while !stop.load(Ordering::Relaxed) {
        least = least.min(machine::memory_left()?);
        thread::sleep(PAUSE);
    }
    Ok(least)
}
