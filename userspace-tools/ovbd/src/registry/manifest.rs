// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Manifests and indexes, of OCI and of Docker, and what makes an image an OverlayBD one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Platform, RegistryError};
use crate::image::digest::Digest;
use crate::store::Descriptor;

/// No manifest is larger, bytes; registries have the same limit.
pub const MAX_MANIFEST: usize = 4 << 20;
/// A stack has at most so many layers.
const MAX_LAYERS: usize = 255;

/// Types of what registries keep.
pub mod media {
    /// An image.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// Images, for several platforms or purposes.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker's older image.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's older index.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// The configuration of an image.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer that is a tar.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// All that an image can be asked for by.
    pub const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
        application/vnd.oci.image.index.v1+json, \
        application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.docker.distribution.manifest.list.v2+json";
    /// What an OverlayBD image that refers to an ordinary one says that it is.
    pub const OVERLAYBD_ARTIFACT: &str = "application/vnd.containerd.overlaybd.native.v1+json";
}

/// What a manifest says about something else in the registry.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its type.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it is for, if it is more than an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What else is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Entry {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.size,
            annotations: self.annotations.clone().unwrap_or_default(),
        }
    }

    /// Whether it is an index itself.
    pub fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), media::INDEX | media::DOCKER_INDEX)
    }
}

