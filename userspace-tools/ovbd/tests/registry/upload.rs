// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Uploads that break off.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use ovbd::image::digest::Digest;
use ovbd::registry::{self, PushPlan, Pushed};

use crate::server::{Asked, Reply, Server};
use crate::support::{noise, options};

/// Where the first upload of a layer breaks.
const BREAK: usize = 1_000_000;

/// A registry with one upload at a time.
#[derive(Default)]
struct Uploads {
    /// What has arrived of it.
    arrived: Vec<u8>,
    /// Sizes of the bodies that came.
    bodies: Vec<usize>,
    blobs: Vec<String>,
}

impl Uploads {
    fn answer(&mut self, asked: &Asked) -> Reply {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        match (asked.method.as_str(), path.contains("/blobs/uploads/")) {
            ("HEAD", _) => {
                let there = self.blobs.iter().any(|digest| path.ends_with(digest));
                Reply::new(if there { 200 } else { 404 }, "")
            }
            ("POST", _) => {
                self.arrived.clear();
                Reply::new(202, "").header("Location", "/v2/app/blobs/uploads/7")
            }
            ("GET", true) => {
                let range = format!("0-{}", self.arrived.len().saturating_sub(1));
                // The place changes on the way.
                Reply::new(204, "")
                    .header("Location", "/v2/app/blobs/uploads/8")
                    .header("Range", range)
            }
            ("PUT", true) => self.put(asked, query),
            ("PUT", false) => Reply::new(201, ""),
            _ => Reply::new(404, ""),
        }
    }

    fn put(&mut self, asked: &Asked, query: &str) -> Reply {
        let range = asked.header("content-range");
        let from = range.map_or(0, |range| range.split('-').next().unwrap().parse().unwrap());
        self.bodies.push(asked.body.len());
        if from != self.arrived.len() {
            return Reply::new(416, "");
        }
        self.arrived.extend_from_slice(&asked.body);
        let digest = Digest::of_bytes(&self.arrived);
        if asked.broken || !query.ends_with(&digest.hex()) {
            return Reply::new(400, "");
        }
        self.blobs.push(digest.to_string());
        Reply::new(201, "")
    }
}

/// Whether a layer, not the small configuration, is on its way.
fn is_layer(asked: &Asked) -> bool {
    let length = asked.header("content-length").and_then(|l| l.parse().ok());
    asked.method == "PUT" && length.is_some_and(|length: usize| length > 100_000)
}

/// A registry where the first `times` requests with a layer break; `change` is applied to its
/// answers.
fn breaking(
    times: usize,
    change: impl Fn(&Asked, Reply) -> Reply + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Uploads>>) {
    let uploads = Arc::new(Mutex::new(Uploads::default()));
    let (state, broken) = (uploads.clone(), Mutex::new(0));
    let breaks = move |asked: &Asked| {
        let mut broken = broken.lock().unwrap();
        let breaks = is_layer(asked) && *broken < times;
        *broken += usize::from(breaks);
        breaks.then_some(BREAK)
    };
    let server = Server::start_breaking(breaks, move |asked| {
        let reply = state.lock().unwrap().answer(asked);
        change(asked, reply)
    });
    (server, uploads)
}

/// A layer of a little more than two million bytes.
fn layer(folder: &Path) -> PathBuf {
    let (raw, layer) = (folder.join("raw"), folder.join("layer.tar"));
    fs::write(&raw, noise(1, 2 << 20)).unwrap();
    let mut build = Command::new(env!("CARGO_BIN_EXE_ovbd"));
    build.args(["build", "--tar", "--raw"]).arg(&raw);
    let built = build.arg("--output").arg(&layer).output().unwrap();
    assert!(built.status.success(), "{built:?}");
    layer
}

fn push(server: &Server, layer: &Path) -> ovbd::Result<Pushed> {
    let reference = format!("{}/app:1", server.host()).parse().unwrap();
    let plan = PushPlan {
        layers: vec![layer.to_owned()],
        subject: None,
        sealed: false,
    };
    registry::push(&reference, &plan, &options(), &())
}

fn is_begun(asked: &Asked) -> bool {
    asked.method == "POST"
}

#[test]
fn an_upload_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path());
    let size = fs::metadata(&layer).unwrap().len() as usize;
    let (server, uploads) = breaking(2, |_, reply| reply);
    push(&server, &layer).unwrap();
    let uploads = uploads.lock().unwrap();
    // The configuration comes last.
    assert_eq!(uploads.bodies[..3], [BREAK, BREAK, size - 2 * BREAK]);
    let digest = Digest::of_bytes(&fs::read(&layer).unwrap()).to_string();
    assert!(uploads.blobs.contains(&digest));
    assert_eq!(server.count(is_begun), 2);
    // It went on where the registry said, too.
    let later = |asked: &Asked| asked.path.contains("/uploads/8?");
    assert_eq!(server.count(later), 2);
    // What is there is not sent again.
    drop(uploads);
    push(&server, &layer).unwrap();
    assert_eq!(server.count(is_begun), 2);
}

#[test]
fn an_upload_that_was_forgotten_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path());
    let size = fs::metadata(&layer).unwrap().len() as usize;
    type Change = fn(Reply) -> Reply;
    let changes: [Change; 5] = [
        |_| Reply::new(404, ""),
        |_| Reply::new(403, ""),
        |_| Reply::new(204, ""),
        |_| Reply::new(204, "").header("Range", "0-9999999"),
        |_| Reply::new(204, "").header("Range", "0-0"),
    ];
    for change in changes {
        let (server, uploads) = breaking(1, move |asked, reply| {
            match asked.method == "GET" && asked.path.contains("/uploads/") {
                true => change(reply),
                false => reply,
            }
        });
        push(&server, &layer).unwrap();
        assert_eq!(uploads.lock().unwrap().bodies[..2], [BREAK, size]);
        assert_eq!(server.count(is_begun), 3);
    }
}

/// It says how much it has, and then does not take the rest.
#[test]
fn a_registry_that_does_not_take_the_rest_gets_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path());
    let size = fs::metadata(&layer).unwrap().len() as usize;
    let (server, uploads) = breaking(1, |asked, reply| {
        match asked.header("content-range").is_some() {
            true => Reply::new(416, ""),
            false => reply,
        }
    });
    push(&server, &layer).unwrap();
    let bodies = uploads.lock().unwrap().bodies.clone();
    assert_eq!(bodies[..3], [BREAK, size - BREAK, size]);
}

/// Only the answer was lost.
#[test]
fn an_upload_that_was_complete_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path());
    let lost = Mutex::new(false);
    let (server, uploads) = breaking(0, move |asked, reply| {
        let mut lost = lost.lock().unwrap();
        match is_layer(asked) && !std::mem::replace(&mut *lost, true) {
            true => Reply::new(504, ""),
            // The upload is not known any more.
            false if asked.method == "GET" => Reply::new(404, ""),
            false => reply,
        }
    });
    push(&server, &layer).unwrap();
    assert_eq!(uploads.lock().unwrap().bodies.len(), 2);
}

#[test]
fn an_upload_without_end_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let layer = layer(folder.path());
    let (server, _) = breaking(usize::MAX, |asked, reply| match asked.method == "GET" {
        true => Reply::new(404, ""),
        false => reply,
    });
    push(&server, &layer).unwrap_err();
    assert_eq!(server.count(is_layer), 4);
}
