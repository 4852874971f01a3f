// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Who we are to a registry: what was given on the command line, Docker's `config.json` with its
//! credential helpers, containers' `auth.json`, overlaybd's `cred.json`, or a service that knows.
//!
//! Nothing is kept: whenever a registry refuses a request, the sources are read again, so that a
//! token that was renewed meanwhile counts. Secrets are [`SecretString`]s, which print as nothing
//! and are wiped when dropped; errors say where a secret stands, never what a file contains.

mod file;
mod helper;
mod service;

use std::path::PathBuf;

use secrecy::SecretString;

use super::RegistryError;

pub use self::service::{Address, Service};

/// A proof of who we are.
#[derive(Clone, Debug)]
pub enum Login {
    /// For basic authentication, or to get a token with.
    Password {
        /// The user.
        user: String,
        /// The password, or an access token in its place.
        password: SecretString,
    },
    /// A token that others are got with.
    IdentityToken(SecretString),
    /// A token to be shown as it is.
    RegistryToken(SecretString),
}

/// A place that may know a login.
#[derive(Clone, Debug)]
pub enum Source {
    /// A JSON file with `auths`.
    File {
        /// Where it is.
        path: PathBuf,
        /// Whether it is an error if there is none.
        required: bool,
    },
    /// A service that is asked for each address.
    Service(Service),
}

/// Where logins are looked for.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// A login for the registry of the reference, before all others.
    pub explicit: Option<Login>,
    /// The places, best first.
    pub sources: Vec<Source>,
}

/// overlaybd's own file.
const OVERLAYBD_FILE: &str = "/opt/overlaybd/cred.json";

impl Credentials {
    /// The customary places: `$REGISTRY_AUTH_FILE`, overlaybd's `cred.json`, Docker's
    /// `config.json` (in `$DOCKER_CONFIG` or `~/.docker`), and the file that Podman and skopeo
    /// write.
    pub fn customary() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let docker = folder("DOCKER_CONFIG").or_else(|| Some(folder("HOME")?.join(".docker")));
        let containers = folder("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json"));
        let file = |path, required| Source::File { path, required };
        let mut sources = Vec::new();
        sources.extend(folder("REGISTRY_AUTH_FILE").map(|path| file(path, true)));
        sources.push(file(OVERLAYBD_FILE.into(), false));
        sources.extend(docker.map(|dir| file(dir.join("config.json"), false)));
        sources.extend(containers.map(|path| file(path, false)));
        Self {
            explicit: None,
            sources,
        }
    }

    /// The login for a repository, from the first source that has one; the longest key in it
    /// wins. `url` is what is asked for.
    ///
    /// # Errors
    /// If a source cannot be read.
    pub fn find(&self, what: &Wanted<'_>) -> Result<Option<Login>, RegistryError> {
        if let (Some(login), true) = (&self.explicit, what.explicit_fits) {
            return Ok(Some(login.clone()));
        }
        for source in &self.sources {
            let found = match source {
                Source::File { path, required } => file::find(path, *required, what)?,
                Source::Service(service) => service.find(what)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// What a login is wanted for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The registry, with its port.
    pub host: &'a str,
    /// The repository in it.
    pub repository: &'a str,
    /// The address of the request.
    pub url: &'a str,
    /// Whether a login that was given for the reference may be shown: not to a mirror.
    pub explicit_fits: bool,
}
