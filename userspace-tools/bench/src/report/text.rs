// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Tables for a terminal.

use crate::print;
use crate::rows::Row;
use crate::sample::{Sample, Samples, Unit};

/// Prints all numbers: instructions for each block as a table for the gate's tests and one for
/// the file systems, everything else as a list.
pub fn samples(samples: &Samples) {
    let samples = samples.medians();
    print("Thousand instructions for each 4 KiB:");
    let is_file_system = |s: &&Sample| matches!(s.test.as_str(), "tree" | "pages");
    let is_block = |s: &&Sample| s.device != "limit" && s.unit == Unit::Instructions;
    table(
        samples
            .all()
            .iter()
            .filter(is_block)
            .filter(|s| !is_file_system(s)),
    );
    table(samples.all().iter().filter(is_file_system));
    for sample in samples.all().iter().filter(|s| !is_block(s)) {
        let (unit, scale) = sample.unit.shown();
        print(format_args!(
            "  {:<18}{:>16}{:>16.3} {unit}",
            sample.device,
            sample.test,
            sample.value / scale
        ));
    }
}

/// A line for each device, a column for each test.
fn table<'a>(samples: impl Iterator<Item = &'a Sample>) {
    let samples: Samples = samples.cloned().collect();
    let (tests, devices) = (names(&samples, |s| &s.test), names(&samples, |s| &s.device));
    if devices.is_empty() {
        return;
    }
    let head: String = tests.iter().map(|test| format!("{test:>10}")).collect();
    print(format_args!("  {:<18}{head}", ""));
    for device in devices {
        let cell = |test: &&str| match samples.get(device, test) {
            Some(count) => format!("{:>10.2}", count / 1000.0),
            None => format!("{:>10}", "–"),
        };
        let cells: String = tests.iter().map(cell).collect();
        print(format_args!("  {device:<18}{cells}"));
    }
}

/// What samples are called, each name once, in order.
pub fn names(samples: &Samples, name: impl Fn(&Sample) -> &String) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for sample in samples.all() {
        let name = name(sample).as_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Prints what was reached.
pub fn rows(rows: &[Row]) {
    print(format_args!(
        "\n  {:<60}{:>10}{:>10}{:>8}{:>8}",
        "Measured: against", "measured", "limit", "ratio", "target"
    ));
    for row in rows {
        let verdict = if row.holds() { "reached" } else { "MISSED" };
        let (_, scale) = row.unit.shown();
        let spread = row.spread().map(|(least, most)| {
            let rounds = row.rounds.len();
            format!(" ({rounds} rounds, {least:.3} to {most:.3})")
        });
        print(format_args!(
            "  {:<60}{:>10.2}{:>10.2}{:>8.3}{:>8.2}  {verdict}{}",
            row.name,
            row.measured / scale,
            row.limit / scale,
            row.ratio(),
            row.target,
            spread.unwrap_or_default(),
        ));
    }
    print("");
}

/// Prints what `new` has that `old` has not, or otherwise.
pub fn diff(old: &Samples, new: &Samples) {
    let (old, new) = (old.medians(), new.medians());
    for sample in new.all() {
        let (unit, scale) = sample.unit.shown();
        let name = format!("{} {}", sample.device, sample.test);
        match old.get(&sample.device, &sample.test) {
            Some(before) => print(format_args!(
                "  {name:<36}{:>16.3}{:>16.3}{:>+9.2} %  {unit}",
                before / scale,
                sample.value / scale,
                100.0 * (sample.value / before - 1.0)
            )),
            None => print(format_args!(
                "  {name:<36}{:>16}{:>16.3}{:>11}  {unit}",
                "–",
                sample.value / scale,
                "new"
            )),
        }
    }
    for sample in old.all() {
        if new.get(&sample.device, &sample.test).is_none() {
            print(format_args!("  {} {}: gone", sample.device, sample.test));
        }
    }
}
