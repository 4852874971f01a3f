// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Allocations that fail on demand: those that the module makes, and those that others make for
//! it; and where they were made. For the debug kernel.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{ensure, Context as _, Result};

use super::trace::{define, Trace};
use crate::ctx::{output, Ctx};

const MODULE: &str = "[dm_overlaybd]";
const SLABS: &str = "/sys/kernel/debug/failslab";
const PAGES: &str = "/sys/kernel/debug/fail_page_alloc";
/// Of the calling thread: which of its allocations fails, counted down.
const NTH: &str = "/proc/thread-self/fail-nth";
/// What decides whether an allocation fails, and the type of its answer.
const DECISIONS: [(&str, &str); 2] = [("should_failslab", "s32"), ("should_fail_alloc_page", "u8")];
const GROUP: &str = "ovbd_inject";

/// A place that must not be missing: part of the name of the function that the module called; parts
/// of the names of functions that may have called it, for the compiler may have put one into another;
/// and how what came of it begins.
pub type Wanted = (&'static str, &'static [&'static str], &'static str);

/// Places where allocations failed, and what came of it.
#[derive(Default)]
pub struct Outcomes(BTreeMap<(String, String), u64>);

impl Outcomes {
    /// Adds what came of it that allocations failed at `sites`.
    pub fn add(&mut self, sites: BTreeMap<String, u64>, outcome: &str) {
        for (site, times) in sites {
            *self.0.entry((site, outcome.to_owned())).or_insert(0) += times;
        }
    }

    /// Fails unless allocations failed at each of `wanted`, with that outcome. To be called when
    /// all have been added.
    pub fn expect(&self, wanted: &[Wanted]) -> Result<()> {
        for what in wanted {
            let found = self.has(what);
            ensure!(found, "{what:?} is not among {:#?}", self.0);
        }
        Ok(())
    }

    /// Whether allocations failed at `wanted`, with that outcome.
    pub fn has(&self, &(called, callers, outcome): &Wanted) -> bool {
        self.0.keys().any(|(site, came)| {
            let mut frames = site.split(" < ");
            let is_called = frames.next().is_some_and(|frame| frame.contains(called));
            let caller = frames.next().unwrap_or_default();
            let is_caller = callers.iter().any(|name| caller.contains(name));
            is_called && is_caller && came.starts_with(outcome)
        })
    }

    /// All of them in the report.
    pub fn tell(&self, ctx: &mut Ctx) -> Result<()> {
        ensure!(!self.0.is_empty(), "no allocation of the module's failed");
        for ((site, outcome), times) in &self.0 {
            ctx.say(format!("{site}: {outcome} ({times} times)"));
        }
        Ok(())
    }
}

/// Allocations that may fail from now on until the test ends.
pub struct Injector {
    trace: Trace,
}

impl Injector {
    /// None fails until it is told to.
    pub fn new(ctx: &mut Ctx) -> Result<Self> {
        output(&["modprobe", "dm-overlaybd"])?;
        let text = module_text(&fs::read_to_string("/proc/kallsyms")?)?;
        for folder in [SLABS, PAGES] {
            ctx.defer("fault injection", move || set(folder, "probability", "0"));
            for (name, value) in [
                ("probability", "0"),
                ("interval", "1"),
                ("times", "-1"),
                ("space", "0"),
                ("verbose", "0"),
                ("task-filter", "N"),
                ("stacktrace-depth", "32"),
                // Those that may wait fail, too.
                ("ignore-gfp-wait", "N"),
            ] {
                set(folder, name, value)?;
            }
            set(folder, "require-start", &format!("{:#x}", text.start))?;
            set(folder, "require-end", &format!("{:#x}", text.end))?;
        }
        set(PAGES, "ignore-gfp-highmem", "N")?;
        set(PAGES, "min-order", "0")?;
        Ok(Self {
            trace: failures(ctx)?,
        })
    }

    /// Does `what`, of whose allocations by this thread the `nth` fails, counted from 1. Returns
    /// whether there were so many.
    pub fn nth<T>(&self, nth: u32, what: impl FnOnce() -> T) -> Result<(T, bool)> {
        fs::write(NTH, nth.to_string()).context(NTH)?;
        let result = what();
        let left = fs::read_to_string(NTH).context(NTH)?;
        fs::write(NTH, "0").context(NTH)?;
        Ok((result, left.trim() == "0"))
    }

    /// From now on so many of a hundred fail, whoever's they are.
    pub fn percent(&self, percent: u8) -> Result<()> {
        for folder in [SLABS, PAGES] {
            set(folder, "probability", &percent.to_string())?;
        }
        Ok(())
    }

    /// Where allocations have failed since the last call, and how often.
    pub fn sites(&self) -> Result<BTreeMap<String, u64>> {
        let mut sites = BTreeMap::new();
        for stack in stacks(&self.trace.lines()?) {
            *sites.entry(site(&stack)).or_default() += 1;
        }
        self.trace.clear()?;
        Ok(sites)
    }
}

fn set(folder: &str, name: &str, value: &str) -> Result<()> {
    let path = Path::new(folder).join(name);
    fs::write(&path, value).with_context(|| format!("{value} > {}", path.display()))
}

/// Records the stack of each allocation that fails.
fn failures(ctx: &mut Ctx) -> Result<Trace> {
    for (function, answer) in DECISIONS {
        define(&format!(
            "r:{GROUP}/{function} {function} ret=$retval:{answer}"
        ))?;
        ctx.defer("probe", move || define(&format!("-:{GROUP}/{function}")));
    }
    let trace = Trace::new(ctx, &[])?;
    for (function, _) in DECISIONS {
        trace.stacks(&format!("{GROUP}/{function}"), "ret != 0")?;
    }
    Ok(trace)
}

/// Where the module's functions lie. Its code has pages of its own.
fn module_text(symbols: &str) -> Result<Range<u64>> {
    let ours = symbols.lines().filter(|line| line.ends_with(MODULE));
    let functions = ours.filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        matches!(words.next(), Some("t" | "T")).then_some(address)
    });
    let (first, last) = functions.fold((u64::MAX, 0), |(first, last), address| {
        (first.min(address), last.max(address))
    });
    let end = (last + 1).next_multiple_of(4096);
    (first < end)
        .then_some(first..end)
        .context("the module has no function in /proc/kallsyms")
}

