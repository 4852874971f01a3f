// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What devices take of the kernel's memory, by the formulas of the targets' documentation: the
//! kernel does not tell.

use overlaybd_format::status::{LsmtStatus, ZfileStatus};

/// Of an image: 12.5 bytes for each entry of its index, 16 where an offset needs more than 32 bits,
/// and a little for each layer.
pub(super) fn image(status: &LsmtStatus) -> u64 {
    const SMALL_SECTORS: u64 = 1 << 32;
    let per_two = if status.size > SMALL_SECTORS { 32 } else { 25 };
    let index = status.extents.saturating_mul(per_two) / 2;
    index.saturating_add(status.layers.saturating_mul(100))
}

/// Of a compressed layer: where each block begins, and a reserve for when there is no memory. What
/// all layers share is not counted.
pub(super) fn layer(status: &ZfileStatus) -> u64 {
    let halves = if status.block_size <= 4096 { 5 } else { 9 };
    let reserve = if status.block_size >= 65536 { 128 } else { 32 } << 10;
    let blocks = status.blocks.saturating_mul(halves) / 2;
    blocks.saturating_add(reserve)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the documentation.
    #[test]
    fn memory_is_as_documented() {
        let status =
            "layers 3 extents 24000 size 393216 reads 0 zero_sectors 0 tail_sectors 0 io_errors 0";
        assert_eq!(image(&LsmtStatus::parse(status).unwrap()), 300_300);
        let zfile = |block_size: u64| {
            let blocks = (1u64 << 30) / block_size;
            let line = format!(
                "lz4 block_size {block_size} blocks {blocks} size 1073741824 read_sectors 0 \
                 decompressed_bytes 0 cache_hits 0 reserve_waits 0 crc_errors 0 decompress_errors 0 io_errors 0"
            );
            layer(&ZfileStatus::parse(&line).unwrap())
        };
        assert_eq!(zfile(4096), (640 + 32) << 10);
        assert_eq!(zfile(65536), (72 + 128) << 10);
    }
}
