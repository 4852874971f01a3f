// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A repository, and the ways to it: the registry itself, its mirrors, a P2P proxy.

use std::time::Duration;

use secrecy::SecretString;
use ureq::http::Method;

use super::auth::{denied, Authorizer, Refused};
use super::challenge;
use super::credentials::Wanted;
use super::events::{Event, Watch};
use super::http::{Answer, Http, HttpOptions, Request};
use super::manifest::{media, MAX_MANIFEST};
use super::pace::{Patience, Stop};
use super::url::Url;
use super::{Options, RegistryError};
use crate::image::digest::Digest;
use crate::reference::Reference;

/// Docker's registry has its API elsewhere, and a folder for images without one.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_API: &str = "registry-1.docker.io";
const DOCKER_HUB_FOLDER: &str = "library";

/// A way to a repository.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// What stands in front of `/v2/`.
    base: String,
    /// Whose credentials are shown, and whether those of the command line are.
    credentials: Option<Whose>,
    /// Whether only blobs can be had there.
    pub blobs_only: bool,
}

#[derive(Clone, Debug)]
struct Whose {
    host: String,
    own: bool,
}

/// A repository that is spoken to.
pub(super) struct Session<'a> {
    pub reference: &'a Reference,
    pub options: &'a Options,
    pub watch: &'a dyn Watch,
    pub http: Http,
    pub stop: Stop,
    authorizer: Authorizer,
    repository: String,
    endpoints: Vec<Endpoint>,
    /// `pull` or `pull,push`.
    actions: &'static str,
}

/// What the registry has under a tag or digest.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    /// Its digest, which was checked.
    pub digest: Digest,
    /// Its type, as the registry says.
    pub media_type: String,
    /// Its text.
    pub text: Vec<u8>,
}

impl<'a> Session<'a> {
    /// A session that reads, by all ways that there are.
    pub fn pull(
        reference: &'a Reference,
        options: &'a Options,
        watch: &'a dyn Watch,
    ) -> Result<Self, RegistryError> {
        Self::new(reference, options, watch, "pull")?
            .at(None)?
            .with_helpers()
    }

    /// The same for a registry that is known by its address: all of it in front of `/v2/`.
    pub fn pull_at(
        base: &str,
        reference: &'a Reference,
        options: &'a Options,
        watch: &'a dyn Watch,
    ) -> Result<Self, RegistryError> {
        Self::new(reference, options, watch, "pull")?
            .at(Some(base))?
            .with_helpers()
    }

    /// A session that writes: to the registry itself.
    pub fn push(
        reference: &'a Reference,
        options: &'a Options,
        watch: &'a dyn Watch,
    ) -> Result<Self, RegistryError> {
        Self::new(reference, options, watch, "pull,push")?.at(None)
    }

    fn new(
        reference: &'a Reference,
        options: &'a Options,
        watch: &'a dyn Watch,
        actions: &'static str,
    ) -> Result<Self, RegistryError> {
        let http = Http::new(&HttpOptions {
            plain_http: options.plain_http,
            tls: options.tls.clone(),
            user_agent: options.user_agent.clone(),
            audit: options.audit.clone(),
            stall: options.patience.stall,
            connections: options.connections,
        })?;
        Ok(Self {
            reference,
            options,
            watch,
            http,
            stop: Stop::default(),
            authorizer: Authorizer::default(),
            repository: api_repository(reference),
            endpoints: Vec::new(),
            actions,
        })
    }

    /// The same with the registry itself as the only way.
    fn at(mut self, base: Option<&str>) -> Result<Self, RegistryError> {
        let host = match self.reference.registry() {
            DOCKER_HUB => DOCKER_HUB_API,
            host => host,
        };
        let base = match base {
            Some(base) => base.to_owned(),
            None => self.base(host)?,
        };
        self.endpoints = vec![Endpoint {
            base,
            credentials: Some(Whose {
                host: self.reference.registry().to_owned(),
                own: true,
            }),
            blobs_only: false,
        }];
        Ok(self)
    }

    /// The same with a P2P proxy and mirrors before the registry itself.
    fn with_helpers(mut self) -> Result<Self, RegistryError> {
        let mut helpers = Vec::new();
        if let Some(p2p) = &self.options.p2p {
            helpers.push(self.origin().behind(p2p)?);
        }
        for mirror in &self.options.mirrors {
            helpers.push(self.mirror(mirror)?);
        }
        self.endpoints.splice(0..0, helpers);
        Ok(self)
    }

