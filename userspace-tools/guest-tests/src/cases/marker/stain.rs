// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Memory that holds what must not be seen: what all devices share has another image's bytes in it,
//! and so has what was freed.

use anyhow::Result;
use overlaybd_format::zfile::Algorithm;

use crate::ctx::Ctx;
use crate::read::Direct;
use crate::rig::lower::Lower;
use crate::rig::marker::Marker;
use crate::rig::sample::Form;
use crate::rig::Zfile;

/// Bytes of each image.
const SIZE: usize = 256 << 10;
/// Bytes of a program's that are freed.
const FREED: usize = 2 << 20;

/// Images that hold nothing but the marker.
pub struct Stain(Vec<Direct>);

impl Stain {
    /// One for each codec, of the longest blocks, so that all of the memory for one is used.
    pub fn new(ctx: &mut Ctx) -> Result<Self> {
        let mut images = Vec::new();
        for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
            let form = Form::new(algorithm, 64 << 10);
            let content = Marker::FOREIGN.bytes(SIZE);
            let zfile = Zfile::new(ctx, Lower::NullInline, form, content)?;
            images.push(Direct::open(zfile.path())?);
        }
        Ok(Self(images))
    }

    /// Has the marker pass through buffers, scratch memory and cache, and through memory of a
    /// program's that is freed.
    pub fn spread(&self) -> Result<()> {
        for image in &self.0 {
            image.scatter(0, SIZE, &[0]).0?;
            image.attempt(512, 1024, &[0]).0?;
        }
        drop(std::hint::black_box(Marker::FOREIGN.bytes(FREED)));
        Ok(())
    }
}
