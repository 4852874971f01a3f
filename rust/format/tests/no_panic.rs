// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! No panic is reachable: built as the kernel builds it, with overflow checks, the
//! crate calls none of the panic functions.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

/// Compiles the crate as a module of `no_panic/wrapper.rs`, which calls all of it,
/// and returns the object file.
fn compile() -> Vec<u8> {
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("no_panic.o");
    let status = Command::new(env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args([
            "--edition=2021",
            "--crate-type=lib",
            "--cfg=MODULE",
            "--emit=obj",
        ])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Coverflow-checks=on"])
        .args(["-Ccodegen-units=1", "-o"])
        .arg(&out)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/no_panic/wrapper.rs"
        ))
        .status()
        .unwrap();
    assert!(status.success());
    fs::read(&out).unwrap()
}

/// Names of functions stand in an object file as they are.
fn count(object: &[u8], name: &str) -> usize {
    let places = object.windows(name.len());
    places.filter(|place| *place == name.as_bytes()).count()
}

#[test]
fn nothing_panics() {
    let object = compile();
    // It was compiled for real, and mangled names are what is looked for.
    for used in ["5zfile", "4lsmt", "3map", "5table", "6status"] {
        assert!(count(&object, used) > 0, "{used}");
    }
    for panic in [
        "9panicking",
        "panic_fmt",
        "panic_bounds_check",
        "unwrap_failed",
        "slice_index_fail",
    ] {
        assert_eq!(count(&object, panic), 0, "{panic}");
    }
}
