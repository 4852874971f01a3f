// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a registry asks for when it refuses a request: the header `WWW-Authenticate`.

use ureq::http::{header, HeaderMap};

/// A way of authentication that a registry offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User and password.
    Basic,
    /// A token.
    Bearer(Bearer),
}

/// Where tokens are to be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bearer {
    /// The address.
    pub realm: String,
    /// For which service.
    pub service: Option<String>,
    /// To do what.
    pub scope: Option<String>,
}

/// The way to take: a token rather than the password itself.
pub(super) fn best(headers: &HeaderMap) -> Option<Challenge> {
    let texts = headers.get_all(header::WWW_AUTHENTICATE).iter();
    let all: Vec<Challenge> = texts
        .filter_map(|v| v.to_str().ok())
        .flat_map(parse)
        .collect();
    let bearer = all.iter().find(|c| matches!(c, Challenge::Bearer(_)));
    bearer.or(all.first()).cloned()
}

/// The challenges in one header; unknown ones are left out.
fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<(String, Bearer)> = Vec::new();
    for item in split(text) {
        let item = item.trim();
        let equals = item.find('=').unwrap_or(item.len());
        // A scheme stands in front of its first parameter, with a space between.
        let parameter = match item[..equals].trim_end().rsplit_once(' ') {
            Some((scheme, _)) => {
                found.push((scheme.trim().to_ascii_lowercase(), Bearer::default()));
                item[scheme.len()..].trim()
            }
            None if equals == item.len() => {
                found.push((item.to_ascii_lowercase(), Bearer::default()));
                continue;
            }
            None => item,
        };
        let (Some((_, bearer)), Some((name, value))) =
            (found.last_mut(), parameter.split_once('='))
        else {
            continue;
        };
        let value = unquote(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => bearer.realm = value,
            "service" => bearer.service = Some(value),
            "scope" => bearer.scope = Some(value),
            _ => {}
        }
    }
    let known = found
        .into_iter()
        .filter_map(|(scheme, bearer)| match scheme.as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" if !bearer.realm.is_empty() => Some(Challenge::Bearer(bearer)),
            _ => None,
        });
    known.collect()
}

/// `text` at its commas, but for those between quotes.
fn split(text: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(|c| {
        let special = !std::mem::take(&mut escaped);
        match c {
            '"' if special => quoted = !quoted,
            '\\' if special && quoted => escaped = true,
            ',' => return !quoted,
            _ => {}
        }
        false
    })
    .collect()
}

fn unquote(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'));
    let Some(inner) = inner else {
        return text.to_owned();
    };
    let mut escaped = false;
    let keep = inner.chars().filter(|c| {
        escaped = *c == '\\' && !escaped;
        !escaped
    });
    keep.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer(Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        })
    }

    #[test]
    fn challenges_are_understood() {
        assert_eq!(
            parse(
                r#"Bearer realm="https://a.example/t",service="r",scope="repository:a/b:pull,push""#
            ),
            [bearer(
                "https://a.example/t",
                Some("r"),
                Some("repository:a/b:pull,push")
            )]
        );
        assert_eq!(
            parse(r#"basic realm="a, \"b\" = c", Bearer  realm = x , error="e""#),
            [Challenge::Basic, bearer("x", None, None)]
        );
        assert_eq!(parse("Basic"), [Challenge::Basic]);
        assert_eq!(parse("Negotiate, Basic realm=x"), [Challenge::Basic]);
        for nothing in [
            "",
            ",",
            "=",
            "Bearer",
            "Bearer scope=\"x\"",
            "realm=\"x\"",
            "\"",
            "Digest a=b",
        ] {
            assert_eq!(parse(nothing), [], "{nothing}");
        }
    }

    #[test]
    fn a_token_is_preferred() {
        let mut headers = HeaderMap::new();
        assert_eq!(best(&headers), None);
        headers.append(header::WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        assert_eq!(best(&headers), Some(Challenge::Basic));
        headers.append(header::WWW_AUTHENTICATE, "Bearer realm=y".parse().unwrap());
        assert_eq!(best(&headers), Some(bearer("y", None, None)));
    }
}
