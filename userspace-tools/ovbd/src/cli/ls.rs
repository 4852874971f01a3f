// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd ls`.

use std::path::PathBuf;

use ovbd::image::size::Human;
use ovbd::list::{self, Image, Inner, Listing, Lower};
use ovbd::output::columns::Columns;
use ovbd::output::Output;
use ovbd::Result;

/// List the images and layers that are set up
///
/// Asks the kernel; there is no record that could be wrong.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// List the layers, too, with the images that use them
    #[arg(short, long)]
    layers: bool,
}

const EXAMPLES: &str = "\
Examples:
  ovbd ls --layers
  ovbd ls --json | jq -r '.images[].name'";

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let listing = list::list()?;
    output.answer(&listing, || text(&listing, args.layers))
}

fn text(listing: &Listing, layers: bool) -> String {
    let mut text = images(&listing.images);
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

fn images(images: &[Image]) -> String {
    if images.is_empty() {
        return "no images are set up\n".to_owned();
    }
    let mut columns = Columns::new(["NAME", "STATE", "SIZE", "LAYERS", "OPEN", "MOUNTED ON"]);
    for image in images {
        columns.row([
            image.name.clone(),
            image.state.word().to_owned(),
            Human(image.bytes).to_string(),
            image.layers.len().to_string(),
            image.open_count.to_string(),
            paths(&image.mounts),
        ]);
    }
    columns.to_string()
}

fn layer_table(layers: &[Inner]) -> String {
    let mut columns = Columns::new(["LAYER", "STATE", "ON", "USED BY"]);
    for layer in layers {
        let lowers: Vec<String> = layer.lowers.iter().map(lower_text).collect();
        columns.row([
            layer.name.clone(),
            layer.state.word().to_owned(),
            lowers.join(" + "),
            layer.used_by.join(" "),
        ]);
    }
    columns.to_string()
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
    use ovbd::list::State;

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
                layers: vec![lower("253:0", Some("ovbd-z-12"), None)],
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
                counters: None,
            }],
        };
        let expected = "\
NAME  STATE  SIZE      LAYERS  OPEN  MOUNTED ON
web   live   64.0 MiB  1       1     /mnt

LAYER      STATE  ON        USED BY
ovbd-z-12  live   /l/0.tar  web
";
        assert_eq!(text(&listing, true), expected);
        assert_eq!(text(&Listing::default(), true), "no images are set up\n");
    }
}
