// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! LSMT layers.

use super::put;
use crate::ctx::SECTOR;

const RECORD: usize = 4096;
const MAGIC: [u8; 24] = [
    0x4c, 0x53, 0x4d, 0x54, 0, 1, 2, 0, 0x65, 0x7e, 0x63, 0xd2, 0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2,
    0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a,
];
/// First sector behind the header.
const DATA_START: u64 = 8;

/// An index entry, in sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First sector of the disk.
    pub start: u64,
    /// How many.
    pub length: u64,
    /// First sector in the file.
    pub place: u64,
    /// Zeros, not data.
    pub zeroed: bool,
}

impl Extent {
    /// Padding, which means nothing.
    pub const PADDING: Self = Self {
        start: (1 << 50) - 1,
        length: 0,
        place: 0,
        zeroed: false,
    };

    fn encode(self) -> [u8; 16] {
        let range = self.start | self.length << 50;
        let data = self.place | u64::from(self.zeroed) << 55;
        (u128::from(range) | u128::from(data) << 64).to_le_bytes()
    }
}

/// A sealed layer in its parts.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The header.
    pub header: [u8; RECORD],
    /// What lies behind the header.
    pub data: Vec<u8>,
    /// The index.
    pub index: Vec<Extent>,
    /// The trailer.
    pub trailer: [u8; RECORD],
}

impl Layer {
    /// A layer for a disk of so many bytes that holds nothing.
    pub fn new(virtual_size: u64) -> Self {
        let mut header = [0; RECORD];
        put(&mut header, 0, &MAGIC);
        put(&mut header, 24, &390u32.to_le_bytes());
        put(&mut header, 48, &virtual_size.to_le_bytes());
        header[132] = 1;
        header[133] = 1;
        let mut trailer = header;
        put(&mut header, 28, &7u32.to_le_bytes());
        put(&mut trailer, 28, &6u32.to_le_bytes());
        Self {
            header,
            data: Vec::new(),
            index: Vec::new(),
            trailer,
        }
        .sealed()
    }

    /// Adds data for the sectors from `start` on, behind all others.
    pub fn data(mut self, start: u64, bytes: &[u8]) -> Self {
        self.index.push(Extent {
            start,
            length: bytes.len() as u64 / SECTOR,
            place: DATA_START + self.data.len() as u64 / SECTOR,
            zeroed: false,
        });
        self.data.extend_from_slice(bytes);
        self.sealed()
    }

    /// Adds zeros.
    pub fn zeros(mut self, start: u64, length: u64) -> Self {
        self.index.push(Extent {
            start,
            length,
            place: 0,
            zeroed: true,
        });
        self.sealed()
    }

    /// Puts another index in place of the one that grew with the data.
    pub fn with_index(mut self, index: Vec<Extent>) -> Self {
        self.index = index;
        self.sealed()
    }

    /// Bytes of the disk, as the trailer has it.
    pub fn virtual_size(&self) -> u64 {
        let mut size = [0; 8];
        size.copy_from_slice(&self.trailer[48..56]);
        u64::from_le_bytes(size)
    }

    /// Puts place and length of the index into the trailer.
    fn sealed(mut self) -> Self {
        let offset = (RECORD + self.data.len()) as u64;
        put(&mut self.trailer, 32, &offset.to_le_bytes());
        let entries = self.index.len() as u64;
        put(&mut self.trailer, 40, &entries.to_le_bytes());
        self
    }

    /// Changes bytes of header and trailer alike.
    pub fn put_both(&mut self, at: usize, value: &[u8]) {
        put(&mut self.header, at, value);
        put(&mut self.trailer, at, value);
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let index: Vec<u8> = self.index.iter().flat_map(|e| e.encode()).collect();
        [&self.header[..], &self.data, &index, &self.trailer].concat()
    }

    /// Lays what the layer holds over a disk's bytes.
    pub fn apply(&self, disk: &mut [u8]) {
        let sector = SECTOR as usize;
        for extent in &self.index {
            for n in 0..extent.length {
                let to = (extent.start + n) as usize * sector;
                let Some(to) = disk.get_mut(to..to + sector) else {
                    continue;
                };
                if extent.zeroed {
                    to.fill(0);
                } else {
                    let from = (extent.place - DATA_START + n) as usize * sector;
                    to.copy_from_slice(&self.data[from..from + sector]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_decoder_agrees() {
        let layer = Layer::new(1 << 20).data(3, &[7; 1024]).zeros(9, 4);
        let path = std::env::temp_dir().join(format!("guest-tests-{}.lsmt", std::process::id()));
        std::fs::write(&path, layer.bytes()).unwrap();
        let stack = ovbd::image::stack::Stack::open(std::slice::from_ref(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        let entries = stack.layers()[0].entries().to_vec();
        let found: Vec<_> = entries
            .iter()
            .map(|e| (e.start(), e.len(), e.moffset(), e.zeroed()))
            .collect();
        assert_eq!(found, [(3, 2, 8, false), (9, 4, 0, true)]);
        let mut disk = vec![1; 1 << 14];
        layer.apply(&mut disk);
        assert_eq!(disk[1535..1538], [1, 7, 7]);
        assert_eq!(disk[9 * 512 - 1..9 * 512 + 1], [1, 0]);
    }
}
