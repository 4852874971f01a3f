// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which reads a device is asked for.

use anyhow::{Context as _, Result};
use ovbd::dm::DevNo;

use super::trace::Trace;
use crate::ctx::Ctx;

/// The reads of a device that are queued from now on.
pub struct Queued(Trace);

impl Queued {
    pub fn new(ctx: &mut Ctx, dev: DevNo) -> Result<Self> {
        Ok(Self(Trace::of_queue(ctx, dev)?))
    }

    /// All until now: first sector and number of sectors.
    pub fn reads(&self) -> Result<Vec<(u64, u64)>> {
        let lines = self.0.lines()?.into_iter();
        let reads: Option<Vec<_>> = lines.map(|line| parse(&line)).collect();
        reads.context("lines of block_bio_queue")
    }

    /// Those of `work`.
    pub fn of(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<(u64, u64)>> {
        self.0.clear()?;
        work()?;
        self.reads()
    }
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let (_, event) = line.split_once("block_bio_queue: ")?;
    let mut words = event.split_whitespace().skip(2);
    let sector = words.next()?.parse().ok()?;
    words.next().filter(|word| *word == "+")?;
    Some((sector, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_line_is_a_read() {
        let line = " guest-tests-81 [001] ..... 12.345678: block_bio_queue: 7,0 R 24 + 16 [guest]";
        assert_eq!(parse(line), Some((24, 16)));
        assert_eq!(parse("block_bio_queue: 7,0 F N [guest]"), None);
    }
}
