// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Who we are, and that nobody else learns it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use ovbd::image::digest::Digest;
use ovbd::registry::credentials::{Address, Login, Service, Source};
use ovbd::registry::{Credentials, Options, TlsFiles};
use serde_json::json;

use crate::server::{Asked, Reply, Server};
use crate::support::{assert_store_holds, noise, options, Place, Repository};

/// `me:hunter2` in base64.
const BASIC: &str = "Basic bWU6aHVudGVyMg==";

fn with_file(path: &Path) -> Options {
    Options {
        credentials: Credentials {
            explicit: None,
            sources: vec![Source::File {
                path: path.to_owned(),
                required: true,
            }],
        },
        ..options()
    }
}

/// A registry that lets those in who show one of the tokens that are valid, and where they are had.
fn guarded(
    repository: Repository,
    valid: impl Fn(&str) -> bool + Send + Sync + 'static,
    token: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
) -> Server {
    Server::start(move |asked| {
        if asked.path.starts_with("/token") {
            return token(asked);
        }
        match asked.header("authorization") {
            Some(header) if valid(header) => repository.answer(asked),
            _ => {
                let host = asked.header("host").unwrap();
                let challenge = format!(
                    "Bearer realm=\"http://{host}/token\",service=\"reg,istry\",\
                     scope=\"repository:app:pull\""
                );
                Reply::new(401, "").header("WWW-Authenticate", challenge)
            }
        }
    })
}

#[test]
fn anybody_can_get_a_token() {
    let layers: Vec<Vec<u8>> = (0..6).map(|n| noise(n, 1000)).collect();
    let server = guarded(
        Repository::with(&layers),
        |header| header == "Bearer t1",
        |_| Reply::new(200, json!({"token": "t1"}).to_string()),
    );
    let place = Place::new();
    place.pull(&server.host(), &options()).unwrap();
    place.assert_holds(&layers);
    let tokens: Vec<Asked> = server
        .asked()
        .into_iter()
        .filter(|a| a.path.starts_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].path,
        "/token?service=reg%2Cistry&scope=repository%3Aapp%3Apull"
    );
    assert_eq!(tokens[0].header("authorization"), None);
}

