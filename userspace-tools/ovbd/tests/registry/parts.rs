// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Layers that are large enough for several connections.

use std::slice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Barrier, Mutex};
use std::time::Duration;

use ovbd::image::digest::Digest;

use crate::server::{Asked, Reply, Server, Then};
use crate::support::{noise, options, Place, Repository};

/// The size of a part of a blob.
const PART: usize = 16 << 20;
const CONNECTIONS: usize = 4;
/// Behind the last whole part.
const REST: usize = 1000;

/// A layer of as many parts as there are connections; and what it is compared with is expensive to
/// make, so that all tests have the same one.
fn layer() -> Arc<Vec<u8>> {
    static LAYER: Mutex<Option<Arc<Vec<u8>>>> = Mutex::new(None);
    let mut layer = LAYER.lock().unwrap();
    let made = layer.get_or_insert_with(|| {
        let length = (CONNECTIONS - 1) * PART + REST;
        let piece = noise(1, 1 << 16);
        // No two parts, and no two pieces of them, are the same.
        let bytes =
            (0..length).map(|at| piece[at % piece.len()] ^ (at >> 16) as u8 ^ (at >> 24) as u8);
        Arc::new(bytes.collect())
    });
    made.clone()
}

/// Serves an image of that layer, with `change` applied to the answers about it.
fn serve(change: impl Fn(&Asked, Reply) -> Reply + Send + Sync + 'static) -> Server {
    let repository = Repository::with(slice::from_ref(&layer()));
    Server::start(move |asked| match repository.answer(asked) {
        reply if asked.is_blob() => change(asked, reply),
        reply => reply,
    })
}

/// The ranges that were asked for, by their first bytes.
fn ranges(server: &Server) -> Vec<Option<(usize, Option<usize>)>> {
    let asked = server.asked().into_iter().filter(Asked::is_blob);
    let mut ranges: Vec<_> = asked.map(|asked| asked.range()).collect();
    ranges.sort();
    ranges
}

/// All parts, each to its end.
fn parts() -> Vec<Option<(usize, Option<usize>)>> {
    let last = CONNECTIONS - 1;
    let end = |at: usize| (at < last).then(|| (at + 1) * PART - 1);
    (0..=last).map(|at| Some((at * PART, end(at)))).collect()
}

#[test]
fn one_layer_comes_over_all_connections_at_once() {
    // No answer before every part was asked for.
    let barrier = Barrier::new(CONNECTIONS);
    let server = serve(move |_, reply| {
        barrier.wait();
        reply
    });
    let place = Place::new();
    let pulled = place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    assert_eq!(ranges(&server), parts());
    assert_eq!(pulled.transferred, layer().len() as u64);
}

#[test]
fn one_connection_asks_once() {
    let server = serve(|_, reply| reply);
    let place = Place::new();
    let mut options = options();
    options.connections = 1;
    place.pull(&server.host(), &options).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    assert_eq!(ranges(&server), [None]);
}

#[test]
fn each_part_goes_on_where_it_stopped() {
    let server = serve(|asked, reply| {
        // The first answer for each part breaks off, each elsewhere.
        match asked.from().unwrap() {
            from if from % PART == 0 => reply.cut(from / PART * 300 + 100, Then::Close),
            _ => reply,
        }
    });
    let place = Place::new();
    let pulled = place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    let whole = parts().into_iter().flatten();
    let rests = whole.map(|(from, last)| (from + from / PART * 300 + 100, last));
    // The last part is shorter than its first answer is cut to.
    let mut expected: Vec<_> = parts();
    expected.extend(rests.take(CONNECTIONS - 1).map(Some));
    expected.sort();
    assert_eq!(ranges(&server), expected);
    assert_eq!(pulled.transferred, layer().len() as u64);
}

#[test]
fn a_server_that_ignores_ranges_is_asked_by_one_connection() {
    let server = serve(|_, _| Reply::new(200, layer().as_slice()));
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    let said = place.events.of("single");
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(place.events.of("retry").len(), 0);
}

#[test]
fn where_ranges_are_wrong_one_connection_asks_for_the_whole() {
    let server = serve(|asked, mut reply| {
        if asked.range().is_some() {
            reply.headers[0].1 = "bytes 7-9/10".to_owned();
        }
        reply
    });
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    let retries = place.events.of("retry");
    assert_eq!(retries.len(), 1, "{retries:?}");
    let said = retries[0]["error"].as_str().unwrap();
    assert!(said.contains("and sends others"), "{said}");
    assert!(ranges(&server).contains(&None));
}

