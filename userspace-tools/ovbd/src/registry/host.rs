// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a host's configuration (`overlaybd.json`) says about registries.

use super::credentials::{Address, Service, Source};
use super::{Options, TlsFiles};
use crate::config::global::{Certificate, CredentialSource, Global, ServiceAddress};

impl Options {
    /// These options, with what the host's configuration says in their place.
    pub fn with_host(mut self, host: &Global) -> Self {
        if let Some(source) = &host.credentials {
            self.credentials
                .sources
                .insert(0, credential_source(source));
        }
        if let Some(certificate) = &host.certificate {
            self.tls = tls(Some(certificate));
        }
        self.p2p = host.p2p.clone().or(self.p2p);
        self.audit = host.audit.clone().or(self.audit);
        self.user_agent = host.user_agent.clone().or(self.user_agent);
        self.max_rate = host.download.bytes_per_second().or(self.max_rate);
        if let Some(tries) = host.download.tries.filter(|&tries| tries > 0) {
            self.patience.attempts = tries;
        }
        self
    }
}

fn tls(certificate: Option<&Certificate>) -> TlsFiles {
    TlsFiles {
        ca: None,
        cert: certificate.map(|certificate| certificate.file.clone()),
        key: certificate.map(|certificate| certificate.key.clone()),
    }
}

fn credential_source(source: &CredentialSource) -> Source {
    match source {
        // The daemon does without if it is not there.
        CredentialSource::File(path) => Source::File {
            path: path.clone(),
            required: false,
        },
        CredentialSource::Service {
            address,
            timeout,
            certificate,
            authority,
        } => Source::Service(Service {
            address: match address {
                ServiceAddress::Url(url) => Address::Url(url.clone()),
                ServiceAddress::Socket(path) => Address::Socket(path.clone()),
            },
            timeout: *timeout,
            tls: TlsFiles {
                ca: authority.clone(),
                ..tls(certificate.as_ref())
            },
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_configuration_of_a_host_is_used() {
        let text = r#"{
            "credentialConfig": {"mode": "uds", "path": "/run/login.sock", "timeout": 3},
            "certConfig": {"certFile": "/c.pem", "keyFile": "/c.key"},
            "p2pConfig": {"enable": true, "address": "http://localhost:1/p"},
            "enableAudit": true, "userAgent": "agent", "download": {"maxMBps": 2, "tryCnt": 9}}"#;
        let host = Global::parse(text, Path::new("/x")).unwrap();
        let options = Options::default().with_host(&host);
        let [Source::Service(service)] = &options.credentials.sources[..] else {
            panic!("{:?}", options.credentials);
        };
        assert!(
            matches!(&service.address, Address::Socket(path) if path == Path::new("/run/login.sock"))
        );
        assert_eq!(service.timeout.as_secs(), 3);
        assert_eq!(options.tls.cert.as_deref(), Some(Path::new("/c.pem")));
        assert_eq!(options.tls.key.as_deref(), Some(Path::new("/c.key")));
        assert_eq!(options.p2p.as_deref(), Some("http://localhost:1/p"));
        assert_eq!(options.user_agent.as_deref(), Some("agent"));
        let log = Path::new("/var/log/overlaybd-audit.log");
        assert_eq!(options.audit.as_deref(), Some(log));
        assert_eq!(
            (options.max_rate, options.patience.attempts),
            (Some(2 << 20), 9)
        );
    }

    #[test]
    fn without_a_configuration_nothing_changes() {
        let (plain, host) = (
            Options::default(),
            Options::default().with_host(&Global::default()),
        );
        assert_eq!(format!("{plain:?}"), format!("{host:?}"));
    }
}
