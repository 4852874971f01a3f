// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A line for each request, in the file that a host's configuration names (`enableAudit`).
//!
//! A line is a JSON object, written at once and appended, so that several processes may have the
//! same file. What must not be known is left out: of addresses user and query, and all headers.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use ureq::http::Method;

use super::url::Url;
use super::RegistryError;

/// The log, if there is to be one.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit(Option<Arc<Log>>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    /// Why it cannot be written to any more.
    failed: Mutex<Option<String>>,
}

/// A request, of which the log gets to know when this value goes.
pub(super) struct Record {
    log: Arc<Log>,
    began: Instant,
    line: Line,
}

#[derive(Serialize)]
struct Line {
    /// When it was sent.
    time: String,
    pid: u32,
    method: String,
    url: String,
    /// What was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Bytes of the body that were sent.
    sent: u64,
    /// Bytes of the answer's body that were taken.
    received: u64,
    /// From the request to its answer's head.
    #[serde(rename = "latency_seconds", serialize_with = "seconds")]
    latency: Duration,
    /// From the request to the end.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    duration: Duration,
    /// Why there was no answer, or not all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// To the microsecond.
fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_micros() as f64 / 1e6)
}

impl Audit {
    /// Opens the log, if a file is given.
    pub fn open(path: Option<&Path>) -> Result<Self, RegistryError> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let mut options = File::options();
        let opened = options.append(true).create(true).mode(0o600).open(path);
        let file = opened.map_err(|e| failure(path, &e))?;
        Ok(Self(Some(Arc::new(Log {
            path: path.to_owned(),
            file,
            failed: Mutex::new(None),
        }))))
    }

    /// An error if a record could not be written.
    pub fn check(&self) -> Result<(), RegistryError> {
        self.0.as_ref().map_or(Ok(()), |log| log.check())
    }

    /// Begins a record. What cannot be recorded is not to be done.
    pub fn begin(
        &self,
        method: &Method,
        url: &Url,
        sent: u64,
    ) -> Result<Option<Record>, RegistryError> {
        let Some(log) = &self.0 else { return Ok(None) };
        log.check()?;
        Ok(Some(Record {
            log: log.clone(),
            began: Instant::now(),
            line: Line {
                time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
                pid: std::process::id(),
                method: method.to_string(),
                url: url.to_string(),
                status: None,
                sent,
                received: 0,
                latency: Duration::ZERO,
                duration: Duration::ZERO,
                error: None,
            },
        }))
    }
}

fn failure(path: &Path, error: &io::Error) -> RegistryError {
    RegistryError::Audit {
        path: path.display().to_string(),
        problem: error.to_string(),
    }
}

impl Log {
    fn check(&self) -> Result<(), RegistryError> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match &*failed {
            None => Ok(()),
            Some(problem) => Err(RegistryError::Audit {
                path: self.path.display().to_string(),
                problem: problem.clone(),
            }),
        }
    }

    fn write(&self, line: &Line) {
        let text = serde_json::to_string(line).map_err(io::Error::from);
        let written = text.and_then(|text| (&self.file).write_all(format!("{text}\n").as_bytes()));
        if let Err(e) = written {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            *failed = Some(e.to_string());
        }
    }
}

impl Record {
    /// The head of the answer is there.
    pub fn answered(&mut self, status: u16) {
        self.line.status = Some(status);
        self.line.latency = self.began.elapsed();
    }

    /// More of the answer's body was taken.
    pub fn received(&mut self, bytes: usize) {
        self.line.received += bytes as u64;
    }

    /// It came to no good end.
    pub fn failed(&mut self, reason: impl ToString) {
        self.line.error = Some(reason.to_string());
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.line.duration = self.began.elapsed();
        self.log.write(&self.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(audit: &Audit) -> Result<Option<Record>, RegistryError> {
        let url = Url::parse("https://h.example/v2/a/blobs/x?signature=secret").unwrap();
        audit.begin(&Method::GET, &url, 7)
    }

    #[test]
    fn a_request_is_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        for _ in 0..2 {
            let audit = Audit::open(Some(&path)).unwrap();
            let mut record = begin(&audit).unwrap().unwrap();
            record.answered(206);
            record.received(100);
            record.received(11);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2);
        let line: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!(line["method"], "GET");
        assert_eq!(line["url"], "https://h.example/v2/a/blobs/x?…");
        assert_eq!(line["status"], 206);
        assert_eq!((&line["sent"], &line["received"]), (&7.into(), &111.into()));
        assert!(line["seconds"].as_f64().unwrap() >= line["latency_seconds"].as_f64().unwrap());
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
        assert_eq!(line["pid"], std::process::id());
        assert_eq!(line.get("error"), None);
    }

    #[test]
    fn without_a_file_nothing_is_recorded() {
        assert!(begin(&Audit::open(None).unwrap()).unwrap().is_none());
    }

    #[test]
    fn what_cannot_be_recorded_is_not_done() {
        let folder = tempfile::tempdir().unwrap();
        let error = Audit::open(Some(folder.path())).unwrap_err();
        assert!(error.to_string().contains(folder.path().to_str().unwrap()));
        let audit = Audit::open(Some(Path::new("/dev/full"))).unwrap();
        drop(begin(&audit).unwrap());
        let Err(error) = begin(&audit) else {
            panic!("a request without a record");
        };
        assert!(error.to_string().contains("/dev/full"), "{error}");
    }
}
