// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Every golden file decodes to its expected content.

mod common;

use common::golden::{self, file, flatten, lsmt_of, manifest, sha256, unwrap_tar, unzip};

/// Files of the manifest whose kind is among `kinds`.
fn of_kind(kinds: &[&str]) -> Vec<golden::Entry> {
    let all = manifest().into_iter();
    let found: Vec<_> = all.filter(|entry| kinds.contains(&&*entry.kind)).collect();
    assert!(!found.is_empty(), "no golden file of {kinds:?}");
    found
}

#[test]
fn zfiles_decode() {
    for entry in of_kind(&["zfile", "tar+zfile"]) {
        let blob = file(&entry.name);
        let content = unzip(unwrap_tar(&blob).1);
        assert_eq!(Some(sha256(&content)), entry.raw_sha256, "{}", entry.name);
    }
}

#[test]
fn single_layers_decode() {
    let kinds = [
        "lsmt",
        "lsmt-in-zfile",
        "tar+lsmt-in-zfile",
        "lsmt-sealed-in-place",
    ];
    for entry in of_kind(&kinds) {
        let disk = flatten(&[lsmt_of(&file(&entry.name))]);
        assert_eq!(Some(sha256(&disk)), entry.raw_sha256, "{}", entry.name);
    }
}
