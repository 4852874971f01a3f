// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Every golden file decodes to its expected content, and our encoders write what
//! the reference wrote.

mod common;

use std::collections::BTreeMap;

use common::golden::{file, flatten, lsmt_of, manifest, sha256, unwrap_tar, unzip, Entry};
use common::{Std, SECTOR};
use overlaybd_format::blob::{Blob, Kind};
use overlaybd_format::lsmt::{self, user_tag, Layer, Uuid};
use overlaybd_format::zfile::{self, Algorithm, ZFile};
use overlaybd_format::{tar, Part};

/// Kinds of files that no test reads, and why.
const NOT_READ: &[&str] = &[
    // Expected content, known by its hash.
    "raw-expected-zstd",
    // Empty.
    "rw-sparse-index",
    "rw-cli-sparse-index",
    // Which parts of a sparse file are data: the file system's knowledge.
    "rw-sparse-extents",
    "rw-sparse-data-as-gnu-sparse-tar",
    // For ext4 on the device.
    "expected file tree of the 3-layer ext4 image",
    // gzip is not this crate's.
    "turboOCI target tar.gz",
    "turboOCI gzip index",
];

/// Files of the manifest whose kind is among `kinds`.
fn of_kind(kinds: &[&str]) -> Vec<Entry> {
    let all = manifest().into_iter();
    let found: Vec<_> = all.filter(|entry| kinds.contains(&&*entry.kind)).collect();
    assert!(!found.is_empty(), "no golden file of {kinds:?}");
    found
}

const ZFILES: &[&str] = &["zfile", "tar+zfile"];

const LAYERS: &[&str] = &[
    "lsmt",
    "lsmt-in-zfile",
    "tar+lsmt-in-zfile",
    "lsmt-sealed-in-place",
    "lsmt (overlaybd-commit -t without -z: no tar produced)",
];

const STACKS: &[&str] = &[
    "lsmt-stack-layer",
    "lsmt-in-zfile-stack-layer",
    "tar+lsmt-in-zfile-stack-layer",
];

const WRITABLE: &[&str] = &[
    "rw-append-data",
    "rw-append-index",
    "rw-cli-append-data",
    "rw-cli-append-index",
    "rw-sparse-data",
    "rw-sparse-data-first-8k",
];

const TURBO: &[&str] = &["turboOCI lsmt-warp", "turboOCI lsmt-warp-in-zfile"];

/// No file of the manifest is forgotten, or has changed.
#[test]
fn all_files_are_covered() {
    let covered = [ZFILES, LAYERS, STACKS, WRITABLE, TURBO, NOT_READ].concat();
    for entry in manifest() {
        assert!(
            covered.contains(&&*entry.kind),
            "{}: {}",
            entry.name,
            entry.kind
        );
        assert_eq!(sha256(&file(&entry.name)), entry.sha256, "{}", entry.name);
    }
}

#[test]
fn zfiles_decode() {
    for entry in of_kind(ZFILES) {
        let blob = file(&entry.name);
        let (kind, payload) = unwrap_tar(&blob);
        assert_eq!(kind, Kind::Zfile);
        let content = unzip(payload);
        assert_eq!(Some(sha256(&content)), entry.raw_sha256, "{}", entry.name);
        check_params(&entry, payload);
    }
}

/// The fields are what the reference was told to write.
fn check_params(entry: &Entry, payload: &[u8]) {
    let zfile = ZFile::<Std>::open(payload, payload.len() as u64)
        .ok()
        .unwrap();
    let params = &entry.params;
    assert_eq!(params["algo"], zfile.algorithm().name(), "{}", entry.name);
    assert_eq!(params["block_size"], zfile.block_size(), "{}", entry.name);
    assert_eq!(params["verify"], u8::from(zfile.verify()), "{}", entry.name);
    let overwritten = u8::from(zfile.header().is_overwritten());
    assert_eq!(params["header_overwrite"], overwritten, "{}", entry.name);
}

#[test]
fn single_layers_decode() {
    for entry in of_kind(LAYERS) {
        let disk = flatten(&[lsmt_of(&file(&entry.name))]);
        assert_eq!(Some(sha256(&disk)), entry.raw_sha256, "{}", entry.name);
    }
}