/// A manifest or an index.
#[derive(Clone, Debug)]
pub enum Document {
    /// An image: its layers, bottom first.
    Image(Vec<Entry>),
    /// Images to choose from.
    Index(Vec<Entry>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    layers: Option<Vec<Entry>>,
    manifests: Option<Vec<Entry>>,
}

impl Document {
    /// Reads what a registry has under a tag or digest; `what` names it in errors.
    pub fn parse(text: &[u8], what: &str) -> Result<Self, RegistryError> {
        let raw: Raw = serde_json::from_slice(text).map_err(|e| wrong(what, unreadable(&e)))?;
        match (raw.layers, raw.manifests) {
            (Some(layers), None) => Ok(Self::Image(layers)),
            (None, Some(manifests)) => Ok(Self::Index(manifests)),
            _ if raw.schema_version == Some(1) => Err(wrong(
                what,
                "its manifest is of Docker's first schema, which nobody writes any more".to_owned(),
            )),
            _ => Err(wrong(
                what,
                "its manifest has neither layers nor manifests, or both".to_owned(),
            )),
        }
    }
}

/// Where it goes wrong, but not the words: what a registry sends is not for the terminal.
fn unreadable(error: &serde_json::Error) -> String {
    format!(
        "its manifest cannot be read: {:?} error at line {} column {}",
        error.classify(),
        error.line(),
        error.column()
    )
}

fn wrong(what: &str, problem: String) -> RegistryError {
    RegistryError::Manifest {
        what: what.to_owned(),
        problem,
    }
}

/// The entries of an index for a platform. Entries that name none come last.
pub fn for_platform(entries: &[Entry], platform: &Platform) -> Vec<Entry> {
    let fitting = |e: &&Entry| {
        e.platform
            .as_ref()
            .is_some_and(|other| platform.fits(other))
    };
    let unnamed = entries.iter().filter(|e| e.platform.is_none());
    entries
        .iter()
        .filter(fitting)
        .chain(unnamed)
        .cloned()
        .collect()
}

/// The layers of an OverlayBD image, or nothing if it is an ordinary one.
pub fn overlaybd_layers(
    layers: &[Entry],
    what: &str,
) -> Result<Option<Vec<Descriptor>>, RegistryError> {
    let layers: Vec<Descriptor> = layers.iter().map(Entry::descriptor).collect();
    let ours = |layer: &Descriptor| {
        layer.annotation("blob-digest").is_some() || layer.is_acceleration() || points(layer)
    };
    match layers.iter().filter(|layer| ours(layer)).count() {
        0 => return Ok(None),
        some if some < layers.len() => {
            return Err(wrong(
                what,
                format!(
                    "{some} of its {} layers are OverlayBD, the others not",
                    layers.len()
                ),
            ))
        }
        more if more > MAX_LAYERS => {
            return Err(wrong(
                what,
                format!("it has {more} layers; at most {MAX_LAYERS} make a device"),
            ))
        }
        _ => {}
    }
    for (at, layer) in layers.iter().enumerate() {
        check_layer(layer).map_err(|problem| wrong(what, format!("layer {at}: {problem}")))?;
    }
    check_sizes(&layers).map_err(|problem| wrong(what, problem))?;
    Ok(Some(layers))
}

/// Whether a layer has no data of its own but points into an ordinary one.
fn points(layer: &Descriptor) -> bool {
    layer.annotation("turbo-oci/target-digest").is_some()
}

fn check_layer(layer: &Descriptor) -> Result<(), String> {
    if points(layer) {
        return Err(
            "it points into an ordinary layer (turboOCI), which cannot be mounted here; \
             the convertor makes a native image without --turboOCI"
                .to_owned(),
        );
    }
    let (digest, size) = (layer.digest.to_string(), layer.size.to_string());
    for (name, is) in [("blob-digest", digest), ("blob-size", size)] {
        if layer.annotation(name).is_some_and(|says| says != is) {
            return Err(format!(
                "its annotation {name} is not that of its descriptor, {is}"
            ));
        }
    }
    if layer.root_hash().is_err() {
        return Err(
            "its annotation verity-root-hash is no root hash, 64 hexadecimal digits".to_owned(),
        );
    }
    match layer.size {
        0 => Err("it is empty".to_owned()),
        _ => Ok(()),
    }
}

/// One digest has one size, and all of them can be counted.
fn check_sizes(layers: &[Descriptor]) -> Result<(), String> {
    let mut sizes = BTreeMap::new();
    let mut total: u64 = 0;
    for layer in layers {
        let size = *sizes.entry(layer.digest).or_insert(layer.size);
        if size != layer.size {
            let digest = layer.digest;
            return Err(format!("{digest} has {size} and {} bytes", layer.size));
        }
        total = total
            .checked_add(size)
            .ok_or("its layers are too large to be counted")?;
    }
    match i64::try_from(total) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("its layers have {total} bytes, which no disk has")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(annotations: &[(&str, &str)]) -> Entry {
        let prefix = "containerd.io/snapshot/overlaybd/";
        let pairs = annotations.iter();
        let annotations = pairs.map(|(k, v)| (format!("{prefix}{k}"), (*v).to_owned()));
        Entry {
            media_type: media::LAYER.into(),
            digest: Digest::of_bytes(b"x"),
            size: 7,
            artifact_type: None,
            platform: None,
            annotations: Some(annotations.collect()),
        }
    }

    fn native() -> Entry {
        let digest = Digest::of_bytes(b"x").to_string();
        entry(&[("blob-digest", &digest), ("blob-size", "7")])
    }

    fn refusal(layers: &[Entry]) -> String {
        overlaybd_layers(layers, "app").unwrap_err().to_string()
    }

    #[test]
    fn layers_say_what_they_are() {
        assert!(overlaybd_layers(&[], "app").unwrap().is_none());
        assert!(overlaybd_layers(&[entry(&[])], "app").unwrap().is_none());
        let trace = entry(&[("acceleration-layer", "yes")]);
        let layers = overlaybd_layers(&[native(), trace], "app")
            .unwrap()
            .unwrap();
        assert_eq!(layers.len(), 2);
        assert!(layers[1].is_acceleration());
    }

    #[test]
    fn layers_that_do_not_fit_are_refused() {
        assert_eq!(
            refusal(&[native(), entry(&[])]),
            "app: 1 of its 2 layers are OverlayBD, the others not"
        );
        let other = Digest::of_bytes(b"y").to_string();
        let lies = entry(&[("blob-digest", &other)]);
        assert!(refusal(&[lies]).starts_with("app: layer 0: its annotation blob-digest is not"));
        let digest = Digest::of_bytes(b"x").to_string();
        for size in ["8", "", "-7", "07"] {
            let lies = entry(&[("blob-digest", &digest), ("blob-size", size)]);
            assert!(refusal(&[lies]).contains("its annotation blob-size is not"));
        }
        // What it says instead is not for the terminal.
        let escape = "\u{1b}]0;x\u{7}";
        let lies = entry(&[("blob-digest", &digest), ("verity-root-hash", escape)]);
        let said = refusal(&[lies]);
        assert!(said.contains("verity-root-hash is no root hash") && !said.contains('\u{1b}'));
        let turbo = entry(&[("turbo-oci/target-digest", &other)]);
        assert!(refusal(&[turbo]).contains("turboOCI"));
        assert!(refusal(&vec![native(); 256]).contains("256 layers"));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let sized = |size: u64, content: &[u8]| {
            let digest = Digest::of_bytes(content);
            let mut entry = entry(&[("blob-digest", &digest.to_string())]);
            (entry.size, entry.digest) = (size, digest);
            entry
        };
        assert!(refusal(&[sized(0, b"a")]).contains("it is empty"));
        assert!(refusal(&[sized(1, b"a"), sized(2, b"a")]).contains("has 1 and 2 bytes"));
        let most = u64::MAX - 1;
        assert!(refusal(&[sized(most, b"a"), sized(2, b"b")]).contains("too large to be counted"));
        assert!(refusal(&[sized(most, b"a")]).contains("which no disk has"));
    }

    #[test]
    fn documents_are_told_apart() {
        let parse = |text: &str| Document::parse(text.as_bytes(), "app");
        assert!(matches!(parse(r#"{"layers": []}"#), Ok(Document::Image(_))));
        assert!(matches!(
            parse(r#"{"manifests": []}"#),
            Ok(Document::Index(_))
        ));
        for (text, problem) in [
            ("", "cannot be read"),
            ("[]", "cannot be read"),
            (r#"{"schemaVersion": 1, "fsLayers": []}"#, "first schema"),
            (r#"{"schemaVersion": 2}"#, "neither layers nor manifests"),
            (r#"{"layers": [], "manifests": []}"#, "or both"),
            (
                r#"{"layers": [{"digest": "sha256:1", "size": 1}]}"#,
                "cannot be read",
            ),
            (
                r#"{"layers": [{"digest": "x", "size": -1}]}"#,
                "cannot be read",
            ),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn the_platform_decides() {
        let on = |platform: Option<&str>| Entry {
            platform: platform.map(|text| text.parse().unwrap()),
            ..entry(&[])
        };
        let entries = [
            on(None),
            on(Some("linux/arm64/v8")),
            on(Some("linux/amd64")),
            on(Some("unknown/unknown")),
        ];
        let names = |platform: &str| -> Vec<String> {
            let found = for_platform(&entries, &platform.parse().unwrap());
            let name = |e: &Entry| e.platform.as_ref().map(ToString::to_string);
            found.iter().map(|e| name(e).unwrap_or_default()).collect()
        };
        assert_eq!(names("linux/amd64"), ["linux/amd64", ""]);
        assert_eq!(names("linux/arm64"), ["linux/arm64/v8", ""]);
        assert_eq!(names("linux/arm64/v7"), [""]);
    }
}
