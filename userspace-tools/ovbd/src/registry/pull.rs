// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Fetching an image: its layers into the store, then its record.

use std::collections::BTreeSet;

use super::events::{Event, Watch};
use super::session::Session;
use super::transfer::Transfer;
use super::url::{shown, Url};
use super::{Options, RegistryError};
use crate::image::digest::Digest;
use crate::reference::Reference;
use crate::resolve::RemoteBlob;
use crate::store::{Descriptor, ImageRecord, Store};
use crate::Result;

/// What a pull did.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The image, as it is recorded.
    pub image: ImageRecord,
    /// The ordinary image that it belongs to, if that is what was named.
    pub subject: Option<Digest>,
    /// Bytes that went over the network for its layers.
    pub transferred: u64,
}

/// Fetches the image `reference` means now, and records it in the store.
///
/// What is there already is not fetched again; what a pull that broke off left is gone on with.
///
/// # Errors
/// [`RegistryError`] for all that the registry is to blame for, [`Error::Store`](crate::Error::Store) and [`Error::Io`](crate::Error::Io)
/// for the store. The layers that were complete stay in the store in any case.
pub fn pull(
    reference: &Reference,
    options: &Options,
    store: &Store,
    watch: &dyn Watch,
) -> Result<Pulled> {
    let session = Session::pull(reference, options, watch)?;
    let resolved = session.resolve()?;
    let image = ImageRecord {
        reference: reference.clone(),
        manifest: resolved.manifest,
        layers: resolved.layers,
    };
    let blobs = distinct(&image);
    watch.event(&Event::Resolved {
        manifest: image.manifest.digest,
        subject: resolved.subject,
        layers: blobs.len(),
        bytes: blobs.iter().map(|blob| blob.size).sum(),
    });
    let lease = store.lease(blobs.iter().map(|blob| blob.digest))?;
    let transferred = Transfer::fetch_all(&session, store, &blobs)?;
    session.http.check_audit()?;
    store.record(&image)?;
    drop(lease);
    Ok(Pulled {
        image,
        subject: resolved.subject,
        transferred,
    })
}

/// Fetches one blob, which a configuration names by its address, into the store.
///
/// # Errors
/// As [`pull`]; [`RegistryError::Option`] for an address that is not of a registry's blob.
pub fn pull_blob(
    blob: &RemoteBlob<'_>,
    options: &Options,
    store: &Store,
    watch: &dyn Watch,
) -> Result<()> {
    let (base, reference) = blob_address(blob)?;
    let session = Session::pull_at(&base, &reference, options, watch)?;
    let size = match blob.size {
        Some(size) => size,
        None => session.blob_size(&blob.digest)?,
    };
    watch.event(&Event::Resolved {
        manifest: blob.digest,
        subject: None,
        layers: 1,
        bytes: size,
    });
    let descriptor = Descriptor {
        media_type: String::new(),
        digest: blob.digest,
        size,
        annotations: Default::default(),
    };
    Transfer::fetch_all(&session, store, &[&descriptor])?;
    Ok(session.http.check_audit()?)
}

/// What stands in front of `/v2/` in the address of a blob, and its repository as a reference.
fn blob_address(blob: &RemoteBlob<'_>) -> Result<(String, Reference), RegistryError> {
    let wrong = || {
        RegistryError::Option(format!(
            "{}: is no address of a blob in a registry, https://HOST/v2/REPOSITORY/blobs/DIGEST",
            shown(blob.url)
        ))
    };
    let home = Url::parse(blob.url)?.authority();
    // With a port, any name is one of a registry.
    let port = if blob.url.starts_with("https:") {
        443
    } else {
        80
    };
    let host = match home.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => home,
        _ if home.contains('.') => home,
        _ => format!("{home}:{port}"),
    };
    let (base, rest) = blob.url.split_once("/v2/").ok_or_else(wrong)?;
    let repository = rest.strip_suffix(&format!("/blobs/{}", blob.digest));
    let reference = repository.map(|name| format!("{host}/{name}@{}", blob.digest));
    let reference = reference.and_then(|text| text.parse().ok());
    Ok((base.to_owned(), reference.ok_or_else(wrong)?))
}

/// The blobs to fetch: an image may have a layer twice.
fn distinct(image: &ImageRecord) -> Vec<&Descriptor> {
    let mut seen = BTreeSet::new();
    image
        .data_layers()
        .filter(|layer| seen.insert(layer.digest))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Option<(String, String)> {
        let digest = Digest::of_bytes(b"x");
        let url = &format!("{url}/{digest}");
        let size = None;
        let (base, reference) = blob_address(&RemoteBlob { url, digest, size }).ok()?;
        let name = format!("{}/{}", reference.registry(), reference.repository());
        Some((base, name))
    }

    #[test]
    fn a_blob_is_found_by_its_address() {
        for (url, base, name) in [
            (
                "https://h.example/v2/a/b/blobs",
                "https://h.example",
                "h.example/a/b",
            ),
            ("http://h:5000/v2/a/blobs", "http://h:5000", "h:5000/a"),
            ("https://h/v2/a/blobs", "https://h", "h:443/a"),
            ("http://h/x/v2/a/blobs", "http://h/x", "h:80/a"),
        ] {
            assert_eq!(address(url), Some((base.to_owned(), name.to_owned())));
        }
        for url in [
            "https://h.example/a/blobs",
            "https://h.example/v2/a",
            "/v2/a/blobs",
            "h/v2/a/blobs",
        ] {
            assert_eq!(address(url), None, "{url}");
        }
    }
}