/// Each layer of a stack, with all of the same form below it.
#[test]
fn stacks_decode() {
    let mut stacks: BTreeMap<_, BTreeMap<u64, Entry>> = BTreeMap::new();
    for entry in of_kind(STACKS) {
        let (folder, name) = entry.name.split_once('/').unwrap();
        let form = name.replace(|c: char| c.is_ascii_digit(), "");
        let position = entry.params["stack_position"].as_u64().unwrap();
        stacks
            .entry((folder.to_string(), form))
            .or_default()
            .insert(position, entry);
    }
    assert_eq!(stacks.len(), 5);
    for stack in stacks.values() {
        let files: Vec<_> = stack
            .values()
            .map(|entry| lsmt_of(&file(&entry.name)))
            .collect();
        assert_eq!(files.len(), 3);
        for (top, entry) in stack.values().enumerate() {
            let disk = flatten(&files[..=top]);
            assert_eq!(Some(sha256(&disk)), entry.raw_sha256, "{}", entry.name);
        }
    }
}

/// The reference's names and tags, and the parents of a stack.
#[test]
fn layers_have_their_names() {
    for entry in of_kind(&[LAYERS, STACKS].concat()) {
        let file = lsmt_of(&file(&entry.name));
        let layer = Layer::<Std>::open(&file[..], file.len() as u64)
            .ok()
            .unwrap();
        let params = &entry.params;
        let uuid = |key: &str| params[key].as_str().and_then(Uuid::parse);
        if !params["uuid"].is_null() {
            assert_eq!(layer.uuid(), uuid("uuid"), "{}", entry.name);
        }
        if !params["parent_uuid"].is_null() {
            assert_eq!(layer.parent_uuid(), uuid("parent_uuid"), "{}", entry.name);
        }
        if let Some(tag) = params["user_tag"].as_str() {
            assert_eq!(layer.user_tag(), tag.as_bytes(), "{}", entry.name);
        }
    }
}

/// Headers of writable layers, and the content of the append-only ones: later
/// entries win.
#[test]
fn writable_layers_parse() {
    for entry in of_kind(WRITABLE) {
        let record = file(&entry.name);
        let header = lsmt::Header::parse(record[..512].try_into().unwrap(), 0, Part::Header);
        let header = header.unwrap();
        assert_eq!(
            header.is_data(),
            entry.kind.contains("data"),
            "{}",
            entry.name
        );
        assert_eq!(
            header.flags & lsmt::flag::SPARSE != 0,
            entry.kind.contains("sparse")
        );
        assert!(!header.is_sealed());
        let open = Layer::<Std>::open(&record[..], record.len() as u64);
        assert!(open.is_err(), "{}", entry.name);
    }
    for entry in of_kind(&["rw-append-data"]) {
        let disk = append_only(&entry);
        assert_eq!(Some(sha256(&disk)), entry.raw_sha256, "{}", entry.name);
    }
}

/// The disk of an append-only layer over its lower ones.
fn append_only(entry: &Entry) -> Vec<u8> {
    let data = file(&entry.name);
    let index = file(&entry.name.replace(".data", ".index"));
    let lowers = entry.params["lowers"].as_array().into_iter().flatten();
    let lowers: Vec<_> = lowers
        .map(|name| lsmt_of(&file(name.as_str().unwrap())))
        .collect();
    let mut disk = match &lowers[..] {
        [] => Vec::new(),
        lowers => flatten(lowers),
    };
    let header = lsmt::Header::parse(data[..512].try_into().unwrap(), 0, Part::Header).unwrap();
    disk.resize(header.virtual_size as usize, 0);
    for bytes in index[4096..].chunks_exact(16) {
        let entry = lsmt::Entry::decode(bytes.try_into().unwrap());
        if !entry.is_padding() {
            let to = &mut disk[entry.start() as usize * SECTOR..][..entry.len() as usize * SECTOR];
            if entry.zeroed() {
                to.fill(0);
            } else {
                to.copy_from_slice(&data[entry.moffset() as usize * SECTOR..][..to.len()]);
            }
        }
    }
    disk
}

