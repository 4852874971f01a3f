// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd pull`.

use ovbd::config::Download;
use ovbd::image::size::Human;
use ovbd::output::Output;
use ovbd::reference::Reference;
use ovbd::registry::{self, Pulled};
use ovbd::Result;
use serde::Serialize;

use super::registry::FetchArgs;
use super::transfer::Show;
use super::StoreArgs;

/// Fetch an image from a registry into the store
///
/// Finds the OverlayBD form of the image: the image itself, or one that refers to it. Fetches the
/// layers that are not in the store yet, several at a time, and checks the digest of each before it
/// gets its name. If it is interrupted, repeat it: what has arrived stays.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The image: REGISTRY/REPOSITORY, with :TAG or @DIGEST
    reference: Reference,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    fetch: FetchArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd pull registry.example/app:1
  ovbd pull registry.example/app@sha256:9f86d0…
  ovbd pull --max-rate 20M --mirror mirror.example registry.example/app:1
  ovbd pull --username me --password-stdin registry.example/app:1 <password.txt
  ovbd pull --json localhost:5000/app:1 | jq -c 'select(.event == \"done\")'

A registry on this host is spoken to with TLS if it does so, else without. With --json, standard
output has a line for each event, each a JSON document with \"version\" and \"event\": resolved,
waiting, started, progress, finished, single, retry, and in the end done.

Logins are looked for in the order that --authfile names; they are read again when the registry
refuses a request. They are not sent to mirrors, unless a file has one for that host, nor along
when a registry redirects elsewhere.";

#[derive(Serialize)]
#[serde(rename = "done", tag = "event")]
struct Done<'a> {
    reference: &'a Reference,
    manifest: String,
    subject: Option<String>,
    layers: Vec<LayerReport>,
    bytes: u64,
    transferred: u64,
}

#[derive(Serialize)]
struct LayerReport {
    digest: String,
    size: u64,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let options = args.fetch.options(output, Download::default())?;
    let show = Show::new(output, "fetched");
    let result = registry::pull(&args.reference, &options, &args.store.open(), &show);
    show.end();
    let pulled = result?;
    match output.json {
        true => output.event(&report(&pulled)),
        false => output.write(&text(&pulled)),
    }
}

fn report(pulled: &Pulled) -> Done<'_> {
    let layer = |layer: &ovbd::store::Descriptor| LayerReport {
        digest: layer.digest.to_string(),
        size: layer.size,
    };
    Done {
        reference: &pulled.image.reference,
        manifest: pulled.image.manifest.digest.to_string(),
        subject: pulled.subject.map(|digest| digest.to_string()),
        layers: pulled.image.data_layers().map(layer).collect(),
        bytes: bytes(pulled),
        transferred: pulled.transferred,
    }
}

fn bytes(pulled: &Pulled) -> u64 {
    pulled.image.data_layers().map(|layer| layer.size).sum()
}

fn text(pulled: &Pulled) -> String {
    let layers = pulled.image.data_layers().count();
    let of = match pulled.subject {
        Some(digest) => format!("  OverlayBD form of {digest}\n"),
        None => String::new(),
    };
    format!(
        "{}\n  manifest {}\n{of}  {layers} layer{}, {}, {} fetched\n",
        pulled.image.reference,
        pulled.image.manifest.digest,
        if layers == 1 { "" } else { "s" },
        Human(bytes(pulled)),
        Human(pulled.transferred)
    )
}
