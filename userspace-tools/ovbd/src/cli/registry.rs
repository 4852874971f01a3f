// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The arguments of all commands that speak to registries.

use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::PathBuf;

use ovbd::image::size;
use ovbd::registry::credentials::{Login, Source};
use ovbd::registry::{Credentials, Options, Platform, TlsFiles};
use ovbd::{Error, Result};
use secrecy::zeroize::Zeroizing;

/// No password is longer, bytes.
const MAX_PASSWORD: u64 = 64 << 10;

/// How to reach a registry, and as whom.
#[derive(clap::Args)]
#[command(next_help_heading = "Registry options")]
pub struct RegistryArgs {
    /// The system that the image is for, OS/ARCHITECTURE[/VARIANT] [default: linux and this machine]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// How many layers are transferred at the same time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// Bytes a second for all layers together, or with K, M, G
    #[arg(long, value_name = "RATE", value_parser = rate)]
    max_rate: Option<NonZeroU64>,
    /// Speak without encryption; without this option only registries on this host are spoken to so
    #[arg(long)]
    plain_http: bool,
    /// Certificates (PEM) of authorities to trust in addition to the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate (PEM) to show to the registry, and perhaps its key
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The key (PEM) of the certificate, if it is not in the same file
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The user to log in as
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input, so that no process list shows it
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Read logins from this file only, which is like Docker's config.json [default:
    /// $REGISTRY_AUTH_FILE, /opt/overlaybd/cred.json, ~/.docker/config.json, containers/auth.json]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    let rate = size::parse(text).map_err(|e| e.to_string())?;
    NonZeroU64::new(rate).ok_or_else(|| "nothing would ever arrive".to_owned())
}

impl RegistryArgs {
    /// What the arguments say. Reads the password.
    pub fn options(&self) -> Result<Options> {
        Ok(Options {
            platform: self.platform.clone().unwrap_or_else(Platform::host),
            connections: self.connections.into(),
            max_rate: self.max_rate.map(NonZeroU64::get),
            plain_http: self.plain_http,
            tls: TlsFiles {
                ca: self.ca.clone(),
                cert: self.cert.clone(),
                key: self.key.clone(),
            },
            credentials: self.credentials()?,
            ..Options::default()
        })
    }

    fn credentials(&self) -> Result<Credentials> {
        let mut credentials = match &self.authfile {
            Some(path) => Credentials {
                explicit: None,
                sources: vec![Source::File {
                    path: path.clone(),
                    required: true,
                }],
            },
            None => Credentials::customary(),
        };
        if let Some(user) = &self.username {
            credentials.explicit = Some(Login::Password {
                user: user.clone(),
                password: password()?.as_str().into(),
            });
        }
        Ok(credentials)
    }
}

/// What is on standard input, without the line's end.
fn password() -> Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    let stdin = io::stdin().lock();
    stdin
        .take(MAX_PASSWORD)
        .read_to_string(&mut text)
        .map_err(|e| Error::io("read the password from", "standard input", e))?;
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}
