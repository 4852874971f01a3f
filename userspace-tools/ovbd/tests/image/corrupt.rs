// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Broken files: verification names the first bad offset, and nothing panics.

use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use ovbd::image::blob::Blob;
use ovbd::image::extract;
use ovbd::image::inspect::inspect;
use ovbd::image::output::Wrapper;
use ovbd::image::verify::{offset_of, FileReport};
use ovbd::image::zwriter::ZSettings;
use ovbd::image::ImageError;
use ovbd::output::Progress;
use ovbd::Error;
use overlaybd_format::Rule;

use super::support::{check, compress, golden, Random, Scratch, ALGORITHMS};

/// Where the blocks of the ZFile in `path` begin in the file, and where the last one ends.
fn block_offsets(path: &Path) -> Vec<u64> {
    let blob = Blob::open(path).unwrap();
    let zfile = blob.zfile().unwrap();
    let count = zfile.zfile().block_count();
    (0..=count).map(|block| zfile.block_offset(block)).collect()
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

fn first_bad(report: &FileReport) -> Option<u64> {
    offset_of(report.problems.first()?)
}

fn rule(report: &FileReport) -> Option<Rule> {
    match report.problems.first()? {
        Error::Image(ImageError::Format { invalid, .. }) => Some(invalid.rule),
        _ => None,
    }
}

/// A ZFile of many blocks in a tar, freshly written.
fn sample(scratch: &Scratch, settings: ZSettings) -> PathBuf {
    let original = scratch.file("original", &Random::new(20).text(3_000_000));
    let path = scratch.path("zfile.tar");
    compress(&original, path.clone(), Some(settings), Wrapper::Pax);
    path
}

#[test]
fn a_bad_block_is_found_wherever_it_is() {
    let scratch = Scratch::new();
    for algorithm in ALGORITHMS {
        let settings = ZSettings {
            algorithm,
            ..ZSettings::default()
        };
        let path = sample(&scratch, settings);
        let offsets = block_offsets(&path);
        let last = offsets.len() - 2;
        for block in [0, 1, 255, 256, 257, last - 1, last] {
            // A byte of the data, and one of the checksum.
            for at in [offsets[block], offsets[block + 1] - 1] {
                flip(&path, at);
                let report = check(&path);
                assert_eq!(first_bad(&report), Some(offsets[block]), "block {block}");
                let blocks = report.blocks.unwrap();
                assert_eq!((blocks.bad, blocks.listed[0].block), (1, block as u64));
                let problem = report.problems[0].to_string();
                let place = format!(
                    "1 of {} blocks are bad, the first at byte {}: block {block}: checksum",
                    last + 1,
                    offsets[block]
                );
                assert!(problem.contains(&place), "{problem}");
                flip(&path, at);
            }
        }
        assert!(check(&path).is_ok());
    }
}

#[test]
fn all_bad_blocks_are_counted() {
    let scratch = Scratch::new();
    let path = sample(&scratch, ZSettings::default());
    let offsets = block_offsets(&path);
    let bad: Vec<usize> = (5..offsets.len() - 1).step_by(7).collect();
    for block in &bad {
        flip(&path, offsets[*block] + 3);
    }
    let report = check(&path);
    assert_eq!(first_bad(&report), Some(offsets[5]));
    let blocks = report.blocks.unwrap();
    assert_eq!(blocks.bad, bad.len() as u64);
    let listed: Vec<_> = blocks.listed.iter().map(|bad| bad.block as usize).collect();
    assert_eq!(listed, bad[..16]);
}

/// Without checksums, decompression is all there is: it finds what breaks the format.
#[test]
fn blocks_without_checksums_have_to_decompress() {
    let scratch = Scratch::new();
    for algorithm in ALGORITHMS {
        let settings = ZSettings {
            algorithm,
            checksums: false,
            ..ZSettings::default()
        };
        let path = sample(&scratch, settings);
        let offsets = block_offsets(&path);
        let mut bytes = fs::read(&path).unwrap();
        let (from, to) = (offsets[9] as usize, offsets[10] as usize);
        bytes[from..to].fill(0xff);
        fs::write(&path, bytes).unwrap();
        let report = check(&path);
        assert_eq!(first_bad(&report), Some(offsets[9]));
        let problem = report.problems[0].to_string();
        assert!(
            problem.contains("block 9: does not decompress"),
            "{problem}"
        );
        assert!(!report.blocks.unwrap().checksums);
    }
}

#[test]
fn a_bad_block_breaks_reads_of_it_only() {
    let scratch = Scratch::new();
    let path = sample(&scratch, ZSettings::default());
    let offsets = block_offsets(&path);
    flip(&path, offsets[100] + 1);
    let source = extract::open(from_ref(&path), None).unwrap();
    let read = |from: usize, to: usize| {
        let mut bytes = vec![0; to - from];
        source.read_exact_at(from as u64, &mut bytes)
    };
    assert!(read(0, 100 * 4096).is_ok());
    assert!(read(101 * 4096, 3_000_000).is_ok());
    let error = read(100 * 4096 + 17, 100 * 4096 + 18)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("block 100 at byte {}", offsets[100])),
        "{error}"
    );
    // And nothing is left of an attempt to unpack all of it.
    let result = extract::to_file(&*source, scratch.path("out"), false, &Progress::hidden());
    assert!(result.is_err());
    assert!(
        !scratch.names().contains(&"out".to_owned()),
        "{:?}",
        scratch.names()
    );
}

