// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the module takes of the kernel's memory, piece by piece, and whether it gives each back: also
//! pages, of which no checker of the kernel keeps account.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::trace::{define, Trace};
use super::until;
use crate::ctx::Ctx;

const GROUP: &str = "ovbd_ledger";
/// What Rust code calls to have memory, and to give it back: kind of probe, function, what is
/// recorded. Memory that is given back gets the size 0.
const PROBES: [(&str, &str, &str); 5] = [
    ("r", "rust_helper_krealloc_node_align", REALLOC),
    ("r", "rust_helper_vrealloc_node_align", REALLOC),
    ("r", "rust_helper_kvrealloc_node_align", REALLOC),
    ("r", "rust_helper_alloc_pages", "new=$retval"),
    ("p", "__free_pages", "old=$arg1"),
];
const REALLOC: &str = "old=$arg1 size=$arg2 new=$retval";
/// Counters for each CPU are C's matter.
const PER_CPU: [(&str, &str); 2] = [
    ("percpu/percpu_alloc_percpu", ""),
    ("percpu/percpu_free_percpu", ""),
];
const MODULE: &str = "[dm_overlaybd]";
/// What is no address: an error, or memory of size 0.
const NOWHERE: u64 = 16;
/// Work that has ended gives back its memory a little later.
const LATER: Duration = Duration::from_secs(30);

/// An account of the memory that the module takes from now on.
pub struct Ledger(Trace);

impl Ledger {
    /// Nothing is in it. The module is loaded.
    pub fn new(ctx: &mut Ctx) -> Result<Self> {
        for (kind, function, arguments) in PROBES {
            define(&format!("{kind}:{GROUP}/{function} {function} {arguments}"))?;
            ctx.defer("probe", move || define(&format!("-:{GROUP}/{function}")));
        }
        let names = PROBES.map(|(_, function, _)| format!("{GROUP}/{function}"));
        let mut events: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        events.extend(PER_CPU);
        // Memory may be given back on another CPU.
        Ok(Self(Trace::new(ctx, &events)?.in_order()?))
    }

    /// Fails unless all that was taken is given back. Returns how many pieces were taken since the
    /// last call.
    pub fn settle(&self) -> Result<usize> {
        let (mut pieces, mut taken) = (0, BTreeMap::new());
        let settled = until("all memory is given back", LATER, || {
            // Nothing is cleared until all is given back: it might be what says so.
            taken.clear();
            let lines = self.0.lines()?;
            pieces = lines.iter().filter(|line| enter(&mut taken, line)).count();
            Ok(taken.is_empty())
        });
        settled.map_err(|error| error.context(format!("left: {taken:#?}")))?;
        self.0.clear()?;
        Ok(pieces)
    }
}

/// Enters an event into an account by address; whether memory was taken.
fn enter(taken: &mut BTreeMap<u64, String>, line: &str) -> bool {
    let word = |name: &str| {
        let (_, rest) = line.split_once(name)?;
        let word = rest.split(' ').next()?;
        u64::from_str_radix(word.trim_start_matches("0x"), 16).ok()
    };
    if let Some(address) = word(" ptr=") {
        if line.contains(" percpu_free_percpu: ") {
            taken.remove(&address);
        } else if line.contains(MODULE) {
            taken.insert(address, line.to_owned());
            return true;
        }
        return false;
    }
    let new = word(" new=").filter(|&new| new > NOWHERE);
    let given_back = word(" size=") == Some(0) || word(" new=").is_none();
    if new.is_some() || given_back {
        // Memory that could not grow stays what it is.
        word(" old=").map(|old| taken.remove(&old));
    }
    match new {
        Some(new) if !given_back => {
            taken.insert(new, line.to_owned());
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_and_given_back_is_entered() {
        let mut taken = BTreeMap::new();
        let mut enter = |text: &str| {
            let line = format!("guest-tests-80 [001] ..... 8.1: {text}");
            let is_taken = enter(&mut taken, &line);
            (is_taken, taken.len())
        };
        let realloc = "rust_helper_krealloc_node_align: (a <- b)";
        let mut grow = |text: &str| enter(&format!("{realloc} {text}"));
        assert_eq!(grow("old=0x0 size=0x40 new=0xffff8880"), (true, 1));
        // It grows and moves; it cannot grow; nothing can be had.
        assert_eq!(grow("old=0xffff8880 size=0x80 new=0xffff8890"), (true, 1));
        assert_eq!(grow("old=0xffff8890 size=0x100 new=0x0"), (false, 1));
        assert_eq!(grow("old=0x0 size=0x100 new=0x0"), (false, 1));
        assert_eq!(grow("old=0xffff8890 size=0x0 new=0x10"), (false, 0));
        let pages = "rust_helper_alloc_pages: (a <- b) new=0xffffea00";
        assert_eq!(enter(pages), (true, 1));
        assert_eq!(enter("__free_pages: (a) old=0xffffea08"), (false, 1));
        assert_eq!(enter("__free_pages: (a) old=0xffffea00"), (false, 0));
        let counters = "percpu_alloc_percpu: call_site=f+0x1/0x2 [dm_overlaybd] size=8 ptr=00000a1";
        assert_eq!(enter(counters), (true, 1));
        assert_eq!(
            enter("percpu_free_percpu: base_addr=0 off=8 ptr=00000a1"),
            (false, 0)
        );
        assert_eq!(
            enter("percpu_alloc_percpu: call_site=g+0x1/0x2 ptr=00000a2"),
            (false, 0)
        );
    }
}
