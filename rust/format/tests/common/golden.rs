// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files that the reference tools wrote, and the content each decodes to.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use overlaybd_format::blob::{Blob, Kind};
use overlaybd_format::lsmt::Layer;
use overlaybd_format::map::{Map, Target};
use overlaybd_format::zfile::{block_crc, Algorithm, ZFile, BLOCK_CRC_LEN};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Std, SECTOR};

/// The folder with the golden files: `OVBD_GOLDEN`, or `shared/golden` beside the
/// checkout.
fn folder() -> PathBuf {
    let named = env::var_os("OVBD_GOLDEN").filter(|folder| !folder.is_empty());
    named.map_or_else(
        || {
            PathBuf::from(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../../../shared/golden"
            ))
        },
        PathBuf::from,
    )
}

/// The bytes of a golden file.
pub fn file(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What the manifest says of a file.
pub struct Entry {
    pub name: String,
    pub kind: String,
    pub sha256: String,
    /// SHA-256 of the content, where there is one.
    pub raw_sha256: Option<String>,
    pub params: Value,
}

/// All entries of the manifest.
pub fn manifest() -> Vec<Entry> {
    let manifest: Value = serde_json::from_slice(&file("manifest.json")).unwrap();
    let text = |value: &Value| value.as_str().map(String::from);
    let entry = |value: &Value| Entry {
        name: text(&value["name"]).unwrap(),
        kind: text(&value["kind"]).unwrap(),
        sha256: text(&value["sha256"]).unwrap(),
        raw_sha256: text(&value["raw_sha256"]),
        params: value["params"].clone(),
    };
    manifest["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(entry)
        .collect()
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The payload of a blob, out of its tar wrapper.
pub fn unwrap_tar(blob: &[u8]) -> (Kind, &[u8]) {
    let found = Blob::detect(blob, blob.len() as u64).unwrap();
    let range =
        found.payload.offset as usize..(found.payload.offset + found.payload.length) as usize;
    (found.kind, &blob[range])
}

/// Decompresses a ZFile, and checks its block CRCs.
pub fn unzip(bytes: &[u8]) -> Vec<u8> {
    let zfile = ZFile::<Std>::open(bytes, bytes.len() as u64).unwrap();
    let mut content = Vec::new();
    for block in 0..zfile.block_count() {
        let extent = zfile.table().extent(block..block + 1);
        let mut payload = &bytes[extent.start as usize..extent.end as usize];
        if zfile.verify() {
            let (data, crc) = payload.split_at(payload.len() - BLOCK_CRC_LEN as usize);
            assert_eq!(crc, block_crc::<Std>(data).to_le_bytes(), "block {block}");
            payload = data;
        }
        let len = zfile.block_len(block) as usize;
        let data = match zfile.algorithm() {
            Algorithm::Lz4 => lz4::block::decompress(payload, Some(len as i32)).unwrap(),
            Algorithm::Zstd => zstd::bulk::decompress(payload, len).unwrap(),
        };
        assert_eq!(data.len(), len, "block {block}");
        content.extend(data);
    }
    assert_eq!(content.len() as u64, zfile.original_size());
    content
}

/// The LSMT file in a blob, out of tar wrapper and ZFile.
pub fn lsmt_of(blob: &[u8]) -> Vec<u8> {
    match unwrap_tar(blob) {
        (Kind::Zfile, payload) => unzip(payload),
        (Kind::Lsmt, payload) => payload.to_vec(),
    }
}

/// The disk that a stack of LSMT files makes, bottom first.
pub fn flatten(files: &[Vec<u8>]) -> Vec<u8> {
    let open = |file: &Vec<u8>| Layer::<Std>::open(&file[..], file.len() as u64).unwrap();
    let layers: Vec<_> = files.iter().map(open).collect();
    let sizes = layers.iter().map(Layer::virtual_size);
    let size = overlaybd_format::map::virtual_size(sizes).unwrap();
    let map = Map::<Std>::build(&layers, size).unwrap();
    let mut disk = vec![0; size as usize * SECTOR];
    for extent in map.iter() {
        let Target::Data { layer, sector } = extent.target else {
            continue;
        };
        let len = extent.len as usize * SECTOR;
        let (from, to) = (sector as usize * SECTOR, extent.start as usize * SECTOR);
        disk[to..to + len].copy_from_slice(&files[usize::from(layer)][from..from + len]);
    }
    disk
}
