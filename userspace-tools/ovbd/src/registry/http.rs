// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Single requests: encryption, redirects, and what of a failure may be told.
//!
//! Redirects are followed here and not by the HTTP library, so that one place decides what goes
//! along: credentials never leave the scheme, host and port that they are for.

use std::io::{self, Read};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use secrecy::{ExposeSecret, SecretString};
use ureq::http::{self, header, HeaderMap, HeaderValue, Method};
use ureq::{Agent, AsSendBody, BodyReader, Proxy, SendBody};

use super::audit::{Audit, Record};
use super::error::passes;
use super::tls::{self, TlsFiles, Trust};
use super::url::Url;
use super::RegistryError;

/// Hops that a request may take.
const MAX_REDIRECTS: usize = 5;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(20);
/// How often as long as silence may last a whole head, or a whole manifest, may take.
const WHOLE: u32 = 4;
/// How often as long a registry may think about a layer that it was sent: some copy it.
const THINKING: u32 = 20;
/// How much is read from the network at a time, bytes.
const INPUT_BUFFER: usize = 256 << 10;
/// What glibc and musl say of a name that no host has; of an error with names the standard library
/// keeps only the text. What they say of name servers that do not answer is something else.
const NO_HOST: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
];
/// What the HTTP library says before the status with which a proxy refuses a connection.
const PROXY_REFUSED: &str = "proxy server responded ";
/// Who we say that we are.
const USER_AGENT: &str = concat!("ovbd/", env!("CARGO_PKG_VERSION"));

/// How to reach registries.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Speak without encryption to hosts other than this one.
    pub plain_http: bool,
    /// Certificates.
    pub tls: TlsFiles,
    /// Who to say that we are.
    pub user_agent: Option<String>,
    /// A file that gets a line for each request.
    pub audit: Option<PathBuf>,
    /// How long a connection may be silent.
    pub stall: Duration,
    /// Connections that are kept open to one host.
    pub connections: usize,
}

/// What sends requests.
#[derive(Debug)]
pub(super) struct Http {
    /// By way of the proxy that the environment names.
    proxied: Agent,
    proxy: Option<Proxy>,
    /// For addresses on this host.
    direct: Agent,
    audit: Audit,
    plain_http: bool,
    stall: Duration,
}

/// What goes along with a request.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// What this gives, anew for each request.
    Stream(&'a dyn Stream),
}

impl Payload<'_> {
    /// Its length, bytes.
    fn size(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Stream(stream) => stream.size(),
        }
    }
}

/// Something long to be sent.
pub(super) trait Stream: Sync {
    /// Its length, bytes.
    fn size(&self) -> u64;

    /// Its bytes, from the first on. An error of this or of reading them that has a
    /// [`RegistryError`] in it is told as that.
    fn open(&self) -> io::Result<Box<dyn Read + '_>>;
}

/// A request.
#[derive(Clone)]
pub(super) struct Request<'a> {
    /// What to do.
    pub method: Method,
    /// With what.
    pub url: Url,
    /// Headers that may go to any host.
    pub headers: Vec<(&'static str, String)>,
    /// The header that may not.
    pub authorization: Option<SecretString>,
    /// What goes along.
    pub payload: Payload<'a>,
}

impl<'a> Request<'a> {
    /// A request without anything around it.
    pub fn new(method: Method, url: Url) -> Self {
        Self {
            method,
            url,
            headers: Vec::new(),
            authorization: None,
            payload: Payload::None,
        }
    }

    /// The same with a header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The same with a body.
    pub fn payload(mut self, payload: Payload<'a>) -> Self {
        self.payload = payload;
        self
    }
}

/// An answer, of any status; its body is still to be read.
pub(super) struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// Who answered, after redirects.
    pub url: Url,
    /// Whether it came from the host that was asked.
    pub from_origin: bool,
    body: BodyReader<'static>,
    record: Option<Record>,
}

