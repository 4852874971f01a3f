// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Do the tests see what is there? With targets of the kernel's own, which are right.

use anyhow::{ensure, Result};

use crate::ctx::{Ctx, LoopSpec};
use crate::golden::Golden;
use crate::harness::Case;
use crate::read;

/// The file that is read here; any will do.
const SAMPLE: &str = "zfile/text-lz4-4k.zfile";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("harness.right_data_is_accepted", right_data_is_accepted),
        Case::new("harness.wrong_data_is_found", wrong_data_is_found),
        Case::new("harness.loop_devices", loop_devices),
        Case::new("harness.leftovers_are_found", leftovers_are_found),
    ]
}

/// A dm-linear device over the sample, moved by `shift` sectors.
fn linear(ctx: &mut Ctx, golden: &Golden, shift: u64) -> Result<Vec<u8>> {
    let extent = golden.entry(SAMPLE)?.file;
    let mut content = golden.bytes(extent)?;
    // Only whole sectors, because the marker lies behind the file.
    let sectors = extent.length / 512;
    content.truncate(usize::try_from(sectors * 512)?);
    let params = format!("{} {}", golden.dev(), extent.sector + shift);
    let device = ctx.target(sectors, "linear", &params)?;
    let result = read::check(&device.path, content.clone(), ctx.rng());
    result.map(|()| content)
}

fn right_data_is_accepted(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    linear(ctx, &golden, 0).map(drop)
}

fn wrong_data_is_found(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let result = linear(ctx, &golden, 1);
    let Err(error) = result else {
        anyhow::bail!("a device that is off by a sector was accepted");
    };
    ensure!(format!("{error:#}").contains("wrong bytes"), "{error:#}");
    Ok(())
}

fn loop_devices(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.scratch()?;
    let file = dir.join("file");
    let content: Vec<u8> = (0..256 * 1024u32).map(|i| (i / 512) as u8).collect();
    std::fs::write(&file, &content)?;
    for (direct_io, block_size) in [(false, 512), (true, 512), (true, 4096)] {
        let path = ctx.loop_device(&LoopSpec {
            direct_io,
            block_size,
            ..LoopSpec::of(&file)
        })?;
        read::check_once(&path, content.clone())?;
    }
    Ok(())
}

fn leftovers_are_found(ctx: &mut Ctx) -> Result<()> {
    let mut other = Ctx::new("other");
    let device = other.target(8, "zero", "")?;
    let found = ctx.leftovers();
    ensure!(
        found.iter().any(|line| line.contains(&device.name)),
        "{found:?}"
    );
    // It was removed when it was found, so that this clean-up has something to complain about.
    let problems = other.clean_up();
    ensure!(!problems.is_empty(), "a clean-up of nothing succeeded");
    Ok(())
}
