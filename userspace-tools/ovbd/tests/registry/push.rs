// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Registries that take an image in their own ways.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use ovbd::image::digest::Digest;
use ovbd::output::Progress;
use ovbd::reference::Reference;
use ovbd::registry::credentials::Login;
use ovbd::registry::{self, Options, PushPlan, Pushed, Watch};
use ovbd::resolve::Input;
use ovbd::verity::seal::{self, seal};
use ovbd::Result;

use crate::real;
use crate::server::{Asked, Reply, Server};
use crate::support::{noise, options, Log, Place, Repository};

/// A registry that can be written to; `change` is applied to its answers.
fn writable(
    repository: Repository,
    change: impl Fn(&Asked, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    let repository = Arc::new(Mutex::new(repository));
    Server::start(move |asked| {
        let reply = answer(&mut repository.lock().unwrap(), asked);
        change(asked, reply)
    })
}

fn answer(repository: &mut Repository, asked: &Asked) -> Reply {
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    match asked.method.as_str() {
        "POST" => Reply::new(202, "").header("Location", "/v2/app/blobs/uploads/7?state=x"),
        "PUT" if path.starts_with("/v2/app/blobs/uploads/") => {
            let digest = Digest::of_bytes(&asked.body).to_string();
            let said = query.strip_prefix("state=x&digest=sha256%3A");
            assert_eq!(said, digest.strip_prefix("sha256:"));
            repository.blobs.insert(digest, asked.body.clone());
            Reply::new(201, "")
        }
        "PUT" => {
            let tag = path.strip_prefix("/v2/app/manifests/").unwrap();
            let media = asked.header("content-type").unwrap();
            let content = serde_json::from_slice(&asked.body).unwrap();
            repository.manifest(tag, media, &content);
            Reply::new(201, "")
        }
        _ => repository.answer(asked),
    }
}

fn push(host: &str, layers: &[PathBuf], subject: bool, options: &Options) -> Result<Pushed> {
    push_seen(host, layers, subject, options, &())
}

fn push_seen(
    host: &str,
    layers: &[PathBuf],
    subject: bool,
    options: &Options,
    watch: &dyn Watch,
) -> Result<Pushed> {
    let reference = format!("{host}/app:native").parse().unwrap();
    let plan = PushPlan {
        layers: layers.to_vec(),
        subject: subject.then(|| format!("{host}/app:1").parse().unwrap()),
        sealed: false,
    };
    registry::push(&reference, &plan, options, watch)
}

fn is_link(asked: &Asked) -> bool {
    asked.method == "PUT" && asked.path.contains("/manifests/sha256-")
}

#[test]
fn the_tag_for_referrers_is_written_only_where_it_is_needed() {
    let folder = tempfile::tempdir().unwrap();
    let layers = real::layers(folder.path());
    for understands in [false, true] {
        let mut repository = Repository::default();
        repository.ordinary("1");
        let server = writable(repository, move |asked, reply| {
            match understands && asked.method == "PUT" {
                true => reply.header("OCI-Subject", "sha256:1"),
                false => reply,
            }
        });
        push(&server.host(), &layers, true, &options()).unwrap();
        assert_eq!(server.count(is_link), usize::from(!understands));
        if !understands {
            Place::new().pull(&server.host(), &options()).unwrap();
        }
    }
}

#[test]
fn links_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let layers = real::layers(folder.path());
    let mut repository = Repository::default();
    let subject = repository.ordinary("1");
    let other = repository.ordinary("signature");
    let tag = subject["digest"].as_str().unwrap().replace(':', "-");
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [other]});
    repository.manifest(&tag, crate::support::INDEX, &index);
    let server = writable(repository, |_, reply| reply);
    for _ in 0..2 {
        push(&server.host(), &layers, true, &options()).unwrap();
    }
    let links = server.asked().into_iter().rfind(is_link).unwrap();
    let links: serde_json::Value = serde_json::from_slice(&links.body).unwrap();
    let entries = links["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{links}");
    assert_eq!(entries[0]["digest"], other["digest"]);
}

#[test]
fn uploads_that_are_refused_are_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let layers = real::layers(folder.path());
    for (method, status, problem) in [
        ("POST", 200, "answered 200"),
        ("POST", 202, "does not say where to upload to"),
        ("PUT", 413, "answered 413 (too large)"),
        ("PUT", 403, "access denied"),
    ] {
        let server = writable(Repository::default(), move |asked, reply| {
            match asked.method == method {
                true => Reply::new(status, ""),
                false => reply,
            }
        });
        let mut options = options();
        options.connections = 1;
        let message = push(&server.host(), &layers, false, &options)
            .unwrap_err()
            .to_string();
        assert!(message.contains(problem), "{message}");
        assert_eq!(server.count(|asked| asked.method == method), 1);
    }
}

/// What happens to a layer on this host is not the registry's doing.
#[test]
fn a_layer_that_cannot_be_read_is_named() {
    let ways: [fn(&Path); 2] = [
        |layer| fs::remove_file(layer).unwrap(),
        |layer| drop(File::create(layer).unwrap()),
    ];
    for way in ways {
        let folder = tempfile::tempdir().unwrap();
        let layers = real::layers(folder.path());
        let layer = layers[0].clone();
        let server = writable(Repository::default(), move |asked, reply| {
            if asked.method == "POST" {
                way(&layer);
            }
            reply
        });
        let mut options = options();
        options.connections = 1;
        let message = push(&server.host(), &layers, false, &options)
            .unwrap_err()
            .to_string();
        let expected = format!("{}: cannot be read: ", layers[0].display());
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(server.count(|asked| asked.method == "POST"), 1);
    }
}

