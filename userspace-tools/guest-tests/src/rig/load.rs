// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Readers that are under way while something is done to the devices below them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, Result};

use crate::rng::Rng;

/// Longer than any read takes on an emulated processor of a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the readers.
const PAUSE: Duration = Duration::from_millis(1);

/// One read, and a look at what came.
pub type Read<'a> = &'a (dyn Fn(&mut Rng) -> Result<()> + Sync);

/// The readers, as what goes on beside them sees them.
pub struct Load {
    stop: AtomicBool,
    counts: Vec<AtomicU64>,
    failure: Mutex<Option<anyhow::Error>>,
}

impl Load {
    /// Runs `beside` while each of `readers`, in a thread of its own, reads again and again.
    /// Fails if one of them does.
    pub fn with<T>(
        rng: &mut Rng,
        readers: &[Read<'_>],
        beside: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<T> {
        let load = Self {
            stop: AtomicBool::new(false),
            counts: readers.iter().map(|_| AtomicU64::new(0)).collect(),
            failure: Mutex::new(None),
        };
        let load = &load;
        let result = thread::scope(|scope| {
            for (read, count) in readers.iter().zip(&load.counts) {
                let rng = rng.fork();
                scope.spawn(move || load.run(read, count, rng));
            }
            let result = beside(load);
            load.stop.store(true, Ordering::Relaxed);
            result
        });
        // What a reader saw is more telling than what its failure did to the rest.
        load.check()?;
        result
    }

    fn run(&self, read: Read<'_>, count: &AtomicU64, mut rng: Rng) {
        while !self.stop.load(Ordering::Relaxed) {
            if let Err(error) = read(&mut rng) {
                self.stop.store(true, Ordering::Relaxed);
                self.failure().get_or_insert(error);
                return;
            }
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<anyhow::Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<()> {
        match self.failure().take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Returns when every reader has read `count` times more than now.
    pub fn more(&self, count: u64) -> Result<()> {
        let goals: Vec<u64> = self.totals().map(|total| total + count).collect();
        let start = Instant::now();
        while self.totals().zip(&goals).any(|(total, &goal)| total < goal) {
            if self.stop.load(Ordering::Relaxed) {
                bail!("a reader failed");
            }
            if start.elapsed() > PATIENCE {
                return Err(anyhow!(
                    "a reader is stuck: {:?} reads, expected {goals:?}",
                    self.totals().collect::<Vec<_>>()
                ));
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// How many reads all of them have done.
    pub fn total(&self) -> u64 {
        self.totals().sum()
    }

    fn totals(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_beside_waits_for_readers() {
        let mut rng = Rng::for_test("load");
        let read = |_: &mut Rng| Ok(());
        let total = Load::with(&mut rng, &[&read, &read], |load| {
            load.more(5)?;
            Ok(load.total())
        });
        assert!(total.unwrap() >= 10);
    }

    #[test]
    fn a_failure_ends_it() {
        let mut rng = Rng::for_test("failure");
        let bad = |_: &mut Rng| -> Result<()> { bail!("wrong bytes") };
        let good = |_: &mut Rng| Ok(());
        let result = Load::with(&mut rng, &[&good, &bad], |load| load.more(1 << 40));
        assert_eq!(result.unwrap_err().to_string(), "wrong bytes");
    }
}
