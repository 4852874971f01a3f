// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd rmi`.

use ovbd::output::Output;
use ovbd::reference::Reference;
use ovbd::store::Garbage;
use ovbd::Result;
use serde::Serialize;

use super::{gc, StoreArgs};

/// Remove images from the store
///
/// Removes the images, and those of their layers that no other image has. A layer that a device
/// stands on stays until `ovbd gc` finds it unused: a device that is up goes on undisturbed.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The images to remove
    #[arg(required = true)]
    reference: Vec<Reference>,
    #[command(flatten)]
    store: StoreArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd rmi registry.example/app:1
  ovbd images --json | jq -r '.images[].reference' | xargs ovbd rmi";

#[derive(Serialize)]
struct Report {
    images: Vec<Image>,
}

#[derive(Serialize)]
struct Image {
    reference: Reference,
    #[serde(flatten)]
    garbage: Garbage,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let store = args.store.open();
    let mut images = Vec::new();
    let mut failed = Ok(());
    for reference in &args.reference {
        match store.remove_image(reference) {
            Ok(garbage) => images.push(Image {
                reference: reference.clone(),
                garbage,
            }),
            // The others are removed all the same.
            Err(error) => {
                if let Err(earlier) = std::mem::replace(&mut failed, Err(error)) {
                    output.error(&earlier);
                }
            }
        }
    }
    let report = Report { images };
    output.answer(&report, || report.images.iter().map(text).collect())?;
    failed
}

fn text(image: &Image) -> String {
    let Image { reference, garbage } = image;
    let gained = gc::summary(garbage, false);
    format!("{reference}: removed; {gained}\n")
}
