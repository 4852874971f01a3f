// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What several tests need: a repository with an image in it, and a place to pull to.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use ovbd::image::digest::Digest;
use ovbd::reference::Reference;
use ovbd::registry::{self, Event, Options, Patience, Pulled, Watch};
use ovbd::store::Store;
use ovbd::Result;
use serde_json::{json, Value};

use crate::server::{Asked, Reply};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const ARTIFACT: &str = "application/vnd.containerd.overlaybd.native.v1+json";

/// Bytes that look like compressed ones; others for each seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// What a registry has: blobs by digest, manifests by tag and digest.
#[derive(Clone, Default)]
pub struct Repository {
    pub blobs: BTreeMap<String, Vec<u8>>,
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
}

/// A layer's descriptor as the reference tools write it.
pub fn layer(content: &[u8]) -> Value {
    let digest = Digest::of_bytes(content).to_string();
    json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": digest,
        "size": content.len(),
        "annotations": {
            "containerd.io/snapshot/overlaybd/blob-digest": digest,
            "containerd.io/snapshot/overlaybd/blob-size": content.len().to_string(),
            "containerd.io/snapshot/overlaybd/version": "0.1.0",
        }
    })
}

impl Repository {
    /// A repository with an image under the tag `1`, of these layers.
    pub fn with(layers: &[Vec<u8>]) -> Self {
        let mut repository = Self::default();
        repository.image("1", layers);
        repository
    }

    /// Adds an OverlayBD image; gives the descriptor of its manifest.
    pub fn image(&mut self, tag: &str, layers: &[Vec<u8>]) -> Value {
        for content in layers {
            let digest = Digest::of_bytes(content).to_string();
            self.blobs.insert(digest, content.clone());
        }
        let layers: Vec<Value> = layers.iter().map(|content| layer(content)).collect();
        self.manifest(
            tag,
            MANIFEST,
            &json!({"schemaVersion": 2, "layers": layers}),
        )
    }

    /// Adds an ordinary image.
    pub fn ordinary(&mut self, tag: &str) -> Value {
        let mut layer = layer(tag.as_bytes());
        layer["annotations"] = json!({"org.example": "x"});
        self.manifest(
            tag,
            MANIFEST,
            &json!({"schemaVersion": 2, "layers": [layer]}),
        )
    }

    /// Adds a manifest or an index under its digest and a tag; gives its descriptor.
    pub fn manifest(&mut self, tag: &str, media: &str, content: &Value) -> Value {
        let text = content.to_string().into_bytes();
        let digest = Digest::of_bytes(&text).to_string();
        let size = text.len();
        for name in [tag, &digest] {
            let entry = (media.to_owned(), text.clone());
            self.manifests.insert(name.to_owned(), entry);
        }
        json!({"mediaType": media, "digest": digest, "size": size})
    }

    /// Answers as a registry does, with ranges and without the referrers API.
    pub fn answer(&self, asked: &Asked) -> Reply {
        let (path, _query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        if let Some(digest) = path.strip_prefix("/v2/app/blobs/") {
            return match self.blobs.get(digest) {
                Some(content) => ranged(content, asked.range()),
                None => Reply::new(404, "no blob"),
            };
        }
        let name = path.strip_prefix("/v2/app/manifests/");
        match name.and_then(|name| self.manifests.get(name)) {
            Some((media, text)) => Reply::new(200, text.as_slice()).header("Content-Type", media),
            None => Reply::new(404, "{}"),
        }
    }
}

/// A blob, or a range of it.
pub fn ranged(content: &[u8], range: Option<(usize, Option<usize>)>) -> Reply {
    let all = content.len();
    match range {
        None => Reply::new(200, content),
        Some((first, _)) if first >= all => Reply::new(416, ""),
        Some((first, last)) => {
            let last = last.unwrap_or(all).min(all - 1);
            let range = format!("bytes {first}-{last}/{all}");
            Reply::new(206, &content[first..=last]).header("Content-Range", range)
        }
    }
}

/// Options with which nothing takes long, but for a server that is slow.
pub fn options() -> Options {
    Options {
        patience: Patience {
            attempts: 4,
            first_pause: Duration::from_millis(1),
            longest_pause: Duration::from_millis(5),
            stall: Duration::from_secs(60),
            stall_bytes: 1,
        },
        ..Options::default()
    }
}

/// The same for tests with silence in them: it is noticed soon, and forgiven often, because on a
/// busy machine a server may seem silent that is not.
pub fn impatient() -> Options {
    let mut options = options();
    options.patience.stall = Duration::from_millis(300);
    options.patience.attempts = 100;
    options
}

/// A store of its own, and what is pulled into it.
pub struct Place {
    _folder: tempfile::TempDir,
    pub store: Store,
    pub events: Log,
}

/// Remembers events as JSON.
#[derive(Default)]
pub struct Log(Mutex<Vec<Value>>);

impl Watch for Log {
    fn event(&self, event: &Event<'_>) {
        self.0
            .lock()
            .unwrap()
            .push(serde_json::to_value(event).unwrap());
    }
}

impl Log {
    /// All events of a kind.
    pub fn of(&self, kind: &str) -> Vec<Value> {
        let all = self.0.lock().unwrap();
        all.iter()
            .filter(|event| event["event"] == kind)
            .cloned()
            .collect()
    }
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: Store::open(Some(folder.path().join("store"))),
            _folder: folder,
            events: Log::default(),
        }
    }

    /// Pulls `app:1` from a host.
    pub fn pull(&self, host: &str, options: &Options) -> Result<Pulled> {
        let reference: Reference = format!("{host}/app:1").parse().unwrap();
        registry::pull(&reference, options, &self.store, &self.events)
    }

    /// Pulls `app:1`, which has to fail; gives the message.
    pub fn refusal(&self, host: &str, options: &Options) -> String {
        let message = self.pull(host, options).unwrap_err().to_string();
        assert!(
            self.store.images().unwrap().is_empty(),
            "an image was recorded"
        );
        message
    }

    /// Whether the store has exactly these blobs, and nothing is left of what was on its way.
    pub fn assert_holds(&self, blobs: &[Vec<u8>]) {
        assert_store_holds(self.store.root(), blobs);
    }
}

/// Whether the store at `root` has exactly these blobs, and no leftover.
pub fn assert_store_holds(root: &Path, blobs: &[Vec<u8>]) {
    let mut names = files(&root.join("blobs/sha256"));
    for content in blobs {
        let name = Digest::of_bytes(content).hex();
        assert!(
            fs::read(root.join("blobs/sha256").join(&name)).unwrap() == *content,
            "{name}"
        );
        names.retain(|other| *other != name);
    }
    assert!(names.is_empty(), "foreign blobs: {names:?}");
    for folder in ["ingest", "leases"] {
        let left = files(&root.join(folder));
        assert!(left.is_empty(), "left in {folder}: {left:?}");
    }
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}
