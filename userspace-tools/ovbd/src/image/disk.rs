// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The disk that a stack of layers makes, as a source.

use overlaybd_format::map::{Map, Target};
use overlaybd_format::{ReadAt, SECTOR};

use super::source::{within, ReadError, SharedSource, Source, Std};

/// Data of one layer.
pub(super) struct DiskLayer {
    /// The layer's file, as the format defines it: without tar and decompressed.
    pub(super) content: SharedSource,
    /// Where data end and the index begins, in bytes. What shares a sector with the last data
    /// reads as zeros from here on.
    pub(super) data_end: u64,
}

/// The merged view of a stack of layers.
pub struct Disk {
    layers: Vec<DiskLayer>,
    map: Map<Std>,
    name: std::path::PathBuf,
}

impl Disk {
    /// `map` was built of the indexes of `layers`, bottom first. `name` is for messages.
    pub(super) fn new(layers: Vec<DiskLayer>, map: Map<Std>, name: std::path::PathBuf) -> Self {
        Self { layers, map, name }
    }

    /// Which layer serves which sectors.
    pub fn map(&self) -> &Map<Std> {
        &self.map
    }

    /// Reads within one segment.
    fn read_segment(&self, target: Target, skip: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let Target::Data { layer, sector } = target else {
            buf.fill(0);
            return Ok(());
        };
        let Some(layer) = self.layers.get(usize::from(layer)) else {
            // A map never names a layer that it was not built of.
            buf.fill(0);
            return Ok(());
        };
        let offset = sector.saturating_mul(SECTOR).saturating_add(skip);
        let data = layer.data_end.saturating_sub(offset).min(buf.len() as u64);
        let (data, rest) = buf.split_at_mut(data as usize);
        layer.content.read_exact_at(offset, data)?;
        rest.fill(0);
        Ok(())
    }
}

impl ReadAt for Disk {
    type Error = ReadError;

    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let beyond = |length| ReadError::End {
            path: self.name.clone(),
            offset,
            length,
            end: self.size(),
        };
        if !within(self.size(), offset, buf.len()) {
            return Err(beyond(buf.len()));
        }
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let skip = at % SECTOR;
            let segment = self
                .map
                .lookup(at / SECTOR)
                .ok_or_else(|| beyond(rest.len()))?;
            let length = segment.len.saturating_mul(SECTOR) - skip;
            let (part, tail) = rest.split_at_mut(length.min(rest.len() as u64) as usize);
            self.read_segment(segment.target, skip, part)?;
            at += part.len() as u64;
            rest = tail;
        }
        Ok(())
    }
}

impl Source for Disk {
    fn size(&self) -> u64 {
        self.map.size().saturating_mul(SECTOR)
    }

    fn next_data(&self, from: u64) -> u64 {
        let mut sector = from / SECTOR;
        loop {
            match self.map.lookup(sector) {
                None => return self.size(),
                Some(segment) if segment.target == Target::Zero => sector += segment.len,
                Some(_) => return from.max(sector.saturating_mul(SECTOR)),
            }
        }
    }
}
