// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Making the content: the files of a tree as a disk, and that disk in every form.
//!
//! | name | what |
//! | --- | --- |
//! | `raw` | the files one behind the other, each from a 4 KiB boundary |
//! | `zfile` | the same as a ZFile, LZ4 in 4 KiB blocks with checksums |
//! | `one.zfile` | the same as a layer, compressed |
//! | `coarse-N.zfile`, `coarse-N` | the same as eight layers of long extents, compressed and not |
//! | `fine-N.zfile`, `fine-N` | the same in fragments of 4 to 32 KiB |
//! | `extents-1m` | a layer of a million extents |
//!
//! The second disk has images of file systems, some of them also as ZFiles (`-z4`: 4 KiB blocks,
//! `-z64`: 64 KiB), the hash tree of one, and files with indexes of given sizes.

mod layers;
mod synthetic;
mod tree;
mod verity;

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use ovbd::image::zwriter::ZSettings;

use crate::pack::Packer;
use layers::{compressed, Dealt};

/// Layers of the images that have several.
pub const LAYERS: usize = 8;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// Images of file systems, as the build root's tools make them.
pub const FILE_SYSTEMS: [&str; 6] = [
    "ext4",
    "erofs",
    "erofs-lz4-4k",
    "erofs-lz4-16k",
    "erofs-lz4-64k",
    "erofs-zstd-64k",
];

/// Makes the disk `out` of the images of file systems in `folder`.
pub fn make_core(folder: &Path, out: &Path) -> Result<()> {
    let mut pack = Packer::new(out)?;
    for name in FILE_SYSTEMS {
        let path = folder.join(name);
        let mut image =
            fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        image.resize(image.len().next_multiple_of(BLOCK), 0);
        pack.add(name, &image)?;
        if !matches!(name, "ext4" | "erofs") {
            continue;
        }
        for (form, block_size) in [("z4", 4 << 10), ("z64", 64 << 10)] {
            let settings = ZSettings {
                block_size,
                ..ZSettings::default()
            };
            pack.add(format!("{name}-{form}"), &compressed(&image, settings)?)?;
        }
        if name == "erofs" {
            let tree = verity::Tree::new(&image);
            pack.add("erofs-hashes", &tree.hashes)?;
            pack.add("erofs-root", tree.root().as_bytes())?;
        }
    }
    for (name, file) in synthetic::files()? {
        pack.add(name, &file)?;
    }
    pack.finish()
}

/// Makes the disk `out` of `mib` MiB of the files below `tree`.
pub fn make(tree: &Path, mib: &str, out: &Path) -> Result<()> {
    let mib: usize = mib
        .parse()
        .with_context(|| format!("{mib} is no number of MiB"))?;
    ensure!(
        (1..=1024).contains(&mib),
        "{mib} MiB: 1 to 1024 are possible"
    );
    let raw = tree::read(tree, mib << 20)?;
    let settings = ZSettings::default();
    let mut pack = Packer::new(out)?;
    // What also goes to other devices than the ramdisk comes first.
    pack.add("raw", &raw)?;
    pack.add("zfile", &compressed(&raw, settings)?)?;
    let one = Dealt::whole(&raw).layers(&raw)?;
    pack.add("one.zfile", &compressed(&one[0], settings)?)?;
    for (name, dealt) in [("coarse", Dealt::coarse(&raw)), ("fine", Dealt::fine(&raw))] {
        for (number, layer) in dealt.layers(&raw)?.iter().enumerate() {
            pack.add(
                format!("{name}-{number}.zfile"),
                &compressed(layer, settings)?,
            )?;
            pack.add(format!("{name}-{number}"), layer)?;
        }
    }
    pack.add("extents-1m", &synthetic::layer(1_000_000))?;
    pack.finish()
}
