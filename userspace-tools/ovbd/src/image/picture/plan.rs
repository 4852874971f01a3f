// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The disk row by row, with empty rows left out.
//!
//! Disks are mostly empty. Cells are therefore as small as the rows that hold something allow,
//! and runs of rows that hold nothing become a gap.

use std::collections::BTreeMap;
use std::ops::Range;

use overlaybd_format::map::Target;
use overlaybd_format::SECTOR;

use super::Picture;

/// The smallest cell, sectors: a block of the common file systems.
const LEAST_CELL: u64 = 8;

/// The disk row by row.
pub(super) struct Plan {
    /// Bytes a cell; a power of two.
    pub(super) cell: u64,
    /// What there is to draw, from the beginning of the disk to its end.
    pub(super) rows: Vec<Row>,
}

/// Some part of the disk.
pub(super) enum Row {
    /// So many cells as a row has, fewer at the end of the disk, from byte `start` on.
    Cells { start: u64, cells: Vec<Cell> },
    /// So many bytes without data.
    Gap { length: u64 },
}

/// Which layer serves most of a cell, and how much of the cell all layers serve, 0 to 1.
pub(super) type Cell = Option<(usize, f64)>;

/// Sectors that each layer serves in a cell.
type Shares = Vec<(usize, u64)>;

impl Plan {
    /// The disk in rows of `width` cells, at most `most` of them.
    pub(super) fn new(picture: &Picture<'_>, width: u64, most: usize) -> Self {
        let mut cell = LEAST_CELL;
        while count_rows(picture, width * cell, most) > most {
            cell *= 2;
        }
        let size = picture.map().size();
        let row = width * cell;
        let mut rows = Vec::new();
        let mut at = 0;
        for (number, shares) in fill(picture, width, cell) {
            let start = number * row;
            push_gap(&mut rows, at..start);
            let end = size.min(start + row);
            let cells = (0..).zip((start..end).step_by(cell as usize));
            let cells = cells
                .map(|(number, from)| share(&shares[number], cell.min(end - from)))
                .collect();
            rows.push(Row::Cells {
                start: start * SECTOR,
                cells,
            });
            at = end;
        }
        push_gap(&mut rows, at..size);
        Self {
            cell: cell * SECTOR,
            rows,
        }
    }
}

fn push_gap(rows: &mut Vec<Row>, sectors: Range<u64>) {
    if sectors.start < sectors.end {
        rows.push(Row::Gap {
            length: (sectors.end - sectors.start) * SECTOR,
        });
    }
}

/// Rows of `row` sectors with data in them, and gaps between. Stops counting beyond `most`.
fn count_rows(picture: &Picture<'_>, row: u64, most: usize) -> usize {
    let (mut count, mut next) = (0, 0);
    for (range, _) in data(picture) {
        let (first, last) = (range.start / row, (range.end - 1) / row);
        if first > next {
            count += 1;
        }
        count += (last + 1).saturating_sub(first.max(next)) as usize;
        next = last + 1;
        if count > most {
            break;
        }
    }
    count + usize::from(next < picture.map().size().div_ceil(row))
}

/// For each row with data, what layers serve in its cells.
fn fill(picture: &Picture<'_>, width: u64, cell: u64) -> BTreeMap<u64, Vec<Shares>> {
    let mut rows: BTreeMap<u64, Vec<Shares>> = BTreeMap::new();
    for (range, layer) in data(picture) {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / cell + 1) * cell);
            let number = at / cell;
            let row = rows
                .entry(number / width)
                .or_insert_with(|| vec![Shares::new(); width as usize]);
            add(&mut row[(number % width) as usize], layer, end - at);
            at = end;
        }
    }
    rows
}

fn add(shares: &mut Shares, layer: usize, sectors: u64) {
    match shares.iter_mut().find(|(of, _)| *of == layer) {
        Some((_, sum)) => *sum += sectors,
        None => shares.push((layer, sectors)),
    }
}

fn share(shares: &Shares, cell: u64) -> Cell {
    let (layer, _) = shares.iter().max_by_key(|(_, sectors)| *sectors)?;
    let served: u64 = shares.iter().map(|(_, sectors)| sectors).sum();
    Some((*layer, served as f64 / cell as f64))
}

/// Sectors with data, and the layer that serves them.
fn data<'a>(picture: &'a Picture<'_>) -> impl Iterator<Item = (Range<u64>, usize)> + 'a {
    picture
        .map()
        .iter()
        .filter_map(|extent| match extent.target {
            Target::Zero => None,
            Target::Data { layer, .. } => {
                Some((extent.start..extent.start + extent.len, usize::from(layer)))
            }
        })
}
