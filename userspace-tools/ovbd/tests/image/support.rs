// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Golden files, sample data, and short names for what every test does.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ovbd::image::build::{self, Target};
use ovbd::image::extract;
use ovbd::image::output::{OutputSettings, Wrapper, Written};
use ovbd::image::source::FileSource;
use ovbd::image::verify::{verify, FileReport};
use ovbd::image::zwriter::ZSettings;
use ovbd::output::Progress;
use overlaybd_format::zfile::Algorithm;
use serde::Deserialize;

pub const ALGORITHMS: [Algorithm; 2] = [Algorithm::Lz4, Algorithm::Zstd];
pub const WRAPPERS: [Wrapper; 3] = [Wrapper::None, Wrapper::Pax, Wrapper::Ustar];

/// The files of the reference tools, in the folder that `OVBD_GOLDEN` names or in `shared/golden`
/// beside the checkout. Tests fail where they are missing.
pub fn golden(name: &str) -> PathBuf {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/golden");
    let named = std::env::var_os("OVBD_GOLDEN").filter(|folder| !folder.is_empty());
    let path = Path::new(&named.unwrap_or_else(|| beside.into())).join(name);
    assert!(path.exists(), "golden file {} is missing", path.display());
    path
}

#[derive(Clone, Debug, Deserialize)]
pub struct GoldenFile {
    pub name: String,
    pub kind: String,
    pub size: u64,
    pub sha256: String,
    #[serde(default)]
    pub params: serde_json::Map<String, serde_json::Value>,
    pub raw_file: Option<String>,
    pub raw_size: Option<u64>,
    pub virtual_size: Option<u64>,
}

impl GoldenFile {
    pub fn path(&self) -> PathBuf {
        golden(&self.name)
    }

    /// The content that the file must have.
    pub fn raw(&self) -> Vec<u8> {
        let raw = unzstd(&golden(self.raw_file.as_ref().unwrap()));
        assert_eq!(Some(raw.len() as u64), self.raw_size, "{}", self.name);
        raw
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name)?.as_str()
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.params.get(name)?.as_u64()
    }

    /// The layers, bottom first, that make the expected content.
    pub fn layers(&self) -> Vec<PathBuf> {
        let Some(position) = self.number("stack_position") else {
            return vec![self.path()];
        };
        let stem = if self.name.starts_with("ext4") {
            "layer"
        } else {
            "stack"
        };
        (0..=position)
            .map(|number| {
                let name = self
                    .name
                    .replace(&format!("{stem}{position}"), &format!("{stem}{number}"));
                golden(&name)
            })
            .collect()
    }
}

pub fn manifest() -> Vec<GoldenFile> {
    #[derive(Deserialize)]
    struct Manifest {
        files: Vec<GoldenFile>,
    }
    let text = fs::read(golden("manifest.json")).unwrap();
    let manifest: Manifest = serde_json::from_slice(&text).unwrap();
    assert!(manifest.files.len() > 150);
    manifest.files
}

/// Files whose kind says that they are blobs which we read.
pub fn sealed() -> Vec<GoldenFile> {
    let known = |file: &GoldenFile| {
        let kind = file.kind.as_str();
        kind.starts_with("lsmt") || kind.contains("zfile") && !kind.starts_with("turbo")
    };
    let files: Vec<_> = manifest().into_iter().filter(known).collect();
    assert!(files.len() > 120, "{}", files.len());
    files
}

pub fn unzstd(path: &Path) -> Vec<u8> {
    let mut decoder = zstd::Decoder::new(fs::File::open(path).unwrap()).unwrap();
    decoder.window_log_max(27).unwrap();
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A folder that goes away with the test.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }

    pub fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

pub fn target(path: PathBuf, compression: Option<ZSettings>, wrapper: Wrapper) -> Target {
    Target {
        output: OutputSettings {
            path,
            replace: true,
            wrapper,
        },
        compression,
    }
}

/// Compresses or wraps the file `from` to `to`.
pub fn compress(
    from: &Path,
    to: PathBuf,
    settings: Option<ZSettings>,
    wrapper: Wrapper,
) -> Written {
    let content = build::compressible(from).unwrap();
    let target = target(to, settings, wrapper);
    build::compress(&*content, &target, &Progress::hidden())
        .unwrap()
        .written
}

/// What `files` unpack to.
pub fn unpacked(files: &[PathBuf]) -> Vec<u8> {
    let scratch = Scratch::new();
    let source = extract::open(files, None).unwrap();
    let path = scratch.path("unpacked");
    extract::to_file(&*source, path.clone(), false, &Progress::hidden()).unwrap();
    fs::read(path).unwrap()
}

pub fn check(path: &Path) -> FileReport {
    verify(path, None, &Progress::hidden())
}

pub fn open(path: &Path) -> FileSource {
    FileSource::open(path).unwrap()
}

/// Numbers that look random and are the same in every run.
pub struct Random(fastrand::Rng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0.usize(..limit)
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.fill(&mut bytes);
        bytes
    }

    /// Bytes that compress as text does.
    pub fn text(&mut self, length: usize) -> Vec<u8> {
        let words = ["layer ", "block ", "disk ", "index ", "of ", "the ", "a\n"];
        let mut text = Vec::with_capacity(length + 8);
        while text.len() < length {
            text.extend_from_slice(words[self.below(words.len())].as_bytes());
        }
        text.truncate(length);
        text
    }

    /// A disk of zeros, text and noise in pieces of odd lengths.
    pub fn disk(&mut self, length: usize) -> Vec<u8> {
        let mut disk = Vec::with_capacity(length);
        while disk.len() < length {
            let piece = 1 + self.below(60_000);
            match self.below(3) {
                0 => disk.resize(disk.len() + piece, 0),
                1 => disk.extend(self.text(piece)),
                _ => disk.extend(self.bytes(piece / 4)),
            }
        }
        disk.truncate(length);
        disk
    }
}
