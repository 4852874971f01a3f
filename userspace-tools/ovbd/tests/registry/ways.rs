// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Mirrors and P2P proxies: they help, or are left aside.

use std::fs;
use std::process::Command;
use std::slice;

use ovbd::registry::credentials::Login;
use ovbd::registry::Options;
use serde_json::json;

use crate::server::{Asked, Reply, Server, Then};
use crate::support::{assert_store_holds, noise, options, Place, Repository};

fn authorized(asked: &Asked) -> bool {
    asked.header("authorization").is_some()
}

/// The registry itself, which wants a password.
fn origin(layer: &[u8]) -> Server {
    let repository = Repository::with(&[layer.to_vec()]);
    Server::start(move |asked| match authorized(asked) {
        true => repository.answer(asked),
        false => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
    })
}

fn by(mirrors: &[&Server]) -> Options {
    let mut options = options();
    options.mirrors = mirrors.iter().map(|mirror| mirror.host()).collect();
    options.credentials.explicit = Some(Login::Password {
        user: "me".into(),
        password: "hunter2".into(),
    });
    options
}

#[test]
fn a_mirror_saves_the_registry_from_being_asked() {
    let layer = noise(1, 1000);
    let origin = origin(&layer);
    let repository = Repository::with(slice::from_ref(&layer));
    let mirror = Server::start(move |asked| repository.answer(asked));
    let place = Place::new();
    place.pull(&origin.host(), &by(&[&mirror])).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!((mirror.asked().len(), mirror.count(authorized)), (2, 0));
    assert_eq!(origin.asked().len(), 0);
}

#[test]
fn a_mirror_that_fails_is_left_aside() {
    let layer = noise(1, 400_000);
    let right = Repository::with(slice::from_ref(&layer));
    let ways: [fn(Reply) -> Reply; 5] = [
        |mut reply| {
            reply.body[7] ^= 1;
            reply
        },
        |reply| reply.cut(300_000, Then::Close),
        |_| Reply::new(404, ""),
        |_| Reply::new(500, ""),
        |_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
    ];
    for way in ways {
        let origin = origin(&layer);
        let repository = right.clone();
        let mirror = Server::start(move |asked| match repository.answer(asked) {
            reply if asked.is_blob() => way(reply),
            reply => reply,
        });
        let place = Place::new();
        place.pull(&origin.host(), &by(&[&mirror])).unwrap();
        place.assert_holds(slice::from_ref(&layer));
        assert_eq!(
            (mirror.count(Asked::is_blob), mirror.count(authorized)),
            (1, 0)
        );
        assert!(origin.count(Asked::is_blob) >= 1);
    }
}

#[test]
fn a_mirror_without_the_image_is_left_aside() {
    let layer = noise(1, 1000);
    let origin = origin(&layer);
    let empty = Server::start(|_| Reply::new(404, ""));
    let place = Place::new();
    let mut options = by(&[&empty]);
    // Nobody listens there.
    options.mirrors.push("http://127.0.0.1:1/prefix".to_owned());
    place.pull(&origin.host(), &options).unwrap();
    place.assert_holds(&[layer]);
}

/// Passes on what it is asked for, as P2P proxies do: its path is the address.
fn p2p(layer: &[u8], works: bool) -> Server {
    let repository = Repository::with(&[layer.to_vec()]);
    Server::start(move |asked| {
        let at = asked.path.find("/v2/").unwrap();
        let mut inner = asked.clone();
        inner.path = asked.path[at..].to_owned();
        match (works, authorized(asked)) {
            (false, _) => Reply::new(502, ""),
            (true, true) => repository.answer(&inner),
            (true, false) => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
        }
    })
}

#[test]
fn blobs_come_through_the_proxy() {
    let layer = noise(1, 1000);
    let (origin, proxy) = (origin(&layer), p2p(&layer, true));
    let mut options = by(&[]);
    options.p2p = Some(format!("http://{}/accelerator/", proxy.host()));
    let place = Place::new();
    place.pull(&origin.host(), &options).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(origin.count(Asked::is_blob), 0);
    let prefix = format!("/accelerator/http://{}/v2/app/blobs/sha256:", origin.host());
    assert!(proxy
        .asked()
        .iter()
        .all(|asked| asked.path.starts_with(&prefix)));
}

#[test]
fn a_proxy_that_fails_is_left_aside() {
    let layer = noise(1, 1000);
    let (origin, proxy) = (origin(&layer), p2p(&layer, false));
    let mut options = by(&[]);
    options.p2p = Some(format!("http://{}", proxy.host()));
    let place = Place::new();
    place.pull(&origin.host(), &options).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!((proxy.asked().len(), origin.count(Asked::is_blob)), (1, 1));
}

#[test]
fn a_proxy_that_makes_no_connection_is_named() {
    let proxy = Server::start(|_| Reply::new(407, ""));
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args(["pull", "registry.example/app:1", "--store"])
        .arg(folder.path().join("store"))
        .env("ALL_PROXY", format!("http://me:hunter2@{}", proxy.host()))
        .env_remove("NO_PROXY")
        .env_remove("no_proxy")
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("the proxy answered 407"), "{message}");
    let by = format!("(by way of the proxy {})", proxy.host());
    assert!(message.contains(&by), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
    let asked = proxy.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].path, "registry.example:443");
}

#[test]
fn the_configuration_of_the_host_names_a_proxy_and_credentials() {
    let layer = noise(1, 1000);
    let (origin, proxy) = (origin(&layer), p2p(&layer, true));
    let folder = tempfile::tempdir().unwrap();
    let (logins, host) = (
        folder.path().join("cred.json"),
        folder.path().join("overlaybd.json"),
    );
    let auths = json!({origin.host(): {"username": "me", "password": "hunter2"}});
    fs::write(&logins, json!({"auths": auths}).to_string()).unwrap();
    let config = json!({
        "credentialConfig": {"mode": "file", "path": logins},
        "p2pConfig": {"enable": true, "address": format!("http://{}/p", proxy.host())},
        "userAgent": "host-agent/1",
    });
    fs::write(&host, config.to_string()).unwrap();
    let store = folder.path().join("store");
    let output = Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args(["pull", &format!("{}/app:1", origin.host()), "--host-config"])
        .arg(&host)
        .arg("--store")
        .arg(&store)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_store_holds(&store, &[layer]);
    assert_eq!(
        (origin.count(Asked::is_blob), proxy.count(authorized)),
        (0, 1)
    );
    assert_eq!(proxy.asked()[0].header("user-agent"), Some("host-agent/1"));
}
