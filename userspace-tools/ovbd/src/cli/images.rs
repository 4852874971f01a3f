// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd images`.

use ovbd::image::size::Human;
use ovbd::output::columns::Columns;
use ovbd::output::Output;
use ovbd::store::ImageUsage;
use ovbd::Result;
use serde::Serialize;

use super::StoreArgs;

/// List the images in the store
///
/// Shows what each reference meant when it was pulled: its manifest, its layers, and the room that
/// they take. `ovbd ls` lists those that are set up.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd images
  ovbd images --json | jq -r '.images[].reference'";

#[derive(Serialize)]
struct Report {
    images: Vec<ImageUsage>,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let images = args.store.open().usage()?.images;
    let report = Report { images };
    output.answer(&report, || text(&report.images))
}

fn text(images: &[ImageUsage]) -> String {
    if images.is_empty() {
        return "no images are in the store\n".to_owned();
    }
    let mut columns = Columns::new(["REFERENCE", "MANIFEST", "LAYERS", "SIZE", ""]);
    for image in images {
        columns.row([
            image.reference.to_string(),
            image.digest.hex().chars().take(12).collect(),
            image.layers.to_string(),
            Human(image.bytes).to_string(),
            match image.complete {
                true => String::new(),
                false => "layers are missing: pull it again".to_owned(),
            },
        ]);
    }
    columns.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::image::digest::Digest;

    #[test]
    fn a_list_of_images_reads_well() {
        let image = |reference: &str, complete| ImageUsage {
            reference: reference.parse().unwrap(),
            digest: Digest::of_bytes(b""),
            layers: 2,
            bytes: 3 << 20,
            shared_bytes: 1 << 20,
            unique_bytes: 2 << 20,
            complete,
        };
        let images = [image("r.example/app", true), image("r.example/b:2", false)];
        let expected = "\
REFERENCE             MANIFEST      LAYERS  SIZE
r.example/app:latest  e3b0c44298fc  2       3.00 MiB
r.example/b:2         e3b0c44298fc  2       3.00 MiB  layers are missing: pull it again
";
        assert_eq!(text(&images), expected);
        assert_eq!(text(&[]), "no images are in the store\n");
    }
}
