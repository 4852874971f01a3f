// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Certificates: whom to trust, and who we are.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::zeroize::Zeroizing;
use ureq::tls::{parse_pem, Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig};

use super::RegistryError;

/// Files of certificates, each PEM.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities to trust.
    pub ca: Option<PathBuf>,
    /// Our own certificate, with its chain.
    pub cert: Option<PathBuf>,
    /// The key of it; in the same file if not given.
    pub key: Option<PathBuf>,
}

/// What a CA that is given means for the system's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It is trusted beside them.
    Both,
    /// It is trusted in their place.
    OnlyCa,
}

/// How to encrypt.
pub(super) fn config(files: &TlsFiles, trust: Trust) -> Result<TlsConfig, RegistryError> {
    let builder = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(roots(files.ca.as_deref(), trust)?)
        .client_cert(client(files)?);
    Ok(builder.build())
}

fn roots(ca: Option<&Path>, trust: Trust) -> Result<RootCerts, RegistryError> {
    let mut roots = match (ca, trust) {
        (Some(_), Trust::OnlyCa) => Vec::new(),
        _ => system().to_vec(),
    };
    if let Some(path) = ca {
        let given = certificates(path)?;
        if given.is_empty() {
            return Err(wrong(path, "has no certificate in PEM form"));
        }
        roots.extend(given);
    }
    Ok(RootCerts::from(roots))
}

/// The authorities that the system trusts, read once. A host without any can still reach
/// registries with a CA of their own; the others fail by name.
fn system() -> &'static [Certificate<'static>] {
    static SYSTEM: OnceLock<Vec<Certificate<'static>>> = OnceLock::new();
    SYSTEM.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs().certs;
        let own = |der: &CertificateDer<'_>| Certificate::from_der(der).to_owned();
        found.iter().map(own).collect()
    })
}

fn client(files: &TlsFiles) -> Result<Option<ClientCert>, RegistryError> {
    let Some(cert) = &files.cert else {
        return match &files.key {
            Some(key) => Err(wrong(
                key,
                "is a key without a certificate; --cert names it",
            )),
            None => Ok(None),
        };
    };
    let chain = certificates(cert)?;
    if chain.is_empty() {
        return Err(wrong(cert, "has no certificate in PEM form"));
    }
    let path = files.key.as_ref().unwrap_or(cert);
    let text = Zeroizing::new(read(path)?);
    let key = PrivateKey::from_pem(&text).map_err(|_| wrong(path, "has no key in PEM form"))?;
    check_pair(&chain, &text).map_err(|_| wrong(path, "its key does not fit the certificate"))?;
    Ok(Some(ClientCert::new_with_certs(&chain, key)))
}

/// Whether key and certificate belong together. The HTTP library takes that for granted.
fn check_pair(chain: &[Certificate<'static>], key: &[u8]) -> Result<(), rustls::Error> {
    let general = |_| rustls::Error::General(String::new());
    let chain = chain.iter().map(|c| CertificateDer::from(c.der().to_vec()));
    let key = PrivateKeyDer::from_pem_slice(key).map_err(general)?;
    CertifiedKey::from_der(chain.collect(), key, &ring::default_provider())?;
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let text = read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(&text) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(wrong(path, "is not PEM")),
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, RegistryError> {
    fs::read(path).map_err(|e| wrong(path, &format!("cannot read it: {e}")))
}

fn wrong(path: &Path, problem: &str) -> RegistryError {
    RegistryError::Certificate {
        path: path.display().to_string(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_certificates_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        fs::write(&path, "nothing").unwrap();
        let none = dir.path().join("none.pem");
        for (ca, cert, key, text) in [
            (Some(&path), None, None, "no certificate"),
            (Some(&none), None, None, "cannot read"),
            (None, Some(&path), None, "no certificate"),
            (None, None, Some(&path), "without a certificate"),
        ] {
            let files = TlsFiles {
                ca: ca.cloned(),
                cert: cert.cloned(),
                key: key.cloned(),
            };
            let error = config(&files, Trust::Both).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
