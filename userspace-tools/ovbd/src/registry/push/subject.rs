// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The ordinary image that a pushed one belongs to, and the link between both.

use serde::Deserialize;
use serde_json::json;
use ureq::http::Method;

use super::entry;
use crate::image::digest::Digest;
use crate::reference::Reference;
use crate::registry::http::Request;
use crate::registry::manifest::{for_platform, media, Document, Entry, MAX_MANIFEST};
use crate::registry::resolve::{index_entries, referrers_tag};
use crate::registry::session::{target, Fetched, Session};
use crate::registry::RegistryError;

/// The image that another one is to be found by.
pub(super) struct Subject {
    pub entry: Entry,
    /// Its own configuration: how to run what is in it.
    pub config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Configured {
    config: Option<Entry>,
}

impl Session<'_> {
    /// Finds the image for the platform that `reference` means.
    pub(super) fn subject(&self, reference: &Reference) -> Result<Subject, RegistryError> {
        let mut fetched = self.manifest(&target(reference))?;
        let what = reference.to_string();
        if let Document::Index(entries) = Document::parse(&fetched.text, &what)? {
            let fitting = for_platform(&entries, &self.options.platform);
            let first = fitting.first().ok_or_else(|| RegistryError::Manifest {
                what: what.clone(),
                problem: format!("there is no image for {} in it", self.options.platform),
            })?;
            fetched = self.manifest(&first.digest.to_string())?;
        }
        let config = self.subject_config(&fetched, &what)?;
        let entry = entry(&fetched.media_type, fetched.digest, fetched.text.len());
        Ok(Subject { entry, config })
    }

    fn subject_config(
        &self,
        image: &Fetched,
        what: &str,
    ) -> Result<Option<serde_json::Value>, RegistryError> {
        let wrong = |problem: &str| RegistryError::Manifest {
            what: what.to_owned(),
            problem: problem.to_owned(),
        };
        let manifest: Option<Configured> = serde_json::from_slice(&image.text).ok();
        let Some(config) = manifest.and_then(|manifest| manifest.config) else {
            return Ok(None);
        };
        let url = self.url(self.origin(), &format!("blobs/{}", config.digest))?;
        let answer = self.ask(&Request::new(Method::GET, url), &[200])?;
        let text = answer.read_all(&self.http, MAX_MANIFEST)?;
        if Digest::of_bytes(&text) != config.digest {
            return Err(wrong(
                "its configuration has another digest than its manifest says",
            ));
        }
        let config = serde_json::from_slice(&text).ok();
        Ok(config.filter(serde_json::Value::is_object))
    }

    /// Adds an image to the index of those that refer to `subject`, under the tag for it.
    pub(super) fn link(
        &self,
        subject: &Digest,
        image: Digest,
        size: usize,
    ) -> Result<(), RegistryError> {
        let tag = referrers_tag(subject);
        let mut entries = match self.manifest(&tag) {
            Ok(fetched) => index_entries(&fetched.text),
            Err(RegistryError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        entries.retain(|entry| entry.digest != image);
        entries.push(Entry {
            artifact_type: Some(media::OVERLAYBD_ARTIFACT.to_owned()),
            platform: Some(self.options.platform.clone()),
            ..entry(media::MANIFEST, image, size)
        });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media::INDEX,
            "manifests": entries,
        });
        self.put_text(&tag, media::INDEX, &index.to_string())?;
        Ok(())
    }
}