impl Http {
    pub fn new(options: &HttpOptions) -> Result<Self, RegistryError> {
        let tls = tls::config(&options.tls, Trust::Both)?;
        let agent = |proxy: Option<Proxy>| -> Agent {
            Agent::config_builder()
                .tls_config(tls.clone())
                .proxy(proxy)
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(options.user_agent.as_deref().unwrap_or(USER_AGENT))
                .accept_encoding("identity")
                .input_buffer_size(INPUT_BUFFER)
                .max_idle_connections(2 * options.connections)
                .max_idle_connections_per_host(options.connections)
                .timeout_connect(Some(CONNECT))
                .timeout_per_read(Some(options.stall))
                .timeout_recv_response(Some(WHOLE * options.stall))
                .timeout_per_write(Some(options.stall))
                .build()
                .into()
        };
        check_header(options.user_agent.as_deref())?;
        let proxy = Proxy::try_from_env();
        Ok(Self {
            proxied: agent(proxy.clone()),
            proxy,
            direct: agent(None),
            audit: Audit::open(options.audit.as_deref())?,
            plain_http: options.plain_http,
            stall: options.stall,
        })
    }

    /// Sends a request and follows redirects. A status that tells of an error is none here.
    pub fn send(&self, request: &Request<'_>) -> Result<Answer, RegistryError> {
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.hop(request, &url)?;
            match answer.redirect(request)? {
                Some(next) => url = next,
                None => return Ok(answer),
            }
        }
        Err(RegistryError::Protocol {
            url: request.url.to_string(),
            problem: format!("redirected more than {MAX_REDIRECTS} times"),
        })
    }

    fn hop(&self, request: &Request<'_>, url: &Url) -> Result<Answer, RegistryError> {
        if !url.is_encrypted() && !url.is_loopback() && !self.plain_http {
            return Err(RegistryError::Insecure {
                url: url.to_string(),
            });
        }
        let from_origin = url.same_origin(&request.url);
        let authorization = request.authorization.as_ref().filter(|_| from_origin);
        let mut head = http::Request::builder()
            .method(&request.method)
            .uri(url.uri());
        for (name, value) in &request.headers {
            head = head.header(*name, value);
        }
        if let Some(secret) = authorization {
            head = head.header(header::AUTHORIZATION, sensitive(secret, url)?);
        }
        let agent = if url.is_loopback() {
            &self.direct
        } else {
            &self.proxied
        };
        let sent = request.payload.size();
        let mut record = self.audit.begin(&request.method, url, sent)?;
        let answer = match request.payload {
            Payload::None => run(agent, head, ()),
            Payload::Bytes(bytes) => run(agent, head, bytes),
            Payload::Stream(stream) => match stream.open() {
                Ok(mut bytes) => {
                    let head = head.header(header::CONTENT_LENGTH, stream.size());
                    self.run_long(agent, head, SendBody::from_reader(&mut bytes))
                }
                Err(e) => Err(ureq::Error::Io(e)),
            },
        };
        let answer = answer.map_err(|e| self.unanswered(url, e));
        if let (Some(record), Err(error)) = (&mut record, &answer) {
            record.failed(error);
        }
        let (head, body) = answer?.into_parts();
        if let Some(record) = &mut record {
            record.answered(head.status.as_u16());
        }
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            url: url.clone(),
            from_origin,
            body: body.into_reader(),
            record,
        })
    }

    /// Sends something long, and waits longer for the answer.
    fn run_long(
        &self,
        agent: &Agent,
        head: http::request::Builder,
        body: SendBody<'_>,
    ) -> Result<http::Response<ureq::Body>, ureq::Error> {
        let patience = Some(THINKING * self.stall);
        let request = agent
            .configure_request(head.body(body)?)
            .timeout_per_read(patience)
            .timeout_recv_response(patience)
            .build();
        agent.run(request)
    }

    /// Whether what is at `url`, an `https` address of this host, speaks TLS at all.
    pub fn speaks_tls(&self, url: &Url) -> bool {
        let head = http::Request::builder().method(Method::GET).uri(url.uri());
        match run(&self.direct, head, ()) {
            Ok(_) => true,
            Err(e) => matches!(
                tls_error(&e),
                Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
            ),
        }
    }

    /// An error if requests could not be logged: that of the last one nobody has seen yet.
    pub fn check_audit(&self) -> Result<(), RegistryError> {
        self.audit.check()
    }

    /// What to tell about a request that got no answer, or could not be sent for reasons of ours.
    fn unanswered(&self, url: &Url, error: ureq::Error) -> RegistryError {
        let error = match error {
            ureq::Error::Io(e) => match e.downcast() {
                Ok(ours) => return ours,
                Err(e) => ureq::Error::Io(e),
            },
            other => other,
        };
        self.failure(url, &error)
    }

    /// The proxy by way of which `url` is asked for: its host and port.
    fn proxy_to(&self, url: &Url) -> Option<String> {
        let proxy = self.proxy.as_ref().filter(|_| !url.is_loopback())?;
        let used = !proxy.is_no_proxy(url.uri());
        used.then(|| format!("{}:{}", proxy.host(), proxy.port()))
    }

    /// What to tell about a request that got no answer.
    pub fn failure(&self, url: &Url, error: &ureq::Error) -> RegistryError {
        let (reason, passing) = match (tls_error(error), error) {
            (Some(rustls::Error::InvalidCertificate(e)), _) => (
                format!("its certificate is not trusted ({e:?}); --ca names another authority"),
                false,
            ),
            (Some(rustls::Error::InvalidMessage(_)), _) => (
                "does not speak TLS; --plain-http does without".to_owned(),
                false,
            ),
            (Some(e), _) => (format!("TLS: {e}"), false),
            (None, ureq::Error::Timeout(ureq::Timeout::Connect)) => (
                format!("cannot be reached within {} s", CONNECT.as_secs()),
                true,
            ),
            (None, ureq::Error::Timeout(_)) => (silence(self.stall), true),
            (None, ureq::Error::HostNotFound) => ("there is no such host".to_owned(), false),
            (None, ureq::Error::Io(e)) if is_no_host(e) => {
                ("there is no such host".to_owned(), false)
            }
            (None, ureq::Error::Io(e)) => (e.to_string(), true),
            (None, ureq::Error::ConnectProxyFailed(e)) => refused_by_proxy(e),
            (None, ureq::Error::ConnectionFailed) => ("cannot be reached".to_owned(), true),
            // The others quote no address with a secret in it.
            (None, ureq::Error::Protocol(e)) => (format!("does not speak HTTP: {e}"), true),
            (None, _) => ("the request cannot be made".to_owned(), false),
        };
        let reason = match self.proxy_to(url) {
            Some(proxy) => format!("{reason} (by way of the proxy {proxy})"),
            None => reason,
        };
        RegistryError::Connection {
            url: url.to_string(),
            reason,
            passing,
        }
    }
}

