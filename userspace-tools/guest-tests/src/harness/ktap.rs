// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! KTAP, the kernel's format for test results.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

/// How a test ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Passed,
    /// What went wrong, in lines.
    Failed(Vec<String>),
}

impl Outcome {
    /// Adds what was found after the test; anything makes it a failure.
    pub fn add(&mut self, found: Vec<String>) {
        if found.is_empty() {
            return;
        }
        match self {
            Self::Failed(notes) => notes.extend(found),
            Self::Passed => *self = Self::Failed(found),
        }
    }
}

/// Results on their way out; each is written at once, because the machine may stop at any time.
pub struct Ktap<W> {
    out: W,
    count: usize,
    failed: usize,
}

impl<W: Write> Ktap<W> {
    /// Begins the report of `planned` tests.
    pub fn new(mut out: W, planned: usize) -> io::Result<Self> {
        writeln!(out, "KTAP version 1\n1..{planned}")?;
        out.flush()?;
        Ok(Self {
            out,
            count: 0,
            failed: 0,
        })
    }

    /// Says something about the test that is reported next.
    pub fn notes(&mut self, notes: &[String]) -> io::Result<()> {
        for line in notes.iter().flat_map(|note| note.lines()) {
            writeln!(self.out, "# {line}")?;
        }
        Ok(())
    }

    /// Reports a test.
    pub fn result(&mut self, name: &str, outcome: &Outcome, time: Duration) -> io::Result<()> {
        self.count += 1;
        let number = self.count;
        let seconds = time.as_secs_f64();
        match outcome {
            Outcome::Passed => writeln!(self.out, "ok {number} {name} # {seconds:.2} s")?,
            Outcome::Failed(notes) => {
                self.failed += 1;
                self.notes(notes)?;
                writeln!(self.out, "not ok {number} {name} # {seconds:.2} s")?;
            }
        }
        self.out.flush()
    }

    /// Ends the report early.
    pub fn bail_out(mut self, why: &str) -> Result<ExitCode> {
        writeln!(self.out, "Bail out! {why}")?;
        self.out.flush()?;
        Ok(ExitCode::FAILURE)
    }

    /// Ends the report.
    pub fn finish(self) -> ExitCode {
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report() {
        let mut out = Vec::new();
        let mut ktap = Ktap::new(&mut out, 2).unwrap();
        let time = Duration::from_millis(1500);
        ktap.notes(&["three places".into()]).unwrap();
        ktap.result("a", &Outcome::Passed, time).unwrap();
        let failed = Outcome::Failed(vec!["one\ntwo".into(), "three".into()]);
        ktap.result("b", &failed, time).unwrap();
        assert_eq!(ktap.finish(), ExitCode::FAILURE);
        let expected =
            "KTAP version 1\n1..2\n# three places\nok 1 a # 1.50 s\n# one\n# two\n# three\n\
                        not ok 2 b # 1.50 s\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn what_is_found_afterwards_fails_a_test() {
        let mut outcome = Outcome::Passed;
        outcome.add(vec![]);
        assert_eq!(outcome, Outcome::Passed);
        outcome.add(vec!["left over".into()]);
        outcome.add(vec!["splat".into()]);
        let both = vec!["left over".to_owned(), "splat".to_owned()];
        assert_eq!(outcome, Outcome::Failed(both));
    }
}
