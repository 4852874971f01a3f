// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! From a layer's file to a block device on which all of it can be read.
//!
//! A loop device cuts its file off to a whole sector, and cannot read a last logical block that is
//! not whole. A ZFile commonly ends in the middle of a sector, with its trailer. The missing end is
//! copied, padded with zeros, to an anonymous file in memory that gets a loop device of its own, and
//! dm-linear joins the two: the user's file is not changed, and nothing has to be cleaned up, since
//! the anonymous file goes with its loop device.
//!
//! Of a sealed layer all is needed, in the blocks that were hashed, and the zeros that fill the last
//! one: they were hashed, too. The copy does not have to be trusted more than the file.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use overlaybd_format::{Bytes, SECTOR};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::builder::{Builder, Lower};
use crate::dm::DevNo;
use crate::identity::Role;
use crate::loopdev::{Binding, LoopDevice};
use crate::plan::{Form, Layer, Seal, Storage};
use crate::step::Step;
use crate::{table, Error, Result};

/// What the anonymous file is called where the system lists it.
const TAIL_NAME: &CStr = c"ovbd-tail";

impl Builder<'_> {
    /// A block device on which all of `layer` can be read.
    pub(super) fn storage(&mut self, layer: &Layer) -> Result<Lower> {
        let Whole {
            dev,
            block,
            direct_io,
        } = self.whole(layer)?;
        // What is sealed is hashed in blocks that may be larger than those of the device.
        let block = block.max(layer.block());
        let cut = Cut::new(layer.storage.length(), block);
        if layer.needed() <= cut.whole {
            return Ok(Lower {
                dev,
                shared: false,
                direct_io,
            });
        }
        let joined = if cut.whole == 0 {
            let dev = self.tail(layer, cut)?;
            Lower {
                dev,
                shared: false,
                direct_io: None,
            }
        } else {
            let identity = layer.joined_identity(block);
            self.inner(layer, identity, Role::Joined, |builder| {
                let tail = DevNo(builder.tail(layer, cut)?).to_string();
                let whole = DevNo(dev).to_string();
                let (sectors, more) = (cut.whole / SECTOR, u64::from(cut.block) / SECTOR);
                Ok(table::joined(&whole, sectors, &tail, more).into())
            })?
        };
        Ok(Lower {
            direct_io,
            ..joined
        })
    }

    /// The device that has all whole blocks of `layer`'s file.
    fn whole(&mut self, layer: &Layer) -> Result<Whole> {
        if let Storage::Device { dev, .. } = layer.storage {
            return Ok(Whole {
                dev,
                block: SECTOR as u32,
                direct_io: None,
            });
        }
        let hashed_sectors = layer.seal.is_some() && u64::from(layer.block()) == SECTOR;
        // lsmt passes requests on as they come, in units of 512 bytes; zfile reads whole blocks.
        let binding = Binding {
            direct_io: true,
            sector_blocks: layer.form == Form::Lsmt || hashed_sectors,
        };
        let device = self.loops()?.attach(&layer.file, &layer.path, binding)?;
        self.attached(&layer.path, &device);
        let (block, direct_io) = (device.block_size(), Some(device.direct_io()));
        Ok(Whole {
            dev: self.keep(device)?,
            block,
            direct_io,
        })
    }

    /// The device that a hash tree is on.
    pub(super) fn tree(&mut self, seal: &Seal) -> Result<u64> {
        if let Storage::Device { dev, .. } = seal.storage {
            return Ok(dev);
        }
        let (file, path) = (seal.tree.file()?, seal.tree.path());
        // Blocks of hashes are kept where they are checked, not in the page cache, too.
        let binding = Binding {
            direct_io: true,
            sector_blocks: false,
        };
        let device = self.loops()?.attach(&file, path, binding)?;
        self.attached(path, &device);
        self.keep(device)
    }

    /// A loop device with the last block of `layer`'s file.
    fn tail(&mut self, layer: &Layer, cut: Cut) -> Result<u64> {
        let tail = copy_tail(&layer.file, cut)
            .map_err(|e| Error::io("copy the last bytes of", &layer.path, e))?;
        let binding = Binding {
            direct_io: false,
            sector_blocks: true,
        };
        let device = self.loops()?.bind(&tail, &layer.path, binding)?;
        self.attached(&layer.path, &device);
        self.keep(device)
    }

    fn attached(&self, path: &Path, device: &LoopDevice) {
        (self.watch)(Step::Attached {
            path: path.to_owned(),
            number: device.number(),
        });
    }
}

/// A device with all of a file that is whole blocks.
struct Whole {
    dev: u64,
    /// Its logical block size, or for a block device that is used as it is the least there is.
    block: u32,
    /// Whether reads go past the page cache, where that is known.
    direct_io: Option<bool>,
}

/// How a loop device divides a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    /// What can be read on it.
    whole: Bytes,
    /// What is left, less than a logical block.
    rest: Bytes,
    /// The logical block size, a power of two from 512 on.
    block: u32,
}

impl Cut {
    fn new(length: Bytes, block: u32) -> Self {
        let rest = length % u64::from(block.max(1));
        Self {
            whole: length - rest,
            rest,
            block,
        }
    }
}

/// Copies the end of `file` to an anonymous one of a whole block, which nobody can change any more.
fn copy_tail(file: &File, cut: Cut) -> io::Result<File> {
    let mut block = vec![0; cut.block as usize];
    let rest = &mut block[..cut.rest as usize];
    file.read_exact_at(rest, cut.whole)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memory = match rustix::fs::memfd_create(TAIL_NAME, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create(TAIL_NAME, flags)?,
        other => other?,
    };
    let mut memory = File::from(memory);
    memory.write_all(&block)?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(memory.as_fd(), seals)?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn a_file_is_cut_at_a_block() {
        let cut = |length, block| {
            let Cut { whole, rest, .. } = Cut::new(length, block);
            (whole, rest)
        };
        assert_eq!(cut(1024, 512), (1024, 0));
        assert_eq!(cut(1025, 512), (1024, 1));
        assert_eq!(cut(511, 512), (0, 511));
        assert_eq!(cut(8192 + 512, 4096), (8192, 512));
        assert_eq!(cut(0, 512), (0, 0));
    }

    #[test]
    fn a_tail_is_padded_and_cannot_change() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 1000]).unwrap();
        let mut tail = copy_tail(&file, Cut::new(1000, 512)).unwrap();
        let mut content = Vec::new();
        tail.rewind().unwrap();
        tail.read_to_end(&mut content).unwrap();
        assert_eq!(content[..488], [7; 488]);
        assert_eq!(content[488..], [0; 24]);
        assert!(tail.write_all(b"x").is_err());
        assert!(tail.set_len(0).is_err());
    }

    #[test]
    fn a_file_that_shrank_is_noticed() {
        let file = tempfile::tempfile().unwrap();
        assert!(copy_tail(&file, Cut::new(1000, 512)).is_err());
    }
}
