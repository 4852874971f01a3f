// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! From a reference to the layers of an OverlayBD image: through indexes, by platform, and for an
//! ordinary image to an OverlayBD one that refers to it.

use serde::Deserialize;
use ureq::http::Method;

use super::http::Request;
use super::manifest::{for_platform, media, overlaybd_layers, Document, Entry, MAX_MANIFEST};
use super::session::{target, Fetched, Session};
use super::RegistryError;
use crate::image::digest::Digest;
use crate::store::Descriptor;

/// Indexes may lie in indexes, so deep.
const MAX_DEPTH: usize = 3;
/// So many images are looked at where there are several to choose from.
const MAX_CANDIDATES: usize = 8;
/// So many pages of referrers are asked for.
const MAX_PAGES: usize = 4;
/// So many manifests, indexes and pages are asked for in all, whatever leads to more of them.
const MAX_DOCUMENTS: usize = 64;

/// An OverlayBD image in a registry.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Its layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// The ordinary image that it belongs to, if that is what was named.
    pub subject: Option<Digest>,
}

/// What looking at a tag or digest gave.
enum Found {
    Overlaybd(Resolved),
    /// An ordinary image, and everything that another image may refer to.
    Ordinary(Vec<Digest>),
    /// Nothing for the platform.
    Nothing(Vec<Digest>),
}

