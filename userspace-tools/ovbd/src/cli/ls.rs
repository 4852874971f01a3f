// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd ls`.

use std::path::PathBuf;

use ovbd::image::atomic;
use ovbd::image::size::Human;
use ovbd::list::graph::{self, Graph};
use ovbd::list::{self, Inner, Listing, Lower, Verity};
use ovbd::output::columns::Columns;
use ovbd::output::Output;
use ovbd::Result;
use overlaybd_format::SECTOR;

use super::StoreArgs;

/// List the images and layers that are set up
///
/// Asks the kernel; there is no record that could be wrong. The store tells the references of images
/// whose layers lie there. In the graph, ✓ marks verified layers. MEMORY is calculated: about what a device takes in the kernel.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// List the layers, too, with the images that use them
    #[arg(short, long)]
    layers: bool,
    /// Show which images stand on which layers
    #[arg(short, long, conflicts_with = "layers")]
    graph: bool,
    /// Draw that as an SVG picture into FILE
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replace FILE
    #[arg(short, long, requires = "svg")]
    force: bool,
    #[command(flatten)]
    store: StoreArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd ls --layers
  ovbd ls --graph
  ovbd ls --svg images.svg
  ovbd ls --json | jq -r '.images[].name'";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let mut listing = list::list()?;
    if let Err(error) = listing.recognise(&args.store.open()) {
        output.remark(error);
    }
    let graph = Graph::new(&listing);
    if let Some(path) = &args.svg {
        atomic::write(path, args.force, graph::svg(&graph).as_bytes())?;
    }
    output.answer(&listing, || match args.graph {
        true => graph::text(&graph),
        false => text(&listing, args.layers),
    })
}

fn text(listing: &Listing, layers: bool) -> String {
    let mut text = images(listing);
    if layers && !listing.layers.is_empty() {
        text.push('\n');
        text += &layer_table(&listing.layers);
    }
    text
}

/// Paths, one after the other.
fn paths(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    paths.join(" ")
}

fn images(listing: &Listing) -> String {
    if listing.images.is_empty() {
        return "no images are set up\n".to_owned();
    }
    let mut columns = Columns::new([
        "NAME",
        "STATE",
        "SIZE",
        "LAYERS",
        "SHARED",
        "OPEN",
        "MEMORY",
        "READS",
        "MOUNTED ON",
        "IMAGE",
    ]);
    for image in &listing.images {
        let references = image.references.iter().map(ToString::to_string);
        columns.row([
            image.name.clone(),
            image.state.word().to_owned(),
            Human(image.bytes).to_string(),
            image.layers.len().to_string(),
            listing.shared_layers(image).to_string(),
            image.open_count.to_string(),
            bytes(image.memory_bytes),
            image.counters.map_or_else(unknown, |c| c.reads.to_string()),
            paths(&image.mounts),
            references.collect::<Vec<_>>().join(" "),
        ]);
    }
    columns.to_string()
}

fn unknown() -> String {
    "-".to_owned()
}

fn bytes(bytes: Option<u64>) -> String {
    bytes.map_or_else(unknown, |bytes| Human(bytes).to_string())
}

fn layer_table(layers: &[Inner]) -> String {
    let mut columns = Columns::new(["LAYER", "STATE", "OPEN", "MEMORY", "READ", "ON", "USED BY"]);
    for layer in layers {
        let lowers: Vec<String> = layer.lowers.iter().map(lower_text).collect();
        let read = layer.counters.as_ref();
        columns.row([
            layer.name.clone(),
            state(layer).to_owned(),
            layer.open_count.to_string(),
            bytes(layer.memory_bytes),
            bytes(read.map(|c| c.read_sectors.saturating_mul(SECTOR))),
            lowers.join(" + "),
            layer.used_by.join(" "),
        ]);
    }
    columns.to_string()
}

/// A word for how a layer is.
fn state(layer: &Inner) -> &'static str {
    match layer.verity {
        Some(Verity {
            corrupted: true, ..
        }) => "CORRUPTED",
        _ => layer.state.word(),
    }
}

/// What something stands on: the file, the device's name, or at least its number.
pub fn lower_text(lower: &Lower) -> String {
    match (&lower.file, &lower.name) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => lower.number.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::list::{Image, State};

    #[test]
    fn a_listing_reads_well() {
        let lower = |number: &str, name: Option<&str>, file: Option<&str>| Lower {
            number: number.into(),
            name: name.map(Into::into),
            file: file.map(Into::into),
            direct_io: None,
        };
        let listing = Listing {
            images: vec![Image {
                name: "web".into(),
                device: "/dev/mapper/web".into(),
                number: "253:1".into(),
                uuid: String::new(),
                state: State::Live,
                bytes: 64 << 20,
                open_count: 1,
                mounts: vec!["/mnt".into()],
                references: vec!["r.example/web:1".parse().unwrap()],
                layers: vec![lower("253:0", Some("ovbd-z-12"), None)],
                memory_bytes: Some(12 << 10),
                counters: None,
            }],
            layers: vec![Inner {
                name: "ovbd-z-12".into(),
                role: "zfile",
                number: "253:0".into(),
                uuid: String::new(),
                state: State::Live,
                open_count: 1,
                used_by: vec!["web".into()],
                lowers: vec![lower("7:0", None, Some("/l/0.tar"))],
                ignore_crc: false,
                verity: None,
                memory_bytes: None,
                counters: None,
            }],
        };
        let expected = "\
NAME  STATE  SIZE      LAYERS  SHARED  OPEN  MEMORY    READS  MOUNTED ON  IMAGE
web   live   64.0 MiB  1       0       1     12.0 KiB  -      /mnt        r.example/web:1

LAYER      STATE  OPEN  MEMORY  READ  ON        USED BY
ovbd-z-12  live   1     -       -     /l/0.tar  web
";
        assert_eq!(text(&listing, true), expected);
        assert_eq!(text(&Listing::default(), true), "no images are set up\n");
    }
}
