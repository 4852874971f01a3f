// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Blobs that do not arrive as they should.

use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::time::Duration;

use ovbd::image::digest::Digest;
use ovbd::registry::{self, Event, Watch};
use ovbd::resolve::RemoteBlob;
use ovbd::store::Ingest;

use crate::server::{Asked, Reply, Server, Then};
use crate::support::{impatient, noise, options, Log, Place, Repository};

/// Serves an image of one layer, with `change` applied to the answers about it.
fn serve(layer: &[u8], change: impl Fn(&Asked, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let repository = Repository::with(&[layer.to_vec()]);
    Server::start(move |asked| match repository.answer(asked) {
        reply if asked.is_blob() => change(asked, reply),
        reply => reply,
    })
}

fn blob_requests(server: &Server) -> Vec<Option<usize>> {
    let asked = server.asked();
    asked
        .iter()
        .filter(|a| a.is_blob())
        .map(Asked::from)
        .collect()
}

#[test]
fn layers_arrive_in_parallel_and_once() {
    let layers: Vec<Vec<u8>> = (0..9).map(|n| noise(n, 100_000 + n as usize)).collect();
    let repository = Repository::with(&[layers.clone(), vec![layers[3].clone()]].concat());
    let server = Server::start(move |asked| repository.answer(asked));
    let place = Place::new();
    let pulled = place.pull(&server.host(), &options()).unwrap();
    assert_eq!(pulled.image.layers.len(), 10);
    let bytes: u64 = layers.iter().map(|l| l.len() as u64).sum();
    assert_eq!(pulled.transferred, bytes);
    place.assert_holds(&layers);
    assert_eq!(server.count(Asked::is_blob), 9);
    assert_eq!(place.store.images().unwrap(), [pulled.image]);
    // The second time nothing is fetched but the manifest.
    let again = place.pull(&server.host(), &options()).unwrap();
    assert_eq!((again.transferred, server.count(Asked::is_blob)), (0, 9));
}

#[test]
fn a_broken_stream_goes_on_where_it_stopped() {
    let layer = noise(1, 1_000_000);
    let server = serve(&layer, |asked, reply| match asked.number {
        1 => reply.cut(300_001, Then::Close),
        2 => reply.cut(5, Then::Close),
        3 => reply.cut(0, Then::Close),
        _ => reply,
    });
    let place = Place::new();
    let pulled = place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(pulled.transferred, 1_000_000);
    let starts = [None, Some(300_001), Some(300_006), Some(300_006)];
    assert_eq!(blob_requests(&server), starts);
    assert_eq!(place.events.of("retry").len(), 3);
}

#[test]
fn a_stream_that_ends_early_every_time_is_given_up() {
    let layer = noise(1, 10_000);
    let server = serve(&layer, |_, reply| reply.cut(10, Then::Close));
    let place = Place::new();
    let message = place.refusal(&server.host(), &options());
    assert!(message.contains("/v2/app/blobs/sha256:"), "{message}");
    let starts = [None, Some(10), Some(20), Some(30)];
    assert_eq!(blob_requests(&server), starts);
    // What did arrive is where the next pull goes on.
    let repository = Repository::with(slice::from_ref(&layer));
    let sound = Server::start(move |asked| repository.answer(asked));
    place.pull(&sound.host(), &options()).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(blob_requests(&sound), [Some(40)]);
}

#[test]
fn silence_is_a_broken_stream() {
    let layer = noise(1, 600_000);
    let hung = AtomicUsize::new(0);
    let server = serve(&layer, move |_, reply| {
        match hung.fetch_add(1, Ordering::SeqCst) {
            0 => reply.cut(400_000, Then::Hang),
            _ => reply,
        }
    });
    let place = Place::new();
    place.pull(&server.host(), &impatient()).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(blob_requests(&server)[1], Some(400_000));
}

#[test]
fn a_drip_is_as_bad_as_silence() {
    let layer = noise(1, 600_000);
    let server = serve(&layer, |_, mut reply| {
        reply.drip = true;
        reply
    });
    let mut options = options();
    options.patience.stall = Duration::from_millis(400);
    options.patience.stall_bytes = 10_000;
    let message = Place::new().refusal(&server.host(), &options);
    assert!(
        message.contains("stalled") || message.contains("sent nothing"),
        "{message}"
    );
    assert_eq!(server.count(Asked::is_blob), 4);
}

#[test]
fn a_server_without_ranges_will_do() {
    let layer = noise(1, 500_000);
    let whole = Repository::with(slice::from_ref(&layer));
    let server = serve(&layer, move |asked, reply| match asked.from() {
        None => reply.cut(400_000, Then::Close),
        Some(_) => {
            let mut plain = asked.clone();
            plain.headers.remove("range");
            whole.answer(&plain)
        }
    });
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(blob_requests(&server), [None, Some(400_000)]);
    assert_eq!(place.events.of("single").len(), 1);
}

#[test]
fn where_ranges_are_wrong_the_whole_is_asked_for() {
    for range in [
        "bytes 0-99999/100000",
        "bytes 400-99999/100001",
        "bytes 400-10/100000",
        "x",
    ] {
        let layer = noise(1, 100_000);
        let server = serve(&layer, move |asked, mut reply| match asked.number {
            1 => reply.cut(400, Then::Close),
            2 => {
                reply.headers[0].1 = range.to_owned();
                reply
            }
            _ => reply,
        });
        let place = Place::new();
        place.pull(&server.host(), &options()).unwrap();
        place.assert_holds(&[layer]);
        assert_eq!(blob_requests(&server), [None, Some(400), None]);
        let retries = place.events.of("retry");
        let said = retries[1]["error"].as_str().unwrap();
        let expected = "was asked for bytes 400 to 100000, and sends others";
        assert!(said.contains(expected), "{range}: {said}");
    }
}

#[test]
fn a_part_is_refused_where_the_whole_was_asked_for() {
    let layer = noise(1, 1000);
    let server = serve(&layer, |_, mut reply| {
        reply.status = 206;
        reply
    });
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("a part of the whole"), "{message}");
    assert_eq!(server.count(Asked::is_blob), 1);
}

