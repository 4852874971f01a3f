// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which file system a device holds, by the magic numbers of those that images are made of.
//!
//! A hostile image can carry any number here. All that follows from one is which driver is asked to
//! mount the device; `--fs-type` decides instead where that matters.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file system that is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext2, ext3 or ext4: one driver serves all.
    Ext4 {
        /// Its journal holds changes that were not written to their place.
        unclean: bool,
    },
    /// EROFS.
    Erofs,
    /// squashfs.
    Squashfs,
    /// XFS.
    Xfs,
}

/// Those that are recognised, for messages.
pub const KNOWN: &str = "ext4, erofs, squashfs, xfs";

const SUPERBLOCK_AT: u64 = 1024;
const EXT_MAGIC_AT: usize = 56;
const EXT_MAGIC: [u8; 2] = 0xef53u16.to_le_bytes();
const EXT_INCOMPATIBLE_AT: usize = 96;
const EXT_RECOVER: u32 = 0x4;
const EROFS_MAGIC: [u8; 4] = 0xe0f5_e1e2u32.to_le_bytes();
const SQUASHFS_MAGIC: &[u8] = b"hsqs";
const XFS_MAGIC: &[u8] = b"XFSB";

/// What is looked at, in bytes.
pub const LENGTH: usize = 2048;

impl FileSystem {
    /// Looks at a device; `None` if nothing is recognised.
    pub fn probe(device: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; LENGTH];
        let mut filled = 0;
        while filled < LENGTH {
            match device.read_at(&mut bytes[filled..], filled as u64)? {
                0 => break,
                more => filled += more,
            }
        }
        Ok(Self::recognise(&bytes))
    }

    /// Looks at the first bytes of a device.
    pub fn recognise(bytes: &[u8; LENGTH]) -> Option<Self> {
        let (front, superblock) = bytes.split_at(SUPERBLOCK_AT as usize);
        if front.starts_with(XFS_MAGIC) {
            Some(Self::Xfs)
        } else if front.starts_with(SQUASHFS_MAGIC) {
            Some(Self::Squashfs)
        } else if superblock.starts_with(&EROFS_MAGIC) {
            Some(Self::Erofs)
        } else if superblock[EXT_MAGIC_AT..].starts_with(&EXT_MAGIC) {
            let flags: [u8; 4] = std::array::from_fn(|i| superblock[EXT_INCOMPATIBLE_AT + i]);
            Some(Self::Ext4 {
                unclean: u32::from_le_bytes(flags) & EXT_RECOVER != 0,
            })
        } else {
            None
        }
    }

    /// The name that `mount` knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 { .. } => "ext4",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
            Self::Xfs => "xfs",
        }
    }

    /// The mount options that a read-only device needs beyond `ro`, and why, for the user.
    pub fn needs(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ext4 { unclean: true } => Some((
                "noload",
                "its journal was not replayed when the image was made, and cannot be on a \
                 read-only device: recent changes in it are not visible",
            )),
            // A log that needs recovery prevents mounting as it does on ext4, but only the driver
            // can tell; and images from one base have one UUID, which the driver accepts once.
            Self::Xfs => Some((
                "norecovery,nouuid",
                "changes that are only in its log, if there are any, are not visible",
            )),
            Self::Ext4 { unclean: false } | Self::Erofs | Self::Squashfs => None,
        }
    }
}

impl fmt::Display for FileSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    fn probe(content: &[u8]) -> Option<FileSystem> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        FileSystem::probe(file.as_file()).unwrap()
    }

    fn with(at: usize, magic: &[u8]) -> Vec<u8> {
        let mut content = vec![0; 4096];
        content[at..at + magic.len()].copy_from_slice(magic);
        content
    }

    #[test]
    fn magic_numbers() {
        assert_eq!(probe(&with(0, b"XFSB")), Some(FileSystem::Xfs));
        assert_eq!(probe(&with(0, b"hsqs")), Some(FileSystem::Squashfs));
        assert_eq!(
            probe(&with(1024, &[0xe2, 0xe1, 0xf5, 0xe0])),
            Some(FileSystem::Erofs)
        );
        let mut ext4 = with(1080, &[0x53, 0xef]);
        assert_eq!(probe(&ext4), Some(FileSystem::Ext4 { unclean: false }));
        ext4[1120] = 0xc6;
        assert_eq!(probe(&ext4), Some(FileSystem::Ext4 { unclean: true }));
    }

    #[test]
    fn nothing_is_recognised_in_nothing() {
        for content in [&b""[..], b"XFS", &[0; 1081], &[0xff; 4096]] {
            assert_eq!(probe(content), None);
        }
    }

    /// The real thing, with a journal; e2fsprogs is essential on Debian.
    #[test]
    fn a_file_system_of_mke2fs() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let program = ["/usr/sbin/mke2fs", "/sbin/mke2fs"]
            .into_iter()
            .find(|p| Path::new(p).exists());
        let made = Command::new(program.expect("this test needs mke2fs (package e2fsprogs)"))
            .args(["-q", "-F", "-t", "ext4"])
            .arg(file.path())
            .status()
            .unwrap();
        assert!(made.success());
        let found = FileSystem::probe(file.as_file()).unwrap();
        assert_eq!(found, Some(FileSystem::Ext4 { unclean: false }));
    }
}
