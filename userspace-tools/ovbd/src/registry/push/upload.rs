// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Uploads, which go on where they stopped if the registry still has what arrived.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ureq::http::Method;

use crate::image::digest::Digest;
use crate::registry::events::Event;
use crate::registry::http::{Answer, Payload, Request, Stream};
use crate::registry::pace::Limiter;
use crate::registry::session::Session;
use crate::registry::url::Url;
use crate::registry::RegistryError;

/// An upload that got so much further was worth it: failures before it are forgotten.
const PROGRESS: u64 = 256 << 10;

/// What is uploaded.
pub(super) enum Source<'a> {
    /// These bytes.
    Text(&'a [u8]),
    /// A layer.
    Layer(&'a Layer<'a>),
}

/// A layer on its way out.
pub(super) struct Layer<'a> {
    pub session: &'a Session<'a>,
    pub limiter: Option<&'a Limiter>,
    pub path: &'a Path,
    pub index: usize,
    pub size: u64,
    /// Bytes that were handed to the network.
    pub sent: AtomicU64,
}

impl Layer<'_> {
    /// The error of reading it, which is not to be taken for one of the network.
    fn unreadable(&self, source: io::Error) -> io::Error {
        io::Error::other(RegistryError::Unreadable {
            path: self.path.to_owned(),
            source,
        })
    }
}

/// What is missing of an upload.
struct Rest<'a> {
    layer: &'a Layer<'a>,
    from: u64,
}

/// Where an upload goes on.
struct Place {
    url: Url,
    /// So many bytes have arrived.
    arrived: u64,
}

impl Source<'_> {
    fn size(&self) -> u64 {
        match self {
            Self::Text(bytes) => bytes.len() as u64,
            Self::Layer(layer) => layer.size,
        }
    }
}

impl Session<'_> {
    /// Uploads a blob. If that breaks off, it goes on where the registry says that it stopped; from
    /// the beginning if the registry does not know of it any more.
    pub(super) fn put_blob(
        &self,
        index: Option<usize>,
        digest: &Digest,
        source: &Source<'_>,
    ) -> Result<(), RegistryError> {
        let mut upload = None;
        let (mut failures, mut furthest) = (0, 0);
        loop {
            self.stop.check()?;
            let error = match self.try_put(&mut upload, digest, source) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.is_local() {
                return Err(error);
            }
            let resumed = upload.as_ref().map_or(0, |place: &Place| place.arrived);
            // A registry that refuses the rest of an upload may take all of it.
            match (error.is_passing(), resumed) {
                (true, _) => {}
                (false, 0) => return Err(error),
                (false, _) => upload = None,
            }
            if resumed >= furthest + PROGRESS {
                (failures, furthest) = (0, resumed);
            }
            failures += 1;
            match self.patience().pause(failures, &error) {
                Some(pause) => self.pause(index, &error, pause)?,
                None => return Err(error),
            }
        }
    }

    /// One attempt, with what is left of the one before.
    fn try_put(
        &self,
        upload: &mut Option<Place>,
        digest: &Digest,
        source: &Source<'_>,
    ) -> Result<(), RegistryError> {
        let place = match upload {
            None => self.begin_upload()?,
            Some(place) => match self.arrived(&place.url, source.size())? {
                Some(place) => place,
                // It may have been complete, and only the answer was lost.
                None if self.has_blob(digest)? => return Ok(()),
                None => self.begin_upload()?,
            },
        };
        let place = upload.insert(place);
        let url = place.url.with_query("digest", &digest.to_string());
        let url = url.ok_or_else(|| nowhere(&place.url))?;
        let answer = self.send_rest(url, place.arrived, source)?;
        match answer.status {
            201 => Ok(()),
            _ => Err(answer.error()),
        }
    }

    fn begin_upload(&self) -> Result<Place, RegistryError> {
        let start = self.url(self.origin(), "blobs/uploads/")?;
        let request = Request::new(Method::POST, start).payload(Payload::Bytes(&[]));
        let answer = self.send(self.origin(), &request)?;
        if answer.status != 202 {
            return Err(answer.error());
        }
        let url = location(&answer).ok_or_else(|| nowhere(&answer.url))?;
        Ok(Place { url, arrived: 0 })
    }

    /// How much of an upload the registry has; nothing if it has nothing of it, or tells nonsense.
    fn arrived(&self, upload: &Url, size: u64) -> Result<Option<Place>, RegistryError> {
        let request = Request::new(Method::GET, upload.clone());
        let answer = match self.send(self.origin(), &request) {
            Err(error) if !error.is_passing() => return Ok(None),
            other => other?,
        };
        if answer.error().is_passing() {
            return Err(answer.error());
        }
        let arrived = answer.header("range").and_then(arrived);
        let arrived =
            arrived.filter(|arrived| answer.status == 204 && (1..=size).contains(arrived));
        Ok(arrived.map(|arrived| Place {
            url: location(&answer).unwrap_or_else(|| upload.clone()),
            arrived,
        }))
    }

    /// Sends all bytes from `from` on, with which the upload is complete.
    fn send_rest(&self, url: Url, from: u64, source: &Source<'_>) -> Result<Answer, RegistryError> {
        let mut request =
            Request::new(Method::PUT, url).header("content-type", "application/octet-stream");
        if from > 0 && from < source.size() {
            request = request.header("content-range", format!("{from}-{}", source.size() - 1));
        }
        match source {
            Source::Text(bytes) => {
                let rest = bytes.get(from as usize..).unwrap_or_default();
                self.send(self.origin(), &request.payload(Payload::Bytes(rest)))
            }
            Source::Layer(layer) => {
                let rest = Rest { layer, from };
                self.send(self.origin(), &request.payload(Payload::Stream(&rest)))
            }
        }
    }
}

