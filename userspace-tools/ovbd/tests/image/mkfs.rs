// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! File systems made of folders. `mke2fs` and `e2fsck` are needed, and on every Debian.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use ovbd::image::changes::read_padded;
use ovbd::image::mkfs::{make, source_date_epoch, FsSettings, FsType};
use ovbd::image::source::{FileSource, Source};
use ovbd::image::ImageError;
use ovbd::{Error, Result};

use super::support::{Random, Scratch};

fn settings(kind: FsType) -> FsSettings {
    FsSettings {
        kind,
        size: None,
        uuid: None,
        label: None,
        timestamp: None,
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A small tree with everything in it; `order` decides in which order it is made.
fn tree(scratch: &Scratch, name: &str, order: bool) -> std::path::PathBuf {
    let root = scratch.path(name);
    fs::create_dir(&root).unwrap();
    let mut files: Vec<_> = (0..200).collect();
    if order {
        files.reverse();
    }
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    for number in files {
        let path = root.join(format!("a/file{number}"));
        fs::write(&path, Random::new(number).text(number as usize * 97)).unwrap();
        set_times(&path, 1_000_000 + number);
    }
    fs::hard_link(root.join("a/file7"), root.join("a/b/again")).unwrap();
    symlink("../file9", root.join("a/b/link")).unwrap();
    let links = [root.join("a/b/link")];
    for link in links {
        // The time of a link itself.
        let status = Command::new("touch")
            .args(["-h", "-d", "@2000000"])
            .arg(link)
            .status();
        assert!(status.unwrap().success());
    }
    for folder in ["a/b/c", "a/b", "a", ""] {
        set_times(&root.join(folder), 2_000_000);
    }
    root
}

fn set_times(path: &Path, seconds: u64) {
    let times = FileTimes::new()
        .set_modified(at(seconds))
        .set_accessed(at(seconds));
    File::open(path).unwrap().set_times(times).unwrap();
}

fn image(folder: &Path, settings: &FsSettings) -> Result<Vec<u8>> {
    let scratch = Scratch::new();
    let file = make(folder, settings, &scratch.path("out"))?;
    assert!(scratch.names().is_empty(), "the image has no name");
    let source = FileSource::new(file, "image".into())?;
    Ok(read_padded(&source, 0, source.size() as usize)?)
}

/// The output of `program`, which has to succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .args(arguments)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}");
    text
}

#[test]
fn one_tree_is_one_ext4_image() {
    let scratch = Scratch::new();
    let first = tree(&scratch, "first", false);
    let second = tree(&scratch, "second", true);
    // Reading a file changes its access time.
    set_times_of_access(&second.join("a/file3"));
    let settings = settings(FsType::Ext4);
    let (first, second) = (
        image(&first, &settings).unwrap(),
        image(&second, &settings).unwrap(),
    );
    assert!(first == second);
}

fn set_times_of_access(path: &Path) {
    let times = FileTimes::new().set_accessed(at(1_900_000_000));
    File::open(path).unwrap().set_times(times).unwrap();
}

#[test]
fn the_ext4_image_is_sound_and_holds_the_tree() {
    let scratch = Scratch::new();
    let root = tree(&scratch, "tree", false);
    let made = image(&root, &settings(FsType::Ext4)).unwrap();
    let path = scratch.file("image", &made);
    let path = path.to_str().unwrap();
    run("e2fsck", &["-fn", path]);
    for number in [0, 1, 199] {
        let content = run("debugfs", &["-R", &format!("cat /a/file{number}"), path]);
        assert!(content.as_bytes() == Random::new(number).text(number as usize * 97));
    }
    let stat = run("debugfs", &["-R", "stat /a/file9", path]);
    for time in ["ctime", "atime", "mtime", "crtime"] {
        assert!(
            stat.contains(&format!("{time}: 0x{:08x}:", 1_000_009)),
            "{stat}"
        );
    }
}

#[test]
fn no_file_is_younger_than_the_time_given() {
    let scratch = Scratch::new();
    let root = tree(&scratch, "tree", false);
    let settings = FsSettings {
        timestamp: Some(1_000_005),
        uuid: Some("12345678-1234-1234-1234-123456789abc".to_owned()),
        label: Some("sample".to_owned()),
        size: Some(48 << 20),
        ..settings(FsType::Ext4)
    };
    let made = image(&root, &settings).unwrap();
    assert_eq!(made.len(), 48 << 20);
    let path = scratch.file("image", &made);
    let path = path.to_str().unwrap();
    run("e2fsck", &["-fn", path]);
    for (file, time) in [("file2", 1_000_002), ("file100", 1_000_005)] {
        let stat = run("debugfs", &["-R", &format!("stat /a/{file}"), path]);
        assert!(stat.contains(&format!("mtime: 0x{time:08x}:")), "{stat}");
    }
    let header = run("debugfs", &["-R", "show_super_stats -h", path]);
    assert!(
        header.contains("12345678-1234-1234-1234-123456789abc"),
        "{header}"
    );
    assert!(header.contains("sample"), "{header}");
}

#[test]
fn a_tree_that_does_not_fit_is_an_error_in_the_tool_s_words() {
    let scratch = Scratch::new();
    let root = scratch.path("tree");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("large"), Random::new(30).bytes(5 << 20)).unwrap();
    let settings = FsSettings {
        size: Some(2 << 20),
        ..settings(FsType::Ext4)
    };
    match image(&root, &settings) {
        Err(Error::Image(ImageError::Tool { program, reason })) => {
            assert_eq!(program, "mke2fs");
            assert!(reason.to_lowercase().contains("block"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(image(&scratch.path("missing"), &settings).is_err());
}

/// The tool for EROFS need not be there; then the message says where it is to be had.
#[test]
fn one_tree_is_one_erofs_image() {
    let scratch = Scratch::new();
    let first = tree(&scratch, "first", false);
    let second = tree(&scratch, "second", true);
    let settings = settings(FsType::Erofs);
    match image(&first, &settings) {
        Ok(made) => {
            assert_eq!(made.len() % 4096, 0);
            assert_eq!(made[1024..1028], 0xe0f5_e1e2_u32.to_le_bytes());
            assert!(made == image(&second, &settings).unwrap());
            let path = scratch.file("image", &made);
            run("fsck.erofs", &[path.to_str().unwrap()]);
            // The time of making is that of the youngest file.
            assert_eq!(made[1048..1056], 2_000_000_u64.to_le_bytes());
            let fixed = FsSettings {
                timestamp: Some(1_000_005),
                ..settings
            };
            let made = image(&first, &fixed).unwrap();
            assert_eq!(made[1048..1056], 1_000_005_u64.to_le_bytes());
            assert!(made == image(&second, &fixed).unwrap());
        }
        Err(Error::Image(ImageError::Tool { program, reason })) => {
            assert_eq!(
                (&*program, &*reason),
                ("mkfs.erofs", "not found; install erofs-utils")
            );
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_epoch_is_a_number() {
    let epoch = |text: Option<&str>| source_date_epoch(text.map(AsRef::as_ref));
    assert_eq!(epoch(None).unwrap(), None);
    assert_eq!(epoch(Some("1700000000")).unwrap(), Some(1_700_000_000));
    for text in ["", "now", "1.5"] {
        let error = epoch(Some(text)).unwrap_err();
        assert!(
            error.to_string().starts_with("SOURCE_DATE_EPOCH="),
            "{error}"
        );
    }
}
