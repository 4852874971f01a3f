// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The module's own unit tests, of the wrappers in `rust/dm`. A kernel with KUnit runs them when
//! it loads the module.

use std::fs;

use anyhow::{ensure, Context as _, Result};

use super::module;
use crate::ctx::{output, Ctx};
use crate::harness::{Case, KernelLog};

pub fn cases() -> Vec<Case> {
    vec![Case::new("kunit.wrappers", wrappers)]
}

/// Which tests of a module run when it is loaded. The run begins with none, so that the other tests,
/// which load it often, need not wait for them.
const FILTER: &str = "/sys/module/kunit/parameters/filter_glob";
const OURS: &str = "dm_overlaybd_*";
const NONE: &str = "none";

/// Where they are.
const SOURCES: &str = concat!(
    include_str!("../../../../rust/dm/bio.rs"),
    include_str!("../../../../rust/dm/codec.rs"),
    include_str!("../../../../rust/dm/construct.rs"),
    include_str!("../../../../rust/dm/counters.rs"),
    include_str!("../../../../rust/dm/gather.rs"),
    include_str!("../../../../rust/dm/limits.rs"),
    include_str!("../../../../rust/dm/pages.rs"),
    include_str!("../../../../rust/dm/platform.rs"),
    include_str!("../../../../rust/dm/ratelimit.rs"),
    include_str!("../../../../rust/dm/read.rs"),
    include_str!("../../../../rust/dm/reserve.rs"),
    include_str!("../../../../rust/dm/segments.rs"),
    include_str!("../../../../rust/dm/shrinker.rs"),
    include_str!("../../../../rust/dm/status.rs"),
    include_str!("../../../../rust/dm/target.rs"),
    include_str!("../../../../rust/dm/work.rs"),
);

/// What stands between `before` and `after` in the sources.
fn named(before: &'static str, after: char) -> impl Iterator<Item = &'static str> {
    let places = SOURCES.split(before).skip(1);
    places.filter_map(move |text| text.split(after).next())
}

/// Every suite and every test in it has run, and passed.
fn wrappers(ctx: &mut Ctx) -> Result<()> {
    module::unload_if_loaded()?;
    ctx.defer("KUnit", || Ok(fs::write(FILTER, NONE)?));
    fs::write(FILTER, OURS).context(FILTER)?;
    let mut log = KernelLog::open()?;
    output(&["modprobe", "dm-overlaybd"])?;
    let lines = log.new_lines();
    let failed = lines
        .iter()
        .any(|line| line.trim_start().starts_with("not ok "));
    ensure!(!failed, "{}", lines.join("\n"));
    let passed = |name: &str| {
        lines.iter().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some("ok") && words.nth(1) == Some(name)
        })
    };
    let mut count = 0;
    for name in named("kunit_tests(", ')').chain(named("#[test]\n    fn ", '(')) {
        ensure!(passed(name), "{name} did not run:\n{}", lines.join("\n"));
        count += 1;
    }
    ensure!(count > 40, "{count} suites and tests in the sources");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::SOURCES;

    /// The files in a folder and those below it.
    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .flat_map(|path| {
                if path.is_dir() {
                    files(&path)
                } else {
                    vec![path]
                }
            })
            .collect()
    }

    /// A suite in a file that is not listed would not be missed if it did not run.
    #[test]
    fn every_suite_is_listed() {
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../rust");
        let mut suites = 0;
        for path in files(&module) {
            let text = fs::read_to_string(&path).unwrap();
            if text.contains("kunit_tests(") {
                assert!(SOURCES.contains(&text), "{}", path.display());
                suites += 1;
            }
        }
        assert_eq!(suites, SOURCES.matches("kunit_tests(").count());
    }
}
