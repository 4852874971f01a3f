// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `up` of what is on its way out, or is made by somebody else at the same moment.

use std::fs::{self, File};

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::{Dm, Id, Info};

use super::basics::{json, run};
use super::{nothing_is_left, quiescence, take_down, Image};
use crate::ctx::Ctx;
use crate::harness::Case;
use crate::read;

const EXIT_BUSY: i32 = 4;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.leaving.stays", stays),
        Case::new("tool.leaving.wiped", wiped),
        Case::new("tool.leaving.not_mounted", not_mounted),
    ]
}

fn words<'a>(image: &'a Image, words: &[&'a str]) -> Vec<&'a str> {
    let layers = image.layers.iter().filter_map(|layer| layer.to_str());
    words.iter().copied().chain(layers).collect()
}

fn info(name: &str) -> Result<Info> {
    let info = Dm::open()?.info(Id::Name(name))?;
    info.with_context(|| format!("{name} is not there"))
}

/// An image that would be removed with its last user is not, if it is set up again before.
fn stays(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let user = File::open(image.up("web")?.device)?;
    ensure!(run(&["down", "--deferred", "web"])?.status.success());
    ensure!(info("web")?.deferred_remove);
    let report = json(&words(&image, &["--json", "up", "web"]))?;
    ensure!(
        report["already"] == true && report["kept"] == true,
        "{report}"
    );
    drop(user);
    ensure!(!info("web")?.deferred_remove);
    read::check_once("/dev/mapper/web".as_ref(), image.content)?;
    take_down("web")?;
    nothing_is_left()
}

/// What `down --force` has left is no image.
fn wiped(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let user = File::open(image.up("web")?.device)?;
    ensure!(run(&["down", "--force", "web"])?.status.success());
    let refused = run(&words(&image, &["up", "web"]))?;
    ensure!(refused.status.code() == Some(EXIT_BUSY), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        said.contains("is leaving") && said.contains("guest-tests"),
        "{said}"
    );
    ensure!(info("web")?.deferred_remove, "it does not leave any more");
    drop(user);
    quiescence()?;
    let report = image.up("web")?;
    read::check_once(&report.device, image.content)?;
    take_down("web")?;
    nothing_is_left()
}

/// Who wants it to stay and cannot mount it leaves it as it was.
fn not_mounted(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?;
    let user = File::open(image.up("web")?.device)?;
    ensure!(run(&["down", "--deferred", "web"])?.status.success());
    let (mnt, file) = (dir.join("mnt"), dir.join("file"));
    fs::create_dir(&mnt)?;
    fs::write(&file, "")?;
    let writable = format!("--writable={}", file.display());
    let mount = format!("--mount={}", mnt.display());
    let refused = run(&words(&image, &["up", "web", &writable, &mount]))?;
    ensure!(!refused.status.success(), "{refused:?}");
    ensure!(info("web")?.deferred_remove, "it stays");
    drop(user);
    ensure!(run(&["down", "web"])?.status.success());
    nothing_is_left()
}
