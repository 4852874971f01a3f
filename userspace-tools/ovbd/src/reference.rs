// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! References of images: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`.
//!
//! The registry is always named: which one a bare name means differs from tool to tool, and on this
//! command line a bare name is a file.

use std::fmt;
use std::str::FromStr;

use serde::{de, Deserialize, Deserializer, Serialize, Serializer};

use crate::image::digest::Digest;

/// The tag of a reference that has neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
const TAG_MAX: usize = 128;
const NAME_MAX: usize = 255;

/// A reference; as text with its tag or digest, so that equal references have equal texts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host name or address of the registry, and its port if one was given.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path of the repository in the registry, `library/redis` for example.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. A reference with a digest may have none; the digest decides then.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, or of the index.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository, with this digest and no tag.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

/// A text that is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no reference of an image (REGISTRY/REPOSITORY:TAG or …@sha256:…): {reason}")]
pub struct InvalidReference {
    text: String,
    reason: &'static str,
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference {
            text: without_user(text),
            reason,
        })
    }
}

/// `text` without what somebody put in front of the host: it may be a password.
fn without_user(text: &str) -> String {
    let host = text.find('/').unwrap_or(text.len());
    match text[..host].rfind('@') {
        Some(at) => format!("…{}", &text[at..]),
        None => text.to_owned(),
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let digest = digest.map(str::parse).transpose();
    let digest = digest.map_err(|_| "its digest is not sha256: and 64 hexadecimal digits")?;
    let (registry, path) = name
        .split_once('/')
        .filter(|(registry, _)| is_registry(registry))
        .ok_or("it names no registry, such as registry.example or localhost:5000")?;
    let (repository, tag) = match path.split_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (path, None),
    };
    if name.len() > NAME_MAX || !repository.split('/').all(is_component) {
        return Err(
            "its repository is not made of lower-case letters, digits, and . _ - in between",
        );
    }
    if !tag.is_none_or(is_tag) {
        return Err("its tag is not made of letters, digits, and . _ - behind the first");
    }
    let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG));
    Ok(Reference {
        registry: registry.to_ascii_lowercase(),
        repository: repository.to_owned(),
        tag: tag.map(ToOwned::to_owned),
        digest,
    })
}

/// A host name with a dot or a port, `localhost`, or an address; `[…]` is one of IPv6.
fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let name = |host: &str| {
        let mut labels = host.split('.');
        labels.all(|l| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'))
    };
    let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name(host),
    };
    let named = host.contains('.') || host == "localhost" || address.is_some() || port.is_some();
    valid && named && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Runs of lower-case letters and digits with separators in between.
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut bytes = text.bytes();
    let ends = |b: Option<u8>| b.is_some_and(alphanumeric);
    ends(text.bytes().next())
        && ends(text.bytes().last())
        && bytes.all(|b| alphanumeric(b) || b"._-".contains(&b))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reference: &str) -> String {
        reference.parse::<Reference>().unwrap().to_string()
    }

    #[test]
    fn a_reference_has_one_text() {
        let digest = Digest::of_bytes(b"");
        assert_eq!(
            text("Registry.Example/a/b-c:1.0"),
            "registry.example/a/b-c:1.0"
        );
        assert_eq!(text("localhost/a"), "localhost/a:latest");
        assert_eq!(text("host:5000/a"), "host:5000/a:latest");
        assert_eq!(text("[::1]:5000/a:x"), "[::1]:5000/a:x");
        assert_eq!(text("[::1]/a"), "[::1]/a:latest");
        let pinned = format!("r.example/a@{digest}");
        assert_eq!(text(&pinned), pinned);
        let both = format!("r.example/a:1@{digest}");
        assert_eq!(text(&both), both);
    }

    #[test]
    fn the_parts_of_a_reference() {
        let reference: Reference = "localhost:5000/team/app:v1".parse().unwrap();
        assert_eq!(reference.registry(), "localhost:5000");
        assert_eq!(reference.repository(), "team/app");
        assert_eq!((reference.tag(), reference.digest()), (Some("v1"), None));
        let digest = Digest::of_bytes(b"x");
        let pinned = reference.with_digest(digest);
        assert_eq!((pinned.tag(), pinned.digest()), (None, Some(&digest)));
    }

    #[test]
    fn a_password_is_not_repeated() {
        let parsed = "me:hunter2@r.example/a".parse::<Reference>();
        let message = parsed.unwrap_err().to_string();
        assert!(message.starts_with("`…@r.example/a` is no"), "{message}");
    }

    #[test]
    fn what_is_no_reference() {
        for text in [
            "",
            "redis",
            "library/redis",
            "/etc/passwd",
            "./layer.tar",
            "../layer.tar",
            "r.example/",
            "r.example/A",
            "r.example/a//b",
            "r.example/a/../b",
            "r.example/-a",
            "r.example/a:",
            "r.example/a:.b",
            "r.example/a:b/c",
            "r.example/a@sha256:1",
            "r.example:port/a",
            "r.example:99999/a",
            "user@r.example/a",
            "https://r.example/a",
            "[::x]/a",
            "r..example/a",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
        let long = format!("r.example/{}", "a".repeat(300));
        assert!(long.parse::<Reference>().is_err());
    }
}
