// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Time stamps in a new ext4 image.
//!
//! `mke2fs -d` copies access and change times of the host's files into the image: the first
//! changes by reading a file, the second cannot be set at all, and so no two images are equal.
//! Here, both and the time of birth become the modification time, which a tree has to keep.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use overlaybd_format::Platform;

use crate::image::source::Std;

/// Fields of the superblock, which lies at byte 1024.
mod sb {
    pub(super) const OFFSET: u64 = 1024;
    pub(super) const LEN: usize = 1024;
    pub(super) const INODES: usize = 0x00;
    pub(super) const FIRST_DATA_BLOCK: usize = 0x14;
    pub(super) const LOG_BLOCK_SIZE: usize = 0x18;
    pub(super) const INODES_PER_GROUP: usize = 0x28;
    pub(super) const MAGIC: usize = 0x38;
    pub(super) const INODE_SIZE: usize = 0x58;
    pub(super) const INCOMPAT: usize = 0x60;
    pub(super) const RO_COMPAT: usize = 0x64;
    pub(super) const UUID: usize = 0x68;
    pub(super) const DESC_SIZE: usize = 0xfe;
    pub(super) const MAGIC_VALUE: u16 = 0xef53;
    pub(super) const INCOMPAT_META_BG: u32 = 0x10;
    pub(super) const INCOMPAT_64BIT: u32 = 0x80;
    pub(super) const INCOMPAT_CSUM_SEED: u32 = 0x2000;
    pub(super) const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
}

/// Fields of a group descriptor.
mod group {
    pub(super) const INODE_TABLE_LO: usize = 0x08;
    pub(super) const UNUSED_INODES_LO: usize = 0x1c;
    pub(super) const INODE_TABLE_HI: usize = 0x28;
    pub(super) const UNUSED_INODES_HI: usize = 0x32;
}

/// Fields of an inode. The first of each pair has the seconds, the second nanoseconds and two
/// more bits of the seconds.
mod inode {
    pub(super) const MODE: usize = 0x00;
    pub(super) const ATIME: (usize, usize) = (0x08, 0x8c);
    pub(super) const CTIME: (usize, usize) = (0x0c, 0x84);
    pub(super) const MTIME: (usize, usize) = (0x10, 0x88);
    pub(super) const CRTIME: (usize, usize) = (0x90, 0x94);
    pub(super) const GENERATION: usize = 0x64;
    pub(super) const CHECKSUM_LO: usize = 0x7c;
    pub(super) const CHECKSUM_HI: usize = 0x82;
    /// All of the above lie within this many bytes.
    pub(super) const LEAST_SIZE: usize = 0xa0;
}

/// Sets the times of every inode to its modification time, and that to `latest` (seconds since
/// 1970) if it is later.
///
/// # Errors
/// `InvalidData` for an image that our call of `mke2fs` does not make.
pub(super) fn settle_times(image: &File, latest: i64) -> io::Result<()> {
    let layout = Layout::read(image)?;
    for number in 0..layout.groups {
        let (at, count) = layout.inodes_of_group(image, number)?;
        let mut table = vec![0; count * layout.inode_size];
        image.read_exact_at(&mut table, at)?;
        let first = number * layout.inodes_per_group + 1;
        for (inode, bytes) in (first..).zip(table.chunks_exact_mut(layout.inode_size)) {
            if get_u16(bytes, inode::MODE) != 0 {
                settle(bytes, latest);
                layout.checksum(inode, bytes);
            }
        }
        image.write_all_at(&table, at)?;
    }
    Ok(())
}

/// Where inodes are, and what their checksums depend on.
struct Layout {
    block_size: u64,
    /// Byte offset of the group descriptors.
    descriptors: u64,
    descriptor_size: usize,
    groups: u32,
    inodes_per_group: u32,
    inode_size: usize,
    checksum_seed: u32,
}

impl Layout {
    fn read(image: &File) -> io::Result<Self> {
        let mut bytes = [0; sb::LEN];
        image.read_exact_at(&mut bytes, sb::OFFSET)?;
        let incompat = get_u32(&bytes, sb::INCOMPAT);
        let ours = get_u16(&bytes, sb::MAGIC) == sb::MAGIC_VALUE
            && get_u32(&bytes, sb::RO_COMPAT) & sb::RO_COMPAT_METADATA_CSUM != 0
            && incompat & sb::INCOMPAT_64BIT != 0
            && incompat & (sb::INCOMPAT_META_BG | sb::INCOMPAT_CSUM_SEED) == 0;
        let inode_size = usize::from(get_u16(&bytes, sb::INODE_SIZE));
        let inodes_per_group = get_u32(&bytes, sb::INODES_PER_GROUP);
        let descriptor_size = usize::from(get_u16(&bytes, sb::DESC_SIZE));
        let log_block_size = get_u32(&bytes, sb::LOG_BLOCK_SIZE);
        if !ours
            || inode_size < inode::LEAST_SIZE
            || inodes_per_group == 0
            || descriptor_size < 64
            || log_block_size > 6
        {
            return Err(unexpected("the superblock"));
        }
        let block_size = 1024 << log_block_size;
        let first = u64::from(get_u32(&bytes, sb::FIRST_DATA_BLOCK));
        Ok(Self {
            block_size,
            descriptors: (first + 1) * block_size,
            descriptor_size,
            groups: get_u32(&bytes, sb::INODES) / inodes_per_group,
            inodes_per_group,
            inode_size,
            checksum_seed: Std::crc32c(!0, &bytes[sb::UUID..sb::UUID + 16]),
        })
    }

