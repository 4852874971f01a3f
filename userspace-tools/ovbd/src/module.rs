// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Kernel modules that another process is loading right now.
//!
//! The kernel asks modprobe for a file system or a target that it does not know. Some of those
//! programs, as busybox's, say at once that all is well if the module is listed but not ready yet,
//! because two processes wanted it at the same time: the second of them is told that there is none.
//! They find it in `/proc/modules`, and so does this: `/sys/module` has it only later.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// How long a module may take to load, and how often it is looked at.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(5);

const MODULES: &str = "/proc/modules";

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
    let is_changing =
        || fs::read_to_string(MODULES).is_ok_and(|modules| is_changing(&modules, module));
    while is_changing() && Instant::now() < deadline {
        thread::sleep(STEP);
    }
    work()
}

/// Whether `module` is being loaded or unloaded, by what `/proc/modules` says: name, size, users, their
/// names, and `Live`, `Loading` or `Unloading`.
fn is_changing(modules: &str, module: &str) -> bool {
    let name = module.replace('-', "_");
    modules.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next() == Some(&name) && words.nth(3).is_some_and(|state| state != "Live")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_live_is_waited_for() {
        let modules = "overlay 212992 2 - Loading 0x0000000000000000\n\
                       dm_overlaybd 159744 0 - Unloading 0x0000000000000000 (OE)\n\
                       dm_mod 245760 1 dm_overlaybd, Live 0x0000000000000000\n\
                       half";
        assert!(is_changing(modules, "overlay"));
        assert!(is_changing(modules, "dm-overlaybd"));
        for other in ["dm_mod", "over", "erofs", "half", ""] {
            assert!(!is_changing(modules, other), "{other}");
        }
    }

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
