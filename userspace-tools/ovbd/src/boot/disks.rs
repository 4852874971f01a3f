// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Waiting for the disks that hold the layers.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::BootError;

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look.
const INTERVAL: Duration = Duration::from_millis(10);

/// The nodes of all `disks`, when they are all there.
pub(super) fn wait_for(disks: &[String]) -> Result<Vec<PathBuf>, BootError> {
    let deadline = Instant::now() + PATIENCE;
    let mut nodes = Vec::with_capacity(disks.len());
    while let Some(disk) = disks.get(nodes.len()) {
        match find(disk, Path::new("/sys/block")) {
            Some(node) => nodes.push(node),
            None if Instant::now() < deadline => thread::sleep(INTERVAL),
            None => {
                return Err(BootError::NoDisk {
                    disk: disk.clone(),
                    seconds: PATIENCE.as_secs(),
                    there: there(Path::new("/sys/block")),
                });
            }
        }
    }
    Ok(nodes)
}

/// The node of a disk that is there.
fn find(disk: &str, block: &Path) -> Option<PathBuf> {
    let node = match disk.starts_with('/') {
        true => PathBuf::from(disk),
        // Letters are given out in the order in which disks are found; a serial number stays.
        false => Path::new("/dev").join(by_serial(disk, block)?),
    };
    let is_block = fs::metadata(&node).is_ok_and(|meta| meta.file_type().is_block_device());
    is_block.then_some(node)
}

/// The kernel's name of the disk with this serial number, which is what a virtual machine calls it.
fn by_serial(serial: &str, block: &Path) -> Option<String> {
    let mut names = names(block).into_iter();
    names.find(|name| serial_of(&block.join(name)).is_some_and(|found| found == serial))
}

fn serial_of(disk: &Path) -> Option<String> {
    // Of virtio disks, and of NVMe's.
    let files = ["serial", "device/serial"].into_iter();
    let mut found = files.filter_map(|file| fs::read_to_string(disk.join(file)).ok());
    found.next().map(|serial| serial.trim().to_owned())
}

fn names(block: &Path) -> Vec<String> {
    let entries = fs::read_dir(block).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// The disks that there are, with their serial numbers, for a message.
fn there(block: &Path) -> String {
    let describe = |name: String| match serial_of(&block.join(&name)) {
        Some(serial) => format!("/dev/{name} ({serial})"),
        None => format!("/dev/{name}"),
    };
    let disks: Vec<String> = names(block).into_iter().map(describe).collect();
    match disks.is_empty() {
        true => "none (is the driver's module in the initramfs?)".to_owned(),
        false => disks.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_known_by_its_serial_number() {
        let block = tempfile::tempdir().unwrap();
        let disk = |name: &str, file: &str, serial: &str| {
            let path = block.path().join(name).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, serial).unwrap();
        };
        disk("vda", "serial", "top");
        disk("vdb", "serial", "base\n");
        disk("nvme0n1", "device/serial", "middle  \n");
        fs::create_dir(block.path().join("loop0")).unwrap();
        let name = |serial: &str| by_serial(serial, block.path());
        assert_eq!(name("top").as_deref(), Some("vda"));
        assert_eq!(name("base").as_deref(), Some("vdb"));
        assert_eq!(name("middle").as_deref(), Some("nvme0n1"));
        assert_eq!(name("other"), None);
        let expected = "/dev/loop0, /dev/nvme0n1 (middle), /dev/vda (top), /dev/vdb (base)";
        assert_eq!(there(block.path()), expected);
        assert!(there(Path::new("/nowhere")).starts_with("none"));
    }

    #[test]
    fn a_path_has_to_be_a_block_device() {
        assert_eq!(find("/dev/null", Path::new("/nowhere")), None);
        assert_eq!(find("/dev/nothing", Path::new("/nowhere")), None);
    }
}
