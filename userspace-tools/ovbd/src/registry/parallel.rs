// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Several blobs at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::session::Session;
use super::RegistryError;
use crate::{Error, Result};

/// Does `work` with every item, on as many threads as connections are wanted, and adds up what it
/// gives. The first failure stops the others.
pub(super) fn sum<T: Sync>(
    session: &Session<'_>,
    items: &[T],
    work: impl Fn(usize, &T) -> Result<u64> + Sync,
) -> Result<u64> {
    let next = AtomicUsize::new(0);
    let result = Mutex::new(Ok(0));
    let worker = || loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(item) = items.get(at) else { break };
        let done = work(at, item);
        let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
        if !add(&mut result, done) {
            session.stop.stop();
            break;
        }
    };
    thread::scope(|scope| {
        for _ in 0..session.options.connections.clamp(1, items.len().max(1)) {
            scope.spawn(worker);
        }
    });
    result.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Adds to the sum; false if it is an error now. The first one counts, as the others only gave up.
fn add(sum: &mut Result<u64>, done: Result<u64>) -> bool {
    match (&mut *sum, done) {
        (Ok(sum), Ok(bytes)) => *sum += bytes,
        (Err(Error::Registry(RegistryError::Cancelled)) | Ok(_), Err(error)) => *sum = Err(error),
        (Err(_), _) => {}
    }
    sum.is_ok()
}
