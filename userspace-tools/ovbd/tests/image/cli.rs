// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The commands as a user meets them: words, JSON, exit codes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::support::{golden, unzstd, Scratch};

fn ovbd(arguments: &[impl AsRef<OsStr>]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args(arguments)
        .env_remove("COLUMNS")
        .env_remove("SOURCE_DATE_EPOCH")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The answer of a command that must succeed without a word on standard error.
pub fn answer(arguments: &[&str]) -> String {
    let output = ovbd(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    assert_eq!(text(&output.stderr), "");
    text(&output.stdout).to_owned()
}

pub fn json(arguments: &[&str]) -> Value {
    let value: Value = serde_json::from_str(&answer(arguments)).unwrap();
    assert_eq!(value["version"], 1);
    value
}

/// Exit code and standard error of a command that must fail.
pub fn failure(arguments: &[&str]) -> (i32, String) {
    let output = ovbd(arguments);
    assert!(!output.status.success(), "{arguments:?}");
    (
        output.status.code().unwrap(),
        text(&output.stderr).to_owned(),
    )
}

pub fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_image_is_built_inspected_verified_and_unpacked() {
    let scratch = Scratch::new();
    let config = scratch.path("config.v1.json");
    let config = str(&config);
    let mut disk = Vec::new();
    for number in 0..3 {
        disk = unzstd(&golden(&format!("raw/ext4-merged{number}.raw.zst")));
        let raw = scratch.file("raw", &disk);
        let layer = scratch.path(&format!("layer{number}.tar"));
        let mut arguments = vec!["--json", "build", "--raw", str(&raw), "-o", str(&layer)];
        arguments.extend([
            "--tar",
            "-a",
            "zstd",
            "--block-size",
            "16k",
            "--config",
            config,
        ]);
        if number > 0 {
            arguments.extend(["--base", config]);
        }
        let built = json(&arguments);
        assert_eq!(built["virtual_size"], 64 << 20);
        assert_eq!(built["zfile"]["algorithm"], "zstd");
        assert_eq!(built["size"], fs::metadata(&layer).unwrap().len());
        let digest = built["digest"].as_str().unwrap();
        answer(&["verify", str(&layer), "--digest", digest]);
    }
    let verified = json(&["--json", "verify", config]);
    assert_eq!(verified["ok"], true);
    assert_eq!(verified["files"].as_array().unwrap().len(), 3);
    let inspected = json(&["--json", "inspect", config]);
    assert_eq!(inspected["image"]["size"], 64 << 20);
    assert_eq!(inspected["image"]["layers"].as_array().unwrap().len(), 3);
    assert_eq!(inspected["files"][2]["zfile"]["block_size"], 16384);
    let out = scratch.path("out");
    answer(&["extract", config, "-o", str(&out)]);
    assert!(fs::read(&out).unwrap() == disk);
    let piped = ovbd(&["extract", config, "-o", "-"]);
    assert!(piped.status.success() && piped.stdout == disk);
}

/// Whoever reads the document need not ask for the code, and the other way round.
#[test]
fn the_exit_code_that_is_printed_is_the_one_that_is_used() {
    let scratch = Scratch::new();
    let config = scratch.file("config.json", b"{}");
    for (command, expected) in [(&["up", "web"][..], 3), (&["run"], 125)] {
        let (code, error) = failure(&[&["--json"], command, &[str(&config)]].concat());
        let error: Value = serde_json::from_str(&error).unwrap();
        assert_eq!((code, &error["exit_code"]), (expected, &expected.into()));
    }
}

#[test]
fn outputs_are_not_replaced_without_force() {
    let scratch = Scratch::new();
    let out = scratch.file("out", b"precious");
    let layer = golden("lsmt/pat-overlap.lsmt");
    let svg = scratch.file("svg", b"precious");
    for arguments in [
        &["compress", str(&layer), "-o", str(&out)][..],
        &["extract", str(&layer), "-o", str(&out)],
        &["build", "--raw", str(&layer), "-o", str(&out)],
        &["inspect", str(&layer), "--svg", str(&svg)],
    ] {
        let (code, message) = failure(arguments);
        assert_eq!(code, 1);
        assert!(
            message.contains("exists already; give --force"),
            "{message}"
        );
        let with_force = [arguments, &["--force"]].concat();
        answer(&with_force);
        fs::write(arguments[arguments.len() - 1], b"precious").unwrap();
    }
    assert_eq!(scratch.names(), ["out", "svg"]);
}

#[test]
fn verification_fails_with_code_3_and_the_offset() {
    let scratch = Scratch::new();
    let mut bytes = fs::read(golden("tar/text-zstd-4k.zfile.tar")).unwrap();
    bytes[1536 + 512 + 5] ^= 1;
    let bad = scratch.file("bad", &bytes);
    let good = golden("zfile/text-lz4-4k.zfile");
    let (code, message) = failure(&["verify", str(&good), str(&bad)]);
    assert_eq!(code, 3);
    let expected = format!(
        "ovbd: 1 of 2 files are bad; the first is {} at byte 2048\n",
        bad.display()
    );
    assert_eq!(message, expected);
    let output = ovbd(&["--json", "verify", str(&bad)]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["files"][0]["first_bad_offset"], 2048);
    assert_eq!(report["files"][0]["blocks"]["bad"], 1);
    assert_eq!(report["files"][0]["blocks"]["listed"][0]["block"], 0);
}

#[test]
fn wrong_arguments_are_explained() {
    let scratch = Scratch::new();
    let layer = golden("lsmt/pat-overlap.lsmt");
    let out = scratch.path("out");
    let (layer, out) = (str(&layer), str(&out));
    for (arguments, code, words) in [
        (
            &["compress", layer, "-o", out, "--block-size", "5k"][..],
            2,
            "block size 5120: 4k, 8k",
        ),
        (
            &["compress", layer, "-o", out, "--block-size", "x"],
            2,
            "is no size",
        ),
        (
            &["compress", "/nowhere", "-o", out],
            6,
            "/nowhere: cannot open",
        ),
        (
            &["verify", layer, layer, "--digest", DIGEST],
            2,
            "--digest is for one file, not for 2",
        ),
        (
            &["verify", layer, "--digest", "sha256:12"],
            2,
            "is no digest",
        ),
        (&["verify", layer, "--digest", DIGEST], 3, "bad"),
        (&["build", "-o", out], 2, "--raw"),
        (
            &["build", "--raw", layer, "-o", out, "--uuid", "x"],
            2,
            "hexadecimal",
        ),
        (
            &["build", "--raw", layer, "-o", out, "--fs", "ext4"],
            2,
            "--from-dir",
        ),
        (
            &["build", "--raw", layer, "-o", out, "--virtual-size", "4k"],
            2,
            "cuts off",
        ),
        (
            &["extract", layer, layer, "--to", "blob", "-o", out],
            2,
            "name one file",
        ),
        (&["inspect", "--map", "/dev/null"], 3, "/dev/null: is empty"),
    ] {
        let (found, message) = failure(arguments);
        assert_eq!(found, code, "{arguments:?}: {message}");
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
    assert!(scratch.names().is_empty());
}

#[test]
fn a_base_is_not_overwritten_by_what_is_built_on_it() {
    let scratch = Scratch::new();
    let raw = scratch.file("raw", &[7; 4096]);
    let layer = scratch.path("layer");
    let (raw, layer) = (str(&raw), str(&layer));
    answer(&["build", "--raw", raw, "-o", layer]);
    let before = fs::read(layer).unwrap();
    for base in [["--base", layer], ["--base-raw", layer]] {
        let [option, base] = base;
        let arguments = ["build", "--raw", raw, option, base, "-o", layer, "--force"];
        let (code, message) = failure(&arguments);
        assert_eq!(code, 2);
        assert!(message.contains("is part of the base"), "{message}");
    }
    assert!(fs::read(layer).unwrap() == before);
    // What is no layer is no base, unless it is said to be a raw disk.
    let out = scratch.path("out");
    let (code, message) = failure(&["build", "--raw", raw, "--base", raw, "-o", str(&out)]);
    assert_eq!(code, 3, "{message}");
    answer(&["build", "--raw", raw, "--base-raw", raw, "-o", str(&out)]);
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[test]
fn the_map_is_plain_where_nobody_sees_colours() {
    let layers = [0, 1, 2].map(|n| golden(&format!("ext4/layer{n}.lz4.zfile")));
    let [a, b, c] = layers.each_ref().map(|path| str(path));
    let shown = answer(&["inspect", "--map", a, b, c]);
    assert!(!shown.contains('\u{1b}'));
    let map = &shown[shown.find("64.0 MiB disk,").unwrap()..];
    assert_eq!(map, include_str!("map.txt"));
    let colours = answer(&["inspect", "--map", "--color", "always", a, b, c]);
    assert!(colours.contains("\u{1b}[38;5;"));
}

#[test]
fn the_picture_is_well_formed() {
    let scratch = Scratch::new();
    let layers = [0, 1, 2].map(|n| golden(&format!("lsmt/stack{n}.lsmt")));
    let [a, b, c] = layers.each_ref().map(|path| str(path));
    let svg = scratch.path("picture.svg");
    answer(&["inspect", "--svg", str(&svg), a, b, c]);
    let picture = fs::read_to_string(svg).unwrap();
    assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
    // Every element is closed.
    let opened = picture.matches('<').count();
    let closed = picture.matches("/>").count() + 2 * picture.matches("</").count();
    assert_eq!(opened, closed);
    for name in [
        "stack0.lsmt",
        "stack1.lsmt",
        "stack2.lsmt",
        "4.00 MiB disk of 3 layers",
    ] {
        assert!(picture.contains(name), "{name}");
    }
}

/// Who waits for an image is not left without an answer.
#[test]
fn a_refused_configuration_says_so_where_it_is_to_be_said() {
    let scratch = Scratch::new();
    let text = br#"{"resultFile": "result", "lowers": [{"file": "a"}], "upper": {"data": "b"}}"#;
    let config = scratch.file("config.v1.json", text);
    for command in ["up web", "run"] {
        let words: Vec<&str> = command.split(' ').chain([str(&config)]).collect();
        let (_, message) = failure(&words);
        let result = fs::read_to_string(scratch.path("result")).unwrap();
        assert_eq!(format!("ovbd: {}\n", &result["failed:".len()..]), message);
        assert!(message.contains("--writable"), "{message}");
        fs::remove_file(scratch.path("result")).unwrap();
    }
    failure(&["table", str(&config)]);
    assert_eq!(scratch.names(), ["config.v1.json"]);
}

/// JSON knows no such names. The work is done, and the answer says so.
#[test]
fn a_name_need_not_be_unicode() {
    let scratch = Scratch::new();
    let odd = |name: &[u8]| scratch.path("").join(OsStr::from_bytes(name));
    let [raw, layer] = [odd(b"raw\xff"), odd(b"layer\xff")];
    let [zfile, disk] = [odd(b"zfile\xff"), odd(b"disk\xff")];
    fs::write(&raw, [7; 4096]).unwrap();
    let path = |words: &[&dyn AsRef<OsStr>]| {
        let output = ovbd(words);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let file = report.get("path").unwrap_or(&report["files"][0]["path"]);
        file.as_str().unwrap().to_owned()
    };
    let json = &"--json";
    for path in [
        path(&[json, &"build", &"--raw", &raw, &"-o", &layer]),
        path(&[json, &"compress", &layer, &"-o", &zfile]),
        path(&[json, &"extract", &zfile, &"-o", &disk]),
        path(&[json, &"verify", &zfile]),
        path(&[json, &"inspect", &"--map", &zfile]),
    ] {
        assert!(path.ends_with('\u{fffd}'), "{path}");
    }
}

/// A tag is somebody else's text: it must not reach the terminal as it is.
#[test]
fn a_tag_cannot_control_the_terminal() {
    let scratch = Scratch::new();
    let raw = scratch.file("raw", &[7; 512]);
    let layer = scratch.path("layer");
    answer(&[
        "build",
        "--raw",
        str(&raw),
        "-o",
        str(&layer),
        "--tag",
        "\u{1b}[31mred",
    ]);
    let shown = answer(&["inspect", str(&layer)]);
    assert!(
        shown.contains("red") && !shown.contains('\u{1b}'),
        "{shown}"
    );
}

#[test]
fn man_pages_have_the_folder_made() {
    let scratch = Scratch::new();
    let folder = scratch.path("share").join("man8");
    for _ in 0..2 {
        answer(&["man", str(&folder)]);
    }
    for page in ["ovbd.8", "ovbd-up.8"] {
        let page = fs::read_to_string(folder.join(page)).unwrap();
        assert!(page.contains(".TH"), "{page}");
    }
    let file = scratch.file("file", b"");
    let (code, message) = failure(&["man", str(&file)]);
    assert!(
        code == 1 && message.contains("cannot create"),
        "{code} {message}"
    );
}