/// One layer is on its way when the other one is refused.
#[test]
fn an_upload_that_is_stopped_is_not_said_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let layers = real::layers(folder.path());
    let sent = Arc::new(Barrier::new(2));
    let (refused, begun) = (sent.clone(), AtomicUsize::new(0));
    let repository = Mutex::new(Repository::default());
    let server = Server::start_breaking(
        move |asked| {
            if asked.method == "PUT" {
                sent.wait();
            }
            None
        },
        move |asked| {
            if asked.method == "POST" && begun.fetch_add(1, Ordering::SeqCst) == 0 {
                refused.wait();
                return Reply::new(403, "");
            }
            answer(&mut repository.lock().unwrap(), asked)
        },
    );
    let mut options = options();
    options.connections = 2;
    // So slow that it is never complete.
    options.max_rate = Some(1000);
    let events = Log::default();
    let error = push_seen(&server.host(), &layers, false, &options, &events).unwrap_err();
    assert!(error.to_string().contains("access denied"), "{error}");
    assert_eq!(events.of("retry"), [] as [serde_json::Value; 0]);
}

#[test]
fn an_upload_elsewhere_goes_without_credentials() {
    let folder = tempfile::tempdir().unwrap();
    let layers = real::layers(folder.path());
    let authorized = |asked: &Asked| asked.header("authorization").is_some();
    let storage = Server::start(|_| Reply::new(201, ""));
    let elsewhere = format!("http://{}/put?signature=secret", storage.host());
    let server = writable(Repository::default(), move |asked, reply| {
        match (authorized(asked), asked.method.as_str()) {
            (false, _) => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
            (true, "POST") => Reply::new(202, "").header("Location", elsewhere.clone()),
            (true, _) => reply,
        }
    });
    let mut options = options();
    options.credentials.explicit = Some(Login::Password {
        user: "me".into(),
        password: "hunter2".into(),
    });
    push(&server.host(), &layers, false, &options).unwrap();
    assert_eq!((storage.asked().len(), storage.count(authorized)), (3, 0));
}

#[test]
fn a_digest_cannot_be_pushed_to() {
    let reference = format!("h.example/app@{}", Digest::of_bytes(&noise(1, 1)));
    let plan = PushPlan {
        layers: Vec::new(),
        subject: None,
        sealed: false,
    };
    let error = registry::push(&reference.parse().unwrap(), &plan, &options(), &()).unwrap_err();
    assert!(error.to_string().contains("name a tag"), "{error}");
}

#[test]
fn root_hashes_travel_with_layers() {
    let folder = tempfile::tempdir().unwrap();
    let layers = real::layers(folder.path());
    let server = writable(Repository::default(), |_, reply| reply);
    let reference: Reference = format!("{}/app:native", server.host()).parse().unwrap();
    let plan = PushPlan {
        layers: layers.to_vec(),
        subject: None,
        sealed: true,
    };
    let error = registry::push(&reference, &plan, &options(), &()).unwrap_err();
    assert!(
        error.to_string().contains("its hash tree is not at"),
        "{error}"
    );
    assert_eq!(server.asked().len(), 0);

    let hidden = Progress::hidden();
    let seal = |layer: &PathBuf| {
        let (options, known) = (seal::Options::default(), seal::Known::default());
        seal(layer, &options, known, &hidden).unwrap()
    };
    let hashes: Vec<_> = layers.iter().map(|layer| seal(layer).root_hash).collect();
    // What is not what was sealed, although the tree has its length.
    let good = fs::read(&layers[0]).unwrap();
    let mut changed = good.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&layers[0], changed).unwrap();
    let error = registry::push(&reference, &plan, &options(), &()).unwrap_err();
    assert!(error.to_string().contains("is not the tree of"), "{error}");
    assert_eq!(server.asked().len(), 0);
    fs::write(&layers[0], good).unwrap();
    let pushed = registry::push(&reference, &plan, &options(), &()).unwrap();
    for (layer, hash) in pushed.layers.iter().zip(&hashes) {
        let annotation = &layer.annotations["containerd.io/snapshot/overlaybd/verity-root-hash"];
        assert_eq!(*annotation, hash.to_string());
    }
    // Pulled, they are known, and sealing makes the trees for them.
    let place = Place::new();
    registry::pull(&reference, &options(), &place.store, &()).unwrap();
    let image = place.store.image(&reference).unwrap().unwrap();
    let config = place.store.config(&image).unwrap();
    for (layer, hash) in config.layers.iter().zip(&hashes) {
        assert_eq!(layer.root_hash, Some(*hash));
    }
    let input = Input::Image(reference);
    let options = seal::Options::default();
    let sealed = seal::seal_image(&input, &place.store, &options, |_| hidden.clone()).unwrap();
    let again: Vec<_> = sealed.iter().map(|layer| layer.root_hash).collect();
    assert_eq!(again, hashes);
}
