// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can go wrong between this host and a registry.
//!
//! No text in here comes from a place that may hold a secret: addresses have lost their query and
//! user, and of what a registry answers only its status is kept.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{io_exit_code, ExitCode};

/// An image could not be pulled or pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// An option or a field of a configuration cannot be used.
    #[error("{0}")]
    Option(String),

    /// No answer, or one that broke off.
    #[error("{url}: {reason}")]
    Connection {
        /// The address, without query.
        url: String,
        /// What happened.
        reason: String,
        /// Whether it may be otherwise in a moment.
        passing: bool,
    },

    /// The registry answers that it cannot or will not.
    #[error("{url}: the registry answered {status}{}", meaning(*.status))]
    Status {
        /// The address, without query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How long the registry asks to be left alone.
        retry_after: Option<Duration>,
    },

    /// The registry wants other credentials.
    #[error("{url}: access denied {with}; {remedy}")]
    Denied {
        /// The address, without query.
        url: String,
        /// With which credentials it was tried.
        with: String,
        /// What may help.
        remedy: &'static str,
    },

    /// What was asked for is not there.
    #[error("{what}: not found at {host}")]
    NotFound {
        /// The image or the blob.
        what: String,
        /// The registry.
        host: String,
    },

    /// The registry does not keep to the protocol.
    #[error("{url}: {problem}")]
    Protocol {
        /// The address, without query.
        url: String,
        /// What was found and expected.
        problem: String,
    },

    /// An address that would have been spoken to without encryption.
    #[error("{url}: is not encrypted, and not on this host; --plain-http allows it")]
    Insecure {
        /// The address, without query.
        url: String,
    },

    /// A manifest that cannot be used.
    #[error("{what}: {problem}")]
    Manifest {
        /// The image.
        what: String,
        /// What was found and expected.
        problem: String,
    },

    /// An ordinary image.
    #[error(
        "{what}: is an ordinary image without an OverlayBD form; `ovbd build --from-dir ROOTFS \
         --tar` and `ovbd push --subject` make one, or the convertor of accelerated-container-image"
    )]
    NotOverlaybd {
        /// The image.
        what: String,
    },

    /// Credentials cannot be read.
    #[error("{origin}: {problem}")]
    Credentials {
        /// The file, helper or service.
        origin: String,
        /// What was found and expected.
        problem: String,
    },

    /// The log of requests that the host's configuration asks for cannot be written.
    #[error(
        "{path}: cannot log requests there: {problem}; `enableAudit` and `auditPath` of the host's \
         configuration ask for it"
    )]
    Audit {
        /// The file.
        path: String,
        /// Why.
        problem: String,
    },

    /// What is to be sent cannot be read.
    #[error("{path}: cannot be read: {source}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },

    /// A file with certificates cannot be used.
    #[error("{path}: {problem}")]
    Certificate {
        /// The file.
        path: String,
        /// What was found and expected.
        problem: String,
    },

    /// Another layer failed, and this one was given up.
    #[error("given up, because another layer failed")]
    Cancelled,
}

impl RegistryError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Option(_) => ExitCode::Usage,
            Self::Denied { .. } | Self::Insecure { .. } => ExitCode::Permission,
            Self::NotFound { .. } => ExitCode::NotFound,
            Self::Unreadable { source, .. } => io_exit_code(source),
            Self::Protocol { .. }
            | Self::Manifest { .. }
            | Self::NotOverlaybd { .. }
            | Self::Credentials { .. }
            | Self::Certificate { .. } => ExitCode::Invalid,
            Self::Connection { .. }
            | Self::Status { .. }
            | Self::Audit { .. }
            | Self::Cancelled => ExitCode::Failure,
        }
    }
}

impl RegistryError {
    /// Whether the same request may succeed in a moment.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connection { passing, .. } => *passing,
            Self::Status { status, .. } => passes(*status),
            _ => false,
        }
    }

    /// Whether it is none of the registry's doing, so that asking otherwise is of no use.
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Audit { .. } | Self::Unreadable { .. }
        )
    }

    /// How long the registry asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Whether a status is of trouble that may be over in a moment.
pub(super) fn passes(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// A remark about a status that people meet.
fn meaning(status: u16) -> &'static str {
    match status {
        429 => " (too many requests)",
        400 => " (bad request)",
        405 => " (method not allowed)",
        413 => " (too large)",
        500..=599 => " (it is in trouble)",
        _ => "",
    }
}
