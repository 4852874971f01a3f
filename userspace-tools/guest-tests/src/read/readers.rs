// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Readers that go on and on while a test does something else.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{anyhow, ensure, Result};

use super::{Device, Mode};
use crate::rng::Rng;

/// How many threads read.
const THREADS: u64 = 3;
/// Random reads between two looks at whether to stop.
const BURST: u64 = 4;

struct Shared {
    path: PathBuf,
    content: Vec<u8>,
    stop: AtomicBool,
    /// Bursts that are done.
    bursts: AtomicU64,
    /// A reader has given up.
    failed: AtomicBool,
}

/// Threads that read a device at random and compare.
pub struct Readers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Readers {
    /// Starts them; `content` is what must be at `path`, whole sectors.
    pub fn start(path: &Path, content: Vec<u8>, rng: &mut Rng) -> Result<Self> {
        // Held open, so that a first look does not depend on a thread's start.
        let _ = File::open(path)?;
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            content,
            stop: AtomicBool::new(false),
            bursts: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        });
        let threads = (0..THREADS)
            .map(|number| {
                let (shared, rng) = (Arc::clone(&shared), rng.fork());
                thread::spawn(move || {
                    let mode = if number == 0 {
                        Mode::Buffered
                    } else {
                        Mode::Direct
                    };
                    let result = shared.read(mode, rng);
                    shared.failed.fetch_or(result.is_err(), Ordering::Relaxed);
                    result
                })
            })
            .collect();
        Ok(Self { shared, threads })
    }

    /// Comes back when every thread has had time for some more reads, or one has failed.
    pub fn wait_for_more(&self) {
        let enough = self.shared.bursts.load(Ordering::Relaxed) + THREADS;
        while self.shared.bursts.load(Ordering::Relaxed) < enough
            && !self.shared.failed.load(Ordering::Relaxed)
        {
            thread::yield_now();
        }
    }

    /// Stops them; fails if any read was wrong.
    pub fn stop(self) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        ensure!(
            self.shared.bursts.load(Ordering::Relaxed) > 0,
            "nothing was read"
        );
        Ok(())
    }
}

impl Shared {
    fn read(&self, mode: Mode, mut rng: Rng) -> Result<()> {
        let device = Device::open(&self.path, &self.content)?;
        while !self.stop.load(Ordering::Relaxed) {
            device.random(mode, BURST, &mut rng)?;
            self.bursts.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