    /// Byte offset of the first inode of a group, and how many of its inodes were ever used.
    fn inodes_of_group(&self, image: &File, number: u32) -> io::Result<(u64, usize)> {
        let mut bytes = vec![0; self.descriptor_size];
        let at = self.descriptors + u64::from(number) * self.descriptor_size as u64;
        image.read_exact_at(&mut bytes, at)?;
        let table = u64::from(get_u32(&bytes, group::INODE_TABLE_LO))
            | u64::from(get_u32(&bytes, group::INODE_TABLE_HI)) << 32;
        let unused = u32::from(get_u16(&bytes, group::UNUSED_INODES_LO))
            | u32::from(get_u16(&bytes, group::UNUSED_INODES_HI)) << 16;
        let used = self.inodes_per_group.checked_sub(unused);
        match (table.checked_mul(self.block_size), used) {
            (Some(at), Some(used)) => Ok((at, used as usize)),
            _ => Err(unexpected("a group descriptor")),
        }
    }

    /// Writes the checksum of inode `number` into it.
    fn checksum(&self, number: u32, bytes: &mut [u8]) {
        put_u16(bytes, inode::CHECKSUM_LO, 0);
        put_u16(bytes, inode::CHECKSUM_HI, 0);
        let generation = get_u32(bytes, inode::GENERATION);
        let crc = Std::crc32c(self.checksum_seed, &number.to_le_bytes());
        let crc = Std::crc32c(crc, &generation.to_le_bytes());
        let crc = Std::crc32c(crc, bytes);
        put_u16(bytes, inode::CHECKSUM_LO, crc as u16);
        put_u16(bytes, inode::CHECKSUM_HI, (crc >> 16) as u16);
    }
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} is not as mke2fs makes it"),
    )
}

/// Makes all times of an inode its modification time, or `latest`.
fn settle(bytes: &mut [u8], latest: i64) {
    let (low, high) = inode::MTIME;
    let (mut seconds, mut extra) = (get_u32(bytes, low), get_u32(bytes, high));
    if time(seconds, extra) > latest {
        seconds = latest as u32;
        let carry = latest.wrapping_sub(i64::from(seconds as i32)) >> 32;
        extra = (carry & 3) as u32;
    }
    for (low, high) in [inode::MTIME, inode::ATIME, inode::CTIME, inode::CRTIME] {
        put_u32(bytes, low, seconds);
        put_u32(bytes, high, extra);
    }
}

/// Seconds since 1970: 32 signed bits, and two more as a multiple of 2^32.
fn time(seconds: u32, extra: u32) -> i64 {
    i64::from(seconds as i32) + (i64::from(extra & 3) << 32)
}

fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get_u16(bytes, at)) | u32::from(get_u16(bytes, at + 2)) << 16
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_beyond_2038_keep_their_upper_bits() {
        let mut bytes = [0; 256];
        for latest in [0, 1, 0x7fff_ffff, 0x8000_0000, 0x1_0000_0000, 0x3_7fff_ffff] {
            put_u32(&mut bytes, inode::MTIME.0, 0x7fff_ffff);
            put_u32(&mut bytes, inode::MTIME.1, 3);
            settle(&mut bytes, latest);
            for (low, high) in [inode::MTIME, inode::ATIME, inode::CTIME, inode::CRTIME] {
                assert_eq!(time(get_u32(&bytes, low), get_u32(&bytes, high)), latest);
            }
        }
    }

    #[test]
    fn older_times_stay() {
        let mut bytes = [0; 256];
        put_u32(&mut bytes, inode::MTIME.0, 1000);
        put_u32(&mut bytes, inode::MTIME.1, 77 << 2);
        put_u32(&mut bytes, inode::ATIME.0, 5000);
        settle(&mut bytes, 2000);
        assert_eq!(get_u32(&bytes, inode::ATIME.0), 1000);
        assert_eq!(get_u32(&bytes, inode::CTIME.1), 77 << 2);
    }
}
