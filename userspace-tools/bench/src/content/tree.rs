// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reading a tree of files as a file system would lay it out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};

use super::BLOCK;

/// The first `size` bytes of all files below `tree`, in the order of their names, each file from
/// a block's boundary.
pub fn read(tree: &Path, size: usize) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    collect(tree, &mut files)?;
    files.sort_unstable();
    let mut content = Vec::with_capacity(size);
    for file in files {
        if content.len() >= size {
            break;
        }
        let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        content.extend_from_slice(&bytes);
        content.resize(content.len().next_multiple_of(BLOCK), 0);
    }
    ensure!(
        content.len() >= size,
        "the files below {} make {} bytes, {size} are wanted",
        tree.display(),
        content.len()
    );
    content.truncate(size);
    Ok(content)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", folder.display()))?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}
