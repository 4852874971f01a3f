// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A disk dealt out to layers, and layers as files.

use std::io::{self, Write};
use std::iter;
use std::ops::Range;

use anyhow::Result;
use ovbd::image::layer::{LayerSettings, LayerWriter};
use ovbd::image::zwriter::{Rewrite, ZSettings, ZWriter};
use overlaybd_format::SECTOR;

use super::{BLOCK, LAYERS};
use crate::rng::Rng;

/// Which layer has which bytes of a disk: pieces in order, without gaps.
pub struct Dealt {
    count: usize,
    pieces: Vec<(Range<usize>, usize)>,
}

impl Dealt {
    /// One layer has it all.
    pub fn whole(disk: &[u8]) -> Self {
        Self {
            count: 1,
            pieces: vec![(0..disk.len(), 0)],
        }
    }

    /// Pieces of 512 KiB to 2 MiB, as installing packages leaves them.
    pub fn coarse(disk: &[u8]) -> Self {
        Self::pieces(disk, 128..513)
    }

    /// Pieces of 4 to 32 KiB: every update has touched every file.
    pub fn fine(disk: &[u8]) -> Self {
        Self::pieces(disk, 1..9)
    }

    /// Pieces of so many blocks, none in the layer of its neighbour.
    fn pieces(disk: &[u8], blocks: Range<u64>) -> Self {
        let mut rng = Rng::new(blocks.end);
        let mut pieces: Vec<(Range<usize>, usize)> = Vec::new();
        let (mut at, mut layer) = (0, 0);
        while at < disk.len() {
            let length = (blocks.start + rng.below(blocks.end - blocks.start)) as usize * BLOCK;
            let end = disk.len().min(at + length);
            layer = (layer + 1 + rng.below(LAYERS as u64 - 1) as usize) % LAYERS;
            pieces.push((at..end, layer));
            at = end;
        }
        Self {
            count: LAYERS,
            pieces,
        }
    }

    /// The layers as files, not compressed, bottom first.
    pub fn layers(&self, disk: &[u8]) -> Result<Vec<Vec<u8>>> {
        (0..self.count)
            .map(|layer| self.layer(disk, layer))
            .collect()
    }

    fn layer(&self, disk: &[u8], layer: usize) -> Result<Vec<u8>> {
        let settings = LayerSettings {
            virtual_size: disk.len() as u64,
            ..LayerSettings::default()
        };
        let mut writer = LayerWriter::new(Vec::new(), settings)?;
        for (range, owner) in &self.pieces {
            if *owner == layer {
                writer.data(range.start as u64 / SECTOR, &disk[range.clone()])?;
            }
        }
        Ok(writer.finish()?.0)
    }
}

/// `original` as a ZFile.
pub fn compressed(original: &[u8], settings: ZSettings) -> Result<Vec<u8>> {
    compressed_from(iter::once(original), settings)
}

/// What `pieces` make together, as a ZFile.
pub fn compressed_from<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    settings: ZSettings,
) -> Result<Vec<u8>> {
    let mut writer = ZWriter::new(Memory::default(), settings)?;
    for piece in pieces {
        writer.write_all(piece)?;
    }
    Ok(writer.finish()?.0 .0)
}

/// A file in memory.
#[derive(Default)]
struct Memory(Vec<u8>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Rewrite for Memory {
    fn rewrite(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let from = offset as usize;
        let place = self.0.get_mut(from..from + bytes.len());
        place
            .ok_or_else(|| io::Error::other("rewriting what was not written"))?
            .copy_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::image::source::Std;
    use overlaybd_format::lsmt::Layer;
    use overlaybd_format::map::{Map, Target};

    /// What the merged view of `layers` shows.
    fn merged(layers: &[Vec<u8>], size: usize) -> Vec<u8> {
        let open = |bytes: &Vec<u8>| Layer::<Std>::open(&bytes[..], bytes.len() as u64).unwrap();
        let opened: Vec<Layer<Std>> = layers.iter().map(open).collect();
        let map = Map::<Std>::build(&opened, size as u64 / SECTOR).unwrap();
        let mut disk = vec![0; size];
        for extent in map.iter() {
            let Target::Data { layer, sector } = extent.target else {
                panic!("nothing at sector {}", extent.start);
            };
            let (to, from) = ((extent.start * SECTOR) as usize, (sector * SECTOR) as usize);
            let length = (extent.len * SECTOR) as usize;
            disk[to..to + length].copy_from_slice(&layers[usize::from(layer)][from..from + length]);
        }
        disk
    }

    #[test]
    fn dealt_layers_make_the_disk() {
        let disk: Vec<u8> = (0..1024 * BLOCK).map(|i| (i / 7 % 251) as u8).collect();
        for dealt in [
            Dealt::whole(&disk),
            Dealt::coarse(&disk),
            Dealt::fine(&disk),
        ] {
            let layers = dealt.layers(&disk).unwrap();
            assert_eq!(layers.len(), dealt.count);
            assert!(merged(&layers, disk.len()) == disk);
        }
        let neighbours = Dealt::fine(&disk).pieces;
        assert!(neighbours.windows(2).all(|pair| pair[0].1 != pair[1].1));
    }
}
