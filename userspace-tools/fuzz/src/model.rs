// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Stacks of layers from bytes, and a lookup too simple to be wrong.

use overlaybd_format::lsmt::{Entry, MAX_SECTORS};
use overlaybd_format::map::Target;

/// The most layers, to keep runs short; few bytes make more anyway.
const MOST_LAYERS: u8 = 16;

/// Layers as opening them guarantees them to be, bottom first, and a disk.
pub struct Stack {
    pub layers: Vec<Vec<Entry>>,
    pub size: u64,
}

impl Stack {
    /// Makes a stack of any bytes: a size, a number of layers, and entries of 4
    /// bytes, each of which names its layer.
    pub fn decode(data: &[u8]) -> Self {
        let (head, entries) = data.split_at_checked(3).unwrap_or((&[1, 0, 1], &[]));
        let unit = 1u64 << (head[1] % 40).saturating_sub(16);
        let size = (u64::from(head[0]) + 1)
            .saturating_mul(unit * 8)
            .min(1 << 38);
        let count = head[2] % MOST_LAYERS + 1;
        let mut layers = vec![Vec::new(); count.into()];
        for bytes in entries.chunks_exact(4) {
            let &[place, gap, len, kind] = bytes else {
                continue;
            };
            let layer: &mut Vec<Entry> = &mut layers[usize::from(place % count)];
            let last = layer.last().copied().unwrap_or_default();
            // Gaps from none to several units; units are large on large disks.
            let gap = u64::from(gap >> 4) * unit + u64::from(gap & 15);
            let start = last.end().saturating_add(gap);
            let len = u64::from(len) * 64 / u64::from(kind >> 4 | 1) + 1;
            if start + len > MAX_SECTORS {
                continue;
            }
            layer.push(match kind & 3 {
                0 => Entry::zeros(start, len, 0),
                // Where the one before it ends, to be joined with it.
                1 => Entry::data(start, len, last.moffset() + last.len()),
                _ => Entry::data(start, len, 8 + u64::from(kind)),
            });
        }
        Self { layers, size }
    }
}

/// Sectors of the disk where something begins or ends, and their neighbours.
pub fn edges(layers: &[Vec<Entry>], size: u64) -> Vec<u64> {
    let entries = layers.iter().flatten();
    let ends = entries.flat_map(|entry| [entry.start(), entry.end()]);
    let near = |edge: u64| [edge.saturating_sub(1), edge];
    let mut edges: Vec<_> = ends.chain([0, size]).flat_map(near).collect();
    edges.retain(|&sector| sector < size);
    edges
}

/// What a sector holds, by going through all entries.
pub fn find(layers: &[Vec<Entry>], sector: u64, size: u64) -> Option<Target> {
    if sector >= size {
        return None;
    }
    for (number, layer) in layers.iter().enumerate().rev() {
        let covers = |entry: &&Entry| (entry.start()..entry.end()).contains(&sector);
        if let Some(entry) = layer.iter().find(covers) {
            if entry.zeroed() {
                return Some(Target::Zero);
            }
            let first = Target::Data {
                layer: number as u8,
                sector: entry.moffset(),
            };
            return Some(advance(first, sector - entry.start()));
        }
    }
    Some(Target::Zero)
}

/// What is `delta` sectors further on.
pub fn advance(target: Target, delta: u64) -> Target {
    match target {
        Target::Zero => Target::Zero,
        Target::Data { layer, sector } => Target::Data {
            layer,
            sector: sector + delta,
        },
    }
}
