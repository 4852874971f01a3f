// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Broken images by the thousand, on a disk whose every other byte is a marker. What the kernel
//! makes of each is what userspace makes of it: refused for the same reason, in the same words, or
//! read to the same bytes, or EIO. Whatever comes of it, the marker is not in the reader's memory,
//! and neither is another image's content, which has passed through all memory that devices share.
//!
//! Each change that [`forge::change`](crate::forge::change) knows is made alone, then several at
//! random; digests are right again behind it, unless it is one of them.

mod bench;
mod layers;
mod source;
mod stain;
mod zfiles;

use anyhow::Result;

use crate::ctx::{number, Ctx};
use crate::forge::Codec;
use crate::harness::Case;
use layers::On;

/// Images of each test, unless the environment has another number.
const IMAGES: u64 = 320;
const VARIABLE: &str = "OVBD_IMAGES";

pub fn cases() -> Vec<Case> {
    let case = |name: &str, all: fn(&mut Ctx, u64) -> Result<()>| {
        Case::new(format!("marker.{name}"), move |ctx| {
            all(ctx, number(VARIABLE, IMAGES)?)
        })
    };
    vec![
        case("zfile.lz4", |ctx, images| {
            zfiles::all(ctx, Codec::Lz4, images)
        }),
        case("zfile.zstd", |ctx, images| {
            zfiles::all(ctx, Codec::Zstd, images)
        }),
        case("lsmt", |ctx, images| layers::all(ctx, On::Disk, images)),
        case("lsmt_over_zfile", |ctx, images| {
            layers::all(ctx, On::Zfiles, images)
        }),
    ]
}
