// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Bringing an image into a registry: its layers, a configuration, a manifest with the annotations
//! that make it an OverlayBD image, and the link from the ordinary image that it belongs to.

mod layers;
mod subject;
mod upload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::Serialize;
use serde_json::json;
use ureq::http::Method;

use super::events::{Event, Watch};
use super::http::{Payload, Request};
use super::manifest::{media, Entry};
use super::pace::Limiter;
use super::session::{target, Session};
use super::{parallel, Options, RegistryError};
use crate::image::digest::Digest;
use crate::reference::Reference;
use crate::store::Descriptor;
use crate::Result;

use self::layers::examine;
use self::subject::Subject;
use self::upload::{Layer, Source};

/// What to push.
#[derive(Clone, Debug)]
pub struct PushPlan {
    /// The layers, bottom first: each a tar as `ovbd build --tar` makes it.
    pub layers: Vec<PathBuf>,
    /// The ordinary image that they are another form of, in the same repository.
    pub subject: Option<Reference>,
    /// The layers are sealed: the manifest says what vouches for each.
    pub sealed: bool,
}

/// What was pushed.
#[derive(Clone, Debug, Serialize)]
pub struct Pushed {
    /// The manifest.
    pub manifest: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// The ordinary image that now leads here.
    pub subject: Option<Digest>,
    /// Bytes that went over the network for layers.
    pub transferred: u64,
}

/// Pushes an image to `reference`, which is to have a tag and no digest.
///
/// # Errors
/// For layers that are no image or not in tars, before anything is sent; for all that the registry
/// does not take.
pub fn push(
    reference: &Reference,
    plan: &PushPlan,
    options: &Options,
    watch: &dyn Watch,
) -> Result<Pushed> {
    check_target(reference, plan)?;
    let layers = examine(&plan.layers, plan.sealed)?;
    let session = Session::push(reference, options, watch)?;
    let subject = match &plan.subject {
        Some(subject) => Some(session.subject(subject)?),
        None => None,
    };
    watch.event(&Event::Pushing {
        layers: layers.len(),
        bytes: layers.iter().map(|layer| layer.size).sum(),
    });
    let limiter = options.max_rate.map(Limiter::new);
    let blobs: Vec<(&Path, &Descriptor)> = plan
        .layers
        .iter()
        .map(PathBuf::as_path)
        .zip(&layers)
        .collect();
    let next = AtomicUsize::new(0);
    let transferred = parallel::sum(&session, options.connections.min(blobs.len()), || {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let (path, blob) = blobs.get(at)?;
        Some(session.put_layer(at, path, blob, limiter.as_ref()))
    })?;
    let config = session.config(subject.as_ref(), &layers)?;
    let manifest = session.put_manifest(&config, &layers, subject.as_ref())?;
    session.http.check_audit()?;
    Ok(Pushed {
        manifest,
        layers,
        subject: subject.map(|subject| subject.entry.digest),
        transferred,
    })
}

fn check_target(reference: &Reference, plan: &PushPlan) -> Result<(), RegistryError> {
    if reference.digest().is_some() {
        return Err(RegistryError::Option(format!(
            "{reference}: the digest comes of what is pushed; name a tag"
        )));
    }
    let home = |r: &Reference| (r.registry().to_owned(), r.repository().to_owned());
    match &plan.subject {
        Some(subject) if home(subject) != home(reference) => Err(RegistryError::Option(format!(
            "{subject}: an image refers only to others in its repository, {}/{}",
            reference.registry(),
            reference.repository()
        ))),
        _ => Ok(()),
    }
}

impl Session<'_> {
    /// Uploads a layer, unless it is there.
    fn put_layer(
        &self,
        index: usize,
        path: &Path,
        blob: &Descriptor,
        limiter: Option<&Limiter>,
    ) -> Result<u64> {
        let there = self.has_blob(&blob.digest)?;
        self.watch.event(&Event::Started {
            layer: index,
            digest: blob.digest,
            size: blob.size,
            present: if there { blob.size } else { 0 },
        });
        let mut transferred = 0;
        if !there {
            let layer = Layer {
                session: self,
                limiter,
                path,
                index,
                size: blob.size,
                sent: AtomicU64::new(0),
            };
            self.put_blob(Some(index), &blob.digest, &Source::Layer(&layer))?;
            transferred = layer.sent.into_inner();
        }
        self.watch.event(&Event::Finished {
            layer: index,
            digest: blob.digest,
            transferred,
        });
        Ok(transferred)
    }

    fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let url = self.url(self.origin(), &format!("blobs/{digest}"))?;
        let answer = self.ask(&Request::new(Method::HEAD, url), &[200, 404])?;
        Ok(answer.status == 200)
    }

    /// Uploads the configuration: that of the subject, with our layers.
    fn config(
        &self,
        subject: Option<&Subject>,
        layers: &[Descriptor],
    ) -> Result<Entry, RegistryError> {
        let platform = &self.options.platform;
        let mut config = subject.and_then(|s| s.config.clone()).unwrap_or_else(
            || json!({"architecture": platform.architecture, "os": platform.os, "config": {}}),
        );
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        // A layer's tar is not compressed: its digest is that of its content, too.
        config["rootfs"] = json!({"type": "layers", "diff_ids": digests});
        if let Some(fields) = config.as_object_mut() {
            fields.remove("history");
        }
        let text = config.to_string();
        let digest = Digest::of_bytes(text.as_bytes());
        if !self.has_blob(&digest)? {
            self.put_blob(None, &digest, &Source::Text(text.as_bytes()))?;
        }
        Ok(entry(media::CONFIG, digest, text.len()))
    }

    /// Uploads the manifest under the tag, and makes the link from the subject.
    fn put_manifest(
        &self,
        config: &Entry,
        layers: &[Descriptor],
        subject: Option<&Subject>,
    ) -> Result<Descriptor, RegistryError> {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": config,
            "layers": layers,
        });
        if let Some(subject) = subject {
            manifest["artifactType"] = media::OVERLAYBD_ARTIFACT.into();
            manifest["subject"] = json!(subject.entry);
        }
        let text = manifest.to_string();
        let tag = target(self.reference);
        let linked = self.put_text(&tag, media::MANIFEST, &text)?;
        let digest = Digest::of_bytes(text.as_bytes());
        if let Some(subject) = subject.filter(|_| !linked) {
            self.link(&subject.entry.digest, digest, text.len())?;
        }
        Ok(Descriptor {
            media_type: media::MANIFEST.to_owned(),
            digest,
            size: text.len() as u64,
            annotations: BTreeMap::new(),
        })
    }

    /// Uploads a manifest or index; whether the registry has understood to what it refers.
    fn put_text(&self, tag: &str, media: &str, text: &str) -> Result<bool, RegistryError> {
        let url = self.url(self.origin(), &format!("manifests/{tag}"))?;
        let request = Request::new(Method::PUT, url)
            .header("content-type", media)
            .payload(Payload::Bytes(text.as_bytes()));
        let answer = self.ask(&request, &[201])?;
        Ok(answer.header("oci-subject").is_some())
    }
}

fn entry(media_type: &str, digest: Digest, size: usize) -> Entry {
    Entry {
        media_type: media_type.to_owned(),
        digest,
        size: size as u64,
        artifact_type: None,
        platform: None,
        annotations: None,
    }
}
