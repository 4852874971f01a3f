// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Blobs on their way from a registry into the store.
//!
//! Several blobs arrive at the same time, each over one connection. A connection that has none of
//! its own helps with a large one: it asks for the first part that nobody is at. When a stream
//! breaks, the next request asks for what is missing. What is added to the store has no name before
//! the digest of all of it is right, so that neither a registry nor a mirror nor a crash can bring
//! anything else about.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use super::crew::{Crew, Job};
use super::events::Event;
use super::pace::Limiter;
use super::session::{Endpoint, Session};
use super::stream::{Fault, Role};
use super::{parallel, RegistryError};
use crate::store::{parts, Descriptor, Ingest, Partial, Store, StoreError, LOOK_AGAIN};
use crate::{Error, Result};

/// A stream that brought so much was worth it: failures before it are forgotten.
const PROGRESS: u64 = 256 << 10;

/// Fetches blobs; several threads share one.
pub(super) struct Transfer<'a> {
    pub session: &'a Session<'a>,
    pub store: &'a Store,
    pub limiter: Option<Limiter>,
    pub crew: Crew<'a>,
}

impl<'a> Transfer<'a> {
    /// Brings blobs into the store. Gives the bytes that went over the network.
    pub fn fetch_all(
        session: &'a Session<'a>,
        store: &'a Store,
        blobs: &[&Descriptor],
    ) -> Result<u64> {
        let connections = session.options.connections;
        let transfer = Self {
            session,
            store,
            limiter: session.options.max_rate.map(Limiter::new),
            crew: Crew::new(blobs.len(), connections),
        };
        let parts: usize = blobs.iter().map(|blob| parts(blob.size).max(1)).sum();
        parallel::sum(session, connections.min(parts), || {
            match transfer.crew.begin() {
                Some((at, _led)) => Some(transfer.fetch(at, blobs[at])),
                None => transfer.crew.help().map(|job| transfer.help(&job)),
            }
        })
    }

    /// Brings blob number `index` into the store.
    fn fetch(&self, index: usize, blob: &Descriptor) -> Result<u64> {
        let ways = self.session.endpoints();
        let transferred = AtomicU64::new(0);
        let mut begun = None;
        for (at, way) in ways.iter().enumerate() {
            let last = at + 1 == ways.len();
            match self.fetch_by(way, index, blob, last, &mut begun, &transferred) {
                Ok(()) => {
                    let transferred = transferred.into_inner();
                    self.session.watch.event(&Event::Finished {
                        layer: index,
                        digest: blob.digest,
                        transferred,
                    });
                    return Ok(transferred);
                }
                Err(Fault::Fatal(error)) => return Err(error),
                Err(Fault::Broken(error) | Fault::Useless(error) | Fault::Ranges(error)) => {
                    if last {
                        return Err(error.into());
                    }
                    self.session
                        .pause(Some(index), &error, Default::default())?;
                }
            }
        }
        // The registry itself is always one of the ways.
        Err(RegistryError::Cancelled.into())
    }

    /// By one way, as often as it makes sense; by those before the last only once. What a way that
    /// fails has brought is left in `begun` for the next one: helpers may still be leaving it, and
    /// keep its place in the store locked.
    fn fetch_by(
        &self,
        way: &'a Endpoint,
        index: usize,
        blob: &Descriptor,
        last: bool,
        begun: &mut Option<Arc<Partial>>,
        transferred: &AtomicU64,
    ) -> Result<(), Fault> {
        let mut again = false;
        loop {
            let partial = match begun.take() {
                Some(partial) => partial,
                None => match self.begin(index, blob)? {
                    Some(partial) => Arc::new(partial),
                    None => return Ok(()),
                },
            };
            let job = Arc::new(Job::new(index, way, last, partial));
            if again {
                job.go_alone();
            }
            let led = self.lead(&job);
            let brought = job.transferred.load(Ordering::Relaxed);
            transferred.fetch_add(brought, Ordering::Relaxed);
            if let Err(fault) = led {
                job.abandon();
                *begun = Some(job.partial.clone());
                return Err(fault);
            }
            let error = match job.partial.finish() {
                Ok(_) => return Ok(()),
                Err(error @ Error::Store(StoreError::Digest { .. })) => error,
                Err(error) => return Err(Fault::Fatal(error)),
            };
            // What was there already, or how it was put together, may be what is wrong.
            let composed = brought < blob.size || job.answers.load(Ordering::Relaxed) > 1;
            if (again || !composed) && last {
                return Err(Fault::Fatal(error));
            }
            let problem = error.to_string();
            let url = self.session.url(way, &format!("blobs/{}", blob.digest))?;
            let error = RegistryError::Protocol {
                url: url.to_string(),
                problem,
            };
            if again || !composed {
                return Err(Fault::Useless(error));
            }
            self.session
                .pause(Some(index), &error, Default::default())?;
            again = true;
        }
    }

