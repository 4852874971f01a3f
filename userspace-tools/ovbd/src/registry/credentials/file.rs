// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Files with `auths`: Docker's, Podman's and overlaybd's have the same form.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::prelude::{Engine as _, BASE64_STANDARD};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{helper, Login, Wanted};
use crate::registry::RegistryError;

/// No such file is larger, bytes.
const MAX_SIZE: u64 = 4 << 20;
/// The first is the name that we give it, the others stand in files.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// What is looked at of such a file.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct AuthFile {
    auths: Option<BTreeMap<String, Option<Entry>>>,
    cred_helpers: Option<BTreeMap<String, String>>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "lowercase")]
struct Entry {
    username: Option<String>,
    password: Option<SecretString>,
    auth: Option<SecretString>,
    identitytoken: Option<SecretString>,
    registrytoken: Option<SecretString>,
}

/// The login that the file `path` has.
pub(super) fn find(
    path: &Path,
    required: bool,
    what: &Wanted<'_>,
) -> Result<Option<Login>, RegistryError> {
    let fail = |problem| RegistryError::Credentials {
        origin: path.display().to_string(),
        problem,
    };
    let text = match read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(None),
        Err(e) => return Err(fail(format!("cannot read the credentials: {e}"))),
    };
    // Whoever wants no logins names an empty file.
    if text.trim_ascii().is_empty() {
        return Ok(None);
    }
    let file: AuthFile = parse(&text).map_err(fail)?;
    file.login(what, &path.display().to_string())
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    File::open(path)?.take(MAX_SIZE).read_to_end(&mut text)?;
    Ok(text)
}

/// Where the text goes wrong, but not its words: they may be a password.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|e| {
        format!(
            "not the JSON that was expected, at line {} column {}",
            e.line(),
            e.column()
        )
    })
}

impl AuthFile {
    /// The host's own helper, then the longest key, then the helper for all.
    pub(super) fn login(
        &self,
        what: &Wanted<'_>,
        origin: &str,
    ) -> Result<Option<Login>, RegistryError> {
        let of_host = self.cred_helpers.iter().flatten();
        for (_, name) in of_host.filter(|(key, _)| normal(key) == normal(what.host)) {
            if let Some(login) = helper::ask(name, what.host)? {
                return Ok(Some(login));
            }
        }
        if let Some((key, entry)) = self.longest(what) {
            let login = entry
                .login()
                .map_err(|problem| RegistryError::Credentials {
                    origin: origin.to_owned(),
                    problem: format!("auths.\"{key}\": {problem}"),
                })?;
            if login.is_some() {
                return Ok(login);
            }
        }
        match &self.creds_store {
            Some(name) => helper::ask(name, what.host),
            None => Ok(None),
        }
    }

