// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Makes the disk of golden files; runs on the build machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use ovbd::image::blob::{Blob, Shape as BlobShape};
use ovbd::image::source::Source;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Entry, Extent, Index, Shape, HEAD, MAGIC, MARKER};
use crate::ctx::SECTOR;

/// Contents longer than this stay outside: no test reads them.
const CONTENT_MAX: u64 = 256 << 20;
/// Room for the index.
const INDEX_ROOM: u64 = 1 << 20;
/// What the largest window of the reference's zstd files needs.
const WINDOW_LOG: u32 = 27;

#[derive(Deserialize)]
struct Manifest {
    files: Vec<Described>,
}

/// A file in the manifest.
#[derive(Deserialize)]
struct Described {
    name: String,
    kind: String,
    raw_file: Option<String>,
    raw_size: Option<u64>,
    raw_sha256: Option<String>,
    #[serde(default)]
    params: Params,
}

#[derive(Default, Deserialize)]
struct Params {
    stack_position: Option<usize>,
}

/// Packs the golden files in `dir` into the disk image `out`.
pub fn pack(dir: &Path, out: &Path) -> Result<()> {
    let path = dir.join("manifest.json");
    let manifest = fs::read(&path).with_context(|| path.display().to_string())?;
    let manifest: Manifest = serde_json::from_slice(&manifest).context("manifest.json")?;
    let mut disk = Disk::create(out)?;
    let mut contents = BTreeMap::new();
    let mut entries = Vec::new();
    for file in &manifest.files {
        if file.kind.starts_with("raw-") {
            continue;
        }
        entries.push(add_file(&mut disk, dir, file)?);
        if let (Some(name), Some(size)) = (&file.raw_file, file.raw_size) {
            if size <= CONTENT_MAX && !contents.contains_key(name) {
                contents.insert(name.clone(), add_content(&mut disk, dir, name, file)?);
            }
        }
    }
    let contents = contents.into_iter().collect();
    disk.finish(&Index { entries, contents })
}

fn add_file(disk: &mut Disk, dir: &Path, file: &Described) -> Result<Entry> {
    let path = dir.join(&file.name);
    let extent = disk.add(&fs::read(&path).with_context(|| path.display().to_string())?)?;
    let blob = Blob::open(&path)?;
    let payload = match blob.wrapper() {
        Some(payload) => Extent {
            sector: extent.sector + payload.offset / SECTOR,
            length: payload.length,
        },
        None => extent,
    };
    let shape = match blob.shape() {
        BlobShape::Lsmt => Shape::Lsmt,
        BlobShape::Zfile(zfile) => Shape::Zfile(zfile.size()),
        BlobShape::Plain(_) => Shape::Other,
    };
    Ok(Entry {
        name: file.name.clone(),
        kind: file.kind.clone(),
        file: extent,
        payload,
        shape,
        content: file.raw_file.clone().zip(file.raw_size),
        position: file.params.stack_position,
    })
}

fn add_content(disk: &mut Disk, dir: &Path, name: &str, file: &Described) -> Result<Extent> {
    let path = dir.join(name);
    let packed = File::open(&path).with_context(|| path.display().to_string())?;
    let mut decoder = zstd::Decoder::new(packed)?;
    decoder.window_log_max(WINDOW_LOG)?;
    let mut bytes = Vec::new();
    std::io::copy(&mut decoder, &mut bytes).with_context(|| path.display().to_string())?;
    let digest = Sha256::digest(&bytes);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(
        file.raw_sha256.as_ref() == Some(&digest),
        "{}: its SHA-256 is {digest}, the manifest says otherwise",
        path.display()
    );
    disk.add(&bytes)
}

/// The disk while it is written.
struct Disk {
    out: BufWriter<File>,
    sector: u64,
}

impl Disk {
    fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut out = BufWriter::new(file);
        out.write_all(&vec![0; usize::try_from(INDEX_ROOM)?])?;
        Ok(Self {
            out,
            sector: INDEX_ROOM / SECTOR,
        })
    }

    /// Adds bytes at the next free sector, and the marker behind them: to the end of the last
    /// sector, and an odd number of sectors, so that files begin at any place within a page.
    fn add(&mut self, bytes: &[u8]) -> Result<Extent> {
        let extent = Extent {
            sector: self.sector,
            length: bytes.len() as u64,
        };
        let sectors = extent.length.div_ceil(SECTOR) + 1;
        let fill = sectors * SECTOR - extent.length;
        self.out.write_all(bytes)?;
        self.out.write_all(&vec![MARKER; usize::try_from(fill)?])?;
        self.sector += sectors;
        Ok(extent)
    }

    fn finish(self, index: &Index) -> Result<()> {
        let text = serde_json::to_vec(index)?;
        let length = text.len() as u64;
        ensure!(
            length + HEAD as u64 <= INDEX_ROOM,
            "the index has {length} bytes"
        );
        let file = self.out.into_inner()?;
        let head = [&MAGIC[..], &length.to_le_bytes(), &text].concat();
        std::os::unix::fs::FileExt::write_all_at(&file, &head, 0)?;
        file.sync_all()?;
        Ok(())
    }
}