#[test]
fn wrong_bytes_never_get_a_name() {
    let layer = noise(1, 100_000);
    let server = serve(&layer, |_, mut reply| {
        reply.body[50_000] ^= 1;
        reply
    });
    let place = Place::new();
    let message = place.refusal(&server.host(), &options());
    assert!(message.contains("it was thrown away"), "{message}");
    assert_eq!(server.count(Asked::is_blob), 1);
    place.assert_holds(&[]);
}

#[test]
fn a_head_that_is_wrong_is_fetched_anew() {
    let layer = noise(1, 100_000);
    let server = serve(&layer, |asked, mut reply| {
        if asked.number == 1 {
            reply.body[0] ^= 1;
            return reply.cut(1000, Then::Close);
        }
        match asked.number {
            // So that the first pull ends with a head of 1000 bytes.
            2..5 => Reply::new(503, ""),
            _ => reply,
        }
    });
    let place = Place::new();
    place.refusal(&server.host(), &options());
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(&[layer]);
    let starts = blob_requests(&server);
    assert_eq!(starts[starts.len() - 2..], [Some(1000), None]);
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let layer = noise(1, 100_000);
    for length in [None, Some(100_001)] {
        let server = serve(&layer, move |_, mut reply| {
            reply.body.push(0);
            reply.length = Some(length);
            reply
        });
        let place = Place::new();
        let message = place.refusal(&server.host(), &options());
        assert!(message.contains("manifest says"), "{message}");
        assert_eq!(server.count(Asked::is_blob), 1);
    }
}

#[test]
fn fewer_bytes_than_announced_are_refused() {
    let layer = noise(1, 100_000);
    let short = layer[..60_000].to_vec();
    let server = serve(&layer, move |asked, _| {
        crate::support::ranged(&short, asked.range())
    });
    let message = Place::new().refusal(&server.host(), &options());
    assert!(
        message.contains("fewer bytes than the manifest says"),
        "{message}"
    );
    assert_eq!(blob_requests(&server), [None, Some(60_000)]);
}

