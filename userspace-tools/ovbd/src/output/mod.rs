// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How answers leave the tool: text for people, or one JSON document for programs.

pub mod columns;
pub mod paths;
mod progress;
pub mod shown;

use std::io::{self, Write};

use serde::Serialize;

use crate::{Error, Result};

pub use progress::Progress;

/// The version of every JSON document that `ovbd` prints. It grows when a field changes its
/// meaning or goes; a new field alone does not change it.
pub const JSON_VERSION: u32 = 1;

/// Where and in which form a command answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Output {
    /// One JSON document instead of text.
    pub json: bool,
    /// No progress and no remarks.
    pub quiet: bool,
    /// Every step; from 2 on every request, too.
    pub verbose: u8,
}

#[derive(Serialize)]
struct Versioned<'a, T: Serialize> {
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// `body` as a JSON document with `"version"` in front. `body` has to serialise as an object.
pub fn to_json<T: Serialize>(body: &T) -> Result<String> {
    serde_json::to_string_pretty(&Versioned {
        version: JSON_VERSION,
        body,
    })
    .map_err(|e| Error::Output(e.into()))
}

impl Output {
    /// Writes the answer to standard output: `text` (with its own newlines) or, with `--json`,
    /// `body`.
    pub fn answer<T: Serialize>(&self, body: &T, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            let mut document = to_json(body)?;
            document.push('\n');
            self.write(&document)
        } else {
            self.write(&text())
        }
    }

    /// Writes a JSON document, one of several, as a line to standard output.
    pub fn event<T: Serialize>(&self, body: &T) -> Result<()> {
        let version = JSON_VERSION;
        let mut line = serde_json::to_string(&Versioned { version, body })
            .map_err(|e| Error::Output(e.into()))?;
        line.push('\n');
        self.write(&line)
    }

    /// Writes `text` to standard output. A reader that has gone away is not an error: `ovbd … |
    /// head` is fine.
    pub fn write(&self, text: &str) -> Result<()> {
        let mut stdout = io::stdout().lock();
        match stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output(e)),
            _ => Ok(()),
        }
    }

    /// Tells the person at the terminal something beside the answer, on standard error.
    pub fn remark(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            // Nobody to tell when even standard error is gone.
            let _ = writeln!(io::stderr(), "ovbd: {text}");
        }
    }

    /// Tells the person who asked for it what is being done, on standard error.
    pub fn detail(&self, text: impl std::fmt::Display) {
        self.tell_from(1, text);
    }

    /// The same for what few want to know.
    pub fn trace(&self, text: impl std::fmt::Display) {
        self.tell_from(2, text);
    }

    fn tell_from(&self, level: u8, text: impl std::fmt::Display) {
        if self.verbose >= level {
            let _ = writeln!(io::stderr(), "ovbd: {text}");
        }
    }

    /// Reports an error on standard error: text, or with `--json` a document with `error` and
    /// `exit_code`.
    pub fn error(&self, error: &Error) {
        self.error_ending_with(error, error.exit_code() as u8);
    }

    /// The same where the program ends with a code that is not the error's.
    pub fn error_ending_with(&self, error: &Error, exit_code: u8) {
        #[derive(Serialize)]
        struct Report {
            error: String,
            exit_code: u8,
        }
        let text = if self.json {
            let report = Report {
                error: error.to_string(),
                exit_code,
            };
            to_json(&report).unwrap_or_else(|e| e.to_string())
        } else {
            format!("ovbd: {error}")
        };
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// A progress bar over `total` bytes; invisible when it would disturb (see [`Progress`]).
    pub fn progress(&self, total: u64, what: &str) -> Progress {
        Progress::new(total, what, !self.quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_starts_with_its_version() {
        #[derive(Serialize)]
        struct Body {
            name: &'static str,
        }
        let text = to_json(&Body { name: "x" }).unwrap();
        assert_eq!(text, "{\n  \"version\": 1,\n  \"name\": \"x\"\n}");
    }
}
