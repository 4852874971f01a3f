// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A service of the host that knows logins: overlaybd's `credentialConfig` with mode `http`,
//! `https` or `uds`. It is asked `GET path?remote_url=ADDRESS` and answers with `auths`.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::zeroize::Zeroizing;
use serde::Deserialize;

use super::file::{self, AuthFile};
use super::{Login, Wanted};
use crate::registry::tls::{self, TlsFiles, Trust};
use crate::registry::url::{encode, shown, Url};
use crate::registry::RegistryError;

/// No answer is larger, bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Where the service is.
#[derive(Clone, Debug)]
pub enum Address {
    /// An `http` or `https` address.
    Url(String),
    /// A Unix socket.
    Socket(PathBuf),
}

/// A service that is asked for each address.
#[derive(Clone, Debug)]
pub struct Service {
    /// Where it is.
    pub address: Address,
    /// How long it may take.
    pub timeout: Duration,
    /// Certificates for `https`. With a CA given, only it is trusted.
    pub tls: TlsFiles,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    success: bool,
    data: Option<AuthFile>,
}

impl Service {
    /// The login that the service has for `what`.
    pub(super) fn find(&self, what: &Wanted<'_>) -> Result<Option<Login>, RegistryError> {
        let origin = match &self.address {
            Address::Url(url) => shown(url),
            Address::Socket(path) => path.display().to_string(),
        };
        let fail = |problem: String| RegistryError::Credentials {
            origin: origin.clone(),
            problem,
        };
        let query = format!("remote_url={}", encode(what.url));
        let text = match &self.address {
            Address::Url(url) => self.ask_url(url, &query)?,
            Address::Socket(path) => self.ask_socket(path, &query),
        }
        .map_err(|e| fail(format!("cannot ask for credentials: {e}")))?;
        let answer: Answer = file::parse(&text).map_err(fail)?;
        match answer.data {
            Some(auths) if answer.success => auths.login(what, &origin),
            _ => Ok(None),
        }
    }

    fn ask_url(
        &self,
        url: &str,
        query: &str,
    ) -> Result<io::Result<Zeroizing<Vec<u8>>>, RegistryError> {
        Url::parse(url)?;
        let joint = if url.contains('?') { '&' } else { '?' };
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .tls_config(tls::config(&self.tls, Trust::OnlyCa)?)
            .timeout_global(Some(self.timeout))
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        let ask = || {
            let mut answer = agent.get(format!("{url}{joint}{query}")).call()?;
            let mut text = Zeroizing::new(Vec::new());
            let body = answer.body_mut().as_reader();
            body.take(MAX_ANSWER).read_to_end(&mut text)?;
            Ok(text)
        };
        Ok(ask().map_err(ureq::Error::into_io))
    }

    /// HTTP/1.0, in which the answer ends with the connection.
    fn ask_socket(&self, path: &Path, query: &str) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        write!(stream, "GET /?{query} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut text = Zeroizing::new(Vec::new());
        stream.take(MAX_ANSWER).read_to_end(&mut text)?;
        body_of(&text).map(Zeroizing::new)
    }
}

/// The body of an answer with status 200.
fn body_of(text: &[u8]) -> io::Result<Vec<u8>> {
    let end = text.windows(4).position(|w| w == b"\r\n\r\n");
    let (end, ok) = match end {
        Some(end) => (end + 4, text.split(|b| *b == b' ').nth(1) == Some(b"200")),
        None => return Err(io::Error::other("the answer is not HTTP")),
    };
    match ok {
        true => Ok(text[end..].to_vec()),
        false => Err(io::Error::other("the answer is not 200 OK")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use secrecy::ExposeSecret;

    use super::*;

    /// Answers one request on a socket; gives the request's first line.
    fn serve(path: &Path, answer: &'static str) -> std::thread::JoinHandle<String> {
        let listener = UnixListener::bind(path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            let text = String::from_utf8(request).unwrap();
            text.lines().next().unwrap().to_owned()
        })
    }

    fn ask(answer: &'static str) -> (Result<Option<Login>, RegistryError>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let server = serve(&path, answer);
        let service = Service {
            address: Address::Socket(path),
            timeout: Duration::from_secs(60),
            tls: TlsFiles::default(),
        };
        let what = Wanted {
            host: "h.example",
            repository: "a",
            url: "https://h.example/v2/a",
            explicit_fits: true,
        };
        (service.find(&what), server.join().unwrap())
    }

    #[test]
    fn a_socket_is_asked_for_the_address() {
        let (login, request) = ask("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n\
             {\"traceId\": \"x\", \"success\": true, \
             \"data\": {\"auths\": {\"h.example\": {\"username\": \"u\", \"password\": \"p\"}}}}");
        assert_eq!(
            request,
            "GET /?remote_url=https%3A%2F%2Fh%2Eexample%2Fv2%2Fa HTTP/1.0"
        );
        let Some(Login::Password { user, password }) = login.unwrap() else {
            panic!("no login");
        };
        assert_eq!((user.as_str(), password.expose_secret()), ("u", "p"));
    }

    #[test]
    fn a_service_may_know_nothing() {
        let (login, _) = ask("HTTP/1.0 200 OK\r\n\r\n{\"success\": false}");
        assert!(login.unwrap().is_none());
        let (login, _) = ask("HTTP/1.0 500 Oh\r\n\r\n{}");
        assert!(login.is_err());
    }
}
