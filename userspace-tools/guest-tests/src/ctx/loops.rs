// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Loop devices in every variant, by means of `losetup`: independent of the code under test.

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};

use super::output;

/// What loop device is wanted. `LoopSpec { block_size: 4096, ..LoopSpec::of(path) }`
#[derive(Clone, Debug)]
pub struct LoopSpec {
    /// The file.
    pub file: PathBuf,
    /// Past the page cache.
    pub direct_io: bool,
    /// Cannot be written.
    pub read_only: bool,
    /// Logical block size, bytes.
    pub block_size: u32,
    /// Where in the file it begins, bytes.
    pub offset: u64,
}

impl LoopSpec {
    /// Read-only, through the page cache, 512-byte blocks.
    pub fn of(file: impl AsRef<Path>) -> Self {
        Self {
            file: file.as_ref().to_owned(),
            direct_io: false,
            read_only: true,
            block_size: 512,
            offset: 0,
        }
    }
}

/// Makes it; direct I/O is read back, because the kernel drops it silently.
pub fn attach(spec: &LoopSpec) -> Result<PathBuf> {
    let file = spec.file.to_str().context("file name")?;
    let block_size = spec.block_size.to_string();
    let offset = spec.offset.to_string();
    let direct_io = if spec.direct_io { "on" } else { "off" };
    let direct_io = format!("--direct-io={direct_io}");
    let mut words = vec!["losetup", "--find", "--show", "--sector-size", &block_size];
    words.extend(["--offset", &offset, &direct_io]);
    if spec.read_only {
        words.push("--read-only");
    }
    words.push(file);
    let path = PathBuf::from(output(&words)?);
    let name = path.file_name().context("loop device")?;
    let dio = Path::new("/sys/block").join(name).join("loop/dio");
    let dio = std::fs::read_to_string(&dio).with_context(|| dio.display().to_string())?;
    let is_direct = dio.trim() == "1";
    if is_direct != spec.direct_io {
        detach(&path)?;
    }
    ensure!(
        is_direct == spec.direct_io,
        "{}: {direct_io} did not happen",
        spec.file.display()
    );
    Ok(path)
}

/// Frees a loop device.
pub fn detach(path: &Path) -> Result<()> {
    output(&["losetup", "--detach", path.to_str().context("loop device")?])?;
    Ok(())
}

/// The loop devices that are bound.
pub fn bound() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/sys/block")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter(|entry| entry.path().join("loop/backing_file").exists())
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}
