// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The numbers that the project wants to reach.

mod opponents;

use crate::sample::{median, Samples, Unit};

/// A number, what it is held against, and how far above that it may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What was measured, and after a colon what it is held against.
    pub name: String,
    /// What both numbers count.
    pub unit: Unit,
    /// What was found.
    pub measured: f64,
    /// The least that is possible, or the opponent.
    pub limit: f64,
    /// The ratio that is wanted.
    pub target: f64,
    /// The ratios in the rounds, if there were several.
    pub rounds: Vec<f64>,
}

impl Row {
    /// Measured in terms of the limit: the median of the rounds.
    pub fn ratio(&self) -> f64 {
        median(self.rounds.clone()).unwrap_or(self.measured / self.limit)
    }

    /// The least and the greatest ratio of a round.
    pub fn spread(&self) -> Option<(f64, f64)> {
        let least = self.rounds.iter().copied().reduce(f64::min)?;
        Some((least, self.rounds.iter().copied().reduce(f64::max)?))
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

/// Rows in the making: those that lack a number are left out.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn add(
        &mut self,
        name: String,
        unit: Unit,
        measured: Option<f64>,
        limit: Option<f64>,
        target: f64,
    ) {
        if let (Some(measured), Some(limit)) = (measured, limit) {
            self.0.push(Row {
                name,
                unit,
                measured,
                limit,
                target,
                rounds: Vec::new(),
            });
        }
    }
}

/// All rows for which there are numbers, with the ratios of all rounds.
pub fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows = of_medians(samples);
    for round in samples.rounds() {
        let of_round = of_medians(&round);
        for row in rows.iter_mut().filter(|row| row.unit.is_of_rounds()) {
            let same = of_round.iter().find(|found| found.name == row.name);
            row.rounds.extend(same.map(Row::ratio));
        }
    }
    rows
}

fn of_medians(samples: &Samples) -> Vec<Row> {
    let mut rows = Rows::default();
    for (bottom, prefix) in [("", ""), (" on null_blk", "null-")] {
        zfile_rows(&mut rows, samples, bottom, prefix);
    }
    lsmt_rows(&mut rows, samples);
    file_system_rows(&mut rows, samples);
    cost_rows(&mut rows, samples);
    cpu_rows(&mut rows, samples);
    opponents::rows(&mut rows, samples);
    scaling_rows(&mut rows, samples);
    rows.0
}

fn sum(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    Some(a? + b?)
}

/// One device, on a bottom whose devices have `prefix` in their names.
fn zfile_rows(rows: &mut Rows, samples: &Samples, bottom: &str, prefix: &str) {
    let get = |device: &str, test: &str| samples.get(&format!("{prefix}{device}"), test);
    let lz4 = samples.get("limit", "lz4");
    let crc = samples.get("limit", "crc32c");
    for (test, title) in TESTS {
        if let Some(target) = zfile_target(test) {
            let name = format!("zfile, {title}{bottom}: LZ4 + raw");
            let limit = sum(lz4, get("raw", test));
            rows.add(name, Unit::Instructions, get("zfile", test), limit, target);
        }
    }
    for (test, title) in TESTS {
        let name = format!("with CRC, {title}{bottom}: zfile + crc32c");
        let limit = sum(get("zfile", test), crc);
        rows.add(
            name,
            Unit::Instructions,
            get("zfile-crc", test),
            limit,
            1.05,
        );
    }
    for (test, title) in TESTS {
        let name = format!("one layer, {title}{bottom}: zfile");
        let measured = get("lsmt-one", test);
        rows.add(name, Unit::Instructions, measured, get("zfile", test), 1.03);
    }
}

/// What fragments may add, of what they add to dm-linear.
const FRAGMENTS: f64 = 1.3;