#[test]
fn a_missing_blob_is_not_asked_for_again() {
    let server = serve(b"layer", |_, _| Reply::new(404, ""));
    let place = Place::new();
    let message = place.refusal(&server.host(), &options());
    assert!(message.contains("not found"), "{message}");
    assert_eq!(server.count(Asked::is_blob), 1);
    // Nor does it keep any room.
    place.assert_holds(&[]);
}

/// Gives a blob up that another pull waits for.
struct Yields {
    held: Mutex<Option<Ingest>>,
    events: Log,
}

impl Watch for Yields {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Waiting { .. }) {
            self.held.lock().unwrap().take();
        }
        self.events.event(event);
    }
}

#[test]
fn that_another_process_is_waited_for_is_said() {
    let layer = noise(1, 1000);
    let server = serve(&layer, |_, reply| reply);
    let place = Place::new();
    let held = place.store.begin(&Digest::of_bytes(&layer), 1000).unwrap();
    let yields = Yields {
        held: Mutex::new(Some(held)),
        events: Log::default(),
    };
    let reference = format!("{}/app:1", server.host()).parse().unwrap();
    registry::pull(&reference, &options(), &place.store, &yields).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(yields.events.of("waiting").len(), 1);
}

#[test]
fn the_last_request_has_to_be_logged_too() {
    let layer = noise(1, 1000);
    let server = serve(&layer, |_, reply| reply);
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    // This time nothing but the manifest is asked for.
    let mut options = options();
    options.audit = Some("/dev/full".into());
    let error = place.pull(&server.host(), &options).unwrap_err();
    let expected = "/dev/full: cannot log requests there";
    assert!(error.to_string().starts_with(expected), "{error}");
}

#[test]
fn trouble_of_the_registry_passes() {
    let layer = noise(1, 1000);
    for status in [429, 500, 502, 503, 504] {
        let server = serve(&layer, move |asked, reply| match asked.number {
            1 => Reply::new(status, "").header("Retry-After", "3"),
            _ => reply,
        });
        let place = Place::new();
        place.pull(&server.host(), &options()).unwrap();
        place.assert_holds(slice::from_ref(&layer));
        let retries = place.events.of("retry");
        assert_eq!(retries.len(), 1);
        // As long as the longest pause; first_pause alone would be 1 ms.
        assert_eq!(retries[0]["pause_seconds"], 0.005);
    }
}

#[test]
fn trouble_without_end_is_given_up() {
    let server = Server::start(|_| Reply::new(503, ""));
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("answered 503"), "{message}");
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn the_first_failure_ends_the_pull() {
    let layers: Vec<Vec<u8>> = (0..40).map(|n| noise(n, 1000)).collect();
    let repository = Repository::with(&layers);
    let server = Server::start(move |asked| match asked.is_blob() {
        true => Reply::new(404, ""),
        false => repository.answer(asked),
    });
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("not found"), "{message}");
    // Each of the four threads may have been at one.
    assert!(server.count(Asked::is_blob) <= 8);
}

#[test]
fn a_blob_comes_by_its_address() {
    let layer = noise(1, 100_000);
    let server = serve(&layer, |asked, reply| match asked.number {
        0 if asked.method == "GET" => reply.cut(1000, Then::Close),
        _ => reply,
    });
    let digest = Digest::of_bytes(&layer);
    let url = format!("http://{}/v2/app/blobs/{digest}", server.host());
    for size in [None, Some(layer.len() as u64)] {
        let place = Place::new();
        let blob = RemoteBlob {
            url: &url,
            digest,
            size,
        };
        registry::pull_blob(&blob, &options(), &place.store, &place.events).unwrap();
        place.assert_holds(slice::from_ref(&layer));
    }
    assert_eq!(server.count(|asked| asked.method == "HEAD"), 1);
}

#[test]
fn a_rate_limit_changes_nothing_but_the_time() {
    let layer = noise(1, 50_000);
    let server = serve(&layer, |_, reply| reply);
    let place = Place::new();
    let mut options = options();
    options.max_rate = Some(1_000_000);
    place.pull(&server.host(), &options).unwrap();
    place.assert_holds(&[layer]);
}
