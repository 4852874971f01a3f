// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the kernel did, as its own tracepoints tell.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use ovbd::dm::DevNo;

use crate::ctx::Ctx;

const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// Where calls of functions become events.
const PROBES: &str = "/sys/kernel/tracing/kprobe_events";
/// The group of these events.
const GROUP: &str = "ovbd";
/// A read has ended.
pub const COMPLETE: &str = "block/block_bio_complete";
/// A read goes to the device below.
pub const REMAP: &str = "block/block_bio_remap";
/// A request has failed.
pub const REQUEST_ERROR: &str = "block/block_rq_error";
/// For each CPU: some ten thousand events.
const BUFFER_KIB: &str = "4096";

/// Events that are recorded from now on until the test ends.
pub struct Trace {
    dir: PathBuf,
}

impl Trace {
    /// Records each event, `GROUP/NAME`, that its filter lets through; an empty one lets all.
    pub fn new(ctx: &mut Ctx, events: &[(&str, &str)]) -> Result<Self> {
        let dir = Path::new(INSTANCES).join(ctx.fresh());
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        let made = dir.clone();
        ctx.defer("trace", move || Ok(fs::remove_dir(made)?));
        let trace = Self { dir };
        trace.set("buffer_size_kb", BUFFER_KIB)?;
        for (event, filter) in events {
            if !filter.is_empty() {
                trace.set(&format!("events/{event}/filter"), filter)?;
            }
            trace.set(&format!("events/{event}/enable"), "1")?;
        }
        Ok(trace)
    }

    /// Records calls: of each function, what the kernel's documentation of kprobe events calls
    /// FETCHARGS.
    pub fn of_calls(ctx: &mut Ctx, calls: &[(&str, &str)]) -> Result<Self> {
        let mut names = Vec::new();
        for (function, arguments) in calls {
            let name = format!("{GROUP}/{function}");
            define(&format!("p:{name} {function} {arguments}"))?;
            let undo = format!("-:{name}");
            ctx.defer("probe", move || define(&undo));
            names.push(name);
        }
        let events: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        Self::new(ctx, &events)
    }

    /// Records what a device is asked for.
    pub fn of_queue(ctx: &mut Ctx, dev: DevNo) -> Result<Self> {
        Self::new(ctx, &[("block/block_bio_queue", &is(dev))])
    }

    /// Records also the stacks of an event for which `condition` holds.
    pub fn stacks(&self, event: &str, condition: &str) -> Result<()> {
        self.set("options/sym-offset", "1")?;
        self.set(&format!("events/{event}/filter"), condition)?;
        let trigger = format!("stacktrace if {condition}");
        self.set(&format!("events/{event}/trigger"), &trigger)?;
        self.set(&format!("events/{event}/enable"), "1")
    }

    /// Has what several CPUs did in the order in which they did it, instead of with times, which may be
    /// coarse.
    pub fn in_order(self) -> Result<Self> {
        self.set("trace_clock", "counter")?;
        Ok(self)
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, value).with_context(|| format!("{value} > {}", path.display()))
    }

    /// Forgets what was recorded.
    pub fn clear(&self) -> Result<()> {
        self.set("trace", "")
    }

    /// What was recorded, a line for each event.
    pub fn lines(&self) -> Result<Vec<String>> {
        let path = self.dir.join("trace");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let events = text.lines().filter(|line| !line.starts_with('#'));
        Ok(events.map(str::to_owned).collect())
    }
}

/// Adds or removes a probe.
pub fn define(probe: &str) -> Result<()> {
    let mut file = fs::File::options().append(true).open(PROBES)?;
    file.write_all(probe.as_bytes())
        .with_context(|| format!("{probe} > {PROBES}"))
}

/// The filter of a device's events.
pub fn is(DevNo(dev): DevNo) -> String {
    // As the kernel keeps it.
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    format!("dev == {}", u64::from(major) << 20 | u64::from(minor))
}

/// When an event was, of a line like `task-7 [001] ..... 12.345678: event: …`.
pub fn seconds(line: &str) -> Result<f64> {
    let words = line.split_whitespace();
    let mut times = words.filter_map(|word| word.strip_suffix(':')?.parse().ok());
    times.next().with_context(|| format!("no time in {line}"))
}

/// How long each error of `above` came after the last of `answers`, events of `below`: seconds.
pub fn delays(lines: &[String], answers: &[&str], below: DevNo, above: DevNo) -> Result<Vec<f64>> {
    let answers: Vec<_> = answers.iter().map(|event| of(event, below)).collect();
    let error = of(COMPLETE, above);
    let (mut last, mut delays) = (None, Vec::new());
    for line in lines {
        if answers.iter().any(|event| line.contains(event)) {
            last = Some(seconds(line)?);
        } else if line.contains(&error) && !line.ends_with("[0]") {
            delays.push(seconds(line)? - last.with_context(|| format!("from nowhere: {line}"))?);
        }
    }
    Ok(delays)
}

/// How an event of a device, `GROUP/NAME`, begins in a trace.
fn of(event: &str, DevNo(dev): DevNo) -> String {
    let name = event.rsplit('/').next().unwrap_or(event);
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    format!(" {name}: {major},{minor} ")
}

#[cfg(test)]
mod tests {
    use ovbd::dm::DevNo;

    use super::{delays, seconds, COMPLETE, REMAP};

    #[test]
    fn the_time_of_an_event() {
        let line = " guest-tests-81 [001] d.h2. 12.345678: block_bio_complete: 253,0 R 8 + 8 [-5]";
        assert_eq!(seconds(line).unwrap(), 12.345678);
        assert!(seconds("# tracer: nop").is_err());
    }

    #[test]
    fn errors_come_after_answers() {
        let line = |time, event| format!(" a-1 [001] d.h2. {time}: block_bio_{event}");
        let lines = [
            line("1.0", "remap: 252,0 R 8 + 8 <- (253,1) 16"),
            line("1.5", "complete: 252,0 R 16 + 0 [-5]"),
            line("2.0", "complete: 252,16 R 16 + 0 [-5]"),
            line("2.5", "complete: 253,1 R 16 + 0 [0]"),
            line("3.0", "complete: 253,1 R 16 + 0 [-5]"),
        ];
        let dev = |major, minor| DevNo(rustix::fs::makedev(major, minor));
        let of = |events: &[&str], below| delays(&lines, events, below, dev(253, 1));
        assert_eq!(of(&[COMPLETE], dev(252, 0)).unwrap(), [1.5]);
        assert_eq!(of(&[REMAP], dev(252, 0)).unwrap(), [2.0]);
        assert!(of(&[COMPLETE], dev(252, 1)).is_err());
    }
}
