// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Docker's credential helpers: programs `docker-credential-NAME` that keep logins elsewhere.

use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{pidfd_open, pidfd_send_signal, Pid, PidfdFlags, Signal};
use secrecy::zeroize::Zeroizing;
use secrecy::SecretString;
use serde::Deserialize;

use super::{file, Login};
use crate::registry::RegistryError;

/// No helper says more, bytes.
const MAX_ANSWER: u64 = 1 << 20;
/// How long a helper may take; some ask their user something.
const LIMIT: Duration = Duration::from_secs(60);
/// The user's name with which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers print when they have no login; it is part of their protocol.
const NOT_FOUND: &[u8] = b"credentials not found";
/// What Docker Hub is called by helpers.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: SecretString,
}

/// Asks the helper `name` for the login of `host`.
pub(super) fn ask(name: &str, host: &str) -> Result<Option<Login>, RegistryError> {
    let program = format!("docker-credential-{name}");
    let fail = |problem: String| RegistryError::Credentials {
        origin: program.clone(),
        problem,
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(fail(
            "a helper's name is letters, digits, `.`, `_` and `-`".into(),
        ));
    }
    let server = if host == "docker.io" {
        DOCKER_HUB
    } else {
        host
    };
    let (success, answer) = run(Command::new(&program).arg("get"), server, LIMIT)
        .map_err(|e| fail(format!("cannot run this credential helper: {e}")))?;
    if !success {
        let unknown = answer.windows(NOT_FOUND.len()).any(|w| w == NOT_FOUND);
        return match unknown {
            true => Ok(None),
            false => Err(fail(format!("the credential helper failed for {host}"))),
        };
    }
    let answer: Answer = file::parse(&answer).map_err(fail)?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Login::IdentityToken(answer.secret),
        _ => Login::Password {
            user: answer.username,
            password: answer.secret,
        },
    }))
}

/// Whether it ended well, and what it wrote.
type Outcome = (bool, Zeroizing<Vec<u8>>);

/// Runs a helper, which is killed if it takes longer than `limit`. Its standard error is not passed
/// on.
fn run(command: &mut Command, server: &str, limit: Duration) -> io::Result<Outcome> {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // Its number may be another's by the time it has been waited for.
    let process = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let (done, outcome) = mpsc::channel();
    let server = server.to_owned();
    // Not waited for: what a helper has started may keep its output open when it is gone.
    thread::spawn(move || {
        let _ = done.send(talk(child, &server));
    });
    outcome.recv_timeout(limit).unwrap_or_else(|_| {
        // It may have ended just now.
        let _ = pidfd_send_signal(&process, Signal::KILL);
        let late = format!("it gave no answer within {} s", limit.as_secs_f32());
        Err(io::Error::new(io::ErrorKind::TimedOut, late))
    })
}

fn talk(mut child: Child, server: &str) -> io::Result<Outcome> {
    let mut answer = Zeroizing::new(Vec::new());
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input says in the end what it wants.
        let _ = stdin.write_all(server.as_bytes());
    }
    let read = match child.stdout.take() {
        Some(stdout) => stdout.take(MAX_ANSWER).read_to_end(&mut answer).map(drop),
        None => Ok(()),
    };
    let status = child.wait()?;
    read?;
    Ok((status.success(), answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helper_without_an_answer_is_left() {
        let mut silent = Command::new("sleep");
        let error = run(silent.arg("3600"), "h.example", Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("gave no answer"), "{error}");
    }

    #[test]
    fn a_helper_is_a_program_by_name() {
        for name in ["", "../../bin/sh", "a b", "a/b"] {
            let error = ask(name, "h.example").unwrap_err();
            assert!(error.to_string().contains("a helper's name"), "{error}");
        }
        let error = ask("of-this-name-there-is-none", "h.example").unwrap_err();
        assert!(error.to_string().contains("cannot run"), "{error}");
    }
}