fn is_no_host(error: &io::Error) -> bool {
    let text = error.to_string();
    NO_HOST.iter().any(|end| text.ends_with(end))
}

/// What to tell about a proxy that makes no connection, of which the HTTP library says `text`; and
/// whether it may in a moment.
fn refused_by_proxy(text: &str) -> (String, bool) {
    let status = text.strip_prefix(PROXY_REFUSED);
    let status = status.and_then(|rest| rest.split('/').next()?.parse().ok());
    match status {
        Some(407) => (
            "the proxy answered 407 and wants a login: http://USER:PASSWORD@HOST in the variable \
             that names it"
                .to_owned(),
            false,
        ),
        Some(status) => (
            format!("the proxy makes no connection; it answered {status}"),
            passes(status),
        ),
        None => ("the proxy does not answer as one".to_owned(), true),
    }
}

fn silence(stall: Duration) -> String {
    format!("sent nothing for {} s", stall.as_secs_f32())
}

fn run(
    agent: &Agent,
    head: http::request::Builder,
    body: impl AsSendBody,
) -> Result<http::Response<ureq::Body>, ureq::Error> {
    agent.run(head.body(body)?)
}

/// The error of TLS that `error` is about.
fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

fn sensitive(secret: &SecretString, url: &Url) -> Result<HeaderValue, RegistryError> {
    let mut value =
        HeaderValue::from_str(secret.expose_secret()).map_err(|_| RegistryError::Credentials {
            origin: url.to_string(),
            problem: "the credentials have characters that cannot be sent".to_owned(),
        })?;
    value.set_sensitive(true);
    Ok(value)
}

fn check_header(user_agent: Option<&str>) -> Result<(), RegistryError> {
    match user_agent.map(HeaderValue::from_str) {
        Some(Err(_)) => Err(RegistryError::Option(
            "userAgent: has characters that cannot be sent".to_owned(),
        )),
        _ => Ok(()),
    }
}

