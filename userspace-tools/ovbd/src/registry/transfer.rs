// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Blobs on their way from a registry into the store.
//!
//! Each blob is one stream, because its digest can only be computed in order; several blobs arrive
//! at the same time. When a stream breaks, the next request asks for the rest. What is appended to
//! the store is hashed as it comes, and has no name before the digest is right, so that neither a
//! registry nor a mirror nor a crash can bring anything else about.

use std::io::{self, Read};
use std::time::Instant;

use ureq::http::Method;

use super::events::Event;
use super::http::{Answer, Request};
use super::pace::{Limiter, Speed};
use super::session::{Endpoint, Session};
use super::RegistryError;
use crate::store::{Descriptor, Ingest, Partial, Store, StoreError};
use crate::{Error, Result};

/// How much is taken from a connection at a time, bytes.
const BUFFER: usize = 256 << 10;
/// A stream that brought so much was worth it: failures before it are forgotten.
const PROGRESS: u64 = 256 << 10;

/// Fetches blobs; several threads share one.
pub(super) struct Transfer<'a> {
    pub session: &'a Session<'a>,
    pub store: &'a Store,
    pub limiter: Option<Limiter>,
}

/// Why a stream ended before the blob did.
enum Fault {
    /// It may go on: the registry, or the way to it, is in trouble.
    Broken(RegistryError),
    /// This way cannot give the blob.
    Useless(RegistryError),
    /// There is no use in trying on.
    Fatal(Error),
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Cancelled => Self::Fatal(error.into()),
            error if error.is_passing() => Self::Broken(error),
            error => Self::Useless(error),
        }
    }
}

impl Transfer<'_> {
    /// Brings blob number `index` into the store. Gives the bytes that went over the network.
    pub fn fetch(&self, index: usize, blob: &Descriptor) -> Result<u64> {
        let ways = self.session.endpoints();
        let mut transferred = 0;
        for (at, way) in ways.iter().enumerate() {
            let last = at + 1 == ways.len();
            match self.fetch_by(way, index, blob, last, &mut transferred) {
                Ok(()) => {
                    self.session.watch.event(&Event::Finished {
                        layer: index,
                        digest: blob.digest,
                        transferred,
                    });
                    return Ok(transferred);
                }
                Err(Fault::Broken(error) | Fault::Useless(error)) if !last => {
                    self.session
                        .pause(Some(index), &error, Default::default())?;
                }
                Err(Fault::Broken(error) | Fault::Useless(error)) => return Err(error.into()),
                Err(Fault::Fatal(error)) => return Err(error),
            }
        }
        // The registry itself is always one of the ways.
        Err(RegistryError::Cancelled.into())
    }

    /// By one way, as often as it makes sense; by those before the last only once.
    fn fetch_by(
        &self,
        way: &Endpoint,
        index: usize,
        blob: &Descriptor,
        last: bool,
        transferred: &mut u64,
    ) -> Result<(), Fault> {
        let Some(mut partial) = self.begin(index, blob)? else {
            return Ok(());
        };
        // A head that was there already may be what is wrong: it is worth a second try.
        let mut foreign_head = !partial.is_empty();
        loop {
            self.stream_all(way, index, &mut partial, last, transferred)?;
            match partial.finish() {
                Ok(_) => return Ok(()),
                Err(error @ Error::Store(StoreError::Digest { .. })) if foreign_head || !last => {
                    let problem = error.to_string();
                    let url = self.session.url(way, &format!("blobs/{}", blob.digest))?;
                    let error = RegistryError::Protocol {
                        url: url.to_string(),
                        problem,
                    };
                    if !foreign_head {
                        return Err(Fault::Useless(error));
                    }
                    self.session
                        .pause(Some(index), &error, Default::default())?;
                }
                Err(error) => return Err(Fault::Fatal(error)),
            }
            foreign_head = false;
            partial = match self.begin(index, blob)? {
                Some(partial) => partial,
                None => return Ok(()),
            };
        }
    }

    /// Locks the blob's place in the store; nothing if it is there.
    fn begin(&self, index: usize, blob: &Descriptor) -> Result<Option<Partial>, Fault> {
        let begun = self.store.begin(&blob.digest, blob.size);
        let partial = match begun.map_err(Fault::Fatal)? {
            Ingest::There(_) => None,
            Ingest::Partial(partial) => Some(partial),
        };
        self.session.watch.event(&Event::Started {
            layer: index,
            digest: blob.digest,
            size: blob.size,
            present: partial.as_ref().map_or(blob.size, Partial::len),
        });
        Ok(partial)
    }

    /// Streams until everything is there, again after failures, as far as patience goes.
    fn stream_all(
        &self,
        way: &Endpoint,
        index: usize,
        partial: &mut Partial,
        patient: bool,
        transferred: &mut u64,
    ) -> Result<(), Fault> {
        let mut failures = 0;
        while partial.len() < partial.size() {
            let before = partial.len();
            let result = self.stream(way, index, partial);
            *transferred += partial.len() - before;
            let error = match result {
                Ok(()) => continue,
                Err(Fault::Broken(error)) => error,
                Err(fault) => return Err(fault),
            };
            if partial.len() - before >= PROGRESS {
                failures = 0;
            }
            failures += 1;
            let pause = self.session.patience().pause(failures, &error);
            match pause.filter(|_| patient) {
                Some(pause) => self.session.pause(Some(index), &error, pause)?,
                None => return Err(Fault::Broken(error)),
            }
        }
        Ok(())
    }

    /// One request for all that is missing.
    fn stream(&self, way: &Endpoint, index: usize, partial: &mut Partial) -> Result<(), Fault> {
        self.session.stop.check()?;
        let from = partial.len();
        let url = self
            .session
            .url(way, &format!("blobs/{}", partial.digest()))?;
        let mut request = Request::new(Method::GET, url);
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let mut answer = self.session.send(way, &request)?;
        let skip = body_start(&answer, from, partial.size())?;
        self.copy(&mut answer, skip, index, partial)
    }

    /// Appends the body, but for the first `skip` bytes.
    fn copy(
        &self,
        answer: &mut Answer,
        mut skip: u64,
        index: usize,
        partial: &mut Partial,
    ) -> Result<(), Fault> {
        let piece = self.limiter.as_ref().map_or(BUFFER, Limiter::piece);
        let mut buffer = vec![0; piece.min(BUFFER)];
        let mut speed = self.speed();
        loop {
            self.session.stop.check()?;
            let read = match answer.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let error = ureq::Error::from(e);
                    return Err(self.session.http.failure(&answer.url, &error).into());
                }
                Ok(0) if partial.len() == partial.size() => return Ok(()),
                Ok(0) => return Err(Fault::Broken(broken(answer, "ended before the blob did"))),
                Ok(read) => read,
            };
            if let Some(limiter) = &self.limiter {
                let wait = limiter.take(read, Instant::now());
                self.session.stop.wait(wait)?;
            }
            let skipped = skip.min(read as u64);
            skip -= skipped;
            let bytes = &buffer[skipped as usize..read];
            if bytes.len() as u64 > partial.size() - partial.len() {
                return Err(Fault::Useless(lie(
                    answer,
                    "sends more than the manifest says",
                )));
            }
            partial.append(bytes).map_err(Fault::Fatal)?;
            self.session.watch.event(&Event::Progress {
                layer: index,
                present: partial.len(),
            });
            if speed.is_too_slow(read, Instant::now()) {
                return Err(Fault::Broken(broken(answer, "is stalled")));
            }
        }
    }

    /// What a stream has to give; with a limit for all of them less.
    fn speed(&self) -> Speed {
        let patience = self.session.patience();
        let options = self.session.options;
        let share = options.max_rate.map_or(u64::MAX, |rate| {
            let rate = rate / (4 * options.connections as u64);
            rate.saturating_mul(patience.stall.as_secs())
        });
        let least = patience.stall_bytes.min(share);
        Speed::new(patience.stall, least, Instant::now())
    }
}

