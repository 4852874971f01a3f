// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The kernel's memory in accounts that are fine enough to show a single object that is lost each
//! time: objects of each slab cache, areas of each caller of vmalloc, per-CPU memory, pages.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{bail, Context as _, Result};

/// How often more must have been lost for it to be a leak: what is freed later, or kept ready for
/// each CPU, does not grow every time.
const TIMES: usize = 6;
/// Pages of the smallest buffer that a device has; what the allocator keeps ready for each CPU is
/// less than one of them a round.
const BUFFER_PAGES: u64 = 8;
/// The name of their account.
const BUFFERS: &str = "buffers";
/// Buffers' worth of pages that are in no account for a while: each CPU adds pages to the lists of
/// what can be reclaimed in batches.
const IN_BATCHES: u64 = 12;
/// Bytes of per-CPU memory that a round would lose, at the least: one counter.
const COUNTER: u64 = 8;

/// A folder for each slab cache.
const SLABS: &str = "/sys/kernel/slab";

/// A number for each account.
struct Accounts(BTreeMap<String, u64>);

impl Accounts {
    fn take() -> Result<Self> {
        let mut accounts = BTreeMap::new();
        slabs(&mut accounts)?;
        areas(&mut accounts)?;
        let info = read("/proc/meminfo")?;
        let kib = |name: &str| -> Result<u64> {
            let line = info.lines().find(|line| line.starts_with(name));
            let word = line.and_then(|line| line.split_whitespace().nth(1));
            Ok(word.with_context(|| name.to_owned())?.parse()?)
        };
        accounts.insert(
            "counters per CPU".to_owned(),
            kib("Percpu:")? * 1024 / COUNTER,
        );
        let mut known = kib("MemFree:")?;
        for name in [
            "Active:",
            "Inactive:",
            "Unevictable:",
            "Slab:",
            "KernelStack:",
            "PageTables:",
            "Percpu:",
            "VmallocUsed:",
        ] {
            known += kib(name)?;
        }
        let pages = kib("MemTotal:")?.saturating_sub(known) / 4;
        accounts.insert(BUFFERS.to_owned(), pages / BUFFER_PAGES);
        Ok(Self(accounts))
    }

    /// The accounts that have `limit` more than `before`.
    fn grown(&self, before: &Self, limit: u64) -> BTreeSet<String> {
        let was = |name: &String| before.0.get(name).copied().unwrap_or(0);
        let least = |name: &String| match name.as_str() {
            BUFFERS => limit.max(IN_BATCHES),
            _ => limit,
        };
        let grown = self
            .0
            .iter()
            .filter(|&(name, &now)| now >= was(name) + least(name));
        grown.map(|(name, _)| name.clone()).collect()
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.to_owned())
}

/// Before the name of a slab cache in that of its account.
const OBJECTS: &str = "objects of ";

/// Has a slab cache let go of what is free but for its own sake: empty slabs, and under KASAN the
/// objects that are kept for a while, so that late uses of them are seen.
fn shrink(cache: &str) -> Result<()> {
    let path = Path::new(SLABS).join(cache).join("shrink");
    fs::write(&path, "1").with_context(|| path.display().to_string())
}

fn shrink_all() -> Result<()> {
    for entry in fs::read_dir(SLABS).context(SLABS)? {
        let entry = entry?;
        // Further names of a cache are links.
        if entry.file_type()?.is_dir() {
            shrink(&entry.file_name().to_string_lossy())?;
        }
    }
    Ok(())
}

/// Objects in use, from lines like `kmalloc-64  4096 4352  64 …`.
fn slabs(accounts: &mut BTreeMap<String, u64>) -> Result<()> {
    for line in read("/proc/slabinfo")?.lines().skip(2) {
        let mut words = line.split_whitespace();
        if let (Some(name), Some(count)) = (words.next(), words.next()) {
            // Those of areas that are free but for their addresses are among them; what is
            // not free has an account by its caller.
            if name == "vmap_area" {
                continue;
            }
            accounts.insert(format!("{OBJECTS}{name}"), count.parse()?);
        }
    }
    Ok(())
}

/// Areas, from lines like `0x…-0x… 8192 caller+0x5e/0x90 pages=1 vmalloc`.
fn areas(accounts: &mut BTreeMap<String, u64>) -> Result<()> {
    for line in read("/proc/vmallocinfo")?.lines() {
        let caller = line.split_whitespace().nth(2).unwrap_or("nobody");
        // Free already, but for its addresses.
        if caller == "unpurged" {
            continue;
        }
        *accounts.entry(format!("areas of {caller}")).or_default() += 1;
    }
    Ok(())
}

/// Does `round` again and again, and fails if something is lost each time. A round is `count` times
/// the same, so that what is lost stands out from what is kept ready: some hundred objects of a slab
/// cache count as used before they are.
pub fn nothing_is_lost(
    rounds: u64,
    count: u64,
    mut round: impl FnMut() -> Result<()>,
) -> Result<()> {
    // Fills what caches there are; a leak uses up what is kept ready.
    for _ in 0..rounds {
        round()?;
    }
    shrink_all()?;
    let mut lost: Option<BTreeSet<String>> = None;
    for _ in 0..TIMES {
        let before = Accounts::take()?;
        for _ in 0..rounds {
            round()?;
        }
        let limit = rounds * count / 2;
        let mut grown = Accounts::take()?.grown(&before, limit);
        if !grown.is_empty() {
            grown
                .iter()
                .filter_map(|account| account.strip_prefix(OBJECTS))
                .try_for_each(shrink)?;
            grown = Accounts::take()?.grown(&before, limit);
        }
        lost = Some(match lost {
            None => grown,
            Some(lost) => &lost & &grown,
        });
        if lost.as_ref().is_some_and(BTreeSet::is_empty) {
            return Ok(());
        }
    }
    bail!(
        "{TIMES} times {} rounds, and each time many more: {lost:?}",
        rounds * count
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_named() {
        let accounts = |pairs: &[(&str, u64)]| {
            let pairs = pairs.iter().map(|&(name, n)| (name.to_owned(), n));
            Accounts(pairs.collect())
        };
        let before = accounts(&[("a", 5), ("b", 7)]);
        let after = accounts(&[("a", 14), ("b", 17), ("c", 10)]);
        let grown: Vec<_> = after.grown(&before, 10).into_iter().collect();
        assert_eq!(grown, ["b", "c"]);
    }
}
