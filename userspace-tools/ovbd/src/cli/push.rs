// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd push`.

use std::path::PathBuf;

use ovbd::config::Download;
use ovbd::image::size::Human;
use ovbd::output::Output;
use ovbd::reference::Reference;
use ovbd::registry::{self, PushPlan, Pushed};
use ovbd::Result;
use serde::Serialize;

use super::inspect::layer_files;
use super::registry::RegistryArgs;
use super::transfer::Show;

/// Bring an image into a registry
///
/// Uploads the layers that the registry does not have, and a manifest with the annotations by which
/// `ovbd pull`, and containerd with the overlaybd snapshotter, know an OverlayBD image.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Where to: REGISTRY/REPOSITORY:TAG
    reference: Reference,
    /// The configuration of an image (its name ends in .json), or its layers, bottom first, each in
    /// a tar
    #[arg(required = true, value_name = "CONFIG.json|LAYER")]
    input: Vec<PathBuf>,
    /// The ordinary image of which this is the OverlayBD form: pulling it leads here. It has to be in
    /// the same repository; how to run it is taken over from it
    #[arg(long, value_name = "REFERENCE")]
    subject: Option<Reference>,
    /// Annotate the layers with their root hashes: each has its hash tree beside it, as `ovbd seal`
    /// makes them
    #[arg(long)]
    verity: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd build --from-dir rootfs --tar -a zstd -o base.tar --config config.v1.json
  ovbd push registry.example/app:1-overlaybd config.v1.json
  ovbd push registry.example/app:1-overlaybd config.v1.json --subject registry.example/app:1
  ovbd push localhost:5000/app:1 base.tar layer1.tar
  ovbd seal base.tar layer1.tar && ovbd push --verity localhost:5000/app:1 base.tar layer1.tar

Layers have to be in tars, because that is what registries and other tools take them for: `ovbd
build --tar`, `ovbd compress --tar`. With --json, standard output has a line for each event, as with
`ovbd pull`.";

#[derive(Serialize)]
#[serde(rename = "done", tag = "event")]
struct Done<'a> {
    reference: &'a Reference,
    #[serde(flatten)]
    pushed: &'a Pushed,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let options = args.registry.options(output, Download::default())?;
    let plan = PushPlan {
        layers: layer_files(&args.input, output)?,
        subject: args.subject.clone(),
        sealed: args.verity,
    };
    let show = Show::new(output, "sent");
    let result = registry::push(&args.reference, &plan, &options, &show);
    show.end();
    let pushed = result?;
    let reference = &args.reference;
    let done = Done {
        reference,
        pushed: &pushed,
    };
    match output.json {
        true => output.event(&done),
        false => output.write(&text(reference, &pushed)),
    }
}

fn text(reference: &Reference, pushed: &Pushed) -> String {
    let layers = pushed.layers.len();
    let subject = match pushed.subject {
        Some(digest) => format!("  OverlayBD form of {digest}\n"),
        None => String::new(),
    };
    format!(
        "{reference}\n  manifest {}\n{subject}  {layers} layer{}, {}, {} sent\n",
        pushed.manifest.digest,
        if layers == 1 { "" } else { "s" },
        Human(pushed.layers.iter().map(|layer| layer.size).sum()),
        Human(pushed.transferred)
    )
}
