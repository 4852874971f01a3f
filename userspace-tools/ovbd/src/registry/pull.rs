// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Fetching an image: its layers into the store, then its record.

use std::collections::BTreeSet;

use super::events::{Event, Watch};
use super::pace::Limiter;
use super::session::Session;
use super::transfer::Transfer;
use super::{parallel, Options};
use crate::image::digest::Digest;
use crate::reference::Reference;
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
/// [`RegistryError`](super::RegistryError) for all that the registry is to blame for, [`Error::Store`](crate::Error::Store) and [`Error::Io`](crate::Error::Io)
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
    let transfer = Transfer {
        session: &session,
        store,
        limiter: options.max_rate.map(Limiter::new),
    };
    let transferred = parallel::sum(&session, &blobs, |at, blob| transfer.fetch(at, blob))?;
    store.record(&image)?;
    drop(lease);
    Ok(Pulled {
        image,
        subject: resolved.subject,
        transferred,
    })
}

/// The blobs to fetch: an image may have a layer twice.
fn distinct(image: &ImageRecord) -> Vec<&Descriptor> {
    let mut seen = BTreeSet::new();
    image
        .data_layers()
        .filter(|layer| seen.insert(layer.digest))
        .collect()
}
