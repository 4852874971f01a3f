// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How a pull or a push is shown while it goes on: bars on a terminal, lines elsewhere, events for
//! programs.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::{Mutex, MutexGuard, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ovbd::image::digest::Digest;
use ovbd::image::size::Human;
use ovbd::output::Output;
use ovbd::registry::{Event, Watch};

/// A program is told of progress when so much more is there, bytes, or a hundredth of the layer.
const STEP: u64 = 1 << 20;

/// Shows what happens.
pub struct Show<'a> {
    output: &'a Output,
    /// "fetch" or "send".
    verb: &'static str,
    bars: Option<MultiProgress>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    layers: BTreeMap<usize, Layer>,
    count: usize,
    total: Option<ProgressBar>,
}

struct Layer {
    size: u64,
    present: u64,
    /// How much was there when a program was told last.
    told: u64,
    bar: Option<ProgressBar>,
}

impl<'a> Show<'a> {
    /// Shows what happens in the form that `output` asks for; `verb` is what is done with layers.
    pub fn new(output: &'a Output, verb: &'static str) -> Self {
        let drawn = !output.quiet && !output.json && io::stderr().is_terminal();
        let target = ProgressDrawTarget::stderr();
        Self {
            output,
            verb,
            bars: drawn.then(|| MultiProgress::with_draw_target(target)),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A remark that does not tear the bars.
    fn remark(&self, text: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| self.output.remark(text)),
            None => self.output.remark(text),
        }
    }

    /// What only those read who have no bars.
    fn line(&self, text: &str) {
        if self.bars.is_none() && !self.output.json {
            self.output.remark(text);
        }
    }

    fn begin(&self, layers: usize, bytes: u64) {
        let mut state = self.state();
        state.count = layers;
        state.total = self.bars.as_ref().map(|bars| bars.add(bar(bytes, "total")));
        drop(state);
        self.line(&format!("{layers} layers, {}", Human(bytes)));
    }

    fn started(&self, index: usize, digest: &Digest, size: u64, present: u64) {
        let mut state = self.state();
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bar(size, &short(digest));
            bars.insert_before(state.total.as_ref().unwrap_or(&bar), bar.clone());
            bar.set_position(present);
            bar.reset_eta();
            bar
        });
        let known = state.layers.get(&index).map_or(0, |layer| layer.present);
        if let Some(total) = &state.total {
            total.inc(present.saturating_sub(known));
            total.reset_eta();
        }
        let told = present;
        let layer = Layer {
            size,
            present,
            told,
            bar,
        };
        if let Some(earlier) = state.layers.insert(index, layer) {
            earlier.clear();
        }
        let count = state.count;
        drop(state);
        let resumed = match present {
            // The line that says so follows.
            present if present == size => return,
            0 => String::new(),
            present => format!(", {} of it there", Human(present)),
        };
        self.line(&format!(
            "layer {} of {count}: {}: {}{resumed}",
            index + 1,
            short(digest),
            Human(size)
        ));
    }

    /// Whether a program is to be told.
    fn progress(&self, index: usize, present: u64) -> bool {
        let mut state = self.state();
        let Some(layer) = state.layers.get_mut(&index) else {
            return false;
        };
        let more = present.saturating_sub(layer.present);
        layer.present = present;
        if let Some(bar) = &layer.bar {
            bar.set_position(present);
        }
        let tell = present >= layer.told + STEP.max(layer.size / 100);
        if tell {
            layer.told = present;
        }
        if let Some(total) = &state.total {
            total.inc(more);
        }
        tell
    }

    fn finished(&self, index: usize, digest: &Digest, transferred: u64) {
        let layer = self.state().layers.remove(&index);
        if let Some(layer) = layer {
            layer.clear();
        }
        let count = self.state().count;
        let done = match transferred {
            0 => "is there".to_owned(),
            _ => format!("{} {}", Human(transferred), self.verb),
        };
        self.line(&format!(
            "layer {} of {count}: {}: {done}",
            index + 1,
            short(digest)
        ));
    }

    fn json(&self, event: &Event<'_>) {
        if self.output.json && !self.output.quiet {
            // What cannot be written now fails again with the answer, and is reported there.
            let _ = self.output.event(event);
        }
    }

    /// Takes the bars away.
    pub fn end(&self) {
        let mut state = self.state();
        std::mem::take(&mut state.layers)
            .into_values()
            .for_each(Layer::clear);
        if let Some(total) = state.total.take() {
            total.finish_and_clear();
        }
    }
}

impl Layer {
    fn clear(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Watch for Show<'_> {
    fn event(&self, event: &Event<'_>) {
        match event {
            Event::Request {
                method,
                url,
                status,
            } => {
                let text = format!("{method} {url}: {status}");
                match &self.bars {
                    Some(bars) => bars.suspend(|| self.output.trace(text)),
                    None => self.output.trace(text),
                }
                return;
            }
            Event::Resolved { layers, bytes, .. } | Event::Pushing { layers, bytes } => {
                self.begin(*layers, *bytes);
            }
            Event::Waiting { digest, .. } => {
                let layer = short(digest);
                self.remark(&format!(
                    "layer {layer}: waiting for another process that fetches it"
                ));
            }
            Event::Started {
                layer,
                digest,
                size,
                present,
            } => {
                self.started(*layer, digest, *size, *present);
            }
            Event::Progress { layer, present } => {
                if !self.progress(*layer, *present) {
                    return;
                }
            }
            Event::Finished {
                layer,
                digest,
                transferred,
            } => {
                self.finished(*layer, digest, *transferred);
            }
            Event::Single { url, .. } => {
                self.remark(&format!(
                    "{url}: ignores ranges; the layer comes over one connection"
                ));
            }
            Event::Retry { error, pause, .. } => {
                let wait = match pause.as_secs_f32() {
                    0.0 => String::new(),
                    seconds => format!(" in {seconds:.1} s"),
                };
                self.remark(&format!("{error}; trying again{wait}"));
            }
        }
        self.json(event);
    }
}

/// The digest as people tell layers apart by.
fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

fn bar(size: u64, name: &str) -> ProgressBar {
    let bar = ProgressBar::new(size);
    let template = "{msg:12} {wide_bar} {bytes:>10}/{total_bytes:10} {bytes_per_sec:>12} {eta:>4}";
    // The template is a constant; a bar without it would merely be plainer.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar
}
