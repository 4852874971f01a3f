// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The numbers that the project wants to reach.

use crate::sample::Samples;

/// A count, what it is held against, and how far above that it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Instructions for each 4 KiB.
    pub measured: f64,
    /// The least that is possible, or the opponent.
    pub limit: f64,
    /// The ratio that is wanted.
    pub target: f64,
}

impl Row {
    /// Measured in terms of the limit.
    pub fn ratio(&self) -> f64 {
        self.measured / self.limit
    }

    /// The target is reached.
    pub fn holds(&self) -> bool {
        self.ratio() <= self.target
    }
}

/// For people: what a test is called in a row.
const TESTS: [(&str, &str); 5] = [
    ("seq", "sequential direct"),
    ("buffered", "sequential buffered"),
    ("qd8", "QD8 × 128 KiB"),
    ("rand1", "random 4 KiB QD1"),
    ("rand16", "random 4 KiB QD16"),
];

/// How far above raw and LZ4 together a zfile device may be.
fn zfile_target(test: &str) -> Option<f64> {
    match test {
        "seq" => Some(1.02),
        "buffered" => Some(1.03),
        "rand1" | "rand16" => Some(1.15),
        _ => None,
    }
}

/// All rows for which there are numbers.
pub fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: String, measured: Option<f64>, limit: Option<f64>, target: f64| {
        if let (Some(measured), Some(limit)) = (measured, limit) {
            rows.push(Row {
                name,
                measured,
                limit,
                target,
            });
        }
    };
    let sum = |a: Option<f64>, b: Option<f64>| Some(a? + b?);
    let lz4 = samples.get("limit", "lz4");
    let crc = samples.get("limit", "crc32c");
    for (bottom, prefix) in [("", ""), (" on null_blk", "null-")] {
        let get = |device: &str, test: &str| samples.get(&format!("{prefix}{device}"), test);
        for (test, title) in TESTS {
            if let Some(target) = zfile_target(test) {
                let name = format!("zfile, {title}{bottom}: LZ4 + raw");
                add(name, get("zfile", test), sum(lz4, get("raw", test)), target);
            }
        }
        for (test, title) in TESTS {
            let name = format!("with CRC, {title}{bottom}: zfile + crc32c");
            add(
                name,
                get("zfile-crc", test),
                sum(get("zfile", test), crc),
                1.05,
            );
        }
        for (test, title) in TESTS {
            let name = format!("one layer, {title}{bottom}: zfile");
            add(name, get("lsmt-one", test), get("zfile", test), 1.03);
        }
        for (device, what, target) in [
            ("coarse", "8 layers", 1.03),
            ("fine", "8 layers in fragments", 1.15),
        ] {
            for (test, title) in TESTS {
                let name = format!("{what}, {title}: zfile");
                add(
                    name,
                    get(&format!("lsmt-{device}"), test),
                    get("zfile", test),
                    target,
                );
            }
        }
        for (device, what) in [
            ("coarse", "raw layers"),
            ("fine", "raw layers in fragments"),
        ] {
            for (test, title) in TESTS {
                let name = format!("{what}, {title}: dm-linear");
                let linear = get(&format!("linear-{device}"), test);
                add(name, get(&format!("lsmt-raw-{device}"), test), linear, 1.05);
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Sample, Unit};

    #[test]
    fn a_row_needs_all_its_numbers() {
        let sample = |device: &str, test: &str, value| Sample {
            device: device.to_owned(),
            test: test.to_owned(),
            value,
            unit: Unit::Instructions,
        };
        let mut all = vec![sample("zfile", "seq", 150.0), sample("raw", "seq", 50.0)];
        assert_eq!(rows(&all.iter().cloned().collect()), []);
        all.push(sample("limit", "lz4", 100.0));
        let found = rows(&all.into_iter().collect());
        assert_eq!(found.len(), 1);
        assert!(found[0].holds());
        assert_eq!((found[0].limit, found[0].target), (150.0, 1.02));
    }
}
