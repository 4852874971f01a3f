// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A page that stands alone: a table of what was reached, and bars.

use std::fmt::Write;

use super::text::names;
use crate::rows::Row;
use crate::sample::{Sample, Samples, Unit};

const STYLE: &str = "\
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .15em .8em; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
.reached { color: #17691c } .missed { color: #b3261e; font-weight: bold }
svg { font: 12px sans-serif } svg .ours { fill: #2f6fb3 } svg .other { fill: #b8bec6 }";

/// Pixels.
const LABEL: f64 = 190.0;
const BARS: f64 = 520.0;
const LINE: f64 = 18.0;

/// The page.
pub fn page(kernel: &str, samples: &Samples, rows: &[Row]) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <title>dm-overlaybd: bench</title>\n<style>\n{STYLE}\n</style>\n\
         <h1>dm-overlaybd: what reading costs</h1>\n\
         <p>Linux {}; see Documentation/performance.rst.</p>\n\
         <h2>Against the limits</h2>\n",
        escaped(kernel)
    );
    table(&mut page, rows);
    let samples = samples.medians();
    for (title, unit) in [
        ("Thousand instructions for each 4 KiB", Unit::Instructions),
        (
            "Microseconds of CPU time for each 4 KiB",
            Unit::CpuNanoseconds,
        ),
        ("Microseconds on the wall for each 4 KiB", Unit::Nanoseconds),
    ] {
        let counts = |s: &&Sample| s.unit == unit && s.device != "limit";
        let counts: Samples = samples.all().iter().filter(counts).cloned().collect();
        if !counts.all().is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(page, "<h2>{title}</h2>");
        }
        for test in names(&counts, |s| &s.test) {
            let of_test: Vec<&Sample> = counts.all().iter().filter(|s| s.test == test).collect();
            bars(&mut page, test, &of_test, 1e3);
        }
    }
    let containers = |s: &&Sample| s.test == "containers";
    let of_containers: Vec<&Sample> = samples.all().iter().filter(containers).collect();
    if !of_containers.is_empty() {
        page.push_str("<h2>Memory of containers that have read all files</h2>\n");
        bars(&mut page, "MiB", &of_containers, f64::from(1 << 20));
    }
    page.push_str("</html>\n");
    page
}

fn table(page: &mut String, rows: &[Row]) {
    page.push_str(
        "<table><tr><th>measured: against<th>measured<th>against<th>ratio<th>target<th></tr>\n",
    );
    for row in rows {
        let (unit, scale) = row.unit.shown();
        let verdict = if row.holds() { "reached" } else { "missed" };
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "<tr><td>{}<td title=\"{unit}\">{:.2}<td>{:.2}<td>{:.3}<td>{:.2}\
             <td class=\"{verdict}\">{verdict}</tr>",
            escaped(&row.name),
            row.measured / scale,
            row.limit / scale,
            row.ratio(),
            row.target
        );
    }
    page.push_str("</table>\n");
}

/// A bar for each device, as long as its number is large, which is shown in terms of `unit`.
fn bars(page: &mut String, title: &str, samples: &[&Sample], unit: f64) {
    let most = samples.iter().map(|s| s.value).fold(1.0, f64::max);
    let height = LINE * samples.len() as f64;
    let _ = writeln!(
        page,
        "<h3>{}</h3>\n<svg width=\"{}\" height=\"{height}\">",
        escaped(title),
        LABEL + BARS + 60.0
    );
    for (number, sample) in samples.iter().enumerate() {
        let top = LINE * number as f64;
        let width = BARS * sample.value / most;
        let class = if is_ours(&sample.device) {
            "ours"
        } else {
            "other"
        };
        let _ = writeln!(
            page,
            "<text x=\"0\" y=\"{}\">{}</text>\
             <rect class=\"{class}\" x=\"{LABEL}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{:.2}</text>",
            top + 13.0,
            escaped(&sample.device),
            top + 2.0,
            LINE - 4.0,
            LABEL + width + 6.0,
            top + 13.0,
            sample.value / unit
        );
    }
    page.push_str("</svg>\n");
}

/// Whether a device is one of the project's, or stands on one.
fn is_ours(device: &str) -> bool {
    ["zfile", "lsmt", "-z4", "-z64", "shared"]
        .iter()
        .any(|word| device.contains(word))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_rows_and_bars() {
        let sample = |device: &str, value| Sample {
            device: device.to_owned(),
            test: "seq".to_owned(),
            value,
            unit: Unit::Instructions,
            round: None,
        };
        let samples: Samples = [sample("raw", 2000.0), sample("zfile", 14_000.0)]
            .into_iter()
            .collect();
        let row = Row {
            name: "a < b".to_owned(),
            unit: Unit::Instructions,
            measured: 14_000.0,
            limit: 2000.0,
            target: 1.0,
            rounds: Vec::new(),
        };
        let page = page("7.3", &samples, &[row]);
        assert!(page.contains("a &lt; b") && page.contains("class=\"missed\""));
        assert_eq!(page.matches("<rect").count(), 2);
        assert_eq!(page.matches("class=\"ours\"").count(), 1);
    }
}
