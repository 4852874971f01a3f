// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What we show to a registry that wants to know who we are, and how it is got.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::prelude::{Engine as _, BASE64_STANDARD};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use ureq::http::Method;

use super::challenge::{Bearer, Challenge};
use super::credentials::{Credentials, Login, Wanted};
use super::http::{Http, Payload, Request};
use super::url::{encode, Url};
use super::RegistryError;

/// No answer with a token is larger, bytes.
const MAX_TOKEN: usize = 256 << 10;

/// The `Authorization` headers that were accepted last, by what they are for.
#[derive(Debug, Default)]
pub(super) struct Authorizer {
    headers: Mutex<BTreeMap<String, SecretString>>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
}

/// What a registry refused.
#[derive(Debug)]
pub(super) struct Refused<'a> {
    /// Who refused it: headers are kept by this name.
    pub key: &'a str,
    /// The address.
    pub url: &'a Url,
    /// What it was shown.
    pub shown: Option<&'a SecretString>,
    /// What it wants.
    pub challenge: Challenge,
    /// For which repository, and to do what: `repository:a/b:pull`.
    pub scope: &'a str,
}

impl Authorizer {
    /// The header that was accepted for `key` last.
    pub fn header(&self, key: &str) -> Option<SecretString> {
        self.lock().get(key).cloned()
    }

    /// A panic of another thread leaves nothing half done in there.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, SecretString>> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gets a new header after a refusal; reads the credentials anew. Of several threads that
    /// were refused the same header, one asks, and the others take what it got.
    pub fn renew(
        &self,
        http: &Http,
        credentials: &Credentials,
        wanted: Option<&Wanted<'_>>,
        refused: &Refused<'_>,
    ) -> Result<(), RegistryError> {
        let mut headers = self.lock();
        let newer = headers.get(refused.key).filter(|now| {
            let shown = refused.shown.map(ExposeSecret::expose_secret);
            shown != Some(now.expose_secret())
        });
        if newer.is_some() {
            return Ok(());
        }
        headers.remove(refused.key);
        let login = match wanted {
            Some(wanted) => credentials.find(wanted)?,
            None => None,
        };
        let header = match (&refused.challenge, &login) {
            (_, Some(Login::RegistryToken(token))) => bearer(token),
            (Challenge::Basic, Some(Login::Password { user, password })) => basic(user, password),
            (Challenge::Basic, _) => return Err(denied(refused.url, login.as_ref())),
            (Challenge::Bearer(ask), _) => token(http, ask, refused, login.as_ref())?,
        };
        headers.insert(refused.key.to_owned(), header);
        Ok(())
    }
}

/// The error for a refusal that nothing helps against.
pub(super) fn denied(url: &Url, login: Option<&Login>) -> RegistryError {
    let with = match login {
        None => "without credentials".to_owned(),
        Some(Login::Password { user, .. }) => format!("as user `{user}`"),
        Some(_) => "with a token".to_owned(),
    };
    let remedy = match login {
        None => {
            "if the image is there, `docker login` or --username and --password-stdin say who asks"
        }
        Some(_) => "check the name of the image, the credentials and what they allow",
    };
    RegistryError::Denied {
        url: url.to_string(),
        with,
        remedy,
    }
}

fn basic(user: &str, password: &SecretString) -> SecretString {
    let pair = Zeroizing::new(format!("{user}:{}", password.expose_secret()));
    let text = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
    format!("Basic {}", text.as_str()).into()
}

fn bearer(token: &SecretString) -> SecretString {
    format!("Bearer {}", token.expose_secret()).into()
}

/// Gets a token, with the login if there is one.
fn token(
    http: &Http,
    ask: &Bearer,
    refused: &Refused<'_>,
    login: Option<&Login>,
) -> Result<SecretString, RegistryError> {
    let realm = realm(ask, refused.url)?;
    let scope = ask.scope.as_deref().unwrap_or(refused.scope);
    let answer = match login {
        Some(Login::IdentityToken(refresh)) => {
            let form = Zeroizing::new(format!(
                "grant_type=refresh_token&client_id=ovbd&service={}&scope={}&refresh_token={}",
                encode(ask.service.as_deref().unwrap_or_default()),
                encode(scope),
                encode(refresh.expose_secret()),
            ));
            let request = Request::new(Method::POST, realm)
                .header("content-type", "application/x-www-form-urlencoded")
                .payload(Payload::Bytes(form.as_bytes()));
            http.send(&request)?
        }
        _ => {
            let mut url = realm;
            let parameters = [("service", ask.service.as_deref()), ("scope", Some(scope))];
            for (name, value) in parameters {
                let with = value.and_then(|value| url.with_query(name, value));
                url = with.unwrap_or(url);
            }
            let mut request = Request::new(Method::GET, url);
            if let Some(Login::Password { user, password }) = login {
                request.authorization = Some(basic(user, password));
            }
            http.send(&request)?
        }
    };
    let url = answer.url.clone();
    match answer.status {
        200 => {}
        400 | 401 | 403 => return Err(denied(&url, login)),
        _ => return Err(answer.error()),
    }
    let text = Zeroizing::new(answer.read_all(http, MAX_TOKEN)?);
    // The text of a failure could quote the token.
    let answer: Option<TokenAnswer> = serde_json::from_slice(&text).ok();
    let token = answer.and_then(|answer| answer.token.or(answer.access_token));
    token
        .as_ref()
        .map(bearer)
        .ok_or_else(|| RegistryError::Protocol {
            url: url.to_string(),
            problem: "the answer has no token".to_owned(),
        })
}

/// Where the token is to be had. A registry that is spoken to with encryption cannot have the
/// password sent anywhere without.
fn realm(ask: &Bearer, from: &Url) -> Result<Url, RegistryError> {
    let realm = Url::parse(&ask.realm).map_err(|_| RegistryError::Protocol {
        url: from.to_string(),
        problem: "names no address where tokens are to be had".to_owned(),
    })?;
    if from.is_encrypted() && !realm.is_encrypted() {
        return Err(RegistryError::Protocol {
            url: from.to_string(),
            problem: format!("sends us for a token to {realm}, which is not encrypted"),
        });
    }
    Ok(realm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_made_as_the_standards_say() {
        let header = basic("Aladdin", &"open sesame".into());
        assert_eq!(header.expose_secret(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(bearer(&"abc".into()).expose_secret(), "Bearer abc");
    }

    #[test]
    fn a_token_is_not_fetched_in_the_clear() {
        let from = Url::parse("https://h.example/v2/").unwrap();
        let ask = |realm: &str| Bearer {
            realm: realm.into(),
            ..Bearer::default()
        };
        assert!(realm(&ask("https://t.example/"), &from).is_ok());
        for wrong in ["http://t.example/", "http://127.0.0.1/", "/token", ""] {
            assert!(realm(&ask(wrong), &from).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nothing_that_is_printed_has_the_secret() {
        let login = Login::Password {
            user: "me".into(),
            password: "hunter2".into(),
        };
        let credentials = Credentials {
            explicit: Some(login.clone()),
            sources: Vec::new(),
        };
        let url = Url::parse("https://h.example/v2/").unwrap();
        let header = basic("me", &"hunter2".into());
        let error = denied(&url, Some(&login));
        let texts = [
            format!("{login:?} {credentials:?}"),
            format!("{header:?}"),
            format!("{error} {error:?}"),
        ];
        for text in texts {
            for secret in ["hunter2", "bWU6aHVudGVyMg"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }
}
