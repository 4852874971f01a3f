// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Loading kernel modules where there is no modprobe.

use std::ffi::c_int;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The kernel unpacks it (`MODULE_INIT_COMPRESSED_FILE`).
const COMPRESSED: c_int = 4;

/// Loads every module in a folder, in the order of their names: whoever puts them there has put
/// those first that others need. One that is there already is fine, and so is no folder at all.
pub(super) fn load_all(folder: &Path) -> Result<()> {
    for path in in_order(folder)? {
        let file = File::open(&path).map_err(|e| Error::io("open", &path, e))?;
        match rustix::system::finit_module(&file, c"", flags(&path)).map_err(io::Error::from) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("load the module", path, e));
            }
            _ => {}
        }
    }
    Ok(())
}

fn in_order(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::io("list", folder, e))?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    let mut paths = paths.map_err(|e| Error::io("list", folder, e))?;
    paths.sort();
    Ok(paths)
}

fn flags(path: &Path) -> c_int {
    match path.extension() {
        Some(extension) if extension != "ko" => COMPRESSED,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_in_the_order_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["10-b.ko", "02-c.ko.xz", "01-a.ko"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let names = in_order(folder.path()).unwrap();
        let names: Vec<_> = names.iter().filter_map(|path| path.file_name()).collect();
        assert_eq!(names, ["01-a.ko", "02-c.ko.xz", "10-b.ko"]);
        assert!(in_order(Path::new("/nowhere/at/all")).unwrap().is_empty());
        load_all(Path::new("/nowhere/at/all")).unwrap();
    }

    #[test]
    fn the_kernel_is_told_what_is_packed() {
        assert_eq!(flags(Path::new("a.ko")), 0);
        assert_eq!(flags(Path::new("a.ko.xz")), COMPRESSED);
    }
}
