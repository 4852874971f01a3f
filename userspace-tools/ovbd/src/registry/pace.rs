// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How fast, how patient: retries, the rate limit, when a connection counts as stalled, and how
//! everything is stopped at once.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::RegistryError;

/// How long to go on with a registry that is in trouble.
#[derive(Clone, Debug)]
pub struct Patience {
    /// How often something is tried without any progress between.
    pub attempts: u32,
    /// The pause behind the first failure; each further one is twice as long.
    pub first_pause: Duration,
    /// The longest pause, also if the registry asks for more.
    pub longest_pause: Duration,
    /// How long a connection may be silent, and over which time its speed is measured.
    pub stall: Duration,
    /// Fewer bytes than this in that time are as bad as none.
    pub stall_bytes: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 6,
            first_pause: Duration::from_millis(500),
            longest_pause: Duration::from_secs(60),
            stall: Duration::from_secs(30),
            stall_bytes: 8 << 10,
        }
    }
}

impl Patience {
    /// The pause behind failure number `failures` (from 1 on), or nothing if that was the last.
    pub(super) fn pause(&self, failures: u32, error: &RegistryError) -> Option<Duration> {
        if failures >= self.attempts {
            return None;
        }
        let doubled = self.first_pause.saturating_mul(1 << (failures - 1).min(16));
        let asked = error.retry_after().unwrap_or_default();
        Some(doubled.max(asked).min(self.longest_pause))
    }
}

/// Tells several threads to stop, and has them wait no longer.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Has everything stop.
    pub fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// An error if everything is to stop.
    pub fn check(&self) -> Result<(), RegistryError> {
        self.wait(Duration::ZERO)
    }

    /// Waits; an error if everything is to stop.
    pub fn wait(&self, time: Duration) -> Result<(), RegistryError> {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = if *stopped || time.is_zero() {
            *stopped
        } else {
            let waited = self
                .changed
                .wait_timeout_while(stopped, time, |stopped| !*stopped);
            *waited.unwrap_or_else(PoisonError::into_inner).0
        };
        match stopped {
            true => Err(RegistryError::Cancelled),
            false => Ok(()),
        }
    }
}

/// A rate that several threads share.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Bytes a second.
    rate: u64,
    /// When all that was taken will have been paid for.
    paid: Mutex<Instant>,
}

/// What may be taken at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl Limiter {
    pub fn new(rate: u64) -> Self {
        Self {
            rate: rate.max(1),
            paid: Mutex::new(Instant::now()),
        }
    }

    /// Takes `bytes` at `now`; how long to wait for them.
    pub fn take(&self, bytes: usize, now: Instant) -> Duration {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let cost = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        *paid = (*paid).max(earliest) + cost;
        paid.saturating_duration_since(now)
    }

    /// How much to read at a time, so that the rate is even.
    pub fn piece(&self) -> usize {
        usize::try_from(self.rate / 10).unwrap_or(usize::MAX).max(1)
    }
}

/// Notices a connection that gives less than it has to.
#[derive(Debug)]
pub(super) struct Speed {
    window: Duration,
    least: u64,
    since: Instant,
    bytes: u64,
}

impl Speed {
    pub fn new(window: Duration, least: u64, now: Instant) -> Self {
        Self {
            window,
            least,
            since: now,
            bytes: 0,
        }
    }

    /// Counts `bytes` at `now`; whether there were too few.
    pub fn is_too_slow(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes += bytes as u64;
        if now.saturating_duration_since(self.since) < self.window {
            return false;
        }
        let slow = self.bytes < self.least;
        (self.since, self.bytes) = (now, 0);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(retry_after: Option<u64>) -> RegistryError {
        RegistryError::Status {
            url: String::new(),
            status: 429,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn pauses_double_and_end() {
        let patience = Patience::default();
        let pauses: Vec<_> = (1..=6).map(|n| patience.pause(n, &status(None))).collect();
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(
            pauses,
            [ms(500), ms(1000), ms(2000), ms(4000), ms(8000), None]
        );
    }

    #[test]
    fn the_registry_may_ask_for_a_longer_pause() {
        let patience = Patience::default();
        let asked = |n| patience.pause(1, &status(Some(n)));
        assert_eq!(asked(7), Some(Duration::from_secs(7)));
        assert_eq!(asked(0), Some(patience.first_pause));
        assert_eq!(asked(86400), Some(patience.longest_pause));
    }

    #[test]
    fn a_rate_is_kept_by_all_together() {
        let limiter = Limiter::new(1000);
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(limiter.take(100, now), Duration::ZERO);
        assert_eq!(limiter.take(500, now), Duration::from_millis(500));
        assert_eq!(limiter.take(500, now), Duration::from_secs(1));
        let later = now + Duration::from_secs(1);
        assert_eq!(limiter.take(1000, later), Duration::from_secs(1));
        assert_eq!(limiter.piece(), 100);
    }

    #[test]
    fn slow_is_less_than_asked_over_a_whole_window() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut speed = Speed::new(Duration::from_secs(1), 100, start);
        assert!(!speed.is_too_slow(10, at(999)));
        assert!(!speed.is_too_slow(90, at(1000)));
        assert!(!speed.is_too_slow(99, at(1999)));
        assert!(speed.is_too_slow(0, at(2000)));
    }

    #[test]
    fn a_stop_ends_waiting() {
        let stop = Stop::default();
        assert!(stop.check().is_ok());
        assert!(stop.wait(Duration::from_nanos(1)).is_ok());
        stop.stop();
        assert!(stop.wait(Duration::from_secs(1 << 30)).is_err());
    }
}
