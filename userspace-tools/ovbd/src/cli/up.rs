// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd up`, and the arguments that name an image.

use std::path::PathBuf;

use ovbd::config;
use ovbd::dm::Name;
use ovbd::image::size::Human;
use ovbd::mount::{self, overlay::Upper};
use ovbd::output::Output;
use ovbd::plan::{Demand, Settings};
#[cfg(feature = "registry")]
use ovbd::resolve::Fetch;
use ovbd::resolve::{Input, Sources};
use ovbd::up::{self, LayerReport, MountAt, Report};
use ovbd::verity::RootHash;
use ovbd::Result;

#[cfg(feature = "registry")]
use super::registry::{FetchArgs, OnDemand};
use super::StoreArgs;

/// Set an image up as a block device, and mount it
///
/// Makes /dev/mapper/NAME: a loop device for each layer file, a verity device for each sealed one, a
/// zfile device for each compressed one, and an lsmt device on top. A layer that another image uses already is shared. What is set
/// up already stays as it is, so that the command can be repeated; if it is interrupted, repeat it,
/// or clear up with `ovbd down NAME`. What is mounted already in another way is an error.
///
/// The image is named by its reference and comes from the store, or is described by a configuration,
/// whose layers are used where they are, and else come from the store.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The name of the device
    name: Name,
    #[command(flatten)]
    image: ImageArgs,
    /// Mount the device on this folder, read-only
    #[arg(short, long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// The file system's type [default: what the device shows: ext4, erofs, squashfs or xfs]
    #[arg(short = 't', long, value_name = "TYPE", requires = "mount")]
    fs_type: Option<String>,
    /// Put a writable overlay on top; changes go to DIR, or without DIR to memory, where they last
    /// until the image is unmounted. DIR serves one overlay at a time, and one image
    #[arg(short, long, value_name = "DIR", requires = "mount", num_args = 0..=1)]
    #[arg(require_equals = true)]
    writable: Option<Option<PathBuf>>,
    /// Mount options in addition to those that are needed, separated by commas
    #[arg(short, long, value_name = "OPTIONS", requires = "mount")]
    options: Option<String>,
}

const EXAMPLES: &str = "\
Examples:
  ovbd up web registry.example/app:1 --mount /mnt/web
  ovbd up web config.v1.json --mount /mnt/web
  ovbd up base layer0.tar layer1.tar layer2.tar
  ovbd up web config.v1.json --mount /mnt/web -o nosuid,nodev
  ovbd up web config.v1.json --mount /mnt/web --writable=/var/lib/web-changes
  ovbd up web layer0.tar layer1.tar --verity --root-hash 8f3d…,02c4…

A layer with a root hash is verified: all that is read of it, by the kernel and by this command, is
what `ovbd seal` saw. A root hash without its tree, or with another one, is an error.

What verification protects against depends on where the root hashes come from. Those of
REGISTRY/IMAGE:TAG are the registry's, which may answer with another image and other root hashes, so
that they protect only against the disk: name the image by the digest of its own manifest (@sha256:…,
not that of the ordinary image that it belongs to), or give --root-hash. No option demands that root
hashes are signed; dm_verity.require_signatures=1 on the kernel's command line does.

A file system whose journal was not replayed is mounted so that it stays that way (ext4: noload);
the command says so. udev makes no by-uuid links for these devices: images from one base have the
same file-system UUID.";

/// An image: its reference, a configuration, or layers.
#[derive(clap::Args)]
pub struct ImageArgs {
    /// The reference of an image, its configuration (a file whose name ends in .json), or its
    /// layers, bottom first: files or block devices, in a tar or not, compressed or not
    #[arg(required = true, value_name = "REFERENCE|CONFIG.json|LAYER")]
    input: Vec<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    /// Fetch nothing: what is not on this host is an error
    #[cfg(feature = "registry")]
    #[arg(long)]
    no_pull: bool,
    #[cfg(feature = "registry")]
    #[command(flatten)]
    fetch: FetchArgs,
    /// Do not check the CRCs of compressed blocks
    #[arg(long)]
    ignore_crc: bool,
    #[command(flatten)]
    verity: VerityArgs,
}

/// What the help calls what follows.
const HEADING: &str = "Verification";

/// What vouches for the layers.
#[derive(clap::Args)]
struct VerityArgs {
    /// Refuse layers for which there is no root hash. Those of REGISTRY/IMAGE:TAG are what the registry
    /// says; @sha256:… or --root-hash protect against that
    #[arg(long, help_heading = HEADING)]
    verity: bool,
    /// The root hashes of the layers, bottom first, separated by commas; instead of those that the
    /// configuration or the store has
    #[arg(long, value_name = "HASH,…", value_delimiter = ',', help_heading = HEADING)]
    root_hash: Vec<RootHash>,
    /// The hash trees of the layers, files or block devices, if they are not beside them, separated by
    /// commas: for a path that has one, name a link to it
    #[arg(long, value_name = "FILE,…", value_delimiter = ',', help_heading = HEADING)]
    hash_tree: Vec<PathBuf>,
    /// Signatures of the root hashes, for the kernel to check by its keys: PKCS #7, DER, detached; in
    /// the same way. Nothing demands them but dm_verity.require_signatures=1
    #[arg(long, value_name = "FILE,…", value_delimiter = ',', help_heading = HEADING)]
    roothash_sig: Vec<PathBuf>,
}