#[test]
fn a_password_gets_a_token() {
    let server = guarded(
        Repository::with(&[noise(1, 10)]),
        |header| header == "Bearer t1",
        |asked| match asked.header("authorization") {
            Some(BASIC) => Reply::new(200, json!({"access_token": "t1"}).to_string()),
            _ => Reply::new(401, ""),
        },
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cred.json");
    let auths = json!({
        server.host(): {"username": "wrong", "password": "wrong"},
        format!("{}/app", server.host()): {"username": "me", "password": "hunter2"},
    });
    fs::write(&file, json!({"auths": auths}).to_string()).unwrap();
    let place = Place::new();
    place.pull(&server.host(), &with_file(&file)).unwrap();
    place.assert_holds(&[noise(1, 10)]);
    assert_eq!(
        server.count(|a| a.header("authorization") == Some(BASIC)),
        1
    );
}

#[test]
fn an_identity_token_gets_a_token() {
    let server = guarded(
        Repository::with(&[noise(1, 10)]),
        |header| header == "Bearer t1",
        |asked| {
            let body = String::from_utf8(asked.body.clone()).unwrap();
            let fits = body.contains("grant_type=refresh_token")
                && body.contains("refresh_token=id%2F1")
                && body.contains("scope=repository%3Aapp%3Apull");
            match fits && asked.method == "POST" {
                true => Reply::new(200, json!({"access_token": "t1"}).to_string()),
                false => Reply::new(400, ""),
            }
        },
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let auths = json!({server.host(): {"identitytoken": "id/1"}});
    fs::write(&file, json!({"auths": auths}).to_string()).unwrap();
    Place::new()
        .pull(&server.host(), &with_file(&file))
        .unwrap();
}

#[test]
fn credentials_are_read_again_when_they_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("cred.json");
    let repository = Repository::with(&[noise(1, 1000), noise(2, 1000)]);
    let path = file.clone();
    let write = move |host: &str, password: &str| {
        let auths = json!({host: {"username": "me", "password": password}});
        fs::write(&path, json!({"auths": auths}).to_string()).unwrap();
    };
    let (renew, expired) = (write.clone(), Mutex::new(false));
    let server = Server::start(move |asked| {
        let mut expired = expired.lock().unwrap();
        let valid = if *expired { BASIC } else { "Basic bWU6b2xk" };
        if asked.header("authorization") != Some(valid) {
            return Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x");
        }
        if !asked.is_blob() {
            // Somebody changes the password as soon as the manifest is there.
            *expired = true;
            renew(asked.header("host").unwrap(), "hunter2");
        }
        repository.answer(asked)
    });
    write(&server.host(), "old");
    let place = Place::new();
    place.pull(&server.host(), &with_file(&file)).unwrap();
    place.assert_holds(&[noise(1, 1000), noise(2, 1000)]);
}

#[test]
fn a_registry_that_is_never_content_is_left() {
    let server = guarded(
        Repository::default(),
        |_| false,
        |_| Reply::new(200, json!({"token": "t1"}).to_string()),
    );
    let message = Place::new().refusal(&server.host(), &options());
    assert!(
        message.contains("access denied without credentials"),
        "{message}"
    );
    assert_eq!(server.asked().len(), 3);

    for challenge in ["Basic realm=x", "Bearer realm=\"/token\"", "Digest x=y", ""] {
        let server =
            Server::start(move |_| Reply::new(401, "").header("WWW-Authenticate", challenge));
        Place::new().refusal(&server.host(), &options());
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn an_answer_without_a_token_is_refused() {
    for (answer, problem) in [
        (Reply::new(200, "{}"), "has no token"),
        (Reply::new(200, "hunter2"), "has no token"),
        (
            Reply::new(200, json!({"token": "a\nb"}).to_string()),
            "cannot be sent",
        ),
        (Reply::new(200, vec![b' '; 300 << 10]), "larger than"),
        (Reply::new(403, ""), "access denied"),
    ] {
        let server = guarded(Repository::default(), |_| false, move |_| answer.clone());
        let message = Place::new().refusal(&server.host(), &options());
        assert!(message.contains(problem), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

/// What `ovbd pull` says when the program to ask for credentials is `script`.
fn pull_with_helper(server: &Server, script: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let helper = folder.path().join("docker-credential-ovbdtest");
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, Permissions::from_mode(0o700)).unwrap();
    let config = folder.path().join("config.json");
    fs::write(&config, json!({"credsStore": "ovbdtest"}).to_string()).unwrap();
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args(["pull", "--store"])
        .arg(folder.path().join("store"))
        .arg(format!("{}/app:1", server.host()))
        .env("DOCKER_CONFIG", folder.path())
        .env("PATH", path)
        .output()
        .unwrap()
}

#[test]
fn a_helper_is_asked() {
    let server = Server::start({
        let repository = Repository::with(&[noise(1, 10)]);
        move |asked| match asked.header("authorization") {
            Some(BASIC) => repository.answer(asked),
            _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
        }
    });
    let script = format!(
        "#!/bin/sh\nread -r host\n[ \"$1 $host\" = 'get {}' ] || exit 1\n\
         echo '{{\"ServerURL\": \"x\", \"Username\": \"me\", \"Secret\": \"hunter2\"}}'\n",
        server.host()
    );
    let output = pull_with_helper(&server, &script);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_helper_may_know_nothing() {
    let server = Server::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"));
    for (says, problem) in [
        (
            "credentials not found in native keychain",
            "access denied without credentials",
        ),
        ("hunter2", "the credential helper failed"),
    ] {
        let script = format!("#!/bin/sh\necho '{says}'\nexit 1\n");
        let output = pull_with_helper(&server, &script);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(
            message.contains(problem) && !message.contains("hunter2"),
            "{message}"
        );
    }
}

#[test]
fn a_service_is_asked_for_each_address() {
    let login = Server::start(|asked| {
        let host = asked
            .path
            .split("%3A%2F%2F127%2E0%2E0%2E1%3A")
            .nth(1)
            .unwrap();
        let port = host.split("%2F").next().unwrap();
        let auths = json!({format!("127.0.0.1:{port}"): {"username": "me", "password": "hunter2"}});
        let answer = json!({"traceId": "1", "success": true, "data": {"auths": auths}});
        Reply::new(200, answer.to_string())
    });
    let repository = Repository::with(&[noise(1, 10)]);
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(BASIC) => repository.answer(asked),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=x"),
    });
    let service = Service {
        address: Address::Url(format!("http://{}/login?x=1", login.host())),
        timeout: Duration::from_secs(60),
        tls: TlsFiles::default(),
    };
    let mut options = options();
    options.credentials.sources = vec![Source::Service(service)];
    let place = Place::new();
    place.pull(&server.host(), &options).unwrap();
    place.assert_holds(&[noise(1, 10)]);
    let asked = login.asked();
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0]
            .path
            .starts_with("/login?x=1&remote_url=http%3A%2F%2F"),
        "{asked:?}"
    );
}

/// A registry that repeats what it is shown wherever it can, and refuses it in the end.
fn parrot() -> Server {
    Server::start(|asked| {
        let shown = asked.header("authorization").unwrap_or_default().to_owned();
        let host = asked.header("host").unwrap().to_owned();
        if asked.path.starts_with("/token") {
            return Reply::new(200, json!({"token": "t0ken", "message": shown}).to_string());
        }
        let challenge = format!(
            "Bearer realm=\"http://{host}/token?x={}\"",
            shown.replace(' ', "")
        );
        let reply = match shown.is_empty() {
            true => Reply::new(401, ""),
            false if asked.path.contains("manifests/1") => Reply::new(302, "")
                .header("Location", format!("/v2/app/manifests/2?{}", &shown[7..])),
            false => Reply::new(403, json!({"errors": [{"message": shown}]}).to_string()),
        };
        reply.header("WWW-Authenticate", challenge)
    })
}

#[test]
fn no_output_has_a_secret() {
    for form in [&["-vv"][..], &["-v", "--json"]] {
        let server = parrot();
        let folder = tempfile::tempdir().unwrap();
        let (config, log) = (folder.path().join("host.json"), folder.path().join("log"));
        let audit = json!({"enableAudit": true, "auditPath": log});
        fs::write(&config, audit.to_string()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ovbd"))
            .args(["pull", "--username", "me", "--password-stdin", "--store"])
            .arg(folder.path().join("store"))
            .arg("--host-config")
            .arg(config)
            .arg(format!("{}/app:1", server.host()))
            .args(form)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"hunter2\n").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(5));
        // The secrets were in play: the password for the token, the token for the rest.
        assert_eq!(
            server.count(|a| a.header("authorization") == Some(BASIC)),
            1
        );
        assert_eq!(
            server.count(|a| a.header("authorization") == Some("Bearer t0ken")),
            2
        );
        let log = fs::read(log).unwrap();
        // All requests are in the log, also those for tokens and behind redirects.
        let lines = log.split(|byte| *byte == b'\n').count() - 1;
        assert!(lines >= server.asked().len(), "{lines} lines");
        let text = [output.stdout, output.stderr, log].concat();
        let text = String::from_utf8(text).unwrap();
        assert!(text.contains("access denied as user `me`"), "{text}");
        for secret in ["hunter2", &BASIC[6..], "t0ken"] {
            assert!(!text.contains(secret), "{secret} is in: {text}");
        }
    }
}

/// There is only one password on standard input, for all blobs that a configuration names.
#[test]
fn a_password_is_for_every_blob() {
    let layers: Vec<Vec<u8>> = (0..3).map(|n| noise(n, 1000)).collect();
    let repository = Repository::with(&layers);
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(BASIC) => repository.answer(asked),
        _ => Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let folder = tempfile::tempdir().unwrap();
    let (config, store) = (
        folder.path().join("image.json"),
        folder.path().join("store"),
    );
    let lowers = layers
        .iter()
        .map(|content| json!({"digest": Digest::of_bytes(content), "size": content.len()}));
    let url = format!("http://{}/v2/app/blobs", server.host());
    let text = json!({"repoBlobUrl": url, "lowers": lowers.collect::<Vec<_>>()});
    fs::write(&config, text.to_string()).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args(["table", "--username", "me", "--password-stdin", "--store"])
        .args([&store, &config])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"hunter2\n").unwrap();
    // All are there, but no layers.
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert_store_holds(&store, &layers);
}

#[test]
fn the_debug_form_of_options_has_no_secret() {
    let mut options = options();
    options.credentials.explicit = Some(Login::Password {
        user: "me".into(),
        password: "hunter2".into(),
    });
    let text = format!("{options:?}");
    assert!(
        text.contains("\"me\"") && !text.contains("hunter2"),
        "{text}"
    );
}