    fn longest(&self, what: &Wanted<'_>) -> Option<(&str, &Entry)> {
        let wanted = format!("{}/{}", normal(what.host), what.repository);
        let entries = self.auths.iter().flatten();
        entries
            .filter_map(|(key, entry)| Some((key.as_str(), normal(key), entry.as_ref()?)))
            .filter(|(_, key, _)| {
                let rest = wanted.strip_prefix(key.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .max_by_key(|(_, key, _)| key.len())
            .map(|(key, _, entry)| (key, entry))
    }
}

/// A key without what some tools put around it: a scheme, the version of the API.
fn normal(key: &str) -> String {
    let key = key.strip_prefix("https://").unwrap_or(key);
    let key = key.strip_prefix("http://").unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").unwrap_or(key);
    let key = key.strip_suffix("/v2").unwrap_or(key);
    let (host, path) = key
        .split_once('/')
        .map_or((key, None), |(h, p)| (h, Some(p)));
    let host = match DOCKER_HUB.contains(&host) {
        true => DOCKER_HUB[0],
        false => host,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

impl Entry {
    fn login(&self) -> Result<Option<Login>, &'static str> {
        let filled = |secret: &Option<SecretString>| {
            secret.clone().filter(|s| !s.expose_secret().is_empty())
        };
        if let Some(token) = filled(&self.registrytoken) {
            return Ok(Some(Login::RegistryToken(token)));
        }
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Login::IdentityToken(token)));
        }
        match (&self.username, &self.password, filled(&self.auth)) {
            (Some(user), Some(password), _) if !user.is_empty() => Ok(Some(Login::Password {
                user: user.clone(),
                password: password.clone(),
            })),
            (_, _, Some(auth)) => decode(&auth).map(Some),
            _ => Ok(None),
        }
    }
}

/// `user:password` in base64.
fn decode(auth: &SecretString) -> Result<Login, &'static str> {
    const WRONG: &str = "\"auth\" is not the base64 of USER:PASSWORD";
    let bytes = BASE64_STANDARD
        .decode(auth.expose_secret())
        .map_err(|_| WRONG)?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes).map_err(|_| WRONG)?;
    let (user, password) = text.trim_end_matches('\0').split_once(':').ok_or(WRONG)?;
    Ok(Login::Password {
        user: user.to_owned(),
        password: password.to_owned().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted<'a>(host: &'a str, repository: &'a str) -> Wanted<'a> {
        Wanted {
            host,
            repository,
            url: "",
            explicit_fits: true,
        }
    }

    fn user(file: &str, host: &str, repository: &str) -> Option<(String, String)> {
        let file: AuthFile = parse(file.as_bytes()).unwrap();
        match file.login(&wanted(host, repository), "test").unwrap()? {
            Login::Password { user, password } => Some((user, password.expose_secret().into())),
            _ => panic!("no password"),
        }
    }

    #[test]
    fn the_longest_key_wins() {
        // "dTpw" is the base64 of "u:p".
        let file = r#"{"auths": {
            "h.example": {"username": "all", "password": "1"},
            "h.example/a/b": {"auth": "dTpw"},
            "h.example/a": {"username": "a", "password": "2"},
            "https://index.docker.io/v1/": {"username": "hub", "password": "3"},
            "other.example:5000": null,
            "empty.example": {}
        }}"#;
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(user(file, "h.example", "x"), pair("all", "1"));
        assert_eq!(user(file, "h.example", "ab"), pair("all", "1"));
        assert_eq!(user(file, "h.example", "a/c"), pair("a", "2"));
        assert_eq!(user(file, "h.example", "a/b"), pair("u", "p"));
        assert_eq!(user(file, "h.example", "a/b/c"), pair("u", "p"));
        assert_eq!(user(file, "docker.io", "library/x"), pair("hub", "3"));
        for host in [
            "other.example:5000",
            "empty.example",
            "h.example:5000",
            "xh.example",
        ] {
            assert_eq!(user(file, host, "a"), None);
        }
    }

    #[test]
    fn tokens_are_told_from_passwords() {
        let file: AuthFile = parse(
            br#"{"auths": {"a.example": {"auth": "dTo=", "identitytoken": "t1"},
                           "b.example": {"registrytoken": "t2"}}}"#,
        )
        .unwrap();
        let of = |host| file.login(&wanted(host, "x"), "test").unwrap();
        assert!(
            matches!(of("a.example"), Some(Login::IdentityToken(t)) if t.expose_secret() == "t1")
        );
        assert!(
            matches!(of("b.example"), Some(Login::RegistryToken(t)) if t.expose_secret() == "t2")
        );
    }

    #[test]
    fn errors_do_not_quote_the_file() {
        let bad = [
            r#"{"auths": "hunter2"}"#,
            r#"{"auths": {"h.example": "hunter2"}}"#,
        ];
        for text in bad {
            let error = parse::<AuthFile>(text.as_bytes()).err().unwrap();
            assert!(
                !error.contains("hunter2") && error.contains("line 1"),
                "{error}"
            );
        }
        let file: AuthFile = parse(br#"{"auths": {"h.example": {"auth": "hunter2!"}}}"#).unwrap();
        let error = file
            .login(&wanted("h.example", "x"), "cred.json")
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cred.json: auths.\"h.example\": \"auth\" is not the base64 of USER:PASSWORD"
        );
    }

    #[test]
    fn only_a_required_file_has_to_exist() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none.json");
        assert!(find(&path, false, &wanted("h", "r")).unwrap().is_none());
        assert!(find(&path, true, &wanted("h", "r")).is_err());
        std::fs::write(&path, "\n").unwrap();
        assert!(find(&path, true, &wanted("h", "r")).unwrap().is_none());
    }
}