impl Answer {
    /// The value of a header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// What `Content-Length` says.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Where the answer sends us on. Only what reads is sent on.
    fn redirect(&self, request: &Request<'_>) -> Result<Option<Url>, RegistryError> {
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        if !reads || !matches!(self.status, 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let next = self.header("location").and_then(|to| self.url.join(to));
        next.map(Some).ok_or_else(|| RegistryError::Protocol {
            url: self.url.to_string(),
            problem: "redirects to no address that can be followed".to_owned(),
        })
    }

    /// The error that this answer is.
    pub fn error(&self) -> RegistryError {
        RegistryError::Status {
            url: self.url.to_string(),
            status: self.status,
            retry_after: self.header("retry-after").and_then(parse_retry_after),
        }
    }

    /// The whole body, which is not to be larger than `most` bytes, nor to take long.
    pub fn read_all(mut self, http: &Http, most: usize) -> Result<Vec<u8>, RegistryError> {
        if self.length().is_some_and(|length| length > most as u64) {
            return Err(self.too_large(most));
        }
        let deadline = Instant::now() + WHOLE * http.stall;
        let mut bytes = Vec::new();
        let mut chunk = [0; 16 << 10];
        loop {
            match self.read(&mut chunk) {
                Ok(0) => return Ok(bytes),
                Ok(read) => bytes.extend_from_slice(&chunk[..read]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(http.failure(&self.url, &ureq::Error::from(e))),
            }
            if bytes.len() > most {
                return Err(self.too_large(most));
            }
            if Instant::now() > deadline {
                return Err(RegistryError::Connection {
                    url: self.url.to_string(),
                    reason: "the answer does not come to an end".to_owned(),
                    passing: true,
                });
            }
        }
    }

    fn too_large(&self, most: usize) -> RegistryError {
        RegistryError::Protocol {
            url: self.url.to_string(),
            problem: format!(
                "the answer is larger than {most} bytes, which is more than it may be"
            ),
        }
    }
}

impl Read for Answer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.body.read(buffer);
        if let Some(record) = &mut self.record {
            match &read {
                Ok(bytes) => record.received(*bytes),
                Err(e) => record.failed(e),
            }
        }
        read
    }
}

/// Seconds, or a date.
fn parse_retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> Http {
        Http::new(&HttpOptions {
            plain_http: false,
            tls: TlsFiles::default(),
            user_agent: None,
            audit: None,
            stall: Duration::from_secs(1),
            connections: 1,
        })
        .unwrap()
    }

    #[test]
    fn a_name_that_no_host_has_is_final_and_silent_name_servers_are_not() {
        let url = Url::parse("https://h.example/v2/").unwrap();
        for (said, is_passing) in [
            ("Name or service not known", false),
            ("No address associated with hostname", false),
            ("Temporary failure in name resolution", true),
            ("Connection refused (os error 111)", true),
        ] {
            let text = format!("failed to lookup address information: {said}");
            let error = http().failure(&url, &ureq::Error::Io(io::Error::other(text)));
            assert_eq!(error.is_passing(), is_passing, "{error}");
            let told = error.to_string().contains("there is no such host");
            assert_eq!(told, !is_passing, "{error}");
        }
    }

    #[test]
    fn what_a_proxy_says_decides_whether_to_try_again() {
        let refused = |status: &str| refused_by_proxy(&format!("{PROXY_REFUSED}{status}"));
        assert!(!refused("407/407").1 && refused("407/407").0.contains("wants a login"));
        assert!(!refused("403/403").1 && refused("403/403").0.contains("403"));
        assert!(refused("503/503").1 && refused("503/503").0.contains("503"));
        assert!(refused_by_proxy("proxy server did not respond").1);
    }

    #[test]
    fn errors_of_ours_are_told_as_they_are() {
        let url = Url::parse("https://h.example/v2/").unwrap();
        let ours = io::Error::other(RegistryError::Cancelled);
        let error = http().unanswered(&url, ureq::Error::Io(ours));
        assert!(matches!(error, RegistryError::Cancelled), "{error}");
    }

    #[test]
    fn registries_ask_to_be_left_alone_in_two_ways() {
        assert_eq!(parse_retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(
            parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"),
            Some(Duration::ZERO)
        );
        let later = SystemTime::now() + Duration::from_secs(3600);
        let text = httpdate::fmt_http_date(later);
        assert!(parse_retry_after(&text).unwrap() > Duration::from_secs(3000));
        assert_eq!(parse_retry_after("soon"), None);
    }
}
