// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd status`.

use ovbd::dm::Name;
use ovbd::image::size::Human;
use ovbd::list::{self, Image, ImageCounters, Inner, LayerCounters, Listing, Verity};
use ovbd::output::Output;
use ovbd::Result;

use super::ls::lower_text;

/// Show one image with its layers and counters
///
/// Counters count from the moment in which a device was set up; a layer that several images share
/// counts for all of them.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The name of the image
    name: Name,
}

const EXAMPLES: &str = "\
Examples:
  ovbd status web
  ovbd status web --json | jq '.layers[].counters.crc_errors'";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let listing = list::status(&args.name)?;
    output.answer(&listing, || text(&listing))
}

fn text(listing: &Listing) -> String {
    let mut text: String = listing.images.iter().map(image_text).collect();
    for layer in &listing.layers {
        text += &layer_text(layer);
    }
    text
}

fn image_text(image: &Image) -> String {
    let Image {
        name,
        device,
        number,
        state,
        bytes,
        open_count,
        ..
    } = image;
    let (device, state, size) = (device.display(), state.word(), Human(*bytes));
    let mut text = format!("{name}: {state}, {device} ({number}), {size}, opened {open_count} ×\n");
    for mount in &image.mounts {
        text += &format!("  mounted on {}\n", mount.display());
    }
    if let Some(c) = &image.counters {
        text += &image_counters_text(c);
    }
    text += &memory_text(image.memory_bytes);
    for (i, lower) in image.layers.iter().enumerate() {
        text += &format!("  layer {i}: {}\n", lower_text(lower));
    }
    text
}

fn image_counters_text(c: &ImageCounters) -> String {
    let mut text = format!(
        "  {} extents, {} reads, {} sectors in no layer\n",
        c.extents, c.reads, c.zero_sectors
    );
    if c.io_errors > 0 {
        text += &format!("  ERRORS: {} reads\n", c.io_errors);
    }
    text
}

fn layer_text(layer: &Inner) -> String {
    let lowers: Vec<String> = layer.lowers.iter().map(lower_text).collect();
    let Inner {
        name,
        role,
        number,
        state,
        ..
    } = layer;
    let (state, on) = (state.word(), lowers.join(" + "));
    let mut text = format!("{name}: {state}, {role} ({number}) on {on}\n");
    if layer.used_by.len() > 1 {
        text += &format!("  shared by {}\n", layer.used_by.join(", "));
    }
    if layer.ignore_crc {
        text += "  does not check CRCs\n";
    }
    if let Some(verity) = &layer.verity {
        text += &verity_text(verity);
    }
    match layer.lowers.first().and_then(|lower| lower.direct_io) {
        Some(true) => text += "  direct I/O\n",
        Some(false) => text += "  no direct I/O: its pages are cached twice\n",
        None => {}
    }
    text += &memory_text(layer.memory_bytes);
    text + &layer
        .counters
        .as_ref()
        .map(counters_text)
        .unwrap_or_default()
}

fn verity_text(verity: &Verity) -> String {
    let signed = if verity.signed { ", signed" } else { "" };
    let mut text = format!("  root hash {}{signed}\n", verity.root_hash);
    if verity.corrupted {
        text += "  CORRUPTED: a block was read that is not the one that was sealed\n";
    }
    text
}

fn memory_text(bytes: Option<u64>) -> String {
    let line = |bytes| format!("  about {} of the kernel's memory\n", Human(bytes));
    bytes.map(line).unwrap_or_default()
}

fn counters_text(c: &LayerCounters) -> String {
    let read = Human(c.read_sectors.saturating_mul(512));
    let mut text = format!(
        "  {}, {} blocks of {}, {}\n  {read} read, {} decompressed, {} cache hits\n",
        c.algorithm,
        c.blocks,
        Human(c.block_size),
        Human(c.bytes),
        Human(c.decompressed_bytes),
        c.cache_hits
    );
    if c.reserve_waits > 0 {
        text += &format!("  {} reads had to wait for memory\n", c.reserve_waits);
    }
    if c.crc_errors + c.decompress_errors + c.io_errors > 0 {
        text += &format!(
            "  ERRORS: {} CRC, {} decompression, {} reads\n",
            c.crc_errors, c.decompress_errors, c.io_errors
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::verity::RootHash;

    #[test]
    fn a_wrong_block_stands_out() {
        let mut verity = Verity {
            root_hash: RootHash::new([0xab; 32]),
            signed: true,
            corrupted: false,
        };
        let fine = format!("  root hash {}, signed\n", "ab".repeat(32));
        assert_eq!(verity_text(&verity), fine);
        verity.corrupted = true;
        assert!(verity_text(&verity).starts_with(&format!("{fine}  CORRUPTED: ")));
    }

    #[test]
    fn an_images_errors_stand_out() {
        let mut counters = ImageCounters {
            extents: 5,
            reads: 7,
            zero_sectors: 16,
            tail_sectors: 0,
            io_errors: 0,
        };
        let fine = "  5 extents, 7 reads, 16 sectors in no layer\n";
        assert_eq!(image_counters_text(&counters), fine);
        counters.io_errors = 3;
        let bad = image_counters_text(&counters);
        assert_eq!(bad, format!("{fine}  ERRORS: 3 reads\n"));
    }

    #[test]
    fn errors_stand_out() {
        let mut counters = LayerCounters {
            algorithm: "lz4",
            block_size: 4096,
            blocks: 10,
            bytes: 40000,
            read_sectors: 4,
            decompressed_bytes: 8192,
            cache_hits: 1,
            reserve_waits: 0,
            crc_errors: 0,
            decompress_errors: 0,
            io_errors: 0,
        };
        let fine = "  lz4, 10 blocks of 4.00 KiB, 39.1 KiB\n  2.00 KiB read, 8.00 KiB \
                    decompressed, 1 cache hits\n";
        assert_eq!(counters_text(&counters), fine);
        counters.reserve_waits = 3;
        let waited = format!("{fine}  3 reads had to wait for memory\n");
        assert_eq!(counters_text(&counters), waited);
        counters.reserve_waits = 0;
        counters.crc_errors = 2;
        let bad = counters_text(&counters);
        assert_eq!(
            bad,
            format!("{fine}  ERRORS: 2 CRC, 0 decompression, 0 reads\n")
        );
    }
}