/// Eight layers against one device that has the same, and against dm-linear.
fn lsmt_rows(rows: &mut Rows, samples: &Samples) {
    for (stack, what, target) in [
        ("coarse", "8 layers", 1.03),
        ("fine", "8 layers in fragments", 1.15),
    ] {
        for (test, title) in TESTS {
            let name = format!("{what}, {title}: zfile");
            let measured = samples.get(&format!("lsmt-{stack}"), test);
            rows.add(
                name,
                Unit::Instructions,
                measured,
                samples.get("zfile", test),
                target,
            );
        }
    }
    let more = |many, one| Some(samples.get(many, "seq")? - samples.get(one, "seq")?);
    for (device, what) in [
        ("linear-fine", "dm-linear"),
        ("linear-fine-stacked", "dm-linear over dm-linear"),
    ] {
        let name = format!("what fragments add, sequential direct: that on {what}");
        let (ours, theirs) = (more("lsmt-fine", "zfile"), more(device, "linear"));
        rows.add(name, Unit::Instructions, ours, theirs, FRAGMENTS);
    }
    for (stack, what) in [("coarse", "raw layers"), ("fine", "raw fragments")] {
        for (test, title) in TESTS {
            let name = format!("{what}, {title}: dm-linear");
            let measured = samples.get(&format!("lsmt-raw-{stack}"), test);
            let limit = samples.get(&format!("linear-{stack}"), test);
            rows.add(name, Unit::Instructions, measured, limit, 1.05);
        }
    }
}

/// Ours, the test, the opponent, the target.
const FILE_SYSTEM_ROWS: [(&str, &str, &str, f64); 6] = [
    ("ext4-z4", "tree", "erofs-lz4-4k", 0.75),
    ("erofs-z4", "tree", "erofs-lz4-4k", 0.75),
    ("ext4-z64", "tree", "erofs-lz4-64k", 0.95),
    ("erofs-z64", "tree", "erofs-lz4-64k", 0.95),
    ("ext4-z4", "pages", "erofs-lz4-4k", 0.9),
    ("erofs-z4", "pages", "erofs-lz4-4k", 0.9),
];

/// In CPU time: instructions take decompression for too dear against what misses the caches.
fn file_system_rows(rows: &mut Rows, samples: &Samples) {
    for (ours, test, theirs, target) in FILE_SYSTEM_ROWS {
        let what = if test == "tree" {
            "whole tree, cold"
        } else {
            "random 4 KiB of files"
        };
        let name = format!("CPU time, {ours}, {what}: {theirs}");
        let get = |device| samples.get(device, &format!("cpu-{test}"));
        rows.add(name, Unit::CpuNanoseconds, get(ours), get(theirs), target);
    }
}

/// Name of the row, the device with many items, the one with one item, the number of items, and
/// the bytes that each may take.
const MEMORY_ROWS: [(&str, &str, &str, f64, f64); 3] = [
    (
        "memory of a block of 4 KiB",
        "blocks-256k",
        "blocks-1",
        262_144.0,
        2.5,
    ),
    (
        "memory of a block of 64 KiB",
        "blocks-wide",
        "blocks-1",
        65_536.0,
        8.0,
    ),
    (
        "memory of an extent",
        "extents-1m",
        "extents-1",
        1_000_000.0,
        12.5,
    ),
];
const LAYER_BYTES: f64 = 150.0 * 1024.0;

fn cost_rows(rows: &mut Rows, samples: &Samples) {
    for device in ["ext4-z4", "ext4-z64"] {
        let name = format!("{device}, sectors below a random 4 KiB: its block's");
        let needed = samples.get(device, "sectors-needed");
        rows.add(
            name,
            Unit::Sectors,
            samples.get(device, "sectors-read"),
            needed,
            1.0,
        );
    }
    let name = "blocks decompressed in a hot MiB of 64 KiB blocks: all".to_owned();
    let blocks = samples.get("ext4-z64", "hot-blocks");
    rows.add(
        name,
        Unit::Blocks,
        samples.get("ext4-z64", "hot-decoded"),
        blocks,
        1.0,
    );

    let memory = |device| samples.get(device, "memory");
    let more = |large, small| Some(memory(large)? - memory(small)?);
    let name = "memory of a zfile device above dm-linear: 150 KiB".to_owned();
    rows.add(
        name,
        Unit::Bytes,
        more("blocks-1", "linear"),
        Some(LAYER_BYTES),
        1.0,
    );
    for (name, large, small, items, bytes) in MEMORY_ROWS {
        let each = more(large, small).map(|more| more / items);
        let name = format!("{name}: {bytes} bytes");
        rows.add(name, Unit::Bytes, each, Some(bytes), 1.0);
    }
}

/// What copying is of reading a raw device, by the measure: the rest a zfile device has
/// to pay as well.
const RAW_SHARE: f64 = 0.55;

