// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The image configuration (`config.v1.json`) that existing deployments have, and layers named on
//! the command line: which files make up an image.
//!
//! Every field of the format is known here. What this tool cannot honour is an error if the device
//! would have other contents without it, and a note otherwise; nothing is passed over in silence.

mod download;
pub mod global;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::error::ExitCode;
use crate::image::atomic;
use crate::image::digest::Digest;
use crate::output::shown;
use crate::resolve::RemoteBlob;
use crate::verity::RootHash;
use crate::{Error, Result};

pub use download::Download;

/// The most layers an image can have.
pub const LAYERS_MAX: usize = 255;

/// Names of a layer in its `dir`, the preferred one first.
const NAMES_IN_DIR: [&str; 3] = ["overlaybd.commit", ".commit", "overlaybd.sealed"];

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not the JSON it should be.
    #[error("{path}: not the {what}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What was expected, with line and column.
        source: serde_json::Error,
    },
    /// A field has a value that means nothing.
    #[error("{path}: {field}: {reason}", path = path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The field, `lowers[2].digest` for example.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A field asks for what this tool cannot do, and matters.
    #[error("{path}: {field} is not supported: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// What it would mean, and what to do instead.
        reason: &'static str,
    },
    /// A layer is not on this host.
    #[error("{layer} is not on this host: {place}{remedy}")]
    NotLocal {
        /// Which layer.
        layer: String,
        /// Where it was looked for.
        place: String,
        /// Where it can be had.
        remedy: String,
    },
}

impl ConfigError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotLocal { .. } => ExitCode::NotFound,
            _ => ExitCode::Invalid,
        }
    }
}

/// Which layers an image has, and who wants to know how setting it up went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The layers, bottom first.
    pub layers: Vec<LayerConfig>,
    /// Where to write whether setting the image up succeeded.
    pub result_file: Option<PathBuf>,
    /// How to fetch what is not on this host.
    pub download: Download,
    /// What was left aside and why: a sentence each, for the user.
    pub notes: Vec<String>,
}

/// Which file holds a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerConfig {
    /// The file or block device itself.
    pub file: Option<PathBuf>,
    /// The folder that holds it, if `file` is not given.
    pub dir: Option<PathBuf>,
    /// The digest of the blob, `sha256:…`.
    pub digest: Option<Digest>,
    /// Size of the blob in bytes. The file on disk may have been unwrapped from its tar.
    pub size: Option<u64>,
    /// Where the blob can be downloaded.
    pub url: Option<String>,
    /// What vouches for the blob. If it is there, nothing else is read of it.
    pub root_hash: Option<RootHash>,
    /// The hash tree, if it is not beside the blob.
    pub hash_tree: Option<PathBuf>,
    /// A signature of the root hash, for the kernel to check.
    pub signature: Option<PathBuf>,
}

impl ImageConfig {
    /// An image of these layer files, bottom first.
    pub fn of_files(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let layer = |file| LayerConfig {
            file: Some(file),
            ..LayerConfig::default()
        };
        Self {
            layers: files.into_iter().map(layer).collect(),
            ..Self::default()
        }
    }

    /// What the command line gives: one configuration file (its name ends in `.json`), or layers.
    pub fn from_arguments(arguments: &[PathBuf]) -> Result<Self> {
        match arguments {
            [one] if one.extension().is_some_and(|e| e == "json") => Self::read(one),
            layers => Ok(Self::of_files(layers.iter().cloned())),
        }
    }

    /// Reads a configuration file. Relative paths in it start at its folder.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        Ok(Self::parse(&text, path)?)
    }

    /// Parses the text of a configuration file that lies at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let raw: RawImage = serde_json::from_str(text).map_err(|source| ConfigError::Json {
            path: path.to_owned(),
            what: "configuration of an image",
            source,
        })?;
        Reader {
            path,
            notes: Vec::new(),
        }
        .image(raw)
    }
}

