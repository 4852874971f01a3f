// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! From a reference to an OverlayBD image.

use std::slice;
use std::time::Duration;

use serde_json::{json, Value};

use crate::server::{Asked, Reply, Server, Then};
use crate::support::{noise, options, Place, Repository, ARTIFACT, INDEX};

const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

fn serve(repository: Repository) -> Server {
    Server::start(move |asked| repository.answer(asked))
}

/// A descriptor with something added.
fn with(descriptor: &Value, name: &str, value: Value) -> Value {
    let mut descriptor = descriptor.clone();
    descriptor[name] = value;
    descriptor
}

fn on(descriptor: &Value, architecture: &str) -> Value {
    let platform = json!({"os": "linux", "architecture": architecture});
    with(descriptor, "platform", platform)
}

fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "manifests": entries})
}

/// The fallback's tag for what refers to a descriptor.
fn referrers_tag(subject: &Value) -> String {
    subject["digest"].as_str().unwrap().replace(':', "-")
}

#[test]
fn an_index_is_searched_for_the_platform() {
    for media in [INDEX, DOCKER_INDEX] {
        let (amd64, arm64) = (noise(1, 1000), noise(2, 1000));
        let mut repository = Repository::default();
        let first = repository.image("a", slice::from_ref(&amd64));
        let second = repository.image("b", slice::from_ref(&arm64));
        let entries = [on(&first, "amd64"), on(&second, "arm64")];
        repository.manifest("1", media, &index(&entries));
        let server = serve(repository);
        for (platform, layer) in [("linux/amd64", &amd64), ("linux/arm64", &arm64)] {
            let mut options = options();
            options.platform = platform.parse().unwrap();
            let place = Place::new();
            place.pull(&server.host(), &options).unwrap();
            place.assert_holds(slice::from_ref(layer));
        }
        let mut options = options();
        options.platform = "linux/riscv64".parse().unwrap();
        let message = Place::new().refusal(&server.host(), &options);
        assert!(
            message.contains("there is no image for linux/riscv64"),
            "{message}"
        );
    }
}

#[test]
fn an_ordinary_image_is_refused_with_a_remedy() {
    let mut repository = Repository::default();
    repository.ordinary("1");
    let server = serve(repository);
    let message = Place::new().refusal(&server.host(), &options());
    let expected = format!(
        "{}/app:1: is an ordinary image without an OverlayBD form; ",
        server.host()
    );
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.contains("`ovbd push --subject`"), "{message}");
}

/// An ordinary image behind an index, and an OverlayBD image that refers to it.
fn referred(layer: &[u8]) -> (Repository, Value, Value) {
    let mut repository = Repository::default();
    let ordinary = repository.ordinary("plain");
    repository.manifest("1", INDEX, &index(&[on(&ordinary, "amd64")]));
    let native = repository.image("native", &[layer.to_vec()]);
    let other = repository.ordinary("signature");
    let entries = [
        with(
            &other,
            "artifactType",
            json!("application/vnd.example.signature"),
        ),
        with(&native, "artifactType", json!(ARTIFACT)),
    ];
    (repository, ordinary, index(&entries))
}

fn amd64() -> ovbd::registry::Options {
    let mut options = options();
    options.platform = "linux/amd64".parse().unwrap();
    options
}

#[test]
fn the_tag_for_referrers_is_followed() {
    let layer = noise(1, 1000);
    let (mut repository, ordinary, referrers) = referred(&layer);
    repository.manifest(&referrers_tag(&ordinary), INDEX, &referrers);
    let server = serve(repository);
    let place = Place::new();
    let pulled = place.pull(&server.host(), &amd64()).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(
        pulled.subject.unwrap().to_string(),
        ordinary["digest"].as_str().unwrap()
    );
}

#[test]
fn the_referrers_api_is_followed_page_by_page() {
    let layer = noise(1, 1000);
    let (repository, ordinary, referrers) = referred(&layer);
    let path = format!("/v2/app/referrers/{}", ordinary["digest"].as_str().unwrap());
    let entries = referrers["manifests"].as_array().unwrap().clone();
    let server = Server::start(move |asked| {
        if !asked.path.starts_with(&path) {
            return repository.answer(asked);
        }
        let page = |entry: &Value| {
            let body = index(slice::from_ref(entry)).to_string();
            Reply::new(200, body).header("Content-Type", INDEX)
        };
        match asked.path.contains("last=1") {
            false => page(&entries[0]).header("Link", format!("<{path}?last=1>; rel=\"next\"")),
            true => page(&entries[1]),
        }
    });
    let place = Place::new();
    place.pull(&server.host(), &amd64()).unwrap();
    place.assert_holds(&[layer]);
    let pages = server.asked();
    let pages: Vec<&Asked> = pages
        .iter()
        .filter(|a| a.path.contains("/referrers/"))
        .collect();
    assert_eq!(pages.len(), 2);
    assert!(pages[0]
        .path
        .contains("artifactType=application%2Fvnd%2Econtainerd%2Eoverlaybd"));
}

