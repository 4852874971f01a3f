// SPDX-License-Identifier: GPL-2.0-only OR MIT

use super::*;

/// As packages of the daemon install it, with every older spelling besides.
const DEPLOYED: &str = r#"{
    "logConfig": {"logLevel": 1, "logPath": "/var/log/overlaybd.log", "logSizeMB": 10},
    "logLevel": 1,
    "logPath": "/var/log/overlaybd.log",
    "ioEngine": 0,
    "cacheConfig": {"cacheType": "file", "cacheDir": "/opt/overlaybd/registry_cache",
                    "cacheSizeGB": 4, "refillSize": 262144, "blockSize": 65536},
    "registryCacheDir": "/opt/overlaybd/registry_cache",
    "registryCacheSizeGB": 4,
    "cacheType": "file",
    "gzipCacheConfig": {"enable": false, "cacheDir": "/opt/overlaybd/gzip_cache"},
    "credentialConfig": {"mode": "file", "path": "/opt/overlaybd/cred.json"},
    "credentialFilePath": "/elsewhere",
    "download": {"enable": true, "delay": 600, "delayExtra": 30, "maxMBps": 100, "tryCnt": 5,
                 "blockSize": 262144},
    "p2pConfig": {"enable": false, "address": "https://localhost:9731/accelerator"},
    "exporterConfig": {"enable": true, "uriPrefix": "/metrics", "port": 9863,
                       "updateInterval": 60000000},
    "enableAudit": false,
    "auditPath": "/var/log/overlaybd-audit.log",
    "registryFsVersion": "v2",
    "prefetchConfig": {"concurrency": 16},
    "certConfig": {"certFile": "", "keyFile": ""},
    "userAgent": "test",
    "serviceConfig": {"enable": false, "address": "http://127.0.0.1:9862"}
}"#;

fn parse(text: &str) -> Global {
    Global::parse(text, Path::new("/etc/o.json")).unwrap()
}

fn refusal(text: &str) -> String {
    let error = Global::parse(text, Path::new("/etc/o.json")).unwrap_err();
    error.to_string()
}

#[test]
fn a_deployed_configuration_is_understood() {
    let global = parse(DEPLOYED);
    assert_eq!(global.notes(), [""; 0]);
    let file = CredentialSource::File("/opt/overlaybd/cred.json".into());
    assert_eq!(global.credentials, Some(file));
    assert_eq!((global.p2p, global.certificate), (None, None));
    assert_eq!(global.user_agent.as_deref(), Some("test"));
    assert_eq!(global.download.bytes_per_second(), Some(100 << 20));
    assert_eq!(global.download.tries, Some(5));
    // Every field that the daemon has is in the list, each of them once.
    assert!(global
        .findings
        .iter()
        .all(|f| f.verdict != Verdict::Unknown));
    let verdict = |field: &str| {
        let mut fits = global.findings.iter().filter(|f| f.field == field);
        let found = fits.next().unwrap().verdict;
        assert_eq!(fits.next(), None);
        found
    };
    assert_eq!(verdict("download.maxMBps"), Verdict::Used);
    assert_eq!(verdict("download.delay"), Verdict::Replaced);
    assert_eq!(verdict("cacheConfig.cacheSizeGB"), Verdict::Replaced);
}

#[test]
fn what_is_missing_is_named() {
    let text = r#"{"enableAudit": true, "gzipCacheConfig": {"enable": true}, "surprise": 1,
                   "serviceConfig": {"enable": true}, "download": {"sometime": 1}}"#;
    let notes = parse(text).notes();
    let names: Vec<&str> = notes
        .iter()
        .filter_map(|note| note.split(':').next())
        .collect();
    assert_eq!(
        names,
        [
            "download.sometime",
            "gzipCacheConfig.enable",
            "serviceConfig.enable",
            "surprise"
        ]
    );
}

#[test]
fn modes_of_credentials() {
    let credentials = |config: &str| {
        let text = format!(r#"{{"credentialConfig": {config}}}"#);
        parse(&text).credentials
    };
    let file = |path: &str| Some(CredentialSource::File(path.into()));
    assert_eq!(parse("{}").credentials, None);
    assert_eq!(
        parse(r#"{"credentialFilePath": "/c"}"#).credentials,
        file("/c")
    );
    assert_eq!(credentials(r#"{"mode": "file"}"#), file(CREDENTIAL_FILE));
    let service = |address, timeout, certificate, authority| {
        Some(CredentialSource::Service {
            address,
            timeout: Duration::from_secs(timeout),
            certificate,
            authority,
        })
    };
    let url = |text: &str| ServiceAddress::Url(text.into());
    assert_eq!(
        credentials(r#"{"mode": "http", "path": "http://localhost:1/auth"}"#),
        service(url("http://localhost:1/auth"), 1, None, None)
    );
    let certificate = Certificate {
        file: "/c".into(),
        key: "/k".into(),
    };
    assert_eq!(
        credentials(
            r#"{"mode": "https", "path": "https://h/a", "timeout": 3, "client_cert_path": "/c",
                "client_key_path": "/k", "server_ca_path": "/ca"}"#
        ),
        service(url("https://h/a"), 3, Some(certificate), Some("/ca".into()))
    );
    assert_eq!(
        credentials(r#"{"mode": "uds", "path": "/run/c.sock"}"#),
        service(ServiceAddress::Socket("/run/c.sock".into()), 1, None, None)
    );
}

#[test]
fn values_that_mean_nothing() {
    for (text, reason) in [
        ("[]", "not the configuration of a host"),
        (r#"{"userAgent": 7}"#, "not the configuration of a host"),
        (
            r#"{"download": {"maxMBps": -1}}"#,
            "not the configuration of a host",
        ),
        (
            r#"{"credentialConfig": {"mode": "x"}}"#,
            "credentialConfig.mode",
        ),
        (
            r#"{"credentialConfig": {"mode": "http"}}"#,
            "credentialConfig.path",
        ),
        (
            r#"{"credentialConfig": {"mode": "uds", "path": "/s", "client_cert_path": "/c"}}"#,
            "credentialConfig.client_cert_path",
        ),
        (r#"{"certConfig": {"certFile": "/c"}}"#, "certConfig"),
    ] {
        let said = refusal(text);
        assert!(
            said.contains("/etc/o.json") && said.contains(reason),
            "{said}"
        );
    }
}

#[test]
fn a_log_of_requests() {
    let audit = |text: &str| parse(text).audit;
    assert_eq!(audit("{}"), None);
    assert_eq!(audit(r#"{"auditPath": "/a"}"#), None);
    assert_eq!(audit(r#"{"enableAudit": true}"#), Some(AUDIT_LOG.into()));
    let both = r#"{"enableAudit": true, "auditPath": "/a"}"#;
    assert_eq!(audit(both), Some("/a".into()));
}

#[test]
fn a_proxy() {
    let text = r#"{"p2pConfig": {"enable": true, "address": "http://h:1/p"}}"#;
    assert_eq!(parse(text).p2p.as_deref(), Some("http://h:1/p"));
    let text = r#"{"p2pConfig": {"enable": true}}"#;
    assert_eq!(parse(text).p2p.as_deref(), Some(P2P_ADDRESS));
}

#[test]
fn a_file_that_has_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlaybd.json");
    assert!(Global::load(Some(&path)).is_err());
    fs::write(&path, DEPLOYED).unwrap();
    assert_eq!(Global::load(Some(&path)).unwrap(), parse(DEPLOYED));
}
