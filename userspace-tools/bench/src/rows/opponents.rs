// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Numbers that are held against other programs that do the same.

use super::{Rows, TESTS};
use crate::sample::{Samples, Unit};

/// What the zfile target may take of what a server in userspace takes.
const SERVER_SHARE: f64 = 0.6;
/// What looking an extent up may take of what binary search takes.
const SEARCH_SHARE: f64 = 0.4;
/// What fixed memory a layer may take, more than an empty device: its zfile device is not counted.
const LAYER_BYTES: f64 = 150.0 * 1024.0;
const LAYERS: f64 = 64.0;

/// All of them for which there are numbers.
pub(super) fn rows(rows: &mut Rows, samples: &Samples) {
    server(rows, samples);
    overlay(rows, samples);
    lookup(rows, samples);
    layers(rows, samples);
}

/// Without decompression, which a server has another library for.
fn server(rows: &mut Rows, samples: &Samples) {
    let rest = |device, test, lz4| Some(samples.get(device, test)? - samples.get("limit", lz4)?);
    for (test, title) in TESTS {
        if matches!(test, "seq" | "rand1" | "rand16") {
            let name = format!("zfile without LZ4, {title}: ublk without its LZ4");
            let ours = rest("zfile", test, "lz4");
            let theirs = rest("ublk", test, "lz4-userspace");
            rows.add(name, Unit::Instructions, ours, theirs, SERVER_SHARE);
        }
    }
}

/// Eight layers as one device, and put together by overlayfs: the same folders, the same clusters.
fn overlay(rows: &mut Rows, samples: &Samples) {
    for (test, title) in [
        ("tree", "whole tree, cold"),
        ("pages", "random 4 KiB of files"),
    ] {
        let name = format!("erofs-lsmt-merged, {title}: overlay-lz4-4k");
        let ours = samples.get("erofs-lsmt-merged", test);
        let theirs = samples.get("overlay-lz4-4k", test);
        rows.add(name, Unit::Instructions, ours, theirs, 1.0);
    }
}

fn lookup(rows: &mut Rows, samples: &Samples) {
    for (device, title) in [
        ("extents-24k", "24,000 extents"),
        ("extents-1m", "a million extents"),
    ] {
        let name = format!("lookup among {title}: binary search");
        let ours = samples.get(device, "lookup");
        let theirs = samples.get(device, "binary-search");
        rows.add(name, Unit::LookupNanoseconds, ours, theirs, SEARCH_SHARE);
    }
}

/// What a layer adds to a device that has more than one.
fn layers(rows: &mut Rows, samples: &Samples) {
    let memory = |device| samples.get(device, "memory");
    let more = |many, one| Some((memory(many)? - memory(one)?) / (LAYERS - 1.0));
    let name = "memory of a further layer of an lsmt device: 150 KiB".to_owned();
    let measured = more("layers-64", "extents-1");
    rows.add(name, Unit::Bytes, measured, Some(LAYER_BYTES), 1.0);
}

#[cfg(test)]
mod tests {
    use super::super::rows;
    use crate::sample::{Sample, Samples, Unit};

    #[test]
    fn a_server_is_compared_without_its_decompression() {
        let sample = |device: &str, test: &str, value| Sample {
            device: device.to_owned(),
            test: test.to_owned(),
            value,
            unit: Unit::Instructions,
            round: None,
        };
        let samples: Samples = [
            sample("limit", "lz4", 100.0),
            sample("zfile", "rand1", 140.0),
            sample("limit", "lz4-userspace", 110.0),
            sample("ublk", "rand1", 190.0),
        ]
        .into_iter()
        .collect();
        let found = rows(&samples);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].measured, found[0].limit), (40.0, 80.0));
        assert!(found[0].holds());
    }
}