#[test]
fn more_than_a_part_is_a_wrong_range() {
    let server = serve(|asked, mut reply| {
        if asked.range().is_some_and(|(_, last)| last.is_some()) {
            reply.body.push(0);
            reply.length = Some(None);
        }
        reply
    });
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    let retries = place.events.of("retry");
    assert!(retries[0]["error"]
        .as_str()
        .unwrap()
        .contains("than it was asked for"));
}

/// The headers are right, and the bytes are always the first ones.
#[test]
fn ranges_that_lie_are_noticed_by_the_digest() {
    let server = serve(|asked, mut reply| {
        if asked.range().is_some() {
            let length = reply.body.len();
            reply.body = layer()[..length].to_vec();
        }
        reply
    });
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    let retries = place.events.of("retry");
    let said = retries[0]["error"].as_str().unwrap();
    assert!(said.contains("it was thrown away"), "{said}");
    let last = server.asked().pop().unwrap();
    assert_eq!(last.range(), None);
}

/// Only some of the connections are let in, as registries do that limit them.
#[test]
fn a_connection_that_is_refused_is_done_without() {
    let server = serve(|asked, reply| match asked.from() {
        Some(from) if from >= PART && from % PART == 0 && asked.range().unwrap().1.is_some() => {
            Reply::new(403, "")
        }
        _ => reply,
    });
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
}

/// A mirror refuses the connection that leads while another one helps there, and that one gets its
/// answer only when the registry itself is asked: it must not keep the layer to itself.
#[test]
fn helpers_leave_a_mirror_that_was_given_up() {
    let small = noise(2, 1000);
    let repository = Repository::with(&[layer().to_vec(), small.clone()]);
    let digest = Digest::of_bytes(&layer()).to_string();
    let is_large = move |asked: &Asked| asked.path.ends_with(&digest);
    let (tell, told) = mpsc::channel();
    let (tell, told) = (Mutex::new(tell), Mutex::new(told));
    let origin = Server::start({
        let (repository, is_large) = (repository.clone(), is_large.clone());
        move |asked| {
            if is_large(asked) {
                let _ = tell.lock().unwrap().send(());
            }
            repository.answer(asked)
        }
    });
    // The small layer is there, and its connection free to help, when the large one is asked for.
    let (begun, helped) = (Barrier::new(2), Barrier::new(2));
    let asked_for = AtomicUsize::new(0);
    let mirror = Server::start({
        let is_large = is_large.clone();
        move |asked| {
            let turn = is_large(asked).then(|| asked_for.fetch_add(1, Ordering::SeqCst));
            match turn {
                None if asked.is_blob() => drop(begun.wait()),
                Some(0) => {
                    begun.wait();
                    helped.wait();
                    return Reply::new(404, "");
                }
                Some(1) => {
                    helped.wait();
                    // Somebody who waits in vain goes on, and is seen to ask for more.
                    let _ = told.lock().unwrap().recv_timeout(Duration::from_secs(30));
                }
                _ => {}
            }
            repository.answer(asked)
        }
    });
    let mut options = options();
    options.connections = 2;
    options.mirrors = vec![mirror.host()];
    let place = Place::new();
    place.pull(&origin.host(), &options).unwrap();
    place.assert_holds(&[layer().to_vec(), small]);
    assert_eq!(mirror.count(is_large), 2);
}

/// What one process has of each part, the next one does not fetch.
#[test]
fn parts_stay_for_the_next_pull() {
    let broken = serve(|asked, reply| match asked.from().unwrap() % PART {
        0 => reply.cut(500_000, Then::Close),
        _ => Reply::new(404, ""),
    });
    let place = Place::new();
    place.refusal(&broken.host(), &options());
    let server = serve(|_, reply| reply);
    let pulled = place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(slice::from_ref(&layer()));
    assert!(pulled.transferred <= layer().len() as u64 - 500_000);
    let resumed = |asked: &Asked| asked.from().is_some_and(|from| from % PART == 500_000);
    assert!(server.count(resumed) >= 1);
}