impl Session<'_> {
    /// The OverlayBD image that the reference means.
    pub fn resolve(&self) -> Result<Resolved, RegistryError> {
        let mut left = MAX_DOCUMENTS;
        let (subjects, ordinary) = match self.look(&target(self.reference), 0, &mut left)? {
            Found::Overlaybd(image) => return Ok(image),
            Found::Ordinary(subjects) => (subjects, true),
            Found::Nothing(subjects) => (subjects, false),
        };
        for subject in &subjects {
            if let Some(image) = self.referrer(subject, &mut left)? {
                return Ok(image);
            }
        }
        let what = self.reference.to_string();
        match ordinary {
            true => Err(RegistryError::NotOverlaybd { what }),
            false => Err(RegistryError::Manifest {
                what,
                problem: format!("there is no image for {} in it", self.options.platform),
            }),
        }
    }

    /// Counts something that is asked for; an error if that is enough.
    fn spend(&self, left: &mut usize) -> Result<(), RegistryError> {
        *left = left.checked_sub(1).ok_or_else(|| RegistryError::Manifest {
            what: self.reference.to_string(),
            problem: format!(
                "leads to more than {MAX_DOCUMENTS} manifests and lists of them; name the image by \
                 its digest"
            ),
        })?;
        Ok(())
    }

    fn look(&self, target: &str, depth: usize, left: &mut usize) -> Result<Found, RegistryError> {
        self.spend(left)?;
        let fetched = self.manifest(target)?;
        let what = self.named(&fetched.digest.to_string());
        match Document::parse(&fetched.text, &what)? {
            Document::Image(layers) => Ok(match overlaybd_layers(&layers, &what)? {
                Some(layers) => Found::Overlaybd(fetched.image(layers)),
                None => Found::Ordinary(vec![fetched.digest]),
            }),
            Document::Index(entries) => self.choose(&fetched, &entries, depth, left),
        }
    }

    /// The first OverlayBD image among those of an index that fit the platform.
    fn choose(
        &self,
        index: &Fetched,
        entries: &[Entry],
        depth: usize,
        left: &mut usize,
    ) -> Result<Found, RegistryError> {
        if depth == MAX_DEPTH {
            return Err(RegistryError::Manifest {
                what: self.reference.to_string(),
                problem: format!("indexes lie more than {MAX_DEPTH} deep in each other"),
            });
        }
        let mut candidates = for_platform(entries, &self.options.platform);
        candidates.truncate(MAX_CANDIDATES);
        let (mut subjects, mut ordinary) = (Vec::new(), false);
        for candidate in candidates {
            match self.look(&candidate.digest.to_string(), depth + 1, left)? {
                Found::Overlaybd(image) => return Ok(Found::Overlaybd(image)),
                Found::Ordinary(more) => {
                    ordinary = true;
                    subjects.extend(more);
                }
                Found::Nothing(more) => subjects.extend(more),
            }
        }
        subjects.truncate(MAX_CANDIDATES);
        subjects.push(index.digest);
        Ok(match ordinary {
            true => Found::Ordinary(subjects),
            false => Found::Nothing(subjects),
        })
    }

    /// An OverlayBD image that refers to `subject`.
    fn referrer(
        &self,
        subject: &Digest,
        left: &mut usize,
    ) -> Result<Option<Resolved>, RegistryError> {
        let entries = self.referrers(subject, left)?;
        let ours = |e: &&Entry| e.artifact_type.as_deref() == Some(media::OVERLAYBD_ARTIFACT);
        for entry in entries.iter().filter(ours).take(MAX_CANDIDATES) {
            let found = self.look(&entry.digest.to_string(), 1, left)?;
            if let Found::Overlaybd(image) = found {
                let subject = Some(*subject);
                return Ok(Some(Resolved { subject, ..image }));
            }
        }
        Ok(None)
    }

    /// What refers to `subject`: from the API for it, or from the tag that stands in for it.
    fn referrers(&self, subject: &Digest, left: &mut usize) -> Result<Vec<Entry>, RegistryError> {
        let url = self.url(self.origin(), &format!("referrers/{subject}"))?;
        let mut next = url.with_query("artifactType", media::OVERLAYBD_ARTIFACT);
        let mut entries = Vec::new();
        for page in 0..MAX_PAGES {
            let Some(url) = next.take() else { break };
            self.spend(left)?;
            let request = Request::new(Method::GET, url).header("accept", media::INDEX);
            // Registries without this API answer what they like.
            let answer = self.ask(&request, &[200, 400, 404, 405, 406, 501])?;
            let index = answer
                .header("content-type")
                .is_some_and(|t| t.starts_with(media::INDEX));
            if page == 0 && (answer.status != 200 || !index) {
                self.spend(left)?;
                return self.tagged_referrers(subject);
            }
            let link = answer.header("link").and_then(next_page);
            let follow = link.and_then(|link| answer.url.join(&link));
            next = follow.filter(|url| url.same_origin(&request.url));
            let text = answer.read_all(&self.http, MAX_MANIFEST)?;
            entries.extend(index_entries(&text));
        }
        Ok(entries)
    }

    fn tagged_referrers(&self, subject: &Digest) -> Result<Vec<Entry>, RegistryError> {
        match self.manifest(&referrers_tag(subject)) {
            Ok(fetched) => Ok(index_entries(&fetched.text)),
            Err(RegistryError::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Fetched {
    fn image(&self, layers: Vec<Descriptor>) -> Resolved {
        Resolved {
            manifest: Descriptor {
                media_type: self.media_type.clone(),
                digest: self.digest,
                size: self.text.len() as u64,
                annotations: Default::default(),
            },
            layers,
            subject: None,
        }
    }
}

/// The tag under which registries without the API have the index of what refers to `subject`.
pub(super) fn referrers_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The entries of an index that can be read; foreign ones do not matter.
pub(super) fn index_entries(text: &[u8]) -> Vec<Entry> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<serde_json::Value>,
    }
    let index: Option<Index> = serde_json::from_slice(text).ok();
    let entries = index.into_iter().flat_map(|index| index.manifests);
    entries
        .filter_map(|entry| serde_json::from_value(entry).ok())
        .collect()
}

/// The address of the next page in a `Link` header: `<…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (url, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let next = rest
        .split(';')
        .any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
    next.then(|| url.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lead_to_pages() {
        assert_eq!(
            next_page("</v2/x?n=1>; rel=\"next\"").as_deref(),
            Some("/v2/x?n=1")
        );
        for none in [
            "",
            "</v2/x>",
            "/v2/x; rel=\"next\"",
            "</v2/x>; rel=\"prev\"",
        ] {
            assert_eq!(next_page(none), None);
        }
    }

    #[test]
    fn foreign_entries_of_an_index_do_not_matter() {
        let digest = Digest::of_bytes(b"x");
        let text = format!(
            r#"{{"manifests": [{{"digest": "sha512:1", "size": 1}}, 7,
                {{"digest": "{digest}", "size": 2}}]}}"#
        );
        let entries = index_entries(text.as_bytes());
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].digest, entries[0].size), (digest, 2));
        assert!(index_entries(b"no").is_empty());
    }
}
