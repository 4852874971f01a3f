// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Kernel modules that another process is loading right now.
//!
//! The kernel asks modprobe for a file system or a target that it does not know. Some of those
//! programs, as busybox's, say at once that all is well if the module is there but not ready yet,
//! because two processes wanted it at the same time: the second of them is told that there is none.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// How long a module may take to load, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

/// Does `work`, which needs `module`, and once more if it ended with what `is_missing` knows as
/// the module's absence.
pub fn needing<T, E>(
    module: &str,
    is_missing: impl Fn(&E) -> bool,
    mut work: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    match work() {
        Err(error) if is_missing(&error) => {}
        result => return result,
    }
    let deadline = Instant::now() + PATIENCE;
    while is_loading(module) && Instant::now() < deadline {
        thread::sleep(STEP);
    }
    work()
}

fn is_loading(module: &str) -> bool {
    let path = format!("/sys/module/{}/initstate", module.replace('-', "_"));
    fs::read_to_string(path).is_ok_and(|state| state.trim_end() == "coming")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_there_is_tried_once_more() {
        let missing = |&error: &i32| error == 19;
        let mut answers = [Err(19), Ok(7)].into_iter();
        assert_eq!(needing("none", missing, || answers.next().unwrap()), Ok(7));
        for (error, wanted) in [(19, 2), (1, 1)] {
            let mut tries = 0;
            let refused = needing("none", missing, || {
                tries += 1;
                Err::<(), _>(error)
            });
            assert_eq!((refused, tries), (Err(error), wanted));
        }
    }
}
