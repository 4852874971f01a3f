// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is mounted (`/proc/…/mountinfo`).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{statx, AtFlags, StatxFlags, CWD};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: u64,
    /// The number of the mount that it is mounted on.
    pub parent: u64,
    /// Number of the device that the file system is on.
    pub dev: u64,
    /// Where it is mounted.
    pub target: PathBuf,
    /// The options of the mount: `ro,nosuid`.
    pub options: String,
    /// What was mounted: the path of a device, as it was given.
    pub source: PathBuf,
    /// The file system's type.
    pub fs_type: String,
    /// The options of the file system: `rw,noload,upperdir=/a\\040b`.
    pub fs_options: String,
}

impl Mount {
    /// Whether `other` is this mount, whatever its options are by now.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id && self.dev == other.dev && self.target == other.target
    }

    /// All options, those of the file system behind those of the mount.
    pub fn all_options(&self) -> String {
        let words =
            |options: &str| -> Vec<String> { options.split(',').map(str::to_owned).collect() };
        let mut all = words(&self.options);
        let more = words(&self.fs_options).into_iter();
        let more: Vec<_> = more
            .filter(|word| word != "rw" && !all.contains(word))
            .collect();
        all.extend(more);
        all.join(",")
    }

    /// The path that an option of the file system has.
    pub fn fs_path(&self, option: &str) -> Option<PathBuf> {
        let mut options = self.fs_options.split(',');
        let path = options.find_map(|word| word.strip_prefix(option)?.strip_prefix('='))?;
        Some(unescape(path.as_bytes()))
    }
}

/// The mounts that a process sees, in the order in which they were made.
fn mounts(file: &Path) -> io::Result<Vec<Mount>> {
    let text = fs::read(file)?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse).collect())
}

/// The mounts that this process sees.
pub fn own() -> io::Result<Vec<Mount>> {
    mounts(Path::new("/proc/self/mountinfo"))
}

/// The mounts that process `pid` sees.
pub fn of_process(pid: u32) -> io::Result<Vec<Mount>> {
    mounts(Path::new(&format!("/proc/{pid}/mountinfo")))
}

/// The number of the mount that is seen at `path`: of several there, the topmost.
pub fn seen_at(path: &Path) -> io::Result<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | DONT_ASK;
    Ok(statx(CWD, path, flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// The number of the mount that an open file is on.
pub fn of_file(file: &File) -> io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | DONT_ASK;
    Ok(statx(file, "", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}

/// The kernel knows by itself; a server that has the file may not answer.
const DONT_ASK: AtFlags = AtFlags::STATX_DONT_SYNC;

/// Parses `id parent major:minor root target options… - type source options`.
fn parse(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|&b| b == b' ');
    let mut text = || std::str::from_utf8(words.next()?).ok();
    let (id, parent) = (text()?.parse().ok()?, text()?.parse().ok()?);
    let (major, minor) = text()?.split_once(':')?;
    let (target, options) = (words.nth(1)?, words.next()?);
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let lossy = |word| String::from_utf8_lossy(word).into_owned();
    Some(Mount {
        id,
        parent,
        dev: rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?),
        target: unescape(target),
        options: lossy(options),
        fs_type: lossy(rest.next()?),
        source: unescape(rest.next()?),
        fs_options: lossy(rest.next()?),
    })
}

/// Undoes the kernel's escapes: `\040` for a space, and so on.
fn unescape(word: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = &tail[3..];
            }
            None => {
                path.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed() {
        let line = br"36 25 253:7 / /mnt/a\040b\134c ro,relatime shared:9 master:2 - ext4 /dev/mapper/web ro,noload";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.parent), (36, 25));
        assert_eq!(mount.dev, rustix::fs::makedev(253, 7));
        assert_eq!(mount.target, Path::new(r"/mnt/a b\c"));
        assert_eq!(mount.source, Path::new("/dev/mapper/web"));
        assert_eq!(mount.fs_type, "ext4");
        assert_eq!(mount.options, "ro,relatime");
        assert_eq!(mount.all_options(), "ro,relatime,noload");
    }

    #[test]
    fn the_folder_of_changes_is_an_option() {
        let line = br"36 25 0:7 / /mnt rw - overlay /dev/x rw,lowerdir+=/mnt,upperdir=/a\040b\054c,index=on";
        let mount = parse(line).unwrap();
        assert_eq!(mount.fs_path("upperdir"), Some("/a b,c".into()));
        assert_eq!(mount.fs_path("workdir"), None);
    }

    #[test]
    fn odd_lines_are_passed_over() {
        for line in [
            &b""[..],
            b"36 25",
            b"36 25 x / /mnt rw - ext4 a",
            b"36 25 1:2 / /mnt rw",
            b"x 25 1:2 / /mnt rw - ext4 a",
        ] {
            assert_eq!(parse(line), None);
        }
        // An escape that is none, and one at the end.
        assert_eq!(unescape(br"a\9z\04"), Path::new(r"a\9z\04"));
    }

    #[test]
    fn a_mount_is_known_by_its_number() {
        let mounts = own().unwrap();
        let there = mounts
            .iter()
            .rfind(|mount| mount.target == Path::new("/proc"));
        let id = Some(seen_at(Path::new("/proc")).unwrap());
        assert_eq!(there.map(|mount| mount.id), id);
        let file = File::open("/proc/self/status").unwrap();
        assert_eq!(Some(of_file(&file).unwrap()), id);
        let missing = seen_at(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_real_table_has_a_root() {
        assert!(own()
            .unwrap()
            .iter()
            .any(|mount| mount.target == Path::new("/")));
    }
}