#[test]
fn offsets_count_from_the_beginning_of_the_file() {
    let scratch = Scratch::new();
    let path = sample(
        &scratch,
        ZSettings {
            overwrite_header: false,
            ..ZSettings::default()
        },
    );
    let size = 1536 + Blob::open(&path).unwrap().wrapper().unwrap().length;
    let trailer = size - 512;
    let index = *block_offsets(&path).last().unwrap();
    for (at, rule_expected, place) in [
        (1536, Rule::ZfileMagic, 1536),
        (1536 + 300, Rule::ZfileDigest, 1536 + 28),
        (trailer + 9, Rule::ZfileTrailerMagic, trailer + 8),
        (trailer + 50, Rule::ZfileTrailerDigest, trailer + 28),
        (index + 40, Rule::ZfileIndexDigest, index),
    ] {
        flip(&path, at);
        let report = check(&path);
        // A header that is none makes the whole file unknown.
        if at == 1536 {
            assert!(matches!(
                report.problems[0],
                Error::Image(ImageError::Kind { .. })
            ));
        } else {
            assert_eq!(
                (rule(&report), first_bad(&report)),
                (Some(rule_expected), Some(place))
            );
        }
        flip(&path, at);
    }
}

#[test]
fn inspect_shows_what_is_sound_of_a_broken_file() {
    let scratch = Scratch::new();
    let path = sample(&scratch, ZSettings::default());
    let end = 1536 + Blob::open(&path).unwrap().wrapper().unwrap().length;
    let index = *block_offsets(&path).last().unwrap();
    for (at, header, trailer) in [
        (1536 + 300, false, true),
        (end - 100, true, false),
        (index, true, true),
    ] {
        flip(&path, at);
        let info = inspect(&path).unwrap();
        assert_eq!(info.kinds, ["tar", "zfile"]);
        assert!(info.problem.is_some());
        let zfile = info.zfile.unwrap();
        assert_eq!((zfile.algorithm, zfile.original_size), ("lz4", 3_000_000));
        assert_eq!(
            (zfile.header.is_some(), zfile.trailer.is_some()),
            (header, trailer)
        );
        assert!(zfile.blocks.is_none());
        flip(&path, at);
    }
    assert!(inspect(&path).unwrap().zfile.unwrap().blocks.is_some());
}

#[test]
fn cut_files_are_recognised() {
    let scratch = Scratch::new();
    let whole = fs::read(golden("ext4/layer1.zstd-32k.zfile.tar")).unwrap();
    for keep in [
        0,
        100,
        511,
        512,
        1535,
        1536,
        2047,
        100_000,
        whole.len() - 1536,
    ] {
        let path = scratch.file("cut", &whole[..keep]);
        let report = check(&path);
        assert!(!report.is_ok(), "{keep} bytes");
    }
    // Only what follows the payload is missing: that can be read.
    let path = scratch.file("cut", &whole[..whole.len() - 1024]);
    let report = check(&path);
    assert!(report.is_ok());
    assert_eq!(report.warnings.len(), 1, "{:?}", report.warnings);
}

