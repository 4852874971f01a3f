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

mod layers;
mod tree;

use std::path::Path;

use anyhow::{ensure, Context, Result};
use ovbd::image::zwriter::ZSettings;

use crate::pack::Packer;
use layers::{compressed, Dealt};

/// Layers of the images that have several.
pub const LAYERS: usize = 8;

/// Bytes of a block.
pub const BLOCK: usize = 4096;

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
    pack.finish()
}
