// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Who fetches what: each connection a blob of its own as long as there are any, then parts of the
//! blobs that others are at.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::session::Endpoint;
use crate::store::Partial;

/// Hands out work to the threads of a pull.
pub(super) struct Crew<'a> {
    connections: usize,
    state: Mutex<State<'a>>,
    changed: Condvar,
}

struct State<'a> {
    /// The first blob that nobody has begun.
    next: usize,
    blobs: usize,
    /// Blobs that are complete, or were given up.
    ended: usize,
    /// What others may help with.
    jobs: Vec<Arc<Job<'a>>>,
}

/// A blob that is being fetched by one way.
pub(super) struct Job<'a> {
    /// The number of the blob.
    pub index: usize,
    /// From where.
    pub way: &'a Endpoint,
    /// Whether to try again there.
    pub patient: bool,
    /// What has arrived of it; by another way too, perhaps.
    pub partial: Arc<Partial>,
    /// Bytes that came over the network.
    pub transferred: AtomicU64,
    /// Requests that were answered.
    pub answers: AtomicU64,
    alone: AtomicBool,
    whole: AtomicBool,
    abandoned: AtomicBool,
}

impl<'a> Job<'a> {
    pub fn new(index: usize, way: &'a Endpoint, patient: bool, partial: Arc<Partial>) -> Self {
        Self {
            index,
            way,
            patient,
            partial,
            transferred: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            alone: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Whether this way was given up: whoever is still at it is to leave.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Gives this way up.
    pub fn abandon(&self) {
        self.go_alone();
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Whether one connection has to do.
    pub fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Relaxed)
    }

    /// Has one connection do it; false if that was so already.
    pub fn go_alone(&self) -> bool {
        !self.alone.swap(true, Ordering::Relaxed)
    }

    /// Whether ranges are not to be asked for.
    pub fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    /// Has no more ranges asked for, which one connection has to do; false if that was so already.
    pub fn ask_for_the_whole(&self) -> bool {
        self.go_alone();
        !self.whole.swap(true, Ordering::Relaxed)
    }

    /// Whether there is something that another connection can do.
    fn welcomes_help(&self) -> bool {
        !self.is_alone() && self.partial.has_free_part()
    }
}

/// Work on a blob, which ends with this value.
pub(super) struct Led<'c, 'a>(&'c Crew<'a>);

/// Others may help with a job, as long as this value lives.
pub(super) struct Open<'c, 'a> {
    crew: &'c Crew<'a>,
    job: Arc<Job<'a>>,
}

impl<'a> Crew<'a> {
    /// For so many blobs and connections.
    pub fn new(blobs: usize, connections: usize) -> Self {
        Self {
            connections,
            state: Mutex::new(State {
                next: 0,
                blobs,
                ended: 0,
                jobs: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a blob that nobody has begun.
    pub fn begin(&self) -> Option<(usize, Led<'_, 'a>)> {
        let mut state = self.state();
        let at = state.next;
        (at < state.blobs).then(|| {
            state.next += 1;
            (at, Led(self))
        })
    }

    /// Whether there are connections that have no blob of their own.
    pub fn has_helpers(&self) -> bool {
        let state = self.state();
        state.blobs - state.ended < self.connections
    }

    /// Has others help with a job.
    pub fn open(&self, job: &Arc<Job<'a>>) -> Open<'_, 'a> {
        self.state().jobs.push(job.clone());
        self.changed.notify_all();
        Open {
            crew: self,
            job: job.clone(),
        }
    }

    /// A job that help is welcome at; waits for one. Nothing if all blobs have ended. All have to be
    /// begun.
    pub fn help(&self) -> Option<Arc<Job<'a>>> {
        let mut state = self.state();
        loop {
            let mut jobs = state.jobs.iter();
            if let Some(job) = jobs.find(|job| job.welcomes_help()) {
                return Some(job.clone());
            }
            if state.ended == state.blobs {
                return None;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Led<'_, '_> {
    fn drop(&mut self) {
        self.0.state().ended += 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Open<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.crew.state();
        state.jobs.retain(|job| !Arc::ptr_eq(job, &self.job));
    }
}
