// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tables of Documentation/performance.rst, in its order.

use std::iter;

use super::text::names;
use crate::rows::Row;
use crate::sample::{Samples, Unit};

/// A column of a table: the test, what the head says, how many of a sample's unit make one of
/// what is shown, digits behind the point.
type Column = (&'static str, &'static str, f64, usize);

/// Each with the sentence that says which table it is.
const TABLES: [(&str, &[Column]); 8] = [
    (
        "Block devices, thousand instructions",
        &[
            ("seq", "1 MiB", 1e3, 2),
            ("buffered", "buffered", 1e3, 2),
            ("qd8", "8 × 128 KiB", 1e3, 2),
            ("rand1", "random, QD1", 1e3, 2),
            ("rand16", "random, QD16", 1e3, 2),
        ],
    ),
    (
        "File systems, thousand instructions",
        &[
            ("tree", "whole tree", 1e3, 2),
            ("pages", "random pages", 1e3, 2),
        ],
    ),
    (
        "CPU time of block devices",
        &[("cpu-seq", "ns for each 4 KiB", 1.0, 0)],
    ),
    (
        "CPU time of file systems",
        &[
            ("cpu-tree", "whole tree, µs", 1e3, 2),
            ("cpu-pages", "random pages, µs", 1e3, 2),
        ],
    ),
    (
        "A second CPU",
        &[
            ("wall-1", "one CPU, ns", 1.0, 0),
            ("wall-2", "two CPUs, ns", 1.0, 0),
        ],
    ),
    (
        "Memory and activation",
        &[
            ("memory", "memory, KiB", 1024.0, 1),
            ("peak", "at the peak, KiB", 1024.0, 0),
            ("activation", "activation, M instructions", 1e6, 1),
        ],
    ),
    (
        "Memory of containers",
        &[("containers", "MiB", 1024.0 * 1024.0, 1)],
    ),
    (
        "Lookup, nanoseconds",
        &[
            ("lookup", "the map", 1.0, 0),
            ("binary-search", "binary search", 1.0, 0),
        ],
    ),
];

/// All tables for which there are numbers.
pub fn tables(samples: &Samples, rows: &[Row]) -> String {
    let mut text = String::new();
    for (title, columns) in TABLES {
        section(&mut text, title, &pivot(samples, columns));
    }
    section(&mut text, "Limits", &limits(samples));
    section(
        &mut text,
        "Where the server's instructions go",
        &server(samples),
    );
    section(&mut text, "What was to be reached", &reached(rows));
    text
}

type Table = Vec<Vec<String>>;

/// Adds a table, if it has more than a head.
fn section(text: &mut String, title: &str, table: &Table) {
    if table.len() > 1 {
        text.push_str(&format!("{title}:\n\n{}\n", simple(table)));
    }
}

/// A line for each device, in the order of the samples.
fn pivot(samples: &Samples, columns: &[Column]) -> Table {
    let heads = columns.iter().map(|column| column.1.to_owned());
    let mut table = vec![iter::once("device".to_owned()).chain(heads).collect()];
    for device in names(samples, |sample| &sample.device) {
        let value = |column: &Column| samples.get(device, column.0);
        if device == "limit" || columns.iter().all(|column| value(column).is_none()) {
            continue;
        }
        let cell = |column: &Column| {
            let found = value(column).map(|v| format!("{:.*}", column.3, v / column.2));
            found.unwrap_or_else(|| "–".to_owned())
        };
        let cells = columns.iter().map(cell);
        table.push(iter::once(literal(device)).chain(cells).collect());
    }
    table
}

/// A device's name as the document has it.
fn literal(device: &str) -> String {
    match device.strip_prefix("null-") {
        Some(device) => format!("``{device}`` on null_blk"),
        None => format!("``{device}``"),
    }
}