/// The stacks among the lines of a trace, innermost function first.
fn stacks(lines: &[String]) -> Vec<Vec<&str>> {
    let mut stacks: Vec<Vec<&str>> = Vec::new();
    for line in lines {
        if line.ends_with("<stack trace>") {
            stacks.push(Vec::new());
        } else if let (Some(frame), Some(stack)) = (line.strip_prefix(" => "), stacks.last_mut()) {
            stack.push(frame);
        }
    }
    stacks
}

/// What the module called, and where it did, outwards to who called the module:
/// `kmalloc+0x1/0x2 < new+0x3/0x4 < ctr+0x5/0x6`.
fn site(stack: &[&str]) -> String {
    let is_ours = |frame: &&str| frame.ends_with(MODULE);
    let Some(ours) = stack.iter().position(is_ours) else {
        return stack.join(" < ");
    };
    let callers = stack[ours..].iter().copied().take_while(is_ours);
    let called = ours.checked_sub(1).and_then(|number| stack.get(number));
    let name = |frame: &str| {
        let frame = frame.trim_end_matches(MODULE).trim();
        let (symbol, place) = frame.split_once('+').unwrap_or((frame, ""));
        format!("{:#}+{place}", rustc_demangle::demangle(symbol))
    };
    let frames: Vec<_> = called
        .copied()
        .into_iter()
        .chain(callers)
        .map(name)
        .collect();
    frames.join(" < ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_the_module() {
        let symbols = "ffffffff81000000 T _text\nffffffffc0002010 t a\t[dm_overlaybd]\n\
            ffffffffc0003020 t b\t[dm_overlaybd]\nffffffffc0009000 d c\t[dm_overlaybd]\n\
            ffffffffc0001000 t d\t[loop]\n";
        let text = module_text(symbols).unwrap();
        assert_eq!(text, 0xffffffffc0002010..0xffffffffc0004000);
        assert!(module_text("ffffffff81000000 T _text\n").is_err());
    }

    #[test]
    fn what_must_not_be_missing_is_found_by_called_and_caller() {
        let mut outcomes = Outcomes::default();
        let site = "kmalloc+0x1/0x2 < Tail::read+0x3/0x4 < ctr+0x5/0x6".to_owned();
        outcomes.add(BTreeMap::from([(site, 2)]), "refused: no memory");
        outcomes
            .expect(&[("kmalloc", &["Other", "Tail"], "refused")])
            .unwrap();
        for missing in [
            ("vmalloc", &["Tail"], "refused"),
            ("kmalloc", &["ctr"], "refused"),
            ("kmalloc", &["Tail"], "taken"),
        ] {
            assert!(!outcomes.has(&(missing.0, missing.1, missing.2)));
        }
    }

    #[test]
    fn the_site_is_where_the_module_called() {
        let lines = [
            "  guest-tests-80  [001] d..3.  8.1: should_failslab: (x <- y) ret=0xfffffff4",
            "  guest-tests-80  [001] d..3.  8.1: <stack trace>",
            " => __kmalloc_noprof+0x1/0x20",
            " => krealloc+0x2/0x30",
            " => _RNvC12dm_overlaybd3new+0x5/0x60 [dm_overlaybd]",
            " => _RNvC12dm_overlaybd3ctr+0x9/0x60 [dm_overlaybd]",
            " => dm_table_add_target+0x7/0x80 [dm_mod]",
        ]
        .map(str::to_owned);
        let stacks = stacks(&lines);
        assert_eq!(stacks.len(), 1);
        assert_eq!(
            site(&stacks[0]),
            "krealloc+0x2/0x30 < dm_overlaybd::new+0x5/0x60 < dm_overlaybd::ctr+0x9/0x60"
        );
    }
}
