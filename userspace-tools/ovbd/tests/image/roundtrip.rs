// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is compressed and wrapped comes back, in every form.

use std::fs;
use std::slice::from_ref;

use ovbd::image::extract::{self, Depth};
use ovbd::image::output::Wrapper;
use ovbd::image::zwriter::ZSettings;

use super::support::{check, compress, unpacked, Random, Scratch, ALGORITHMS, WRAPPERS};

/// Contents of every awkward length.
fn contents() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let mut contents = vec![Vec::new(), vec![0], vec![7], vec![0; 300_000]];
    for length in [
        511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 200_001,
    ] {
        contents.push(random.text(length));
        contents.push(random.bytes(length));
    }
    // Several batches.
    contents.push(random.disk(9_500_001));
    contents
}

/// All ways to write a ZFile.
fn settings() -> Vec<ZSettings> {
    let mut all = Vec::new();
    for algorithm in ALGORITHMS {
        for block_size in [4096, 8192, 16384, 32768, 65536] {
            for (checksums, overwrite_header) in [(true, true), (false, false)] {
                all.push(ZSettings {
                    algorithm,
                    block_size,
                    checksums,
                    overwrite_header,
                });
            }
        }
    }
    all
}

#[test]
fn contents_come_back_in_every_form() {
    let scratch = Scratch::new();
    for content in contents() {
        let original = scratch.file("original", &content);
        for (number, settings) in settings().into_iter().enumerate() {
            let wrapper = WRAPPERS[number % WRAPPERS.len()];
            let path = scratch.path("zfile");
            let written = compress(&original, path.clone(), Some(settings), wrapper);
            assert_eq!(written.size, fs::metadata(&path).unwrap().len());
            let what = format!("{} bytes, {settings:?}, {wrapper:?}", content.len());
            let report = check(&path);
            assert!(report.is_ok(), "{what}: {:?}", report.problems);
            assert!(report.warnings.is_empty(), "{what}: {:?}", report.warnings);
            let blocks = report.blocks.unwrap();
            assert_eq!(
                blocks.count,
                content.len().div_ceil(settings.block_size as usize) as u64
            );
            assert_eq!(blocks.checksums, settings.checksums);
            assert!(unpacked(&[path]) == content, "{what}");
        }
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let scratch = Scratch::new();
    let original = scratch.file("original", &Random::new(2).disk(6_000_000));
    let mut digests = Vec::new();
    for threads in [1, 2, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let out = scratch.path("out");
        let written = pool
            .unwrap()
            .install(|| compress(&original, out, Some(ZSettings::default()), Wrapper::None));
        digests.push(written.digest);
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn any_part_of_a_zfile_can_be_read() {
    let scratch = Scratch::new();
    let mut random = Random::new(3);
    let content = random.disk(2_500_003);
    let original = scratch.file("original", &content);
    for settings in settings() {
        let path = scratch.path("zfile");
        compress(&original, path.clone(), Some(settings), Wrapper::Pax);
        let source = extract::open(&[path], Some(Depth::Content)).unwrap();
        assert_eq!(source.size(), content.len() as u64);
        for _ in 0..200 {
            let from = random.below(content.len());
            let length = match random.below(4) {
                0 => random.below(1_200_000),
                1 => random.below(70_000),
                _ => random.below(600),
            };
            let length = length.min(content.len() - from);
            let mut bytes = vec![0xa5; length];
            source.read_exact_at(from as u64, &mut bytes).unwrap();
            assert!(
                bytes == content[from..from + length],
                "{from}+{length}, {settings:?}"
            );
        }
        let beyond = source.read_exact_at(content.len() as u64 - 1, &mut [0; 2]);
        assert!(beyond.is_err());
    }
}

#[test]
fn unpacking_stops_where_it_is_told() {
    let scratch = Scratch::new();
    let layer = super::support::golden("lsmt/pat-oddvsize.lsmt");
    let path = scratch.path("wrapped");
    let settings = Some(ZSettings::default());
    compress(&layer, path.clone(), settings, Wrapper::Ustar);
    let at = |depth| {
        let source = extract::open(from_ref(&path), Some(depth)).unwrap();
        let mut bytes = vec![0; source.size() as usize];
        source.read_exact_at(0, &mut bytes).unwrap();
        bytes
    };
    assert!(at(Depth::Content) == fs::read(&layer).unwrap());
    assert!(at(Depth::Disk) == unpacked(from_ref(&layer)));
    let bare = scratch.path("bare");
    compress(&layer, bare.clone(), settings, Wrapper::None);
    assert!(at(Depth::Blob) == fs::read(&bare).unwrap());
    assert!(extract::open(&[path, bare], Some(Depth::Content)).is_err());
}

#[test]
fn a_foreign_tar_is_compressed_as_it_is() {
    let scratch = Scratch::new();
    // A tar with something else in it, and one of two members.
    let header = overlaybd_format::tar::encode_ustar(3).unwrap();
    let mut tar = header.to_vec();
    tar.extend_from_slice(b"abc");
    tar.resize(512 * 4, 0);
    let original = scratch.file("foreign.tar", &tar);
    let path = scratch.path("zfile");
    compress(
        &original,
        path.clone(),
        Some(ZSettings::default()),
        Wrapper::None,
    );
    assert!(unpacked(&[path]) == tar);
}