fn limits(samples: &Samples) -> Table {
    let mut table = vec![vec!["limit".to_owned(), "thousand instructions".to_owned()]];
    let of_limit = |s: &&crate::sample::Sample| s.device == "limit" && s.unit == Unit::Instructions;
    for sample in samples.all().iter().filter(of_limit) {
        let value = format!("{:.2}", sample.value / 1e3);
        table.push(vec![format!("``{}``", sample.test), value]);
    }
    table
}

/// The parts that can be measured by themselves, and what is left.
fn server(samples: &Samples) -> Table {
    let mut table = vec![["read", "in all", "its LZ4", "reading below", "the rest"]
        .map(str::to_owned)
        .to_vec()];
    let mut add = |title: &str, test| -> Option<()> {
        let (all, lz4) = (
            samples.get("ublk", test)?,
            samples.get("limit", "lz4-userspace")?,
        );
        // The server reads through a ring, too.
        let below = samples.get("raw", if test == "seq" { "qd8" } else { "rand16" })?;
        let below = below
            * if test == "seq" {
                samples.get("limit", "stored")?
            } else {
                1.0
            };
        let parts = [all, lz4, below, all - lz4 - below].map(|v| format!("{:.2}", v / 1e3));
        let title = iter::once(title.to_owned());
        table.push(title.chain(parts).collect());
        Some(())
    };
    for (title, test) in [
        ("1 MiB", "seq"),
        ("random, QD1", "rand1"),
        ("random, QD16", "rand16"),
    ] {
        // A table without the line says that there are no numbers.
        let _ = add(title, test);
    }
    table
}

fn reached(rows: &[Row]) -> Table {
    let mut table = vec![[
        "measured: against",
        "measured",
        "against",
        "ratio",
        "goal",
        "of rounds",
        "",
    ]
    .map(str::to_owned)
    .to_vec()];
    for row in rows {
        let (_, scale) = row.unit.shown();
        table.push(vec![
            row.name.clone(),
            format!("{:.2}", row.measured / scale),
            format!("{:.2}", row.limit / scale),
            format!("{:.3}", row.ratio()),
            format!("{:.2}", row.target),
            row.spread().map_or_else(
                || "–".to_owned(),
                |(least, most)| format!("{least:.2} to {most:.2}"),
            ),
            if row.holds() { "reached" } else { "missed" }.to_owned(),
        ]);
    }
    table
}

/// A simple table: the first column to the left, the others to the right.
fn simple(table: &Table) -> String {
    let columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = table.iter().filter_map(|line| line.get(column));
        cells
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
            .max(1)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let ruler: Vec<String> = widths.iter().map(|width| "=".repeat(*width)).collect();
    let ruler = ruler.join(" ") + "\n";
    let mut text = ruler.clone();
    for (number, line) in table.iter().enumerate() {
        let cell = |(column, (cell, width)): (usize, (&String, &usize))| {
            if column == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        };
        let cells: Vec<String> = line.iter().zip(&widths).enumerate().map(cell).collect();
        text.push_str(cells.join(" ").trim_end());
        text.push('\n');
        if number == 0 {
            text.push_str(&ruler);
        }
    }
    text + &ruler
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    #[test]
    fn a_device_has_a_line_and_what_is_missing_a_dash() {
        let sample = |device: &str, test: &str, value| Sample {
            device: device.to_owned(),
            test: test.to_owned(),
            value,
            unit: Unit::Instructions,
            round: None,
        };
        let samples: Samples = [
            sample("raw", "tree", 2340.0),
            sample("null-raw", "pages", 8040.0),
            sample("limit", "lz4", 1.0),
        ]
        .into_iter()
        .collect();
        let text = simple(&pivot(&samples, TABLES[1].1));
        let wanted = "\
=================== ========== ============
device              whole tree random pages
=================== ========== ============
``raw``                   2.34            –
``raw`` on null_blk          –         8.04
=================== ========== ============
";
        assert_eq!(text, wanted);
    }
}
