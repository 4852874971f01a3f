// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Runs tests one after the other and reports in KTAP.
//!
//! Each test has a thread of its own, so that a panic or a read that never returns does not take
//! the rest along. Around it: what it set up is taken down again, something left over is a
//! failure, and so is a kernel message that means trouble (a "splat"). A test that does not come
//! back within its limit ends the run: the kernel cannot be trusted any more.

mod kernel;
mod kmsg;
mod ktap;
mod pattern;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::{mpsc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context as _, Result};

use crate::ctx::Ctx;
pub use kernel::Kernel;
pub use kmsg::KernelLog;
use ktap::{Ktap, Outcome};

type Body = Box<dyn FnOnce(&mut Ctx) -> Result<()> + Send>;

/// A test.
pub struct Case {
    /// `group.what_holds`.
    pub name: String,
    run: Body,
}

impl Case {
    /// A test called `name`.
    pub fn new(
        name: impl Into<String>,
        run: impl FnOnce(&mut Ctx) -> Result<()> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// The cases whose names match one of `patterns`; all if there is none.
pub fn filter(cases: Vec<Case>, patterns: &[&str]) -> Vec<Case> {
    let wanted =
        |name: &str| patterns.is_empty() || patterns.iter().any(|p| pattern::fits(p, name));
    cases
        .into_iter()
        .filter(|case| wanted(&case.name))
        .collect()
}

/// Runs the cases that match and prints KTAP; the exit code says whether all passed.
pub fn run(kernel: Kernel, cases: Vec<Case>, patterns: &[&str]) -> Result<ExitCode> {
    let cases = filter(cases, patterns);
    if cases.is_empty() {
        bail!("no test is called {}", patterns.join(" or "));
    }
    panic::set_hook(Box::new(|info| remember_panic(info.to_string())));
    let mut log = KernelLog::open().context("/dev/kmsg")?;
    let mut ktap = Ktap::new(std::io::stdout(), cases.len() + kernel.checks().len())?;
    for case in cases {
        let name = case.name.clone();
        let start = Instant::now();
        let Some((mut outcome, notes)) = run_case(case, kernel.limit()) else {
            let notes = hang_report(&mut log);
            ktap.result(&name, &Outcome::Failed(notes), start.elapsed())?;
            return ktap.bail_out(&format!("{name} does not come back"));
        };
        outcome.add(log.splats());
        ktap.notes(&notes)?;
        ktap.result(&name, &outcome, start.elapsed())?;
    }
    for (name, check) in kernel.checks() {
        let start = Instant::now();
        let outcome = check().map_or_else(
            |error| Outcome::Failed(vec![format!("{error:#}")]),
            |()| Outcome::Passed,
        );
        ktap.result(name, &outcome, start.elapsed())?;
    }
    Ok(ktap.finish())
}

/// How it ended, and what it has to say. `None`: it hangs.
fn run_case(case: Case, limit: Duration) -> Option<(Outcome, Vec<String>)> {
    let (send, receive) = mpsc::channel();
    let body = move || {
        let mut ctx = Ctx::new(&case.name);
        let result = panic::catch_unwind(AssertUnwindSafe(|| (case.run)(&mut ctx)));
        let result = result.unwrap_or_else(|_| Err(anyhow::Error::msg(last_panic())));
        let mut outcome = match result {
            Ok(()) => Outcome::Passed,
            Err(error) => Outcome::Failed(vec![format!("{error:#}"), ctx.how_to_repeat()]),
        };
        let notes = ctx.notes();
        outcome.add(ctx.clean_up());
        // The receiver is gone if the time was up.
        let _ = send.send((outcome, notes));
    };
    match thread::Builder::new().spawn(body) {
        Ok(_) => receive.recv_timeout(limit).ok(),
        Err(error) => {
            let outcome = Outcome::Failed(vec![format!("no thread: {error}")]);
            Some((outcome, Vec::new()))
        }
    }
}

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());

fn remember_panic(text: String) {
    *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = text;
}

fn last_panic() -> String {
    LAST_PANIC
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// What the kernel says about tasks that wait.
fn hang_report(log: &mut KernelLog) -> Vec<String> {
    let mut notes = vec!["it did not come back in time; blocked tasks:".to_owned()];
    notes.extend(log.new_lines());
    // l: where the processors are; w: the blocked tasks.
    for key in ["l", "w"] {
        if let Err(error) = std::fs::write("/proc/sysrq-trigger", key) {
            notes.push(format!("/proc/sysrq-trigger: {error}"));
        }
    }
    notes.extend(log.new_lines());
    notes
}
