// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Layers whose extents lie between those of others, so that reads of the disk are gathered.

use std::fmt::Write as _;

use anyhow::Result;

use super::lower::Placed;
use crate::ctx::{Ctx, Device, SECTOR};
use crate::forge::{self, Layer};
use crate::golden::MARKER;

/// Layers of a disk that is dealt out.
pub const LAYERS: usize = 4;
/// Its pieces; every other layer's turn is one of zeros that no layer has.
pub const PIECES: usize = 160;
/// The most sectors of a piece.
const LONGEST: u64 = 15;

/// Layers that lie one behind the other on a device.
pub struct Stack {
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
    /// What they show.
    pub content: Vec<u8>,
    /// The device's bytes.
    pub file: Vec<u8>,
    /// The first sector of each layer there.
    pub places: Vec<u64>,
}

impl Stack {
    /// Of a disk of `size` bytes.
    pub fn new(layers: Vec<Layer>, size: usize) -> Self {
        let mut content = vec![0; size];
        let (mut file, mut places) = (Vec::new(), Vec::new());
        for layer in &layers {
            layer.apply(&mut content);
            places.push(file.len() as u64 / SECTOR);
            file.extend_from_slice(&layer.bytes());
            file.resize((file.len() + 1).next_multiple_of(SECTOR as usize), MARKER);
        }
        Self {
            layers,
            content,
            file,
            places,
        }
    }

    /// Pieces dealt out to layers in turn, each of which has its own in order.
    pub fn dealt(ctx: &mut Ctx) -> Self {
        let mut lengths = Vec::new();
        for _ in 0..PIECES {
            lengths.push(ctx.rng().within(1..LONGEST + 1));
        }
        let size = (lengths.iter().sum::<u64>() * SECTOR) as usize;
        let mut layers = vec![Layer::new(size as u64); LAYERS];
        let mut start = 0;
        for (number, length) in lengths.into_iter().enumerate() {
            // One turn in so many is nobody's.
            if let Some(layer) = layers.get_mut(number % (LAYERS + 1)) {
                let bytes = forge::content((length * SECTOR) as usize, ctx.rng());
                *layer = layer.clone().data(start, &bytes);
            }
            start += length;
        }
        Self::new(layers, size)
    }

    /// The words of a table over the layers: `below` shows the device's bytes from `start` on.
    pub fn words(&self, below: &str, start: u64) -> Result<String> {
        let mut words = self.layers.len().to_string();
        for (layer, place) in self.layers.iter().zip(&self.places) {
            write!(words, " {below} {} {}", start + place, layer.bytes().len())?;
        }
        Ok(words)
    }

    /// Sectors of the disk.
    pub fn sectors(&self) -> u64 {
        self.content.len() as u64 / SECTOR
    }

    /// A device over the layers, of which `below` is what they lie on.
    pub fn device(&self, ctx: &mut Ctx, lower: &Placed, below: &str) -> Result<Device> {
        let words = self.words(below, lower.sector)?;
        ctx.target(self.sectors(), "lsmt", &words)
    }

    /// Where the data are on a device that shows the bytes from `start` on, sectors, a range for
    /// each extent.
    pub fn extents(&self, start: u64) -> Vec<(u64, u64)> {
        let places = self.layers.iter().zip(&self.places);
        let extents = places.flat_map(|(layer, place)| {
            let at = start + place;
            layer.index.iter().map(move |e| (at + e.place, e.length))
        });
        extents.collect()
    }
}