#[test]
fn pages_and_indexes_without_end_are_left() {
    let mut repository = Repository::default();
    repository.ordinary("1");
    let endless = repository.clone();
    let server = Server::start(move |asked| match asked.path.contains("/referrers/") {
        true => Reply::new(200, index(&[]).to_string())
            .header("Content-Type", INDEX)
            .header("Link", format!("<{}&more>; rel=\"next\"", asked.path)),
        false => endless.answer(asked),
    });
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("ordinary image"), "{message}");
    assert_eq!(server.count(|a| a.path.contains("/referrers/")), 4);

    // Each index names eight others, which name eight others.
    let mut below = vec![repository.image("deep", &[noise(1, 10)])];
    for level in 0..6 {
        let entries: Vec<Value> = (0..8).map(|n| with(&below[0], "n", json!(n))).collect();
        below = vec![repository.manifest(&format!("{level}"), INDEX, &index(&entries))];
    }
    let top = repository.manifests["5"].clone();
    repository.manifests.insert("1".to_owned(), top);
    let server = serve(repository);
    let message = Place::new().refusal(&server.host(), &options());
    assert!(
        message.contains("indexes lie more than 3 deep"),
        "{message}"
    );
    assert!(server.asked().len() < 10);
}

#[test]
fn images_without_end_are_left() {
    let mut repository = Repository::default();
    let mut indexes = Vec::new();
    for n in 0..8 {
        let images = (0..8).map(|m| repository.ordinary(&format!("image{n}-{m}")));
        let images: Vec<Value> = images.collect();
        indexes.push(repository.manifest(&format!("index{n}"), INDEX, &index(&images)));
    }
    repository.manifest("1", INDEX, &index(&indexes));
    let server = serve(repository);
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("more than 64 manifests"), "{message}");
    assert_eq!(server.asked().len(), 64);
}

#[test]
fn a_manifest_of_any_size_is_not_read() {
    let server = Server::start(|_| {
        let mut reply = Reply::new(200, "{");
        reply.length = Some(Some(1 << 40));
        reply.then = Then::Hang;
        reply
    });
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("larger than 4194304 bytes"), "{message}");
    assert_eq!(server.asked().len(), 1);

    let server = Server::start(|_| {
        let mut reply = Reply::new(200, vec![b' '; (4 << 20) + 1]);
        reply.length = Some(None);
        reply
    });
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("larger than 4194304 bytes"), "{message}");
}

#[test]
fn a_manifest_that_takes_for_ever_is_left() {
    // As a head, and as a body.
    for in_body in [false, true] {
        let server = Server::start(move |_| {
            let mut reply = Reply::new(200, vec![b' '; 4 << 20]);
            if !in_body {
                let name = "X".repeat(60 << 10);
                reply = Reply::new(200, "").header(&name, "x");
            }
            reply.drip = true;
            reply
        });
        let mut options = options();
        options.patience.stall = Duration::from_millis(200);
        let message = Place::new().refusal(&server.host(), &options);
        let left = message.contains("does not come to an end") || message.contains("sent nothing");
        assert!(left, "{message}");
        assert_eq!(server.asked().len(), 4);
    }
}

#[test]
fn a_manifest_has_the_digest_that_was_asked_for() {
    let mut repository = Repository::with(&[noise(1, 10)]);
    let honest = repository.image("2", &[noise(2, 10)]);
    let other = repository.manifests["1"].clone();
    let digest = honest["digest"].as_str().unwrap().to_owned();
    repository.manifests.insert(digest.clone(), other);
    let server = serve(repository.clone());
    let reference = format!("{}/app@{digest}", server.host()).parse().unwrap();
    let place = Place::new();
    let error = ovbd::registry::pull(&reference, &options(), &place.store, &()).unwrap_err();
    assert!(
        error.to_string().contains(&format!("not {digest}")),
        "{error}"
    );

    // The same if the registry itself says which digest its tag has.
    let server = Server::start(move |asked| {
        repository
            .answer(asked)
            .header("Docker-Content-Digest", digest.as_str())
    });
    let message = Place::new().refusal(&server.host(), &options());
    assert!(message.contains("the manifest has the digest"), "{message}");
}

#[test]
fn what_is_no_manifest_is_refused() {
    for (text, problem) in [
        (
            "<html>",
            "its manifest cannot be read: Syntax error at line 1 column 1",
        ),
        ("{}", "neither layers nor manifests"),
        (r#"{"schemaVersion": 1, "name": "app"}"#, "first schema"),
    ] {
        let server = Server::start(move |_| Reply::new(200, text));
        let message = Place::new().refusal(&server.host(), &options());
        assert!(message.contains(problem), "{message}");
    }
}