fn location(answer: &Answer) -> Option<Url> {
    answer.header("location").and_then(|to| answer.url.join(to))
}

fn nowhere(url: &Url) -> RegistryError {
    RegistryError::Protocol {
        url: url.to_string(),
        problem: "does not say where to upload to".to_owned(),
    }
}

/// How many bytes a `Range` of an upload means: `0-9`, some say `bytes=0-9`. `0-0` is what registries
/// say of none.
fn arrived(text: &str) -> Option<u64> {
    let text = text.trim();
    let (first, last) = text
        .strip_prefix("bytes=")
        .unwrap_or(text)
        .split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    match (first, last) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

impl Stream for Rest<'_> {
    fn size(&self) -> u64 {
        self.layer.size.saturating_sub(self.from)
    }

    fn open(&self) -> io::Result<Box<dyn Read + '_>> {
        let mut file = File::open(self.layer.path).map_err(|e| self.layer.unreadable(e))?;
        let sought = file.seek(SeekFrom::Start(self.from));
        sought.map_err(|e| self.layer.unreadable(e))?;
        Ok(Box::new(Sent {
            layer: self.layer,
            file: file.take(self.size()),
            present: self.from,
        }))
    }
}

/// Counts what is read of a layer.
struct Sent<'a> {
    layer: &'a Layer<'a>,
    file: io::Take<File>,
    present: u64,
}

impl Read for Sent<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Layer {
            session, limiter, ..
        } = self.layer;
        let most = limiter.map_or(buffer.len(), Limiter::piece);
        let most = most.min(buffer.len());
        let read = self.file.read(&mut buffer[..most]);
        let read = read.map_err(|e| self.layer.unreadable(e))?;
        if read == 0 && most > 0 && self.present < self.layer.size {
            let short = io::Error::other("it is shorter than when it was looked at");
            return Err(self.layer.unreadable(short));
        }
        let wait = limiter.map_or(Duration::ZERO, |limiter| limiter.take(read, Instant::now()));
        session.stop.wait(wait).map_err(io::Error::other)?;
        self.present += read as u64;
        self.layer.sent.fetch_add(read as u64, Ordering::Relaxed);
        session.watch.event(&Event::Progress {
            layer: self.layer.index,
            present: self.present,
        });
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::arrived;

    #[test]
    fn what_has_arrived_is_read_with_suspicion() {
        assert_eq!(arrived("0-0"), Some(0));
        assert_eq!(arrived("0-9"), Some(10));
        assert_eq!(arrived("bytes=0-9"), Some(10));
        for wrong in ["", "9", "1-9", "0-x", "-", "0-18446744073709551615"] {
            assert_eq!(arrived(wrong), None, "{wrong}");
        }
    }
}
