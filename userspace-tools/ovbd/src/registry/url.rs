// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Addresses: where they lead, what of them may be shown, how redirects are followed.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};
use ureq::http::Uri;

use super::RegistryError;

pub use crate::output::shown::address as shown;

/// An absolute `http` or `https` address. Printed without user, query and fragment, in which
/// secrets may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    uri: Uri,
}

impl Url {
    /// Reads an address.
    ///
    /// # Errors
    /// If it is none, or one of another scheme.
    pub fn parse(text: &str) -> Result<Self, RegistryError> {
        let wrong =
            || RegistryError::Option(format!("`{}` is no http or https address", shown(text)));
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        let host = uri.host().is_some_and(|host| !host.is_empty());
        match known && host && !has_user(&uri) {
            true => Ok(Self { uri }),
            false => Err(wrong()),
        }
    }

    /// What the HTTP library takes.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whether what is sent there is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Whether it leads to this host: `localhost`, or an address of the loopback network.
    pub fn is_loopback(&self) -> bool {
        let host = self.uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether both are the same scheme, host and port: what a credential is for.
    pub fn same_origin(&self, other: &Self) -> bool {
        self.origin() == other.origin()
    }

    fn origin(&self) -> (bool, String, u16) {
        let default = if self.is_encrypted() { 443 } else { 80 };
        let host = self.uri.host().unwrap_or_default().to_ascii_lowercase();
        let port = self.uri.port_u16().unwrap_or(default);
        (self.is_encrypted(), host, port)
    }

    /// The address that a `Location` or `Link` in an answer from here leads to.
    pub fn join(&self, location: &str) -> Option<Self> {
        let scheme = self.uri.scheme_str()?;
        let authority = self.uri.authority()?;
        let whole = if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            location.to_owned()
        };
        let without_fragment = whole.split('#').next()?;
        Self::parse(without_fragment).ok()
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        self.uri
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default()
    }

    /// The whole address; for requests, not for people.
    pub fn text(&self) -> String {
        self.uri.to_string()
    }

    /// The same with `name=value` added to the query.
    pub fn with_query(&self, name: &str, value: &str) -> Option<Self> {
        let text = self.uri.to_string();
        let joint = if self.uri.query().is_some() { '&' } else { '?' };
        Self::parse(&format!("{text}{joint}{name}={}", encode(value))).ok()
    }
}

fn has_user(uri: &Uri) -> bool {
    uri.authority().is_some_and(|a| a.as_str().contains('@'))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.uri.to_string()))
    }
}

/// `text` as a value in a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn only_addresses_of_the_web_are_taken() {
        for text in [
            "",
            "h.example",
            "/v2/",
            "ftp://h.example",
            "file:///etc",
            "https://",
            "http:///x",
            "https://me:hunter2@h.example/",
        ] {
            let error = Url::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        assert_eq!(
            shown("https://u:p@h.example:1/a?sig=s#f"),
            "https://h.example:1/a?…"
        );
        assert_eq!(shown("u:p@h.example"), "h.example");
        assert_eq!(
            url("https://h.example/a?sig=s").to_string(),
            "https://h.example/a?…"
        );
        assert_eq!(
            url("https://h.example/a").to_string(),
            "https://h.example/a"
        );
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let from = url("https://h.example:1/v2/a/b?x");
        for (location, to) in [
            ("/c?d#e", "https://h.example:1/c?d"),
            ("//o.example/c", "https://o.example/c"),
            ("http://o.example/c?d", "http://o.example/c?d"),
        ] {
            assert_eq!(from.join(location).unwrap().uri.to_string(), to);
        }
        for location in ["ftp://o.example/", "https://u:p@o.example/", "", "c d"] {
            assert!(from.join(location).is_none(), "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = url("https://H.example/a");
        for same in ["https://h.example:443/", "https://h.EXAMPLE"] {
            assert!(origin.same_origin(&url(same)), "{same}");
        }
        for other in [
            "http://h.example/",
            "https://h.example:444/",
            "https://x.h.example/",
        ] {
            assert!(!origin.same_origin(&url(other)), "{other}");
        }
    }

    #[test]
    fn loopback_is_this_host() {
        for text in [
            "http://localhost:5000/",
            "http://127.9.0.1/",
            "http://[::1]:1/",
        ] {
            assert!(url(text).is_loopback(), "{text}");
        }
        for text in [
            "http://localhost.example/",
            "http://10.0.0.1/",
            "http://127.0.0.1.example/",
        ] {
            assert!(!url(text).is_loopback(), "{text}");
        }
    }

    #[test]
    fn queries_grow() {
        let base = url("https://h.example/u?_state=a");
        let with = base.with_query("digest", "sha256:1").unwrap();
        assert_eq!(
            with.uri.to_string(),
            "https://h.example/u?_state=a&digest=sha256%3A1"
        );
    }
}
