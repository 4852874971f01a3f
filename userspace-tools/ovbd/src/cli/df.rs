// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd df`.

use ovbd::image::size::Human;
use ovbd::output::columns::Columns;
use ovbd::output::Output;
use ovbd::store::Usage;
use ovbd::Result;

use super::StoreArgs;

/// Show what the images in the store take on disk, alone and together
///
/// A layer that several images have is there once. UNIQUE is what removing that image would gain.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    store: StoreArgs,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let usage = args.store.open().usage()?;
    output.answer(&usage, || text(&usage))
}

fn text(usage: &Usage) -> String {
    let human = |bytes| Human(bytes).to_string();
    let mut text = String::new();
    if !usage.images.is_empty() {
        let mut columns = Columns::new(["REFERENCE", "SIZE", "SHARED", "UNIQUE"]);
        for image in &usage.images {
            columns.row([
                image.reference.to_string(),
                human(image.bytes),
                human(image.shared_bytes),
                human(image.unique_bytes),
            ]);
        }
        text = format!("{columns}\n");
    }
    let Usage { blobs, bytes, .. } = usage;
    let layers = if *blobs == 1 { "blob" } else { "blobs" };
    text += &format!("{blobs} {layers}, {}", human(*bytes));
    for (part, what) in [
        (usage.shared_bytes, "shared"),
        (usage.unused_bytes, "unused"),
    ] {
        if part > 0 {
            text += &format!(", {} {what}", human(part));
        }
    }
    if usage.partial_bytes > 0 {
        let partial = human(usage.partial_bytes);
        text += &format!("; {partial} for what has not arrived completely");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::image::digest::Digest;
    use ovbd::store::ImageUsage;

    #[test]
    fn a_balance_reads_well() {
        let image = |reference: &str, shared_bytes, unique_bytes| ImageUsage {
            reference: reference.parse().unwrap(),
            digest: Digest::of_bytes(b""),
            layers: 2,
            bytes: shared_bytes + unique_bytes,
            shared_bytes,
            unique_bytes,
            complete: true,
        };
        let usage = Usage {
            images: vec![
                image("r.example/app:1", 1 << 20, 1 << 20),
                image("r.example/app:2", 1 << 20, 0),
            ],
            bytes: 3 << 20,
            blobs: 3,
            shared_bytes: 1 << 20,
            unused_bytes: 1 << 20,
            partial_bytes: 4096,
        };
        let expected = "\
REFERENCE        SIZE      SHARED    UNIQUE
r.example/app:1  2.00 MiB  1.00 MiB  1.00 MiB
r.example/app:2  1.00 MiB  1.00 MiB  0 B

3 blobs, 3.00 MiB, 1.00 MiB shared, 1.00 MiB unused; 4.00 KiB for what has not arrived completely
";
        assert_eq!(text(&usage), expected);
        assert_eq!(text(&Usage::default()), "0 blobs, 0 B\n");
    }
}
