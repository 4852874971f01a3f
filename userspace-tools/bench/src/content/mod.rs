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
//! A second disk has the same files as ZFiles of other forms (`zfile-64k`, `zfile-zstd`,
//! `zfile-zstd-64k`), and the hash tree of `raw`.
//!
//! A third one has images of file systems, some of them also as ZFiles (`-z4`: 4 KiB blocks, `-z64`:
//! 64 KiB), the hash tree of one, the same tree as layers for overlayfs (`layer-N`) and for lsmt
//! (`merged-N.zfile`: 4 KiB blocks, `wide-N.zfile`: 64 KiB), and files with indexes of given sizes.

mod layers;
mod synthetic;
mod tree;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use ovbd::image::zwriter::ZSettings;
use ovbd::verity::shape::{Shape, HASH_START};
use ovbd::verity::tree::in_memory;
use ovbd::verity::Salt;
use overlaybd_format::zfile::Algorithm;

use crate::pack::{List, Packer};
use layers::{compressed, Dealt};

/// Layers of the images that have several.
pub const LAYERS: usize = 8;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

/// Images of file systems, as Debian's tools make them. Their names begin with the kernel's name for
/// the file system.
pub const FILE_SYSTEMS: [&str; 9] = [
    "ext4",
    "erofs",
    "erofs-lz4-4k",
    "erofs-lz4-16k",
    "erofs-lz4-64k",
    "erofs-zstd-64k",
    "squashfs-lz4-4k",
    "squashfs-lz4-128k",
    "squashfs-zstd-128k",
];

/// ZFiles of such images: name, image, algorithm, bytes of a block.
pub const COMPRESSED: [(&str, &str, Algorithm, u32); 6] = [
    ("ext4-z4", "ext4", Algorithm::Lz4, 4 << 10),
    ("ext4-z64", "ext4", Algorithm::Lz4, 64 << 10),
    ("erofs-z4", "erofs", Algorithm::Lz4, 4 << 10),
    ("erofs-z64", "erofs", Algorithm::Lz4, 64 << 10),
    ("erofs-z4-zstd", "erofs", Algorithm::Zstd, 4 << 10),
    ("erofs-z64-zstd", "erofs", Algorithm::Zstd, 64 << 10),
];

/// How the names of file systems begin that overlayfs puts together.
pub const OVERLAID: &str = "layer-";

/// The image without compression as layers: how their names begin, bytes of a block.
pub const STACKS: [(&str, u32); 2] = [("merged", 4 << 10), ("wide", 64 << 10)];

/// Makes the disk `out` of the images of file systems in `folder`.
pub fn make_core(folder: &Path, out: &Path) -> Result<()> {
    let mut pack = Packer::new(out)?;
    for name in FILE_SYSTEMS {
        pack.add(name, &image(folder, name)?)?;
    }
    for (name, of, algorithm, block_size) in COMPRESSED {
        let settings = settings(algorithm, block_size);
        pack.add(name, &compressed(&image(folder, of)?, settings)?)?;
    }
    for number in 0..LAYERS {
        let name = format!("{OVERLAID}{number}");
        let image = image(folder, &name)?;
        pack.add(name, &image)?;
    }
    let plain = image(folder, "erofs")?;
    hashes(&mut pack, "erofs", &plain)?;
    let layers = Dealt::coarse(&plain).layers(&plain)?;
    for (stack, block_size) in STACKS {
        for (number, layer) in layers.iter().enumerate() {
            let settings = settings(Algorithm::Lz4, block_size);
            let name = format!("{stack}-{number}.zfile");
            pack.add(name, &compressed(layer, settings)?)?;
        }
    }
    for (name, file) in synthetic::files()? {
        pack.add(name, &file)?;
    }
    pack.finish()
}

/// Makes the disk `out` of what the gate's disk `gate` has, in other forms.
pub fn make_others(gate: &Path, out: &Path) -> Result<()> {
    let list = List::read(gate)?;
    let read = |name| -> Result<Vec<u8>> {
        let item = list.item(name)?;
        let mut bytes = vec![0; item.length as usize];
        File::open(gate)
            .and_then(|file| file.read_exact_at(&mut bytes, item.offset))
            .with_context(|| format!("{}: cannot read {name}", gate.display()))?;
        Ok(bytes)
    };
    let raw = read("raw")?;
    let mut pack = Packer::new(out)?;
    for (name, algorithm, block_size) in [
        ("zfile-64k", Algorithm::Lz4, 64 << 10),
        ("zfile-zstd", Algorithm::Zstd, 4 << 10),
        ("zfile-zstd-64k", Algorithm::Zstd, 64 << 10),
    ] {
        pack.add(name, &compressed(&raw, settings(algorithm, block_size))?)?;
    }
    hashes(&mut pack, "raw", &raw)?;
    hashes(&mut pack, "zfile", &read("zfile")?)?;
    pack.finish()
}

/// An image of a file system, filled up to whole blocks.
fn image(folder: &Path, name: &str) -> Result<Vec<u8>> {
    let path = folder.join(name);
    let mut image = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    image.resize(image.len().next_multiple_of(BLOCK), 0);
    Ok(image)
}

fn settings(algorithm: Algorithm, block_size: u32) -> ZSettings {
    ZSettings {
        algorithm,
        block_size,
        ..ZSettings::default()
    }
}

/// Adds the hash tree of `data`, without superblock, and the root hash as text.
fn hashes(pack: &mut Packer, name: &str, data: &[u8]) -> Result<()> {
    let shape = Shape::of(data.len() as u64, BLOCK as u32, Salt::default());
    let shape = shape.with_context(|| format!("{name} cannot be hashed"))?;
    let (tree, root) = in_memory(data, &shape);
    let start = HASH_START as usize * BLOCK;
    pack.add(format!("{name}-hashes"), &tree[start..])?;
    pack.add(format!("{name}-root"), root.to_string().as_bytes())
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
