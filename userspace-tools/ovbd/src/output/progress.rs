// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Progress bars.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};

/// A bar that counts bytes. It is drawn on standard error, and only if that is a terminal, so that
/// logs and pipes stay clean. Cheap to clone and to use from several threads.
#[derive(Clone, Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new(total: u64, what: &str, wanted: bool) -> Self {
        let bar = if wanted && io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr())
        } else {
            ProgressBar::hidden()
        };
        // The template is a constant; a bar without it would merely be plainer.
        if let Ok(style) = ProgressStyle::with_template(
            "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self(bar)
    }

    /// A bar that nobody sees, for library callers and tests.
    pub fn hidden() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Counts `bytes` more as done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Removes the bar from the screen.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
