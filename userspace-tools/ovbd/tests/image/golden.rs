// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files that the reference tools wrote: we read them as they do, and write the same.

use std::fs;
use std::path::Path;

use ovbd::image::blob::Blob;
use ovbd::image::inspect::inspect;
use ovbd::image::layer::{LayerSettings, LayerWriter};
use ovbd::image::output::Wrapper;
use ovbd::image::stack::Stack;
use ovbd::image::verify::verify;
use ovbd::image::zwriter::ZSettings;
use ovbd::image::ImageError;
use ovbd::output::Progress;
use ovbd::Error;
use overlaybd_format::lsmt::Uuid;
use overlaybd_format::zfile::Algorithm;

use super::support::{check, compress, golden, manifest, sealed, unpacked, unzstd, Scratch};

/// What `inspect` must call a file of this kind.
fn kinds(kind: &str) -> &'static [&'static str] {
    let (tar, zfile) = (kind.starts_with("tar+"), kind.contains("zfile"));
    let lsmt = kind.contains("lsmt");
    match (tar && !kind.contains("no tar"), zfile, lsmt) {
        (true, true, true) => &["tar", "zfile", "lsmt"],
        (true, true, false) => &["tar", "zfile"],
        (false, true, true) => &["zfile", "lsmt"],
        (false, true, false) => &["zfile"],
        (false, false, true) => &["lsmt"],
        _ => panic!("{kind}"),
    }
}

#[test]
fn every_sealed_file_passes_verification_with_its_digest() {
    for file in sealed() {
        let digest = format!("sha256:{}", file.sha256).parse().unwrap();
        let report = verify(&file.path(), Some(digest), &Progress::hidden());
        assert!(report.is_ok(), "{}: {:?}", file.name, report.problems);
        assert_eq!(report.digest, Some(digest));
        assert_eq!(report.size, file.size);
        let without_zfile = file.kind.replace("without -z", "");
        assert_eq!(
            report.kinds,
            kinds(&without_zfile.replace("-t", "")),
            "{}",
            file.name
        );
        assert!(
            report.warnings.is_empty(),
            "{}: {:?}",
            file.name,
            report.warnings
        );
    }
}

#[test]
fn every_sealed_file_unpacks_to_its_content() {
    for file in sealed() {
        if file.raw_file.is_some() {
            assert!(unpacked(&file.layers()) == file.raw(), "{}", file.name);
        }
    }
}

#[test]
fn inspect_shows_what_the_files_were_made_with() {
    for file in sealed() {
        let info = inspect(&file.path()).unwrap();
        assert_eq!(info.problem, None, "{}", file.name);
        assert_eq!(info.size, file.size);
        if let Some(zfile) = &info.zfile {
            if let Some(algorithm) = file.param("algo") {
                assert_eq!(zfile.algorithm, algorithm, "{}", file.name);
            }
            if let Some(size) = file.number("block_size") {
                assert_eq!(u64::from(zfile.block_size), size, "{}", file.name);
            }
            if let Some(verify) = file.number("verify") {
                assert_eq!(u64::from(zfile.checksums), verify, "{}", file.name);
            }
            if let Some(overwritten) = file.number("header_overwrite") {
                let header = zfile.header.as_ref().unwrap();
                let flagged = header.flag_names.iter().any(|n| n == "overwritten");
                assert_eq!(u64::from(flagged), overwritten, "{}", file.name);
            }
        }
        if let Some(lsmt) = &info.lsmt {
            let trailer = lsmt.trailer.as_ref().unwrap();
            assert_eq!(
                Some(trailer.virtual_size),
                file.virtual_size,
                "{}",
                file.name
            );
            if let Some(uuid) = file.param("uuid") {
                let shown = trailer.uuid.as_deref();
                assert_eq!(shown.map(Uuid::parse), Some(Uuid::parse(uuid)));
            }
            if let Some(tag) = file.param("user_tag") {
                if trailer.user_tag.len() < 256 {
                    assert_eq!(trailer.user_tag, tag, "{}", file.name);
                }
            }
        }
    }
}