/// CPU time at the processor's own speed, sequential.
fn cpu_rows(rows: &mut Rows, samples: &Samples) {
    let get = |device| samples.get(device, "cpu-seq");
    let unit = Unit::CpuNanoseconds;
    let limit = sum(get("lz4"), get("raw").map(|raw| RAW_SHARE * raw));
    let name = "CPU time, zfile, sequential: LZ4 + 0.55 raw".to_owned();
    rows.add(name, unit, get("zfile"), limit, 1.15);
    let name = "CPU time, 8 layers, sequential: zfile".to_owned();
    rows.add(name, unit, get("lsmt-coarse"), get("zfile"), 1.03);
    let more = |many, one| Some(get(many)? - get(one)?);
    let name = "CPU time that fragments add: that on dm-linear".to_owned();
    let ours = more("lsmt-fine", "zfile");
    rows.add(name, unit, ours, more("linear-fine", "linear"), FRAGMENTS);
    let name = "CPU time that fragments add: that on dm-linear over dm-linear".to_owned();
    let theirs = more("linear-fine-stacked", "linear");
    rows.add(name, unit, ours, theirs, FRAGMENTS);
    let name = "activation of a layer of a million extents: 60 ms".to_owned();
    let measured = samples.get("extents-1m", "cpu-activation");
    rows.add(name, Unit::CpuMilliseconds, measured, Some(60.0), 1.0);
}

/// What the speed-up of two threads that only decompress has to be: that there were two CPUs.
pub const LEAST_SPEEDUP: f64 = 1.8;
/// How much of that speed-up is wanted.
const SHARE: f64 = 0.85;

/// A second CPU, in rounds in which there was one.
fn scaling_rows(rows: &mut Rows, samples: &Samples) {
    let speedup = |device| Some(samples.get(device, "wall-1")? / samples.get(device, "wall-2")?);
    let control = speedup("lz4").filter(|&speedup| speedup >= LEAST_SPEEDUP);
    for (device, what) in [
        ("zfile stream", "a stream"),
        ("zfile buffered", "a stream through the page cache"),
        ("zfile readers", "four readers at random places"),
        ("zfile two", "two devices"),
    ] {
        let name = format!("two CPUs, speed-up of LZ4 alone: that of {what}");
        let target = 1.0 / SHARE;
        rows.add(name, Unit::Speedup, control, speedup(device), target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    #[test]
    fn rounds_are_compared_each_by_itself() {
        let sample = |device: &str, value, round| Sample {
            device: device.to_owned(),
            test: "cpu-seq".to_owned(),
            value,
            unit: Unit::CpuNanoseconds,
            round: Some(round),
        };
        // The second round was disturbed.
        let all = [(0, 1.0), (1, 5.0), (2, 1.0)].map(|(round, factor)| {
            ["zfile", "lsmt-coarse"].map(|device| sample(device, 10.0 * factor, round))
        });
        let found = rows(&all.into_iter().flatten().collect());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].rounds, [1.0; 3]);
        assert_eq!(found[0].spread(), Some((1.0, 1.0)));
    }

    #[test]
    fn a_round_without_a_second_cpu_does_not_count() {
        let sample = |device: &str, test: &str, value, round| Sample {
            device: device.to_owned(),
            test: test.to_owned(),
            value,
            unit: Unit::Nanoseconds,
            round: Some(round),
        };
        let all = [
            sample("lz4", "wall-1", 20.0, 0),
            sample("lz4", "wall-2", 10.0, 0),
            sample("zfile stream", "wall-1", 20.0, 0),
            sample("zfile stream", "wall-2", 12.5, 0),
            sample("lz4", "wall-1", 20.0, 1),
            sample("lz4", "wall-2", 15.0, 1),
            sample("zfile stream", "wall-1", 20.0, 1),
            sample("zfile stream", "wall-2", 20.0, 1),
            sample("lz4", "wall-1", 20.0, 2),
            sample("lz4", "wall-2", 10.0, 2),
            sample("zfile stream", "wall-1", 20.0, 2),
            sample("zfile stream", "wall-2", 12.5, 2),
        ];
        let found = rows(&all.into_iter().collect());
        assert_eq!(found[0].rounds, [1.25, 1.25]);
        assert!(!found[0].holds());
    }

    #[test]
    fn a_row_needs_all_its_numbers() {
        let sample = |device: &str, test: &str, value| Sample {
            device: device.to_owned(),
            test: test.to_owned(),
            value,
            unit: Unit::Instructions,
            round: None,
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
