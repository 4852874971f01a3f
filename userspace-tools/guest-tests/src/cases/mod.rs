// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tests. To add one: write a function in the module of its group and name it in that
//! module's `cases`; a group of its own is a module more in the list here.

mod below;
mod cache;
mod changing;
mod contract;
mod corrupt;
mod counters;
mod effort;
mod faults;
mod gather;
mod harness;
mod hostile;
mod ima;
mod image;
mod inject;
mod kunit;
mod leaks;
mod lifecycle;
mod limits;
mod live;
mod lost;
mod lsmt;
mod marker;
mod memory;
mod module;
mod races;
mod scale;
mod shapes;
mod tables;
mod tool;
mod unplug;
mod user;
mod zfile;

use crate::harness::{Case, Kernel};
pub use tool::child;
pub use user::child as user;

/// All of them, in the order in which they run. Those that need memory to be short come early,
/// when little of it holds what others have left behind.
pub fn all(kernel: Kernel) -> Vec<Case> {
    let mut cases = on_any_kernel();
    if kernel == Kernel::Debug {
        cases.extend(kunit::cases());
        cases.extend(inject::cases());
    }
    cases
}

fn on_any_kernel() -> Vec<Case> {
    [
        harness::cases(),
        module::cases(),
        memory::cases(),
        zfile::cases(),
        lsmt::cases(),
        gather::cases(),
        image::cases(),
        shapes::cases(),
        lost::cases(),
        unplug::cases(),
        lifecycle::cases(),
        cache::cases(),
        below::cases(),
        contract::cases(),
        counters::cases(),
        limits::cases(),
        effort::cases(),
        corrupt::cases(),
        tables::cases(),
        hostile::cases(),
        marker::cases(),
        changing::cases(),
        faults::cases(),
        live::cases(),
        races::cases(),
        user::cases(),
        leaks::cases(),
        scale::cases(),
        tool::cases(),
        ima::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::Kernel;

    /// Tests and files that `Documentation/safety.rst` names are there: `GROUP.NAME`, `GROUP.*`, and
    /// paths.
    #[test]
    fn what_stands_against_threats_exists() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let names: Vec<String> = super::all(Kernel::Debug)
            .into_iter()
            .map(|case| case.name)
            .collect();
        let groups: HashSet<_> = names
            .iter()
            .filter_map(|name| name.split('.').next())
            .collect();
        let text = include_str!("../../../../Documentation/safety.rst");
        let (mut tests, mut paths) = (0, 0);
        for token in text.split("``").skip(1).step_by(2) {
            if token.contains('/') {
                assert!(top.join(token).exists(), "{token}");
                paths += 1;
            } else if groups.contains(token.split('.').next().unwrap()) && token.contains('.') {
                let found = match token.strip_suffix('*') {
                    Some(beginning) => names.iter().any(|name| name.starts_with(beginning)),
                    None => names.iter().any(|name| name == token),
                };
                assert!(found, "{token}");
                tests += 1;
            }
        }
        assert!(tests > 40 && paths > 20, "{tests} tests, {paths} paths");
    }
}
