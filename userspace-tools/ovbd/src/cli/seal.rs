// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd seal`.

use std::path::PathBuf;

use ovbd::image::recipe::Recipe;
use ovbd::image::size::Human;
use ovbd::image::ImageError;
use ovbd::output::Output;
use ovbd::resolve::{Input, Sources};
use ovbd::verity::seal::{seal_image, seal_merged, Options, Sealed};
use ovbd::verity::Salt;
use ovbd::Result;
use serde::Serialize;

use super::inspect::is_configuration;
use super::StoreArgs;

/// Make hash trees, by which the kernel checks every read of a layer
///
/// For each layer, writes a tree for dm-verity into a file beside it, LAYER.verity, and prints its
/// root hash, which vouches for all of the layer. The layer stays as it is. The same layer has the
/// same tree everywhere. `ovbd up --verity` checks layers by it.
///
/// The root hashes of an image in the store are noted there. A root hash that is known already must
/// be the one that is found.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The reference of an image in the store, the configuration of an image (its name ends in
    /// .json), or layers
    #[arg(required = true, value_name = "REFERENCE|CONFIG.json|LAYER")]
    input: Vec<PathBuf>,
    /// Note the root hashes in the configuration
    #[arg(short, long)]
    update: bool,
    /// Make one tree of the disk that the layers make together, into FILE
    #[arg(short, long, value_name = "FILE", conflicts_with = "update")]
    merged: Option<PathBuf>,
    /// Hexadecimal digits of what is hashed ahead of each block, up to 256 bytes, or - for nothing
    #[arg(
        long,
        value_name = "HEX",
        default_value = "-",
        hide_default_value = true
    )]
    salt: Salt,
    /// Replace trees that are there
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    store: StoreArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd seal layer0.tar layer1.tar
  ovbd seal config.v1.json --update
  ovbd seal registry.example/app:1
  ovbd seal config.v1.json --merged web.verity
  ovbd seal layer0.tar layer1.tar | cut -d' ' -f1 | paste -sd, >root-hashes
  ovbd up web layer0.tar layer1.tar --verity --root-hash \"$(cat root-hashes)\"

Seal where the layers are known to be good, and keep the root hashes where nobody can change them who
can change the layers: root hashes that are made of what is to be checked vouch for anything.

A tree has the format of veritysetup, with SHA-256 and hash blocks of 4096 bytes. Blocks of data
have 4096 bytes, or 512 in layers that are not compressed, because the device that shows them has
logical blocks of that size. The end of a layer counts as filled up with zeros to a whole block.";

#[derive(Serialize)]
struct Report<'a> {
    layers: &'a [Sealed],
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    if args.update && !is_configuration(&args.input) {
        let sentence = "--update is for the configuration of an image, whose name ends in .json";
        return Err(ImageError::Argument(sentence.to_owned()).into());
    }
    let input = Input::from_arguments(&args.input)?;
    let options = Options {
        salt: args.salt.clone(),
        replace: args.force,
    };
    let progress = |bytes| output.progress(bytes, "seal");
    if let Some(tree) = &args.merged {
        let store = args.store.open();
        let sources = Sources {
            store: &store,
            fetch: None,
        };
        let resolved = sources.resolve(&input)?;
        let layers = resolved.config.layers.iter().map(|layer| layer.locate());
        let files = layers.collect::<Result<Vec<_>, _>>()?;
        let merged = seal_merged(&files, tree, &options, progress)?;
        let text = || format!("{}  {}\n", merged.root_hash, tree.display());
        return output.answer(&merged, text);
    }
    let layers = seal_image(&input, &args.store.open(), &options, progress)?;
    if let (true, [config]) = (args.update, &args.input[..]) {
        let hashes: Vec<_> = layers.iter().map(|layer| layer.root_hash).collect();
        Recipe::of_config(config, config, true)?.seal(&hashes)?;
    }
    let total = layers.iter().map(|layer| layer.tree_size).sum();
    output.detail(format_args!("{} of hash trees", Human(total)));
    output.answer(&Report { layers: &layers }, || {
        layers.iter().map(text).collect()
    })
}

/// As `sha256sum` prints it.
fn text(layer: &Sealed) -> String {
    format!("{}  {}\n", layer.root_hash, layer.path.display())
}
