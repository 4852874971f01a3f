// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Status lines parse back, and only they do.

use overlaybd_format::status::{LsmtStatus, StatusError, ZfileStatus};
use overlaybd_format::zfile::Algorithm;
use proptest::prelude::*;

const ZFILE: &str = "zstd block_size 4096 blocks 9 size 36001 read_sectors 4 \
    decompressed_bytes 5 cache_hits 6 reserve_waits 11 crc_errors 7 \
    decompress_errors 8 io_errors 10";

const LSMT: &str = "layers 3 extents 44 size 2048 reads 5 zero_sectors 6 tail_sectors 1 \
    io_errors 7";

#[test]
fn lines_are_as_documented() {
    let zfile = ZfileStatus {
        algorithm: Algorithm::Zstd,
        block_size: 4096,
        blocks: 9,
        size: 36001,
        read_sectors: 4,
        decompressed_bytes: 5,
        cache_hits: 6,
        reserve_waits: 11,
        crc_errors: 7,
        decompress_errors: 8,
        io_errors: 10,
    };
    assert_eq!(zfile.to_string(), ZFILE);
    assert_eq!(ZfileStatus::parse(ZFILE), Ok(zfile));
    let lsmt = LsmtStatus {
        layers: 3,
        extents: 44,
        size: 2048,
        reads: 5,
        zero_sectors: 6,
        tail_sectors: 1,
        io_errors: 7,
    };
    assert_eq!(lsmt.to_string(), LSMT);
    assert_eq!(LsmtStatus::parse(LSMT), Ok(lsmt));
}

/// Each word, missing or wrong, is named.
#[test]
fn wrong_lines_are_refused() {
    fn check<T: std::fmt::Debug + PartialEq>(
        line: &str,
        parse: impl Fn(&str) -> Result<T, StatusError>,
    ) {
        let words: Vec<_> = line.split(' ').collect();
        for word in 0..words.len() {
            let want = Err(StatusError { word });
            assert_eq!(parse(&words[..word].join(" ")), want);
            for wrong in ["x", "-1", "+1"] {
                let mut words = words.clone();
                words[word] = wrong;
                assert_eq!(parse(&words.join(" ")), want);
            }
        }
        let want = Err(StatusError { word: words.len() });
        assert_eq!(parse(&format!("{line} 1")), want);
    }
    check(ZFILE, ZfileStatus::parse);
    check(LSMT, LsmtStatus::parse);
    let error = StatusError { word: 3 };
    assert_eq!(error.to_string(), "unexpected status line at word 3");
}

proptest! {
    #[test]
    fn zfile_round_trip(zstd: bool, values: [u64; 10]) {
        let status = ZfileStatus {
            algorithm: if zstd { Algorithm::Zstd } else { Algorithm::Lz4 },
            block_size: values[0],
            blocks: values[1],
            size: values[2],
            read_sectors: values[3],
            decompressed_bytes: values[4],
            cache_hits: values[5],
            reserve_waits: values[6],
            crc_errors: values[7],
            decompress_errors: values[8],
            io_errors: values[9],
        };
        prop_assert_eq!(ZfileStatus::parse(&status.to_string()), Ok(status));
    }

    #[test]
    fn lsmt_round_trip(values: [u64; 7]) {
        let [layers, extents, size, reads, zero_sectors, tail_sectors, io_errors] = values;
        let status =
            LsmtStatus { layers, extents, size, reads, zero_sectors, tail_sectors, io_errors };
        prop_assert_eq!(LsmtStatus::parse(&status.to_string()), Ok(status));
    }
}