#[test]
fn other_files_are_named_and_refused() {
    for file in manifest() {
        let known = match file.kind.as_str() {
            kind if kind.starts_with("rw-") => kind.ends_with("data") || kind.ends_with("-8k"),
            kind if kind.starts_with("turboOCI lsmt") => true,
            kind if kind.contains("lsmt") || kind.contains("zfile") => continue,
            _ => false,
        };
        let info = inspect(&file.path()).unwrap();
        let lsmt = info.lsmt.is_some();
        assert!(lsmt || !known, "{}: {info:?}", file.name);
        let report = check(&file.path());
        let [problem] = &report.problems[..] else {
            panic!("{}: {:?}", file.name, report.problems);
        };
        assert!(
            matches!(problem, Error::Image(ImageError::Kind { .. })),
            "{}: {problem}",
            file.name
        );
    }
}

#[test]
fn writable_layers_are_told_apart() {
    for (name, state) in [
        ("rw/append.data", "data file of a writable layer"),
        ("rw/append.index", "index file of a writable layer"),
        ("rw/sparse.data", "sparse writable layer"),
        ("rw/sparse.sealed", "sealed in place"),
        ("rw/append.commit.lsmt", "sealed"),
        ("turbo/ext4.fs.meta.lsmt", "broken"),
    ] {
        let info = inspect(&golden(name)).unwrap();
        assert_eq!(info.lsmt.unwrap().state, state, "{name}");
    }
    let turbo = inspect(&golden("turbo/ext4.fs.meta")).unwrap();
    assert!(turbo.problem.unwrap().contains("points into an OCI tar"));
}

#[test]
fn parents_that_do_not_fit_are_a_warning() {
    let layers = |names: [&str; 2]| names.map(golden).to_vec();
    let right = Stack::open(&layers(["lsmt/stack0.lsmt", "lsmt/stack1.zfile"])).unwrap();
    assert!(right.warnings().is_empty());
    let wrong = Stack::open(&layers(["lsmt/stack0.lsmt", "lsmt/stack2.lsmt"])).unwrap();
    let [warning] = &wrong.warnings()[..] else {
        panic!("{:?}", wrong.warnings());
    };
    assert!(
        warning.contains("000000000401") && warning.contains("000000000400"),
        "{warning}"
    );
}

/// How a golden ZFile was made.
fn settings(name: &str, algorithm: Algorithm, block_size: u64) -> ZSettings {
    ZSettings {
        algorithm,
        block_size: block_size as u32,
        checksums: !name.contains("nocrc"),
        // Written by several threads, the reference overwrites the header, too.
        overwrite_header: name.contains("-ow") || name.contains("-mt"),
    }
}

/// LZ4 is the same library, and everything around the blocks is determined.
#[test]
fn lz4_zfiles_are_byte_for_byte_those_of_the_reference() {
    let scratch = Scratch::new();
    let mut count = 0;
    for file in manifest() {
        let is_plain = matches!(file.kind.as_str(), "zfile" | "tar+zfile");
        if !is_plain || file.param("algo") != Some("lz4") {
            continue;
        }
        let raw = scratch.file("raw", &file.raw());
        let settings = settings(
            &file.name,
            Algorithm::Lz4,
            file.number("block_size").unwrap(),
        );
        let wrapper = match file.kind.as_str() {
            "zfile" => Wrapper::None,
            _ => Wrapper::Pax,
        };
        let written = compress(&raw, scratch.path("out"), Some(settings), wrapper);
        assert_eq!(
            written.digest.to_string(),
            format!("sha256:{}", file.sha256),
            "{}",
            file.name
        );
        assert_eq!(written.size, file.size);
        count += 1;
    }
    assert_eq!(count, 34);
}

/// zstd's output depends on its version: the layout is the same, the sizes nearly.
#[test]
fn zstd_zfiles_are_laid_out_as_those_of_the_reference() {
    let scratch = Scratch::new();
    for file in manifest() {
        if file.kind != "zfile" || file.param("algo") != Some("zstd") {
            continue;
        }
        let raw = scratch.file("raw", &file.raw());
        let settings = settings(
            &file.name,
            Algorithm::Zstd,
            file.number("block_size").unwrap(),
        );
        let path = scratch.path("out");
        compress(&raw, path.clone(), Some(settings), Wrapper::None);
        let ours = inspect(&path).unwrap().zfile.unwrap();
        let theirs = inspect(&file.path()).unwrap().zfile.unwrap();
        let fields = |info: &ovbd::image::inspect::ZfileInfo| {
            let records = [&info.header, &info.trailer].map(|record| {
                let r = record.clone().unwrap();
                (
                    r.flags,
                    r.index_size,
                    r.original_size,
                    r.block_size,
                    r.algorithm,
                    r.level,
                    r.verify,
                )
            });
            (records, info.blocks.as_ref().unwrap().count)
        };
        assert_eq!(fields(&ours), fields(&theirs), "{}", file.name);
        let limit = theirs.size + theirs.size / 50 + 64;
        assert!(ours.size <= limit, "{}: {} > {limit}", file.name, ours.size);
        assert!(unpacked(&[path]) == file.raw(), "{}", file.name);
    }
}

