// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Several transfers at a time.

use std::sync::{Mutex, PoisonError};
use std::thread;

use super::session::Session;
use super::RegistryError;
use crate::{Error, Result};

/// Does what `next` has to do, until it has nothing more, on so many threads, and adds up what it
/// gives. The first failure stops the others.
pub(super) fn sum(
    session: &Session<'_>,
    threads: usize,
    next: impl Fn() -> Option<Result<u64>> + Sync,
) -> Result<u64> {
    let result = Mutex::new(Ok(0));
    let worker = || {
        while let Some(done) = next() {
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            if !add(&mut result, done) {
                session.stop.stop();
                break;
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
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