/// Layers that point into a second file parse by their parts; only who knows them
/// for what they are can map them.
#[test]
fn turbo_layers_parse() {
    for entry in of_kind(TURBO) {
        let blob = file(&entry.name);
        let layer = lsmt_of(&blob);
        let at = layer.len() - 4096;
        let trailer = layer[at..at + 512].try_into().unwrap();
        let trailer = lsmt::Header::parse(trailer, at as u64, Part::Trailer).unwrap();
        let begin = trailer.index_offset as usize;
        let index = &layer[begin..begin + 16 * trailer.index_size as usize];
        let entries = index.chunks_exact(16);
        let entries: Vec<_> = entries
            .map(|e| lsmt::Entry::decode(e.try_into().unwrap()))
            .collect();
        let tags = |tag| entries.iter().filter(|entry| entry.tag() == tag).count();
        assert!(tags(0) > 0 && tags(1) > 0);
        assert_eq!(tags(0) + tags(1), entries.len());
    }
}

/// Header and trailer of every ZFile, from their fields alone.
#[test]
fn zfile_records_encode_alike() {
    for entry in of_kind(&[ZFILES, &["lsmt-in-zfile"]].concat()) {
        let blob = file(&entry.name);
        let (_, bytes) = unwrap_tar(&blob);
        let zfile = ZFile::<Std>::open(bytes, bytes.len() as u64).ok().unwrap();
        let new = zfile::Header::new(zfile.algorithm(), zfile.block_size(), zfile.verify());
        let index = zfile.table().end();
        let end = bytes.len() - 512;
        let crc = <Std as overlaybd_format::Platform>::crc32c(0, &bytes[index as usize..end]);
        let trailer = new.trailer(index, zfile.block_count(), zfile.original_size(), crc);
        let header = if zfile.header().is_overwritten() {
            zfile::Header::overwritten(&trailer)
        } else {
            new
        };
        assert_eq!(header.encode::<Std>(), bytes[..512], "{}", entry.name);
        assert_eq!(trailer.encode::<Std>(), bytes[end..], "{}", entry.name);
    }
}

/// Header, index and trailer of every committed layer.
#[test]
fn lsmt_records_encode_alike() {
    for entry in of_kind(&["lsmt", "lsmt-stack-layer"]) {
        let bytes = file(&entry.name);
        let layer = Layer::<Std>::open(&bytes[..], bytes.len() as u64)
            .ok()
            .unwrap();
        let end = bytes.len() - 4096;
        let tag = user_tag(bytes[..512].try_into().unwrap());
        let (uuid, parent) = (layer.uuid(), layer.parent_uuid());
        let header = lsmt::Header::sealed(layer.virtual_size(), uuid, parent);
        let trailer = header.trailer(layer.index_offset(), layer.trailer().index_size);
        assert_eq!(header.encode(tag), bytes[..4096], "{}", entry.name);
        assert_eq!(
            trailer.encode(layer.user_tag()),
            bytes[end..],
            "{}",
            entry.name
        );
        let padding = std::iter::repeat(&lsmt::Entry::PADDING);
        let entries = layer.entries().iter().chain(padding);
        let index: Vec<_> = entries
            .flat_map(lsmt::Entry::encode)
            .take(16 * layer.trailer().index_size as usize)
            .collect();
        assert_eq!(
            index,
            bytes[layer.index_offset() as usize..end],
            "{}",
            entry.name
        );
    }
}

/// What the reference puts around a payload.
#[test]
fn wrappers_encode_alike() {
    for entry in of_kind(&[
        "tar+zfile",
        "tar+lsmt-in-zfile",
        "tar+lsmt-in-zfile-stack-layer",
    ]) {
        let bytes = file(&entry.name);
        let blob = Blob::detect(&bytes[..], bytes.len() as u64).unwrap();
        assert!(blob.wrapped);
        let length = blob.payload.length;
        assert_eq!(tar::encode_pax(length), bytes[..1536], "{}", entry.name);
        let end = 1536 + length as usize;
        assert_eq!(bytes.len() - end, tar::padding(length), "{}", entry.name);
        assert!(bytes[end..].iter().all(|&byte| byte == 0), "{}", entry.name);
    }
}

/// Incompressible blocks of 64 KiB take more than 64 KiB, and are read all the same.
#[test]
fn incompressible_blocks_are_long() {
    let bytes = file("zfile/rand-lz4-64k.zfile");
    let zfile = ZFile::<Std>::open(&bytes[..], bytes.len() as u64)
        .ok()
        .unwrap();
    let first = zfile.table().extent(0..1);
    assert!(first.end - first.start > 65536);
    assert_eq!(zfile.algorithm(), Algorithm::Lz4);
}
