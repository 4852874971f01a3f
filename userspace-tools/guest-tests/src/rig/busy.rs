// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A machine of which one task has one CPU, and nobody else has the other.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{mpsc, Arc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context as _, Result};
use rustix::thread::{gettid, sched_setaffinity, CpuSet};

use super::set;
use crate::ctx::Ctx;

/// Debian's program, which busybox has not: it gives a thread real-time priority.
const CHRT: &str = "/opt/chrt";
/// The CPU of the task, and the one that is busy.
const CPUS: [usize; 2] = [0, 1];
/// Time that the scheduler keeps for tasks without real-time priority, ns a period.
const KEPT_FOR_OTHERS: [&str; 2] = [
    "/sys/kernel/debug/sched/fair_server/cpu0/runtime",
    "/sys/kernel/debug/sched/fair_server/cpu1/runtime",
];
/// After so long the CPU is given back whatever happens, for the kernel needs it, too.
const LIMIT: Duration = Duration::from_secs(10);

/// Does `work` on one CPU, while the other one is busy: no task without real-time priority runs
/// until `work` sleeps.
pub fn during<T>(ctx: &mut Ctx, work: impl FnOnce() -> Result<T>) -> Result<T> {
    for path in KEPT_FOR_OTHERS {
        set(ctx, path, "0")?;
    }
    let other = Other::new()?;
    prefer(CPUS[0])?;
    let result = work();
    chrt("--other", "0")?;
    stay_on(&CPUS)?;
    other.end()?;
    result
}

/// The thread that keeps the other CPU busy.
struct Other {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

impl Other {
    fn new() -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, begun) = mpsc::channel();
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || compute(&stopped, &ready));
        // Without a thread there is an error at the end.
        let _ = begun.recv();
        Ok(Self { stop, thread })
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread died"))?
    }
}

fn compute(stop: &AtomicBool, ready: &mpsc::Sender<()>) -> Result<()> {
    prefer(CPUS[1])?;
    let begin = Instant::now();
    ready.send(()).context("nobody waits")?;
    while !stop.load(Ordering::Relaxed) {
        ensure!(begin.elapsed() < LIMIT, "the CPU was busy for too long");
    }
    Ok(())
}

/// Has this thread run on `cpu`, before all others.
fn prefer(cpu: usize) -> Result<()> {
    stay_on(&[cpu])?;
    chrt("--fifo", "50")
}

fn stay_on(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        set.set(cpu);
    }
    sched_setaffinity(None, &set).context("affinity")
}

fn chrt(policy: &str, priority: &str) -> Result<()> {
    let thread = gettid().as_raw_nonzero().to_string();
    let status = Command::new(CHRT)
        .args([policy, "--pid", priority, &thread])
        .status()
        .with_context(|| format!("cannot run {CHRT}"))?;
    ensure!(status.success(), "{CHRT}: {status}");
    Ok(())
}