impl ImageArgs {
    /// Calls `then` with what names the image, and where its layers come from.
    pub fn with_sources<T>(
        &self,
        output: &Output,
        then: impl FnOnce(&Input, Sources<'_>) -> Result<T>,
    ) -> Result<T> {
        self.with_input(&Input::from_arguments(&self.input)?, output, then)
    }

    /// The same to set the image up: who waits for the result learns why a configuration is refused.
    pub fn setting_up<T>(
        &self,
        output: &Output,
        then: impl FnOnce(&Input, Sources<'_>) -> Result<T>,
    ) -> Result<T> {
        let input = Input::from_arguments(&self.input).inspect_err(|refusal| {
            let config = self.input.first();
            let waiting = config.and_then(|config| config::result_file(config));
            let written = waiting.map(|file| config::write_result(&file, Some(refusal)));
            if let Some(Err(error)) = written {
                output.remark(error);
            }
        });
        self.with_input(&input?, output, then)
    }

    fn with_input<T>(
        &self,
        input: &Input,
        output: &Output,
        then: impl FnOnce(&Input, Sources<'_>) -> Result<T>,
    ) -> Result<T> {
        let store = self.store.open();
        #[cfg(feature = "registry")]
        let fetch = OnDemand::new(&self.fetch, output);
        #[cfg(feature = "registry")]
        let fetch: Option<&dyn Fetch> = if self.no_pull { None } else { Some(&fetch) };
        #[cfg(not(feature = "registry"))]
        let (fetch, _) = (None, output);
        let sources = Sources {
            store: &store,
            fetch,
        };
        then(input, sources)
    }

    pub fn settings(&self) -> Settings {
        Settings {
            ignore_crc: self.ignore_crc,
            verity: Demand {
                required: self.verity.verity,
                root_hashes: self.verity.root_hash.clone(),
                hash_trees: self.verity.hash_tree.clone(),
                signatures: self.verity.roothash_sig.clone(),
            },
        }
    }
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let options = mount::Options {
        fs_type: args.fs_type.clone(),
        options: args.options.clone(),
    };
    let upper = args.writable.clone().map(|folder| match folder {
        Some(folder) => Upper::Folder(folder),
        None => Upper::Memory,
    });
    let mount_at = args.mount.clone().map(|target| MountAt {
        target,
        options,
        upper,
    });
    let watch = |step| output.detail(step);
    let settings = args.image.settings();
    let report = args.image.setting_up(output, |input, sources| {
        let mount_at = mount_at.as_ref();
        up::configured(input, sources, settings, &args.name, mount_at, &watch)
    })?;
    for note in &report.notes {
        output.remark(note);
    }
    output.answer(&report, || text(&report))
}

fn text(report: &Report) -> String {
    let Report {
        name,
        device,
        number,
        bytes,
        ..
    } = report;
    let size = Human(*bytes);
    let already = if report.already {
        ", was set up already"
    } else {
        ""
    };
    let mut text = format!("{name}: {} ({number}), {size}{already}\n", device.display());
    for layer in &report.layers {
        text += &format!("  {}\n", layer_text(layer));
    }
    if let Some(mount) = &report.mount {
        let already = if mount.already {
            ", was mounted already"
        } else {
            ""
        };
        let (target, fs_type, options) = (mount.target.display(), &mount.fs_type, &mount.options);
        text += &format!("  mounted on {target} ({fs_type}, {options}){already}\n");
        if mount.writable {
            text += "  writable through an overlay on top\n";
        }
    }
    text
}

fn layer_text(layer: &LayerReport) -> String {
    let mut text = format!("{} {}", layer.number, layer.path.display());
    if layer.compressed {
        text += ", compressed";
    }
    if layer.root_hash.is_some() {
        text += ", verified";
    }
    if layer.shared {
        text += ", shared";
    }
    match layer.direct_io {
        Some(true) => text += ", direct I/O",
        Some(false) => text += ", no direct I/O: its file system cannot",
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well() {
        let layer = |path: &str, compressed, shared, direct_io| LayerReport {
            path: path.into(),
            number: "253:0".into(),
            compressed,
            root_hash: (!compressed).then(|| RootHash::new([0; 32])),
            shared,
            direct_io,
        };
        let report = Report {
            name: "web".into(),
            device: "/dev/mapper/web".into(),
            number: "253:3".into(),
            bytes: 64 << 20,
            already: false,
            kept: false,
            layers: vec![
                layer("a.zfile", true, false, Some(true)),
                layer("b.zfile", true, true, None),
                layer("c.lsmt", false, false, Some(false)),
            ],
            mount: None,
            notes: Vec::new(),
        };
        let expected = "\
web: /dev/mapper/web (253:3), 64.0 MiB
  253:0 a.zfile, compressed, direct I/O
  253:0 b.zfile, compressed, shared
  253:0 c.lsmt, verified, no direct I/O: its file system cannot
";
        assert_eq!(text(&report), expected);
    }
}
