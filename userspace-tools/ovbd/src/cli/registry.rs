// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The arguments of all commands that speak to registries.

use std::cell::OnceCell;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::path::PathBuf;

use ovbd::config::global::Global;
use ovbd::config::Download;
use ovbd::image::size;
use ovbd::output::Output;
use ovbd::reference::Reference;
use ovbd::registry::credentials::{Login, Source};
use ovbd::registry::{self, Credentials, Options, Platform};
use ovbd::resolve::{Fetch, RemoteBlob};
use ovbd::store::Store;
use ovbd::{Error, Result};
use secrecy::zeroize::Zeroizing;

use super::transfer::Show;

/// No password is longer, bytes.
const MAX_PASSWORD: u64 = 64 << 10;

/// Under which these arguments stand in help texts. Each says so itself: a heading for all would
/// also catch what follows them in another command.
const HEADING: &str = "Registry options";

/// How to reach a registry, and as whom.
#[derive(clap::Args)]
pub struct RegistryArgs {
    /// The system that the image is for, OS/ARCHITECTURE[/VARIANT] [default: linux and this machine]
    #[arg(long, help_heading = HEADING, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// How many layers, or parts of large ones, are transferred at the same time
    #[arg(long, help_heading = HEADING, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: u8,
    /// Bytes a second for all layers together, or with K, M, G
    #[arg(long, help_heading = HEADING, value_name = "RATE", value_parser = rate)]
    max_rate: Option<NonZeroU64>,
    /// Speak without encryption; without this option only registries on this host are spoken to so
    #[arg(long, help_heading = HEADING)]
    plain_http: bool,
    /// Certificates (PEM) of authorities to trust in addition to the system's
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate (PEM) to show to the registry, and perhaps its key
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// The key (PEM) of the certificate, if it is not in the same file
    #[arg(long, help_heading = HEADING, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// The user to log in as
    #[arg(long, help_heading = HEADING, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the password from standard input, so that no process list shows it
    #[arg(long, help_heading = HEADING, requires = "username")]
    password_stdin: bool,
    /// Read logins from this file only, which is like Docker's config.json [default:
    /// $REGISTRY_AUTH_FILE, /opt/overlaybd/cred.json, ~/.docker/config.json, containers/auth.json]
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// The configuration of this host [default: /etc/overlaybd/overlaybd.json, if it is there]
    #[arg(long, help_heading = HEADING, value_name = "FILE")]
    host_config: Option<PathBuf>,
}

fn rate(text: &str) -> Result<NonZeroU64, String> {
    let rate = size::parse(text).map_err(|e| e.to_string())?;
    NonZeroU64::new(rate).ok_or_else(|| "nothing would ever arrive".to_owned())
}

impl RegistryArgs {
    /// What the arguments say, else an image's configuration (`download`), else the host's. Reads
    /// the password.
    pub fn options(&self, output: &Output, download: Download) -> Result<Options> {
        let mut host = Global::load(self.host_config.as_deref())?;
        host.download = download.or(host.download);
        for note in host.notes() {
            output.remark(note);
        }
        let base = Options {
            credentials: Credentials::customary(),
            ..Options::default()
        };
        let mut options = base.with_host(&host);
        options.connections = self.connections.into();
        options.plain_http = self.plain_http;
        options.tls.ca.clone_from(&self.ca);
        if let Some(platform) = &self.platform {
            options.platform = platform.clone();
        }
        if let Some(rate) = self.max_rate {
            options.max_rate = Some(rate.get());
        }
        if self.cert.is_some() {
            options.tls.cert.clone_from(&self.cert);
            options.tls.key.clone_from(&self.key);
        }
        if let Some(path) = self.authfile.clone() {
            let required = true;
            options.credentials.sources = vec![Source::File { path, required }];
        }
        if let Some(user) = &self.username {
            options.credentials.explicit = Some(Login::Password {
                user: user.clone(),
                password: password()?.as_str().into(),
            });
        }
        Ok(options)
    }
}

/// How to fetch what is not here.
#[derive(clap::Args)]
pub struct FetchArgs {
    #[command(flatten)]
    registry: RegistryArgs,
    /// A host, or its address, that is asked before the registry; several are asked in turn
    #[arg(long, value_name = "HOST", help_heading = HEADING)]
    mirror: Vec<String>,
    /// A P2P proxy for layers, to the address of which theirs are appended:
    /// http://localhost:9731/accelerator
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    p2p: Option<String>,
}

impl FetchArgs {
    /// What the arguments say, else an image's configuration (`download`), else the host's. Reads
    /// the password.
    pub fn options(&self, output: &Output, download: Download) -> Result<Options> {
        let mut options = self.registry.options(output, download)?;
        options.mirrors.clone_from(&self.mirror);
        if self.p2p.is_some() {
            options.p2p.clone_from(&self.p2p);
        }
        Ok(options)
    }
}

/// Fetches what another command needs and is not here.
pub struct OnDemand<'a> {
    /// How.
    args: &'a FetchArgs,
    /// Where to tell of it. Events would be in front of the answer of the command that fetches on the
    /// way.
    output: Output,
    /// For every fetch: the password can be read only once. All blobs are of one image.
    options: OnceCell<Options>,
}

impl<'a> OnDemand<'a> {
    pub fn new(args: &'a FetchArgs, output: &Output) -> Self {
        let output = Output {
            quiet: output.quiet || output.json,
            json: false,
            ..*output
        };
        Self {
            args,
            output,
            options: OnceCell::new(),
        }
    }

    fn shown<T>(
        &self,
        download: Download,
        fetch: impl FnOnce(&Options, &Show<'_>) -> Result<T>,
    ) -> Result<()> {
        let options = match self.options.get() {
            Some(options) => options,
            None => {
                let options = self.args.options(&self.output, download)?;
                self.options.get_or_init(|| options)
            }
        };
        let show = Show::new(&self.output, "fetched");
        let result = fetch(options, &show);
        show.end();
        result.map(drop)
    }
}

impl Fetch for OnDemand<'_> {
    fn image(&self, store: &Store, reference: &Reference) -> Result<()> {
        let none = Download::default();
        self.shown(none, |options, show| {
            registry::pull(reference, options, store, show)
        })
    }

    fn blob(&self, store: &Store, blob: &RemoteBlob<'_>, download: Download) -> Result<()> {
        self.shown(download, |options, show| {
            registry::pull_blob(blob, options, store, show)
        })
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
