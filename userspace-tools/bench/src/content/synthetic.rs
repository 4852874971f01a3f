// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files with an index of a given size and next to no content, to see what each item costs.

use std::iter;

use anyhow::Result;
use ovbd::image::zwriter::ZSettings;
use overlaybd_format::lsmt::{Entry, Header, DATA_START, SIZE};
use overlaybd_format::SECTOR;

use super::layers::compressed_from;
use super::BLOCK;

/// Layers with so many extents, by name.
pub const EXTENTS: [(&str, u64); 4] = [
    ("extents-1", 1),
    ("extents-10k", 10_000),
    ("extents-100k", 100_000),
    ("extents-1m", 1_000_000),
];

/// ZFiles with so many blocks of so many bytes, by name.
pub const BLOCKS: [(&str, u64, u32); 4] = [
    ("blocks-1", 1, 4 << 10),
    ("blocks-32k", 32 << 10, 4 << 10),
    ("blocks-256k", 256 << 10, 4 << 10),
    ("blocks-wide", 64 << 10, 64 << 10),
];

/// All of them.
pub fn files() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, count) in EXTENTS {
        files.push((name, layer(count)));
    }
    for (name, count, block_size) in BLOCKS {
        let settings = ZSettings {
            block_size,
            ..ZSettings::default()
        };
        let block = vec![0; block_size as usize];
        let blocks = iter::repeat_n(&block[..], count as usize);
        files.push((name, compressed_from(blocks, settings)?));
    }
    Ok(files)
}

/// A layer with `count` extents of 4 KiB, one behind the other on the disk. All of them have the
/// same data, so that no two can be joined.
pub fn layer(count: u64) -> Vec<u8> {
    let sectors = BLOCK as u64 / SECTOR;
    let header = Header::sealed(count * BLOCK as u64, None, None);
    let mut file = header.encode(b"").to_vec();
    file.resize(file.len() + BLOCK, 0);
    let index = file.len() as u64;
    for number in 0..count {
        file.extend(Entry::data(number * sectors, sectors, DATA_START).encode());
    }
    file.extend(header.trailer(index, count).encode(b""));
    debug_assert!(index == SIZE + BLOCK as u64);
    file
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::image::source::Std;
    use overlaybd_format::lsmt::Layer;
    use overlaybd_format::map::Map;

    #[test]
    fn a_layer_keeps_its_extents_apart() {
        let file = layer(1000);
        let opened = Layer::<Std>::open(&file[..], file.len() as u64).unwrap();
        assert_eq!(opened.entries().len(), 1000);
        let map = Map::<Std>::build(&[opened], 8000).unwrap();
        assert_eq!(map.segments(), 1000);
    }
}
