// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One request for a blob, or for parts of it, and what comes of it.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ureq::http::Method;

use super::crew::Job;
use super::events::Event;
use super::http::{Answer, Request};
use super::pace::{Limiter, Speed};
use super::transfer::Transfer;
use super::RegistryError;
use crate::store::Claim;
use crate::Error;

/// How much is taken from a connection at a time, bytes.
const BUFFER: usize = 256 << 10;

/// Why a stream ended before it should have.
pub(super) enum Fault {
    /// It may go on: the registry, or the way to it, is in trouble.
    Broken(RegistryError),
    /// This way does not give the range that was asked for; the whole it may.
    Ranges(RegistryError),
    /// This way cannot give the blob.
    Useless(RegistryError),
    /// There is no use in trying on.
    Fatal(Error),
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        match error {
            error if error.is_local() => Self::Fatal(error.into()),
            error if error.is_passing() => Self::Broken(error),
            error => Self::Useless(error),
        }
    }
}

/// What a thread has to do with a blob.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It sees to it that all of it arrives.
    Leads,
    /// It brings parts of it.
    Helps,
}

/// What a request asks for.
struct Asked {
    /// These bytes of the blob.
    bytes: Range<u64>,
    /// The blob's size.
    size: u64,
    /// By a range; without one, what comes before them comes along.
    ranged: bool,
}

impl Asked {
    fn header(&self) -> Option<String> {
        let Range { start, end } = self.bytes;
        match (self.ranged, end == self.size) {
            (false, _) => None,
            (true, true) => Some(format!("bytes={start}-")),
            (true, false) => Some(format!("bytes={start}-{}", end - 1)),
        }
    }
}

/// What an answer's body has.
#[derive(Debug, PartialEq, Eq)]
struct Body {
    /// So many bytes come before those that were asked for.
    skip: u64,
    /// The offset in the blob behind its last byte.
    end: u64,
}

