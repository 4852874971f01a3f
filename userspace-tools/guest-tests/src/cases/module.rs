// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The module as a whole: loading and unloading.

use std::fs;

use anyhow::{ensure, Result};

use crate::ctx::{output, Ctx};
use crate::harness::Case;

const MODULE: &str = "dm_overlaybd";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("module.loads_for_a_table", loads_for_a_table),
        Case::new("module.loads_and_unloads", loads_and_unloads),
    ]
}

fn loaded() -> Result<bool> {
    let modules = fs::read_to_string("/proc/modules")?;
    Ok(modules
        .lines()
        .any(|line| line.starts_with(&format!("{MODULE} "))))
}

fn unload() -> Result<()> {
    output(&["rmmod", MODULE])?;
    ensure!(!loaded()?, "{MODULE} is loaded after rmmod");
    Ok(())
}

/// The module is not loaded, whatever was before.
pub fn unload_if_loaded() -> Result<()> {
    if loaded()? {
        unload()?;
    }
    Ok(())
}

/// device-mapper asks for `dm-TARGET`, which is an alias of the module.
fn loads_for_a_table(ctx: &mut Ctx) -> Result<()> {
    for target in ["zfile", "lsmt"] {
        unload_if_loaded()?;
        ctx.dm()?.require_target(target)?;
        ensure!(loaded()?, "asking for {target} did not load {MODULE}");
    }
    Ok(())
}

fn loads_and_unloads(_: &mut Ctx) -> Result<()> {
    unload_if_loaded()?;
    for _ in 0..5 {
        output(&["modprobe", "dm-overlaybd"])?;
        ensure!(loaded()?, "{MODULE} is not loaded after modprobe");
        unload()?;
    }
    Ok(())
}