/// A commit is determined by what it commits.
#[test]
fn layers_are_byte_for_byte_those_of_the_reference() {
    let mut count = 0;
    for file in sealed() {
        // Those sealed in place and merged ones are laid out in their own ways.
        if !file.kind.starts_with("lsmt")
            || file.kind.contains("zfile") && !file.kind.contains("without -z")
            || file.kind.contains("in-place")
            || file.name.contains("merged")
        {
            continue;
        }
        let original = fs::read(file.path()).unwrap();
        assert!(
            rewritten(&file.path(), &original) == original,
            "{}",
            file.name
        );
        count += 1;
    }
    assert_eq!(count, 15);
}

/// Writes the layer in `path` again, entry by entry.
fn rewritten(path: &Path, original: &[u8]) -> Vec<u8> {
    let layer = Blob::open(path).unwrap().layer().unwrap();
    let settings = LayerSettings {
        virtual_size: layer.virtual_size(),
        uuid: layer.uuid(),
        parent_uuid: layer.parent_uuid(),
        tag: layer.user_tag().to_vec(),
    };
    let mut writer = LayerWriter::new(Vec::new(), settings).unwrap();
    for entry in layer.entries() {
        if entry.zeroed() {
            writer.zeros(entry.start(), entry.len()).unwrap();
        } else {
            let from = entry.moffset() as usize * 512;
            let bytes = &original[from..from + entry.len() as usize * 512];
            writer.data(entry.start(), bytes).unwrap();
        }
    }
    writer.finish().unwrap().0
}

/// What `overlaybd-commit -z` does: the layer, compressed, with the header overwritten.
#[test]
fn compressed_layers_are_byte_for_byte_those_of_the_reference() {
    let scratch = Scratch::new();
    for (layer, zfile, block_size) in [
        (
            "lsmt/pat-overlap.lsmt",
            "lsmt/pat-overlap.lz4-4k.zfile",
            4096,
        ),
        (
            "lsmt/pat-overlap.lsmt",
            "lsmt/pat-overlap.lz4-64k.zfile",
            65536,
        ),
        ("lsmt/pat-zero.lsmt", "lsmt/pat-zero.lz4-4k.zfile", 4096),
        ("lsmt/stack0.lsmt", "lsmt/stack0.zfile", 4096),
        ("lsmt/stack2.lsmt", "lsmt/stack2.zfile", 65536),
        ("ext4/layer0.lsmt", "ext4/layer0.lz4.zfile", 4096),
        ("ext4/layer1.lsmt", "ext4/layer1.lz4.zfile", 4096),
        ("rw/append.commit.lsmt", "rw/append.commit.zfile", 4096),
    ] {
        let settings = ZSettings {
            block_size,
            ..ZSettings::default()
        };
        let path = scratch.path("out");
        compress(&golden(layer), path.clone(), Some(settings), Wrapper::None);
        assert!(
            fs::read(&path).unwrap() == fs::read(golden(zfile)).unwrap(),
            "{zfile}"
        );
        // Unpacked and compressed again, it is the same.
        compress(&golden(zfile), path.clone(), Some(settings), Wrapper::None);
        assert!(
            fs::read(&path).unwrap() == fs::read(golden(zfile)).unwrap(),
            "{zfile}"
        );
    }
}

#[test]
fn a_stack_reads_like_the_reference_s_own_merge() {
    let layers = [0, 1, 2].map(|n| golden(&format!("lsmt/stack{n}.lsmt")));
    let merged = unpacked(&layers);
    assert!(merged == unzstd(&golden("raw/stack-merged2.raw.zst")));
    assert!(merged == unpacked(&[golden("lsmt/stack-merged.zfile")]));
}