impl Transfer<'_> {
    /// One request: for the claimed part only if the work is shared, else for all that follows;
    /// parts are claimed on the way, until one belongs to somebody else. Bytes that were of use are
    /// added to `brought`.
    pub(super) fn stream(
        &self,
        job: &Job<'_>,
        claim: Claim<'_>,
        role: Role,
        brought: &mut u64,
    ) -> Result<(), Fault> {
        self.session.stop.check()?;
        let (missing, size) = (claim.missing(), job.partial.size());
        let shared = role == Role::Helps || self.crew.has_helpers();
        let part_only = shared && !job.is_alone();
        let bytes = missing.start..if part_only { missing.end } else { size };
        let asked = Asked {
            ranged: bytes != (0..size) && !job.is_whole(),
            bytes,
            size,
        };
        let path = format!("blobs/{}", job.partial.digest());
        let mut request = Request::new(Method::GET, self.session.url(job.way, &path)?);
        if let Some(range) = asked.header() {
            request = request.header("range", range);
        }
        let mut answer = self.session.send(job.way, &request)?;
        let body = body(&answer, &asked)?;
        job.partial.reserve().map_err(Fault::Fatal)?;
        job.answers.fetch_add(1, Ordering::Relaxed);
        if answer.status == 200 && asked.ranged {
            if job.ask_for_the_whole() {
                self.session.watch.event(&Event::Single {
                    layer: job.index,
                    url: &answer.url.to_string(),
                });
            }
            if role == Role::Helps {
                return Ok(());
            }
        }
        self.copy(job, &mut answer, body, claim, brought)
    }

    /// Adds the body, but for the first bytes of it.
    fn copy<'p>(
        &self,
        job: &'p Job<'_>,
        answer: &mut Answer,
        body: Body,
        mut claim: Claim<'p>,
        brought: &mut u64,
    ) -> Result<(), Fault> {
        let piece = self.limiter.as_ref().map_or(BUFFER, Limiter::piece);
        let mut buffer = vec![0; piece.min(BUFFER)];
        let mut speed = self.speed();
        let Body { mut skip, end } = body;
        let mut at = claim.missing().start;
        loop {
            self.session.stop.check()?;
            if job.is_abandoned() {
                return Ok(());
            }
            let read = match answer.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    let error = ureq::Error::from(e);
                    return Err(self.session.http.failure(&answer.url, &error).into());
                }
                Ok(0) if at == end => return Ok(()),
                Ok(0) => return Err(Fault::Broken(broken(answer, "ended before the blob did"))),
                Ok(read) => read,
            };
            if let Some(limiter) = &self.limiter {
                let wait = limiter.take(read, Instant::now());
                self.session.stop.wait(wait)?;
            }
            let mut bytes = skipped(&buffer[..read], &mut skip);
            if bytes.len() as u64 > end - at {
                return Err(too_much(answer, end == job.partial.size()));
            }
            while !bytes.is_empty() {
                if claim.missing().is_empty() {
                    let next = job.partial.claim_from(at);
                    let follows = |next: &Claim<'_>| next.missing().start == at || job.is_whole();
                    let Some(next) = next.filter(follows) else {
                        // Others have brought what follows, or are about to.
                        return Ok(());
                    };
                    skip = next.missing().start - at;
                    at += skip;
                    claim = next;
                    bytes = skipped(bytes, &mut skip);
                }
                let before = bytes.len();
                bytes = claim.append(bytes).map_err(Fault::Fatal)?;
                let added = (before - bytes.len()) as u64;
                at += added;
                *brought += added;
                job.transferred.fetch_add(added, Ordering::Relaxed);
            }
            self.session.watch.event(&Event::Progress {
                layer: job.index,
                present: job.partial.len(),
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

/// `bytes` without the first `skip`, which is lowered by as many.
fn skipped<'b>(bytes: &'b [u8], skip: &mut u64) -> &'b [u8] {
    let length = (*skip).min(bytes.len() as u64);
    *skip -= length;
    &bytes[length as usize..]
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

fn too_much(answer: &Answer, to_the_end: bool) -> Fault {
    match to_the_end {
        true => Fault::Useless(lie(answer, "sends more than the manifest says")),
        false => Fault::Ranges(lie(answer, "sends more than it was asked for")),
    }
}

/// What the body of an answer has, if it is what was asked for.
fn body(answer: &Answer, asked: &Asked) -> Result<Body, Fault> {
    let Range { start, end } = asked.bytes;
    let (body, length) = match answer.status {
        // Not every server knows ranges.
        200 => {
            let (skip, end) = (start, asked.size);
            (Body { skip, end }, asked.size)
        }
        206 if asked.ranged => {
            let range = answer.header("content-range").and_then(content_range);
            let fits = |range: &ContentRange| {
                let all = range.total.is_none_or(|total| total == asked.size);
                all && range.first == start && range.last < end
            };
            if !range.as_ref().is_some_and(fits) {
                let problem = format!("was asked for bytes {start} to {end}, and sends others");
                return Err(Fault::Ranges(lie(answer, &problem)));
            }
            (Body { skip: 0, end }, end - start)
        }
        206 => {
            return Err(Fault::Useless(lie(
                answer,
                "sends a part of the whole that it was asked for",
            )))
        }
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
        Some(found) if found > length && body.end == asked.size => {
            let problem = format!("sends {found} bytes, and the manifest says {length}");
            Err(Fault::Useless(lie(answer, &problem)))
        }
        Some(found) if found > length => Err(too_much(answer, false)),
        _ => Ok(body),
    }
}

/// A `Content-Range`: `bytes 5-9/10`, `bytes 5-9/*`.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

fn content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    let makes_sense = first <= last && total.is_none_or(|total| last < total);
    makes_sense.then_some(ContentRange { first, last, total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_with_suspicion() {
        let range = |total| ContentRange {
            first: 5,
            last: 9,
            total,
        };
        assert_eq!(content_range("bytes 5-9/10"), Some(range(Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some(range(None)));
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

    #[test]
    fn requests_ask_for_what_is_missing() {
        let header = |start, end, ranged| {
            let bytes = start..end;
            let size = 100;
            Asked {
                bytes,
                size,
                ranged,
            }
            .header()
        };
        assert_eq!(header(0, 100, false), None);
        assert_eq!(header(5, 100, true).as_deref(), Some("bytes=5-"));
        assert_eq!(header(5, 50, true).as_deref(), Some("bytes=5-49"));
    }
}