    /// A mirror: a host, or an address that may have a path.
    fn mirror(&self, text: &str) -> Result<Endpoint, RegistryError> {
        let base = match text.contains("://") {
            true => text.trim_end_matches('/').to_owned(),
            false => self.base(text.trim_end_matches('/'))?,
        };
        let url = Url::parse(&base)?;
        Ok(Endpoint {
            base,
            credentials: Some(Whose {
                host: url.authority(),
                own: false,
            }),
            blobs_only: false,
        })
    }

    /// The scheme that `host` is spoken to with, and the host. A registry on this host may do
    /// without encryption; only trying tells.
    fn base(&self, host: &str) -> Result<String, RegistryError> {
        let with = |scheme: &str| format!("{scheme}://{host}");
        let url = Url::parse(&with("https"))?;
        let plain = self.options.plain_http
            || url.is_loopback() && !self.http.speaks_tls(&url.join("/v2/").unwrap_or(url));
        Ok(with(if plain { "http" } else { "https" }))
    }

    /// The ways to blobs, best first; the registry itself is the last.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The registry itself.
    pub fn origin(&self) -> &Endpoint {
        // There is one from the beginning on.
        &self.endpoints[self.endpoints.len() - 1]
    }

    pub fn patience(&self) -> &Patience {
        &self.options.patience
    }

    /// The address of `path` in the repository: `blobs/sha256:…`.
    pub fn url(&self, endpoint: &Endpoint, path: &str) -> Result<Url, RegistryError> {
        Url::parse(&format!("{}/v2/{}/{path}", endpoint.base, self.repository))
    }

    /// Sends a request. If it is refused, credentials are read (again) and it is sent once more.
    pub fn send(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
    ) -> Result<Answer, RegistryError> {
        let mut request = request.clone();
        for last in [false, true] {
            request.authorization = self.authorization(endpoint, &request.url);
            let answer = self.http.send(&request)?;
            self.watch.event(&Event::Request {
                method: request.method.as_str(),
                url: &answer.url.to_string(),
                status: answer.status,
            });
            match answer.status {
                401 if answer.from_origin && !last => self.renew(endpoint, &request, &answer)?,
                401 | 403 => return Err(self.denied(endpoint, &answer)),
                _ => return Ok(answer),
            }
        }
        // Both rounds return, or the first leads to the second.
        Err(RegistryError::Cancelled)
    }

    /// What the endpoint accepted last; nothing for an address elsewhere that it sent us to.
    fn authorization(&self, endpoint: &Endpoint, url: &Url) -> Option<SecretString> {
        let home = Url::parse(&endpoint.base).ok()?;
        let header = self.authorizer.header(&endpoint.base)?;
        home.same_origin(url).then_some(header)
    }

    fn renew(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        answer: &Answer,
    ) -> Result<(), RegistryError> {
        let home = Url::parse(&endpoint.base)?.same_origin(&request.url);
        let challenge = challenge::best(&answer.headers).filter(|_| home);
        let Some(challenge) = challenge else {
            return Err(self.denied(endpoint, answer));
        };
        let url = request.url.text();
        let wanted = self.wanted(endpoint, &url);
        let refused = Refused {
            key: &endpoint.base,
            url: &request.url,
            shown: request.authorization.as_ref(),
            challenge,
            scope: &format!("repository:{}:{}", self.repository, self.actions),
        };
        self.authorizer.renew(
            &self.http,
            &self.options.credentials,
            wanted.as_ref(),
            &refused,
        )
    }

