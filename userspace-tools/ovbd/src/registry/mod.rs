// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Registries: images come from them, and go to them.
//!
//! [`pull`] and [`push`] are all that others call. A `Session` is a repository with the ways to
//! it; it asks, and asks again with credentials if it has to ([`auth`], [`credentials`]); `http`
//! makes single requests and decides what goes along on a redirect. `resolve` finds the OverlayBD
//! form of an image, `transfer` brings its blobs into the [`store`](crate::store): `crew` says which
//! connection fetches what, `stream` is one request for it.
//!
//! Registries are not trusted: sizes are bounded before anything is read, whatever has a digest is
//! compared with it, and no number of tries depends on what the other side says.

mod audit;
mod auth;
mod challenge;
pub mod credentials;
mod crew;
mod error;
mod events;
mod host;
mod http;
pub mod manifest;
mod pace;
mod parallel;
mod platform;
mod pull;
mod push;
mod resolve;
mod session;
mod stream;
mod tls;
mod transfer;
mod url;

use std::path::PathBuf;

pub use self::credentials::Credentials;
pub use self::error::RegistryError;
pub use self::events::{Event, Watch};
pub use self::pace::Patience;
pub use self::platform::Platform;
pub use self::pull::{pull, pull_blob, Pulled};
pub use self::push::{push, PushPlan, Pushed};
pub use self::tls::TlsFiles;

/// How to reach a registry, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// For which system, if there are several.
    pub platform: Platform,
    /// Blobs, and parts of large ones, that are on their way at the same time.
    pub connections: usize,
    /// Bytes a second for all of them together.
    pub max_rate: Option<u64>,
    /// Hosts or addresses that are asked before the registry.
    pub mirrors: Vec<String>,
    /// A proxy for blobs; the address of a blob is appended to its own.
    pub p2p: Option<String>,
    /// Speak without encryption to hosts other than this one.
    pub plain_http: bool,
    /// Certificates.
    pub tls: TlsFiles,
    /// Who to say that we are.
    pub user_agent: Option<String>,
    /// A file that gets a line for each request.
    pub audit: Option<PathBuf>,
    /// Logins.
    pub credentials: Credentials,
    /// How long to go on with a registry that is in trouble.
    pub patience: Patience,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            platform: Platform::host(),
            connections: 4,
            max_rate: None,
            mirrors: Vec::new(),
            p2p: None,
            plain_http: false,
            tls: TlsFiles::default(),
            user_agent: None,
            audit: None,
            credentials: Credentials::default(),
            patience: Patience::default(),
        }
    }
}
