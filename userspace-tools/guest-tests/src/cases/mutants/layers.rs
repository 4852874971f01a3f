// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Layers: header, trailer and index of the upper one of two.

use anyhow::{ensure, Context as _, Result};
use ovbd::image::source::Std;
use overlaybd_format::lsmt::{Entry, Layer as OpenLayer};
use overlaybd_format::map;

use super::{change_field, invalid, special, Bench, AT, ROUNDS};
use crate::ctx::{Ctx, SECTOR};
use crate::forge::{self, Extent, Layer};
use crate::golden::MARKER;
use crate::read::Direct;
use crate::rng::Rng;

/// Bytes of the disk that layers are for.
const DISK: u64 = 1 << 20;

const LSMT_FIELDS: &[(usize, usize)] = &[
    (24, 4), // size
    (28, 1), // flags
    (28, 4),
    (32, 8), // index_offset
    (40, 8), // index_size
    (48, 8), // virtual_size
    (56, 1), // uuid
    (92, 1),
    (93, 1),  // parent uuid
    (132, 1), // version
    (133, 1), // sub-version
    (134, 8), // user tag
    (389, 8), // beyond it
];

fn change_layer(rng: &mut Rng, layer: &mut Layer) {
    let length = layer.data.len() as u64;
    let entries = layer.index.len();
    match rng.index(8) {
        0 => change_field(rng, &mut layer.header, LSMT_FIELDS, length),
        1 | 2 => change_field(rng, &mut layer.trailer, LSMT_FIELDS, length),
        3 => layer.index.insert(rng.index(entries + 1), Extent::PADDING),
        4 if entries > 1 => layer.index.swap(0, entries - 1),
        _ if entries > 0 => {
            let extent = &mut layer.index[rng.index(entries)];
            match rng.index(4) {
                0 => extent.start = special(rng, extent.start, DISK / SECTOR) % (1 << 50),
                1 => extent.length = special(rng, extent.length, 16) % (1 << 14),
                2 => extent.place = special(rng, extent.place, length / SECTOR) % (1 << 55),
                _ => extent.zeroed = !extent.zeroed,
            }
        }
        _ => {}
    }
}

pub fn all(ctx: &mut Ctx) -> Result<()> {
    let mut bench = Bench::new(ctx)?;
    let data = forge::content(20 * 512, ctx.rng());
    let lower = Layer::new(DISK)
        .data(4, &data[..8 * 512])
        .data(90, &data[8 * 512..10 * 512]);
    for round in 0..ROUNDS {
        let mut upper = Layer::new(DISK)
            .data(0, &data[10 * 512..14 * 512])
            .data(16, &data[14 * 512..])
            .zeros(100, 8);
        if ctx.rng().index(4) == 0 {
            // The last sector of the data holds index bytes, too.
            upper.data.truncate(10 * 512 - 300);
            let index = upper.index.clone();
            upper = upper.with_index(index);
        }
        for _ in 0..ctx.rng().length(3) {
            change_layer(ctx.rng(), &mut upper);
        }
        let files = [lower.bytes(), upper.bytes()];
        one_stack(ctx, &mut bench, &files).with_context(|| format!("round {round}"))?;
    }
    bench.finish()
}

fn one_stack(ctx: &mut Ctx, bench: &mut Bench, files: &[Vec<u8>; 2]) -> Result<()> {
    let [lower, upper] = files;
    let mut both = lower.clone();
    both.resize(lower.len().next_multiple_of(512), MARKER);
    let second = AT + both.len() as u64 / SECTOR;
    both.extend_from_slice(upper);
    bench.put(&both)?;
    let dev = bench.disk.dev;
    let params = format!(
        "2 {dev} {AT} {} {dev} {second} {}",
        lower.len(),
        upper.len()
    );
    let below = format!("layer 1 ({dev}): ");
    let open = OpenLayer::<Std>::open(&lower[..], lower.len() as u64);
    let lower_open = open.map_err(|e| invalid(e).map_or_else(|e| e, |i| i.into()))?;
    let upper_open = match OpenLayer::<Std>::open(&upper[..], upper.len() as u64) {
        Ok(open) => open,
        Err(error) => {
            let invalid = invalid(error)?;
            return bench
                .offer(ctx, "lsmt", &params, Err((&below, invalid)))
                .map(drop);
        }
    };
    let sizes = [lower_open.virtual_size(), upper_open.virtual_size()];
    let expected = map::virtual_size(sizes.into_iter()).map_err(|invalid| ("", invalid));
    if !bench.offer(ctx, "lsmt", &params, expected)? {
        return Ok(());
    }
    let sectors = expected.map_err(|(_, invalid)| invalid)?;
    let model = Model {
        layers: [(&lower_open, lower), (&upper_open, upper)],
    };
    let mut places = vec![0, sectors - 1, ctx.rng().within(0..sectors)];
    let entries = lower_open.entries().iter().chain(upper_open.entries());
    for entry in entries {
        let last = entry.end() - 1;
        places.extend([
            entry.start().saturating_sub(1),
            entry.start(),
            last,
            last + 1,
        ]);
    }
    let reads = Direct::open(&bench.device.path)?;
    for sector in places.into_iter().filter(|&sector| sector < sectors) {
        let read = reads.read(sector * SECTOR, 512)?;
        ensure!(
            read == model.sector(sector),
            "wrong bytes at sector {sector}"
        );
    }
    Ok(())
}

/// Two layers, looked up one sector at a time.
struct Model<'a> {
    layers: [(&'a OpenLayer<Std>, &'a Vec<u8>); 2],
}

impl Model<'_> {
    fn sector(&self, sector: u64) -> Vec<u8> {
        let holds = |entry: &&Entry| (entry.start()..entry.end()).contains(&sector);
        for (layer, file) in self.layers.iter().rev() {
            let Some(entry) = layer.entries().iter().find(holds) else {
                continue;
            };
            if entry.zeroed() {
                break;
            }
            let at = (entry.moffset() + sector - entry.start()) * SECTOR;
            // Index bytes are no data.
            let end = layer.index_offset().min(at + SECTOR);
            let mut bytes = file[at as usize..end as usize].to_vec();
            bytes.resize(512, 0);
            return bytes;
        }
        vec![0; 512]
    }
}
