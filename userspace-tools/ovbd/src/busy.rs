// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Who uses a device: for the message that says why it cannot be removed.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::dm::DevNo;
use crate::mount::table;
use crate::output::shown;

/// How many users a message names.
const NAMED_MAX: usize = 4;

/// The users of device `dev`, a few words each, as far as they can be found.
pub fn users(dev: u64) -> Vec<String> {
    let holders = holders(dev).into_iter();
    let mut users: Vec<String> = holders
        .map(|name| format!("device {} is on top of it", shown::text(&name)))
        .collect();
    users.extend(processes(dev));
    users.truncate(NAMED_MAX);
    users
}

/// The devices on top of `dev`: device-mapper's by their names there, others by the kernel's.
pub fn holders(dev: u64) -> Vec<String> {
    let folder = format!("/sys/dev/block/{}/holders", DevNo(dev));
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(
        |entry| match fs::read_to_string(entry.path().join("dm/name")) {
            Ok(name) => name.trim_end().to_owned(),
            Err(_) => entry.file_name().to_string_lossy().into_owned(),
        },
    );
    names.collect()
}

/// Processes that have it open, or mounted in a mount namespace of their own.
fn processes(dev: u64) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut users = Vec::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        let folder = entry.path();
        let who = || {
            let name = fs::read_to_string(folder.join("comm")).unwrap_or_default();
            format!("process {pid} ({})", shown::text(name.trim()))
        };
        if has_open(&folder, dev) {
            users.push(format!("{} has it open", who()));
        }
        // One process speaks for all of its namespace.
        let namespace = fs::read_link(folder.join("ns/mnt"));
        if namespace.is_ok_and(|namespace| seen.insert(namespace)) {
            let mounts = table::of_process(pid).unwrap_or_default();
            let mounts = mounts.into_iter().filter(|mount| mount.dev == dev);
            users.extend(mounts.map(|mount| {
                let target = mount.target.display().to_string();
                format!("{} sees it mounted on {}", who(), shown::text(&target))
            }));
        }
    }
    users
}

fn has_open(process: &Path, dev: u64) -> bool {
    let descriptors = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    // Files elsewhere are not asked what they are: the server that has one may not answer any more.
    let is_node = |path: &Path| fs::read_link(path).is_ok_and(|path| path.starts_with("/dev"));
    let is_it = |path: &Path| {
        is_node(path)
            && fs::metadata(path)
                .is_ok_and(|meta| meta.file_type().is_block_device() && meta.rdev() == dev)
    };
    descriptors
        .into_iter()
        .any(|descriptor| is_it(&descriptor.path()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_nobody_has_has_no_users() {
        assert_eq!(users(rustix::fs::makedev(4095, 77)), [""; 0]);
    }

    #[test]
    fn the_root_file_system_is_seen() {
        let mounts = table::own().unwrap();
        let root = mounts
            .iter()
            .rfind(|mount| mount.target == Path::new("/"))
            .unwrap();
        let users = users(root.dev);
        assert!(
            users.iter().any(|user| user.contains("mounted on /")),
            "{users:?}"
        );
    }
}