#[test]
fn bytes_that_should_be_zero_are_a_warning() {
    let scratch = Scratch::new();
    let mut tar = fs::read(golden("tar/pat-zero.lz4-4k.tar")).unwrap();
    let last = tar.len() - 1;
    tar[last] = 1;
    let report = check(&scratch.file("tar", &tar));
    assert!(report.is_ok());
    assert!(
        report.warnings[0].contains(&format!("byte {last}")),
        "{:?}",
        report.warnings
    );
    let mut layer = fs::read(golden("lsmt/pat-overlap.lsmt")).unwrap();
    let trailer = layer.len() - 4096;
    layer[trailer + 1000] = 1;
    let report = check(&scratch.file("layer", &layer));
    assert!(report.is_ok());
    assert!(report.warnings[0].contains("byte 1000 of the layer's trailer"));
}

#[test]
fn a_broken_index_in_a_sound_zfile_is_found() {
    let scratch = Scratch::new();
    let mut layer = fs::read(golden("lsmt/pat-overlap.lsmt")).unwrap();
    let index = u64::from_le_bytes(layer[layer.len() - 4064..][..8].try_into().unwrap()) as usize;
    // The second entry begins where the first does.
    let first = layer[index..index + 8].to_vec();
    layer[index + 16..index + 24].copy_from_slice(&first);
    let bare = scratch.file("bare", &layer);
    let report = check(&bare);
    assert_eq!(rule(&report), Some(Rule::LsmtEntryOverlap));
    assert_eq!(first_bad(&report), Some(index as u64 + 16));
    let path = scratch.path("zfile");
    let content = ovbd::image::source::FileSource::open(&bare).unwrap();
    let target = super::support::target(path.clone(), Some(ZSettings::default()), Wrapper::None);
    ovbd::image::build::compress(&content, &target, &Progress::hidden()).unwrap();
    let report = check(&path);
    assert_eq!(rule(&report), Some(Rule::LsmtEntryOverlap));
    // Named by the block that it is in, and by its place in the content.
    let block = block_offsets(&path)[index / 4096];
    assert_eq!(first_bad(&report), Some(block));
    let problem = report.problems[0].to_string();
    let place = format!(
        "(decompressed, from byte {block} on): LSMT index entry 1 at byte {}",
        index + 16
    );
    assert!(problem.contains(&place), "{problem}");
}

#[test]
fn a_wrong_digest_is_the_problem_or_the_last_of_them() {
    let scratch = Scratch::new();
    let path = sample(&scratch, ZSettings::default());
    let wrong = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
    let verify = |path: &Path| ovbd::image::verify::verify(path, Some(wrong), &Progress::hidden());
    let report = verify(&path);
    assert!(matches!(
        report.problems[..],
        [Error::Image(ImageError::Digest { .. })]
    ));
    let offset = block_offsets(&path)[3];
    flip(&path, offset);
    let report = verify(&path);
    assert_eq!(first_bad(&report), Some(offset));
    assert_eq!(report.problems.len(), 2);
}

/// Whatever the bytes: an answer or an error, and no panic.
#[test]
fn damaged_files_do_no_harm() {
    let scratch = Scratch::new();
    let mut random = Random::new(21);
    for name in [
        "tar/pat-comb512.lz4-4k.tar",
        "lsmt/pat-comb512.zstd-4k.zfile",
        "lsmt/pat-oddvsize.lsmt",
        "rw/append.sealed",
        "zfile/mixed-lz4-16k-ow-nocrc.zfile",
        "zfile/b513-zstd-4k.zfile",
        "turbo/ext4.fs.meta",
    ] {
        let whole = fs::read(golden(name)).unwrap();
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(3) {
                // Headers and trailers are where it matters.
                let at = match random.below(4) {
                    0 => random.below(2200.min(bytes.len())),
                    1 => bytes.len() - 1 - random.below(4200.min(bytes.len())),
                    _ => random.below(bytes.len()),
                };
                match random.below(3) {
                    0 => bytes[at] = random.below(256) as u8,
                    1 => bytes[at] ^= 1 << random.below(8),
                    _ => bytes.truncate(at + 1),
                }
            }
            let path = scratch.file("damaged", &bytes);
            let report = check(&path);
            let _ = inspect(&path);
            if let Ok(source) = extract::open(&[path], None) {
                // A size that was changed to an enormous one is not worth unpacking.
                if source.size() < 64 << 20 {
                    let mut out = Vec::new();
                    let _ = extract::to_stream(&*source, &mut out, &Progress::hidden());
                }
            }
            drop(report);
        }
    }
}
