// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Many processes set up and remove images that have layers in common.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{ensure, Context as _, Result};

use super::{nothing_is_left, Image, OVBD};
use crate::ctx::Ctx;
use crate::harness::Case;

const PROCESSES: usize = 20;
const ROUNDS: usize = 3;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.parallel", |ctx| {
            parallel(
                ctx,
                &Setting {
                    processes: PROCESSES,
                    names: PROCESSES,
                    lock: true,
                },
            )
        }),
        Case::new("tool.parallel_one_name", |ctx| {
            parallel(
                ctx,
                &Setting {
                    processes: PROCESSES,
                    names: 1,
                    lock: true,
                },
            )
        }),
        Case::new("tool.parallel_without_lock", |ctx| {
            parallel(
                ctx,
                &Setting {
                    processes: PROCESSES,
                    names: PROCESSES,
                    lock: false,
                },
            )
        }),
    ]
}

pub(super) struct Setting {
    /// How many processes.
    pub(super) processes: usize,
    /// How many images; process n has the name n modulo this.
    pub(super) names: usize,
    /// One lock for all, as on one host; otherwise one for each, as in containers.
    pub(super) lock: bool,
}

/// up and down, again and again; the shell stops at the first failure.
fn start(setting: &Setting, number: usize, layers: &[&Path], dir: &Path) -> Result<Child> {
    let name = format!("image{}", number % setting.names);
    let run = dir.join(if setting.lock {
        "run".to_owned()
    } else {
        format!("run{number}")
    });
    let script = format!(
        "for i in $(seq {ROUNDS}); do {OVBD} -q up \"$@\" >/dev/null && {OVBD} -q down \"$1\" >/dev/null || exit 1; done"
    );
    Ok(Command::new("sh")
        .args(["-c", &script, "sh", &name])
        .args(layers)
        .env("OVBD_RUN", run)
        .stderr(Stdio::piped())
        .spawn()?)
}

pub(super) fn parallel(ctx: &mut Ctx, setting: &Setting) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let layers: Vec<&Path> = image.layers.iter().map(AsRef::as_ref).collect();
    let mut children = Vec::new();
    for number in 0..setting.processes {
        // With one name there is one image.
        let height = if setting.names == 1 {
            3
        } else {
            1 + number % layers.len()
        };
        children.push(start(setting, number, &layers[..height], &dir)?);
    }
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().context("sh")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "process {number}: {}: {said}",
            output.status
        );
    }
    nothing_is_left()
}
