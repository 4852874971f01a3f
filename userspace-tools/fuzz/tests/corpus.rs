// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Every target holds for its corpus, and for inputs that once failed.

use std::fs;
use std::path::Path;

/// Runs a target over the files of a folder; returns their number.
fn run(fuzz: fuzz::Fuzz, folder: &Path) -> usize {
    let files = fs::read_dir(folder).map(Iterator::flatten);
    let files = files.into_iter().flatten().map(|file| file.path());
    let run = |path| fuzz(&fs::read(path).unwrap());
    files.map(run).count()
}

#[test]
fn corpus_holds() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, fuzz) in fuzz::TARGETS {
        assert!(run(fuzz, &base.join("corpus").join(name)) > 0, "{name}");
        run(fuzz, &base.join("crashes").join(name));
    }
}

/// Inputs of all sizes, and none.
#[test]
fn anything_holds() {
    for (_, fuzz) in fuzz::TARGETS {
        for len in 0..600 {
            fuzz(&vec![0; len]);
            fuzz(&vec![0xff; len]);
        }
    }
}