fn broken(answer: &Answer, reason: &str) -> RegistryError {
    RegistryError::Connection {
        url: answer.url.to_string(),
        reason: format!("the connection {reason}"),
        passing: true,
    }
}

fn lie(answer: &Answer, problem: &str) -> RegistryError {
    RegistryError::Protocol {
        url: answer.url.to_string(),
        problem: problem.to_owned(),
    }
}

/// How many bytes of the body come before the ones that were asked for.
fn body_start(answer: &Answer, from: u64, size: u64) -> Result<u64, Fault> {
    let (skip, length) = match answer.status {
        // Not every server knows ranges.
        200 => (from, size),
        206 => match answer.header("content-range").and_then(content_range) {
            Some((first, total)) if first == from && total.is_none_or(|t| t == size) => {
                (0, size - from)
            }
            _ => {
                let problem = format!("was asked for bytes {from} to {size}, and sends others");
                return Err(Fault::Useless(lie(answer, &problem)));
            }
        },
        404 => {
            return Err(Fault::Useless(RegistryError::NotFound {
                what: answer.url.to_string(),
                host: answer.url.authority(),
            }))
        }
        416 => {
            return Err(Fault::Useless(lie(
                answer,
                "has fewer bytes than the manifest says",
            )))
        }
        _ => return Err(answer.error().into()),
    };
    match answer.length() {
        Some(found) if found > length => {
            let problem = format!("sends {found} bytes, and the manifest says {length}");
            Err(Fault::Useless(lie(answer, &problem)))
        }
        _ => Ok(skip),
    }
}

/// First byte and whole size in a `Content-Range`: `bytes 5-9/10`, `bytes 5-9/*`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last && total.is_none_or(|total| last < total)).then_some((first, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_with_suspicion() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for wrong in [
            "",
            "bytes */10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "lines 5-9/10",
            "bytes 5-/10",
        ] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
