// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Images as they are used: a file system on a stack of layers, compared file by file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context as _, Result};
use rustix::mount::MountFlags;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::lsmt;
use crate::ctx::Ctx;
use crate::golden::Golden;
use crate::harness::Case;

/// What mke2fs makes in every file system.
const LOST_FOUND: &str = "lost+found";
/// The list names set-user-ID files that are none in the image, nor in its expected content:
/// writing to them took the bit away when it was made.
const MODE_BITS: u32 = 0o1777;

pub fn cases() -> Vec<Case> {
    [
        "ext4/layer*.lsmt",
        "ext4/layer*.lz4.zfile",
        "ext4/layer*.tar",
    ]
    .into_iter()
    .map(|pattern| {
        let name = pattern.replace('/', ".").replace('*', "");
        Case::new(format!("image.mounted.{name}"), move |ctx| {
            mounted(ctx, pattern)
        })
    })
    .collect()
}

/// What a file must be.
#[derive(Debug, Deserialize)]
struct Expected {
    #[serde(rename = "type")]
    kind: String,
    mode: Option<String>,
    size: Option<u64>,
    sha256: Option<String>,
    target: Option<PathBuf>,
    dev: Option<(u32, u32)>,
}

fn mounted(ctx: &mut Ctx, pattern: &str) -> Result<()> {
    let golden = ctx.golden()?;
    let device = lsmt::device(ctx, &golden, &golden.stack(pattern)?)?;
    let dir = ctx.tmp()?.join("mnt");
    ctx.mount(&device.path, &dir, "ext4", MountFlags::RDONLY)?;
    compare_files(&golden, &dir)
}

/// Compares the tree at `dir` with the golden ext4 image's list of files.
pub fn compare_files(golden: &Golden, dir: &Path) -> Result<()> {
    let list = golden.bytes(golden.entry("ext4/files.json")?.file)?;
    let expected: BTreeMap<PathBuf, Expected> = serde_json::from_slice(&list)?;
    for (name, expected) in &expected {
        check_file(&dir.join(name), expected).with_context(|| name.display().to_string())?;
    }
    let mut found = Vec::new();
    list_tree(dir, dir, &mut found)?;
    let extra: Vec<_> = found
        .iter()
        .filter(|name| !expected.contains_key(*name) && !name.starts_with(LOST_FOUND))
        .collect();
    ensure!(
        extra.is_empty(),
        "files that should not be there: {extra:?}"
    );
    Ok(())
}

fn check_file(path: &Path, expected: &Expected) -> Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    match expected.kind.as_str() {
        "dir" => ensure!(kind.is_dir(), "is {kind:?}"),
        "file" => {
            ensure!(kind.is_file(), "is {kind:?}");
            let digest = Sha256::digest(fs::read(path)?);
            let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            ensure!(
                Some(&digest) == expected.sha256.as_ref(),
                "SHA-256 {digest}"
            );
            ensure!(Some(meta.size()) == expected.size, "{} bytes", meta.size());
        }
        "symlink" => {
            let target = fs::read_link(path)?;
            ensure!(
                Some(&target) == expected.target.as_ref(),
                "leads to {target:?}"
            );
        }
        "char" => {
            ensure!(kind.is_char_device(), "is {kind:?}");
            let rdev = meta.rdev();
            let dev = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
            ensure!(Some(dev) == expected.dev, "is device {dev:?}");
        }
        other => bail!("files.json names an unknown type {other}"),
    }
    if let Some(mode) = &expected.mode {
        let mode = u32::from_str_radix(mode.trim_start_matches("0o"), 8)? & MODE_BITS;
        ensure!(meta.mode() & MODE_BITS == mode, "mode {:o}", meta.mode());
    }
    Ok(())
}

fn list_tree(root: &Path, dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        found.push(path.strip_prefix(root)?.to_owned());
        if fs::symlink_metadata(&path)?.is_dir() {
            list_tree(root, &path, found)?;
        }
    }
    Ok(())
}
