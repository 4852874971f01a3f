// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The zfile target.

use anyhow::{bail, Result};
use rustix::io::Errno;

use crate::ctx::{Ctx, Device, SECTOR};
use crate::golden::{Entry, Golden, Shape};
use crate::harness::Case;
use crate::read;

pub fn cases() -> Vec<Case> {
    let mut cases = golden_cases();
    cases.push(Case::new("zfile.empty_is_refused", empty_is_refused));
    cases
}

/// One test for each golden ZFile that holds just any file.
fn golden_cases() -> Vec<Case> {
    let Ok(golden) = Golden::open() else {
        return vec![Case::new("zfile.golden", |ctx| ctx.golden().map(drop))];
    };
    let wanted = |entry: &&Entry| {
        !entry.holds_lsmt() && matches!(entry.shape, Shape::Zfile(size) if size > 0)
    };
    let files = golden.entries().iter().filter(wanted);
    files
        .map(|entry| {
            let entry = entry.clone();
            Case::new(format!("zfile.golden.{}", entry.short_name()), move |ctx| {
                let golden = ctx.golden()?;
                let device = device(ctx, &golden, &entry, "")?;
                read::check(&device.path, golden.content(&entry)?, ctx.rng())
            })
        })
        .collect()
}

/// A device over a ZFile on the golden disk.
pub fn device(ctx: &mut Ctx, golden: &Golden, entry: &Entry, options: &str) -> Result<Device> {
    let Shape::Zfile(size) = entry.shape else {
        bail!("{} is no ZFile", entry.name);
    };
    let params = format!("{} {}{options}", golden.dev(), entry.payload.words());
    ctx.target(size.div_ceil(SECTOR), "zfile", &params)
}

fn empty_is_refused(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    for name in ["zfile/empty-lz4-4k.zfile", "zfile/empty-zstd-4k.zfile"] {
        let extent = golden.entry(name)?.payload;
        let params = format!("{} {}", golden.dev(), extent.words());
        ctx.refused(1, "zfile", &params)?
            .expect(Errno::INVAL, "Original file is empty")?;
    }
    Ok(())
}
