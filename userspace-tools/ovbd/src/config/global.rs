// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The configuration of a host (`overlaybd.json`), as it is there for the userspace daemon.
//!
//! What concerns fetching layers is used as it is. The rest belongs to the daemon: for each such
//! field there is a sentence that says what is in its place here, and whether something that was
//! asked for is missing.

mod fields;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{given, ConfigError, Download};
use crate::{Error, Result};
use fields::findings;

pub use fields::{Finding, Verdict};

/// Where the configuration is, if there is one.
pub const PATH: &str = "/etc/overlaybd/overlaybd.json";
/// What is asked for logins if no mode is given.
const CREDENTIAL_FILE: &str = "/opt/overlaybd/cred.json";
const P2P_ADDRESS: &str = "http://localhost:9731/accelerator";
const AUDIT_LOG: &str = "/var/log/overlaybd-audit.log";
const CREDENTIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What of a host's configuration matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Global {
    /// Where logins come from, if that is configured.
    pub credentials: Option<CredentialSource>,
    /// A proxy for blobs: their addresses are appended to this one.
    pub p2p: Option<String>,
    /// The certificate to show to registries.
    pub certificate: Option<Certificate>,
    /// Who to say that we are.
    pub user_agent: Option<String>,
    /// A file that gets a line for each request.
    pub audit: Option<PathBuf>,
    /// How to fetch.
    pub download: Download,
    /// What became of each field.
    pub findings: Vec<Finding>,
}

/// Where logins come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// A JSON file with `auths`, read again when a login is refused.
    File(PathBuf),
    /// A service that is asked for each blob.
    Service {
        /// Where it is.
        address: ServiceAddress,
        /// How long it may take.
        timeout: Duration,
        /// The certificate to show to it.
        certificate: Option<Certificate>,
        /// The only authority that is trusted to know it.
        authority: Option<PathBuf>,
    },
}

/// Where a service for logins is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceAddress {
    /// `http://` or `https://`.
    Url(String),
    /// A Unix socket.
    Socket(PathBuf),
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The certificate's file.
    pub file: PathBuf,
    /// Its key's file.
    pub key: PathBuf,
}

impl Global {
    /// Reads the configuration at `path`; without one, at [`PATH`] if there is one.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        let (path, required) = match path {
            Some(path) => (path, true),
            None => (Path::new(PATH), false),
        };
        let text = match fs::read_to_string(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !required => {
                return Ok(Self::default())
            }
            other => other.map_err(|e| Error::io("read", path, e))?,
        };
        Ok(Self::parse(&text, path)?)
    }

    /// Parses the text of a configuration that lies at `path`.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let json = |source| ConfigError::Json {
            path: path.to_owned(),
            what: "configuration of a host",
            source,
        };
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(json)?;
        let raw: Raw = serde_json::from_str(text).map_err(json)?;
        let credentials = raw.credentials(path)?;
        let field = |field, reason: &str| ConfigError::Field {
            path: path.to_owned(),
            field: String::from(field),
            reason: reason.to_owned(),
        };
        let certificate = raw
            .cert_config
            .certificate()
            .map_err(|reason| field("certConfig", reason))?;
        let p2p = raw.p2p_config.enable.then(|| {
            let address = given(raw.p2p_config.address);
            address.unwrap_or_else(|| P2P_ADDRESS.to_owned())
        });
        let audit = raw.enable_audit.then(|| {
            let path = given(raw.audit_path);
            path.map_or_else(|| AUDIT_LOG.into(), PathBuf::from)
        });
        Ok(Self {
            credentials,
            p2p,
            certificate,
            user_agent: given(raw.user_agent),
            audit,
            download: raw.download,
            findings: findings(&fields),
        })
    }

    /// What was asked for and is not to be had: a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let serious =
            |finding: &&Finding| matches!(finding.verdict, Verdict::Missing | Verdict::Unknown);
        let notes = self.findings.iter().filter(serious);
        notes
            .map(|finding| format!("{}: {}", finding.field, finding.note))
            .collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default)]
    credential_config: RawCredentials,
    credential_file_path: Option<String>,
    #[serde(default)]
    download: Download,
    #[serde(default, rename = "p2pConfig")]
    p2p_config: RawP2p,
    #[serde(default)]
    cert_config: RawCertificate,
    user_agent: Option<String>,
    #[serde(default)]
    enable_audit: bool,
    audit_path: Option<String>,
}

// As deployments have them: these are not in camel case.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCredentials {
    mode: Option<String>,
    path: Option<String>,
    timeout: Option<u64>,
    client_cert_path: Option<String>,
    client_key_path: Option<String>,
    server_ca_path: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawP2p {
    enable: bool,
    address: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawCertificate {
    cert_file: Option<String>,
    key_file: Option<String>,
}

impl RawCertificate {
    fn certificate(self) -> Result<Option<Certificate>, &'static str> {
        match (given(self.cert_file), given(self.key_file)) {
            (None, None) => Ok(None),
            (Some(file), Some(key)) => Ok(Some(Certificate {
                file: file.into(),
                key: key.into(),
            })),
            _ => Err("a certificate and its key are needed, and one of them is missing"),
        }
    }
}

impl Raw {
    fn credentials(&self, path: &Path) -> Result<Option<CredentialSource>, ConfigError> {
        let config = &self.credential_config;
        let error = |field: &str, reason: String| ConfigError::Field {
            path: path.to_owned(),
            field: format!("credentialConfig.{field}"),
            reason,
        };
        let place = given(config.path.clone());
        let older = given(self.credential_file_path.clone());
        let Some(mode) = given(config.mode.clone()) else {
            return Ok(place
                .or(older)
                .map(|file| CredentialSource::File(file.into())));
        };
        let required = || {
            let reason = format!("mode \"{mode}\" needs it");
            place.clone().ok_or_else(|| error("path", reason))
        };
        let address = match mode.as_str() {
            "file" => {
                let file = place
                    .or(older)
                    .unwrap_or_else(|| CREDENTIAL_FILE.to_owned());
                return Ok(Some(CredentialSource::File(file.into())));
            }
            "http" | "https" => ServiceAddress::Url(required()?),
            "uds" => ServiceAddress::Socket(required()?.into()),
            other => {
                let reason = format!("\"{other}\" is none of file, http, https, uds");
                return Err(error("mode", reason));
            }
        };
        let certificate = RawCertificate {
            cert_file: config.client_cert_path.clone(),
            key_file: config.client_key_path.clone(),
        };
        let certificate = certificate.certificate();
        Ok(Some(CredentialSource::Service {
            address,
            timeout: config
                .timeout
                .map_or(CREDENTIAL_TIMEOUT, Duration::from_secs),
            certificate: certificate.map_err(|e| error("client_cert_path", e.to_owned()))?,
            authority: given(config.server_ca_path.clone()).map(PathBuf::from),
        }))
    }
}

#[cfg(test)]
mod tests;
