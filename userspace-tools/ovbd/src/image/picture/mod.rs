// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Pictures of an image: where each layer's data lie on the disk, and which layer serves what.
//!
//! Two views. *Strips*: one for each layer, the disk from left to right, telling data that are
//! seen from data that higher layers hide. A *plan*: the disk row by row, like text, each cell in
//! the colour of the layer that serves most of it, and without the rows that are empty.

mod palette;
mod plan;
mod svg;
mod term;

use overlaybd_format::map::{Map, Target};
use overlaybd_format::SECTOR;

use super::source::Std;
use super::stack::Stack;

pub use svg::svg;
pub use term::{terminal, Style};

/// What a picture is drawn of.
pub struct Picture<'a> {
    stack: &'a Stack,
    /// The layers, bottom first.
    pub layers: Vec<LayerShare>,
}

/// How much of the disk a layer holds, and how much of that is seen. Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerShare {
    /// The layer's file, without its folder.
    pub name: String,
    /// Data within the disk.
    pub data: u64,
    /// Data that no higher layer hides.
    pub seen: u64,
    /// What the layer sets to zero.
    pub zeroed: u64,
}

/// What lies in equal parts of the disk.
pub(super) struct Columns {
    /// For each layer and column, sectors with data.
    pub(super) data: Vec<Vec<u64>>,
    /// For each layer and column, sectors with data that are seen.
    pub(super) seen: Vec<Vec<u64>>,
    /// For each layer and column, sectors that it sets to zero.
    pub(super) zeroed: Vec<Vec<u64>>,
    /// For each column, its sectors.
    pub(super) sectors: Vec<u64>,
}

impl<'a> Picture<'a> {
    /// A picture of the disk that `stack` makes.
    pub fn new(stack: &'a Stack) -> Self {
        let whole = columns(stack, 1);
        let bytes = |of: &[Vec<u64>], layer: usize| of[layer].iter().sum::<u64>() * SECTOR;
        let share = |(number, blob): (usize, &super::blob::Blob)| LayerShare {
            name: short_name(blob.path()),
            data: bytes(&whole.data, number),
            seen: bytes(&whole.seen, number),
            zeroed: bytes(&whole.zeroed, number),
        };
        Self {
            stack,
            layers: stack.blobs().iter().enumerate().map(share).collect(),
        }
    }

    fn map(&self) -> &Map<Std> {
        self.stack.map()
    }

    /// Size of the disk, bytes.
    pub fn size(&self) -> u64 {
        self.map().size() * SECTOR
    }

    /// The disk in `count` columns, or fewer if it has fewer sectors.
    pub(super) fn columns(&self, count: usize) -> Columns {
        columns(self.stack, count)
    }
}

/// The file's name; with that of its folder, where every layer has a folder of its own.
fn short_name(path: &std::path::Path) -> String {
    let name = |p: Option<&std::ffi::OsStr>| p.unwrap_or_default().to_string_lossy().into_owned();
    let file = name(path.file_name());
    match path.parent().map(|folder| name(folder.file_name())) {
        Some(folder) if file == "overlaybd.commit" && !folder.is_empty() => {
            format!("{folder}/{file}")
        }
        _ => file,
    }
}

fn columns(stack: &Stack, count: usize) -> Columns {
    let size = stack.map().size();
    let count = size.min(count as u64).max(1);
    let zeros = || vec![vec![0; count as usize]; stack.layers().len()];
    let (mut data, mut seen, mut zeroed) = (zeros(), zeros(), zeros());
    for (number, layer) in stack.layers().iter().enumerate() {
        for entry in layer.entries() {
            let end = entry.end().min(size);
            let kind = if entry.zeroed() {
                &mut zeroed
            } else {
                &mut data
            };
            spread(entry.start()..end, size, &mut kind[number]);
        }
    }
    for extent in stack.map().iter() {
        if let Target::Data { layer, .. } = extent.target {
            let range = extent.start..extent.start + extent.len;
            spread(range, size, &mut seen[usize::from(layer)]);
        }
    }
    let sectors = (0..count)
        .map(|column| edge(column + 1, count, size) - edge(column, count, size))
        .collect();
    Columns {
        data,
        seen,
        zeroed,
        sectors,
    }
}

/// First sector of column `column` of `count`.
fn edge(column: u64, count: u64, size: u64) -> u64 {
    (u128::from(column) * u128::from(size) / u128::from(count)) as u64
}

/// Adds the sectors of `range` to the columns that they are in.
fn spread(range: std::ops::Range<u64>, size: u64, columns: &mut [u64]) {
    let count = columns.len() as u64;
    let mut at = range.start;
    // Never too far right, at most one too far left.
    let mut column = (u128::from(at) * u128::from(count) / u128::from(size)) as u64;
    while at < range.end {
        let next = edge(column + 1, count, size);
        let end = range.end.min(next);
        if end > at {
            columns[column as usize] += end - at;
            at = end;
        }
        column += 1;
    }
}

impl Columns {
    /// Which layer serves most of a column, and how much of the column all layers serve.
    pub(super) fn top(&self, column: usize) -> Option<(usize, f64)> {
        let seen = self.seen.iter().map(|of_layer| of_layer[column]);
        let served: u64 = seen.clone().sum();
        let (layer, _) = seen.enumerate().max_by_key(|(_, sectors)| *sectors)?;
        (served > 0).then(|| (layer, self.part(served, column)))
    }

    /// `sectors` as a part of the column, 0 to 1.
    pub(super) fn part(&self, sectors: u64, column: usize) -> f64 {
        sectors as f64 / self.sectors[column].max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sector_falls_into_one_column() {
        for (size, count) in [(1, 1), (7, 3), (100, 7), (1 << 50, 1000), (2048, 2048)] {
            let mut columns = vec![0; count];
            let (a, b) = (size / 3, size - size / 5);
            for range in [0..a, a..b, b..size] {
                spread(range, size, &mut columns);
            }
            for (column, sectors) in columns.iter().enumerate() {
                let column = column as u64;
                let (from, to) = (
                    edge(column, count as u64, size),
                    edge(column + 1, count as u64, size),
                );
                assert_eq!(
                    *sectors,
                    to - from,
                    "column {column} of {count}, size {size}"
                );
            }
        }
    }

    #[test]
    fn names_are_short_but_telling() {
        for (path, name) in [
            ("/a/b/layer.tar", "layer.tar"),
            ("/a/b/overlaybd.commit", "b/overlaybd.commit"),
            ("overlaybd.commit", "overlaybd.commit"),
        ] {
            assert_eq!(short_name(std::path::Path::new(path)), name);
        }
    }
}