    /// What credentials are wanted for; nothing if none may be shown.
    fn wanted<'b>(&'b self, endpoint: &'b Endpoint, url: &'b str) -> Option<Wanted<'b>> {
        let whose = endpoint.credentials.as_ref()?;
        Some(Wanted {
            host: &whose.host,
            repository: &self.repository,
            url,
            explicit_fits: whose.own,
        })
    }

    fn denied(&self, endpoint: &Endpoint, answer: &Answer) -> RegistryError {
        let url = answer.url.text();
        let login = self
            .wanted(endpoint, &url)
            .and_then(|wanted| self.options.credentials.find(&wanted).ok()?);
        denied(&answer.url, login.as_ref())
    }

    /// Does `what` until it works, as far as patience goes.
    pub fn persist<T>(
        &self,
        layer: Option<usize>,
        mut what: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut failures = 0;
        loop {
            let error = match what() {
                Err(error) if error.is_passing() => error,
                other => return other,
            };
            failures += 1;
            match self.patience().pause(failures, &error) {
                Some(pause) => self.pause(layer, &error, pause)?,
                None => return Err(error),
            }
        }
    }

    /// Tells of a failure, and waits; unless everything is to stop: then nothing is tried again.
    pub fn pause(
        &self,
        layer: Option<usize>,
        error: &RegistryError,
        pause: Duration,
    ) -> Result<(), RegistryError> {
        self.stop.check()?;
        let error = &error.to_string();
        self.watch.event(&Event::Retry {
            layer,
            error,
            pause,
        });
        self.stop.wait(pause)
    }

    /// Sends a request to the registry itself until it is answered with one of these statuses.
    pub fn ask(&self, request: &Request<'_>, wanted: &[u16]) -> Result<Answer, RegistryError> {
        self.persist(None, || {
            let answer = self.send(self.origin(), request)?;
            match wanted.contains(&answer.status) {
                true => Ok(answer),
                false => Err(answer.error()),
            }
        })
    }

    /// What is under a tag or digest, from the first way that has it.
    pub fn manifest(&self, target: &str) -> Result<Fetched, RegistryError> {
        let ways: Vec<&Endpoint> = self.endpoints.iter().filter(|e| !e.blobs_only).collect();
        let last = ways.len().saturating_sub(1);
        for (at, endpoint) in ways.into_iter().enumerate() {
            let fetched = match at == last {
                true => self.persist(None, || self.manifest_from(endpoint, target)),
                // A mirror is a favour: if it fails, the registry itself is there.
                false => self.manifest_from(endpoint, target),
            };
            match fetched {
                Err(error) if at != last && !error.is_local() => {
                    self.pause(None, &error, Duration::ZERO)?;
                }
                other => return other,
            }
        }
        Err(RegistryError::Option(
            "there is no way to the registry".to_owned(),
        ))
    }

    /// The size of a blob that the registry has to have.
    pub fn blob_size(&self, digest: &Digest) -> Result<u64, RegistryError> {
        let url = self.url(self.origin(), &format!("blobs/{digest}"))?;
        let answer = self.ask(&Request::new(Method::HEAD, url), &[200, 404])?;
        match (answer.status, answer.length()) {
            (200, Some(length)) => Ok(length),
            (200, None) => Err(RegistryError::Protocol {
                url: answer.url.to_string(),
                problem: "does not tell the size of the blob".to_owned(),
            }),
            _ => Err(RegistryError::NotFound {
                what: self.named(&digest.to_string()),
                host: answer.url.authority(),
            }),
        }
    }

    /// Something in the repository, as a reference to it.
    pub fn named(&self, target: &str) -> String {
        let joint = if target.contains(':') { '@' } else { ':' };
        format!(
            "{}/{}{joint}{target}",
            self.reference.registry(),
            self.repository
        )
    }

    fn manifest_from(&self, endpoint: &Endpoint, target: &str) -> Result<Fetched, RegistryError> {
        let url = self.url(endpoint, &format!("manifests/{target}"))?;
        let request = Request::new(Method::GET, url).header("accept", media::ACCEPT);
        let answer = self.send(endpoint, &request)?;
        let url = answer.url.clone();
        match answer.status {
            200 => {}
            404 => {
                return Err(RegistryError::NotFound {
                    what: self.named(target),
                    host: url.authority(),
                })
            }
            _ => return Err(answer.error()),
        }
        let media_type = answer.header("content-type").unwrap_or_default().to_owned();
        let says = answer
            .header("docker-content-digest")
            .and_then(|d| d.parse().ok());
        let text = answer.read_all(&self.http, MAX_MANIFEST)?;
        let digest = Digest::of_bytes(&text);
        let wanted = target.parse().ok().or(says);
        if let Some(wanted) = wanted.filter(|wanted: &Digest| *wanted != digest) {
            return Err(RegistryError::Protocol {
                url: url.to_string(),
                problem: format!("the manifest has the digest {digest}, not {wanted}"),
            });
        }
        Ok(Fetched {
            digest,
            media_type,
            text,
        })
    }
}

impl Endpoint {
    /// The same by way of a P2P proxy, the address of which stands in front. Our credentials are
    /// for the registry: only a proxy on this host passes them on.
    fn behind(&self, proxy: &str) -> Result<Self, RegistryError> {
        let trusted = Url::parse(proxy)?.is_loopback();
        Ok(Self {
            base: format!("{}/{}", proxy.trim_end_matches('/'), self.base),
            credentials: self.credentials.clone().filter(|_| trusted),
            blobs_only: true,
        })
    }
}

/// The repository as the API knows it.
fn api_repository(reference: &Reference) -> String {
    let repository = reference.repository();
    match reference.registry() {
        DOCKER_HUB if !repository.contains('/') => format!("{DOCKER_HUB_FOLDER}/{repository}"),
        _ => repository.to_owned(),
    }
}

/// What is asked for of a reference: its digest, or its tag.
pub(super) fn target(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    }
}
