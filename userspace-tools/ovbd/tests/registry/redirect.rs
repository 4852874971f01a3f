// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Redirects, and what goes along.

use std::slice;

use ovbd::registry::credentials::Login;
use ovbd::registry::Options;

use crate::server::{Asked, Reply, Server};
use crate::support::{noise, options, Place, Repository};

fn logged_in() -> Options {
    let mut options = options();
    options.credentials.explicit = Some(Login::Password {
        user: "me".into(),
        password: "hunter2".into(),
    });
    options
}

fn authorized(asked: &Asked) -> bool {
    asked.header("authorization").is_some()
}

#[test]
fn credentials_stay_with_their_host() {
    let layer = noise(1, 100_000);
    let repository = Repository::with(slice::from_ref(&layer));
    let content = repository.clone();
    // The other host refuses whoever brings credentials, as storage services do.
    let storage = Server::start(move |asked| match authorized(asked) {
        true => Reply::new(400, "two kinds of authorization"),
        false => {
            let mut plain = asked.clone();
            plain.path = asked.path.replace("/storage", "");
            content.answer(&plain)
        }
    });
    let elsewhere = storage.host();
    let registry = Server::start(move |asked| match (authorized(asked), asked.is_blob()) {
        (false, _) => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
        (true, false) => repository.answer(asked),
        (true, true) => {
            let url = format!("http://{elsewhere}/storage{}?signature=secret", asked.path);
            Reply::new(307, "").header("Location", url)
        }
    });
    let place = Place::new();
    place.pull(&registry.host(), &logged_in()).unwrap();
    place.assert_holds(&[layer]);
    assert_eq!(storage.count(|a| a.path.ends_with("?signature=secret")), 1);
    assert_eq!(storage.count(authorized), 0);
}

#[test]
fn a_host_that_we_are_sent_to_cannot_ask_for_credentials() {
    let repository = Repository::with(&[noise(1, 100)]);
    let thief = Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"));
    let elsewhere = thief.host();
    let registry = Server::start(move |asked| match asked.is_blob() {
        true => Reply::new(302, "").header("Location", format!("http://{elsewhere}/")),
        false => repository.answer(asked),
    });
    let message = Place::new().refusal(&registry.host(), &logged_in());
    assert!(message.contains("access denied"), "{message}");
    assert_eq!((thief.asked().len(), thief.count(authorized)), (1, 0));
}

#[test]
fn redirects_end() {
    let registry =
        Server::start(|asked| Reply::new(307, "").header("Location", format!("{}x", asked.path)));
    let message = Place::new().refusal(&registry.host(), &options());
    assert!(
        message.contains("redirected more than 5 times"),
        "{message}"
    );
    assert_eq!(registry.asked().len(), 6);
}

#[test]
fn redirects_do_not_leave_encryption_or_the_web() {
    // An address for documentation: nothing may ever be sent there.
    for (location, problem) in [
        ("http://192.0.2.1/blob?signature=secret", "--plain-http"),
        ("file:///etc/passwd", "no address that can be followed"),
        ("ftp://127.0.0.1/", "no address that can be followed"),
        (
            "http://me:hunter2@127.0.0.1/",
            "no address that can be followed",
        ),
    ] {
        let registry = Server::start(move |_| Reply::new(302, "").header("Location", location));
        let message = Place::new().refusal(&registry.host(), &options());
        assert!(message.contains(problem), "{location}: {message}");
        assert!(
            !message.contains("secret") && !message.contains("hunter2"),
            "{message}"
        );
        assert_eq!(registry.asked().len(), 1);
    }
}
