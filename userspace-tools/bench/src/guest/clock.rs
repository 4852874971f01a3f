// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What takes the time of a piece of work.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use super::emit;
use crate::cpu::Mark;
use crate::print;
use crate::sample::Unit;

/// What takes the time of a piece of work.
pub trait Clock {
    /// Does part of some work, and adds the time that it takes.
    fn section(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// The work is done: it was `test` on `device`, and read so many blocks of 4 KiB.
    fn done(&self, device: &str, test: &str, blocks: u64) -> Result<()>;

    /// Takes the time of `work`, which returns how many blocks it has read.
    fn time(&self, device: &str, test: &str, work: &mut dyn FnMut() -> Result<u64>) -> Result<()> {
        let mut blocks = 0;
        self.section(&mut || {
            blocks = work()?;
            Ok(())
        })?;
        self.done(device, test, blocks)
    }
}

/// The clock of a machine that counts instructions.
#[derive(Default)]
pub struct Instructions {
    spent: Cell<Duration>,
}

impl Clock for Instructions {
    fn section(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let start = Instant::now();
        work()?;
        self.spent.set(self.spent.get() + start.elapsed());
        Ok(())
    }

    fn done(&self, device: &str, test: &str, blocks: u64) -> Result<()> {
        let spent = self.spent.take().as_nanos() as f64;
        emit(device, test, spent / blocks as f64, Unit::Instructions);
        Ok(())
    }
}

/// The clock is outside: it is told what begins and what has ended, and answers ([`crate::cpu`]).
/// It counts CPU time.
pub struct Outside;

impl Clock for Outside {
    fn section(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        mark(&Mark::Begin)?;
        work()?;
        mark(&Mark::Pause)
    }

    fn done(&self, device: &str, test: &str, blocks: u64) -> Result<()> {
        mark(&Mark::End {
            device: device.to_owned(),
            test: format!("cpu-{test}"),
            blocks,
        })
    }
}

/// Says what happens; returns when it was taken down.
fn mark(mark: &Mark) -> Result<()> {
    print(serde_json::to_string(mark)?);
    let mut answer = String::new();
    let length = io::stdin()
        .read_line(&mut answer)
        .context("cannot read the answer to a mark")?;
    ensure!(
        length > 0,
        "nobody answers: this runs under `ovbd-bench cpu`"
    );
    Ok(())
}