impl LayerConfig {
    /// The file that holds the layer.
    pub fn locate(&self) -> Result<PathBuf, ConfigError> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let names = self
            .dir
            .iter()
            .flat_map(|dir| NAMES_IN_DIR.map(|name| dir.join(name)));
        names
            .into_iter()
            .find(|path| path.exists())
            .ok_or_else(|| self.not_local())
    }

    /// The blob in its registry.
    pub fn remote(&self) -> Option<RemoteBlob<'_>> {
        Some(RemoteBlob {
            url: self.url.as_deref()?,
            digest: self.digest?,
            size: self.size,
        })
    }

    fn not_local(&self) -> ConfigError {
        let layer = match &self.digest {
            Some(digest) => format!("layer {digest}"),
            None => "a layer".to_owned(),
        };
        let place = match &self.dir {
            Some(dir) => format!("{} has no {}", dir.display(), NAMES_IN_DIR[0]),
            None => "it has neither \"file\" nor \"dir\"".to_owned(),
        };
        let url = self.url.as_deref().map(shown::address);
        let remedy = match (url, &self.dir) {
            (Some(url), Some(dir)) => {
                let file = dir.join(NAMES_IN_DIR[0]);
                format!("; download {url} to {}", file.display())
            }
            (Some(url), None) => format!("; download {url} and name the file in \"file\""),
            (None, _) => String::new(),
        };
        ConfigError::NotLocal {
            layer,
            place,
            remedy,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawImage {
    repo_blob_url: Option<String>,
    lowers: Option<Vec<RawLayer>>,
    upper: Option<BTreeMap<String, Value>>,
    result_file: Option<String>,
    download: Option<BTreeMap<String, Value>>,
    acceleration_layer: Option<bool>,
    record_trace_path: Option<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLayer {
    file: Option<String>,
    dir: Option<String>,
    digest: Option<String>,
    size: Option<u64>,
    target_file: Option<String>,
    target_digest: Option<String>,
    gzip_index: Option<String>,
    verity_root_hash: Option<String>,
    verity_tree: Option<String>,
    verity_root_hash_sig: Option<String>,
    #[serde(flatten)]
    unknown: BTreeMap<String, Value>,
}

/// An empty text means the same as none.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

struct Reader<'a> {
    path: &'a Path,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn note(&mut self, field: &str, sentence: &str) {
        self.notes
            .push(format!("{}: {field} {sentence}", self.path.display()));
    }

    fn unknown(&mut self, within: &str, fields: BTreeMap<String, Value>) {
        for field in fields.keys() {
            self.note(
                &format!("{within}{field}"),
                "is not a known field and was ignored",
            );
        }
    }

    fn field(&self, field: impl Into<String>, reason: impl Into<String>) -> ConfigError {
        let (path, field) = (self.path.to_owned(), field.into());
        ConfigError::Field {
            path,
            field,
            reason: reason.into(),
        }
    }

    fn unsupported(&self, field: impl Into<String>, reason: &'static str) -> ConfigError {
        ConfigError::Unsupported {
            path: self.path.to_owned(),
            field: field.into(),
            reason,
        }
    }

    /// Relative to the configuration's own folder, so that a folder of an image can be moved.
    fn resolve(&self, path: String) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    fn image(mut self, raw: RawImage) -> Result<ImageConfig, ConfigError> {
        self.upper(raw.upper.unwrap_or_default())?;
        if given(raw.record_trace_path).is_some() {
            let reason = "recording a trace of reads needs the userspace daemon";
            return Err(self.unsupported("recordTracePath", reason));
        }
        self.unknown("", raw.unknown);
        let download = self.download(raw.download.unwrap_or_default())?;

        let mut lowers = raw.lowers.unwrap_or_default();
        if raw.acceleration_layer == Some(true) && lowers.pop().is_some() {
            let sentence = "is set: the topmost layer holds a trace of reads, no data, and was \
                            left out";
            self.note("accelerationLayer", sentence);
        }
        if lowers.is_empty() {
            return Err(self.field("lowers", "there is no layer"));
        }
        let url = given(raw.repo_blob_url);
        let layers = lowers
            .into_iter()
            .enumerate()
            .map(|(i, layer)| self.layer(i, layer, url.as_deref()))
            .collect::<Result<_, _>>()?;
        let result_file = given(raw.result_file).map(|file| self.resolve(file));
        Ok(ImageConfig {
            layers,
            result_file,
            download,
            notes: self.notes,
        })
    }

    fn download(&mut self, fields: BTreeMap<String, Value>) -> Result<Download, ConfigError> {
        let (known, unknown) = fields
            .into_iter()
            .partition(|(field, _)| download::FIELDS.contains(&field.as_str()));
        self.unknown("download.", unknown);
        let known: BTreeMap<_, _> = known;
        serde_json::from_value(Value::from_iter(known))
            .map_err(|e| self.field("download", e.to_string()))
    }

    fn upper(&self, upper: BTreeMap<String, Value>) -> Result<(), ConfigError> {
        let empty = |value: &Value| matches!(value, Value::Null) || value == "";
        match upper.into_iter().find(|(_, value)| !empty(value)) {
            Some((field, _)) => Err(self.unsupported(
                format!("upper.{field}"),
                "images are read-only; leave \"upper\" out, and have `ovbd up --writable` put an \
                 overlay for changes on the mount",
            )),
            None => Ok(()),
        }
    }

    fn layer(
        &mut self,
        number: usize,
        raw: RawLayer,
        repository: Option<&str>,
    ) -> Result<LayerConfig, ConfigError> {
        let within = format!("lowers[{number}].");
        let target = [
            ("targetFile", raw.target_file),
            ("targetDigest", raw.target_digest),
            ("gzipIndex", raw.gzip_index),
        ];
        if let Some((field, _)) = target
            .into_iter()
            .find(|(_, text)| given(text.clone()).is_some())
        {
            return Err(self.unsupported(
                format!("{within}{field}"),
                "the layer points into an ordinary OCI tar; convert the image to OverlayBD layers",
            ));
        }
        self.unknown(&within, raw.unknown);
        let digest = given(raw.digest)
            .map(|text| text.parse::<Digest>())
            .transpose()
            .map_err(|e| self.field(format!("{within}digest"), e.to_string()))?;
        let url = repository
            .zip(digest)
            .map(|(repository, digest)| format!("{}/{digest}", repository.trim_end_matches('/')));
        let root_hash = given(raw.verity_root_hash)
            .map(|text| text.parse::<RootHash>())
            .transpose()
            .map_err(|e| self.field(format!("{within}verityRootHash"), e.to_string()))?;
        let hash_tree = given(raw.verity_tree).map(|tree| self.resolve(tree));
        let signature = given(raw.verity_root_hash_sig).map(|file| self.resolve(file));
        let of_root_hash = [
            ("verityTree", &hash_tree),
            ("verityRootHashSig", &signature),
        ];
        for (field, file) in of_root_hash {
            if file.is_some() && root_hash.is_none() {
                let reason = "without \"verityRootHash\" there is nothing to check the layer by";
                return Err(self.field(format!("{within}{field}"), reason));
            }
        }
        let file = given(raw.file).map(|file| self.resolve(file));
        let dir = given(raw.dir).map(|dir| self.resolve(dir));
        if file.is_none() && dir.is_none() && url.is_none() {
            let reason = "has none of \"file\", \"dir\", and \"digest\" with a repoBlobUrl";
            return Err(self.field(format!("lowers[{number}]"), reason));
        }
        Ok(LayerConfig {
            file,
            dir,
            digest,
            size: raw.size.filter(|&size| size > 0),
            url,
            root_hash,
            hash_tree,
            signature,
        })
    }
}

/// Where the configuration `path`, of which nothing else may be usable, wants the result written.
pub fn result_file(path: &Path) -> Option<PathBuf> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Waiting {
        result_file: Option<String>,
    }
    let text = fs::read_to_string(path).ok()?;
    let waiting: Waiting = serde_json::from_str(&text).ok()?;
    let notes = Vec::new();
    given(waiting.result_file).map(|file| Reader { path, notes }.resolve(file))
}

/// Writes the result of setting an image up to its `resultFile`, in the words that other tools
/// look for: `success`, or `failed:` and the reason.
pub fn write_result(file: &Path, failure: Option<&Error>) -> Result<()> {
    let text = match failure {
        None => "success".to_owned(),
        Some(error) => format!("failed:{error}"),
    };
    match fs::symlink_metadata(file) {
        // A pipe, or a link to somewhere, is not replaced.
        Ok(found) if !found.is_file() => {
            fs::write(file, text).map_err(|e| Error::io("write the result to", file, e))
        }
        // Whoever waits for it sees all of it, or nothing.
        _ => atomic::write(file, true, text.as_bytes()),
    }
}

#[cfg(test)]
mod tests;
