// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What happens during a pull or a push, for whoever shows it.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::image::digest::Digest;

/// Something that happened. In JSON an object with the field `event`.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event<'a> {
    /// A request was answered.
    Request {
        /// `GET` and others.
        method: &'a str,
        /// The address, without query.
        url: &'a str,
        /// The HTTP status.
        status: u16,
    },
    /// A reference was resolved to an OverlayBD image.
    Resolved {
        /// The digest of its manifest.
        manifest: Digest,
        /// The ordinary image that it belongs to, if that was what was named.
        subject: Option<Digest>,
        /// How many blobs there are.
        layers: usize,
        /// Their size together, bytes.
        bytes: u64,
    },
    /// The layers are sound, and about to be sent.
    Pushing {
        /// How many there are.
        layers: usize,
        /// Their size together, bytes.
        bytes: u64,
    },
    /// Another process is fetching a blob, and this one waits for it.
    Waiting {
        /// The blob's number, from 0 on.
        layer: usize,
        /// Its digest.
        digest: Digest,
    },
    /// A blob is being worked on.
    Started {
        /// Its number, from 0 on.
        layer: usize,
        /// Its digest.
        digest: Digest,
        /// Its size, bytes.
        size: u64,
        /// What was there already, bytes.
        present: u64,
    },
    /// A blob got further.
    Progress {
        /// Its number.
        layer: usize,
        /// Bytes that are there now.
        present: u64,
    },
    /// A blob is complete.
    Finished {
        /// Its number.
        layer: usize,
        /// Its digest.
        digest: Digest,
        /// Bytes that went over the network.
        transferred: u64,
    },
    /// A server sends the whole of a blob where it is asked for a part: one connection has to do.
    Single {
        /// The blob's number.
        layer: usize,
        /// The address, without query.
        url: &'a str,
    },
    /// Something failed and is tried again.
    Retry {
        /// The blob that it is about.
        layer: Option<usize>,
        /// What failed.
        error: &'a str,
        /// The pause until then, seconds.
        #[serde(rename = "pause_seconds", serialize_with = "seconds")]
        pause: Duration,
    },
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// Whoever wants to know. Called from several threads.
pub trait Watch: Sync {
    /// Something happened.
    fn event(&self, event: &Event<'_>);
}

/// Nobody.
impl Watch for () {
    fn event(&self, _: &Event<'_>) {}
}