    /// Locks the blob's place in the store; nothing if it is there.
    fn begin(&self, index: usize, blob: &Descriptor) -> Result<Option<Partial>, Fault> {
        let mut told = false;
        let begun = self.store.begin_or(&blob.digest, blob.size, || {
            if !std::mem::replace(&mut told, true) {
                self.session.watch.event(&Event::Waiting {
                    layer: index,
                    digest: blob.digest,
                });
            }
            Ok(self.session.stop.wait(LOOK_AGAIN)?)
        });
        let partial = match begun.map_err(Fault::Fatal)? {
            Ingest::There(_) => None,
            Ingest::Partial(partial) => Some(*partial),
        };
        self.session.watch.event(&Event::Started {
            layer: index,
            digest: blob.digest,
            size: blob.size,
            present: partial.as_ref().map_or(blob.size, Partial::len),
        });
        Ok(partial)
    }

    /// Fetches parts, and others may help, until everything is there.
    fn lead(&self, job: &Arc<Job<'a>>) -> Result<(), Fault> {
        let _open = self.crew.open(job);
        let mut failures = 0;
        while let Some(claim) = job.partial.claim_or_wait() {
            let mut brought = 0;
            let result = self.stream(job, claim, Role::Leads, &mut brought);
            match result {
                Ok(()) => {}
                Err(Fault::Ranges(error)) => self.without_ranges(job, &error)?,
                Err(Fault::Broken(error)) => self.endure(job, error, brought, &mut failures)?,
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Fetches parts of what another thread leads, as long as that works. What does not is left to
    /// that thread, which then has to do without help.
    fn help(&self, job: &Job<'_>) -> Result<u64> {
        let mut failures = 0;
        while let Some(claim) = job.partial.claim().filter(|_| !job.is_alone()) {
            let mut brought = 0;
            let result = self.stream(job, claim, Role::Helps, &mut brought);
            let endured = match result {
                Ok(()) => continue,
                Err(Fault::Broken(error)) => self.endure(job, error, brought, &mut failures),
                Err(fault) => Err(fault),
            };
            match endured {
                Ok(()) => {}
                Err(Fault::Fatal(error)) => return Err(error),
                Err(Fault::Ranges(error)) => self.without_ranges(job, &error)?,
                Err(Fault::Broken(_) | Fault::Useless(_)) => {
                    job.go_alone();
                }
            }
        }
        // It is counted with the blob.
        Ok(0)
    }

    /// Has no more ranges asked for: none of the next requests can fail for that reason.
    fn without_ranges(&self, job: &Job<'_>, error: &RegistryError) -> Result<(), RegistryError> {
        match job.ask_for_the_whole() {
            true => self
                .session
                .pause(Some(job.index), error, Default::default()),
            false => Ok(()),
        }
    }

    /// Waits behind a failure, if patience goes so far.
    fn endure(
        &self,
        job: &Job<'_>,
        error: RegistryError,
        brought: u64,
        failures: &mut u32,
    ) -> Result<(), Fault> {
        if brought >= PROGRESS {
            *failures = 0;
        }
        *failures += 1;
        let pause = self.session.patience().pause(*failures, &error);
        match pause.filter(|_| job.patient) {
            Some(pause) => Ok(self.session.pause(Some(job.index), &error, pause)?),
            None => Err(Fault::Broken(error)),
        }
    }
}
