// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `up` of what is on its way out, or is made by somebody else at the same moment.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::{Dm, Id, Info, Name};
use ovbd::step::Step;
use ovbd::up;

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
        Case::new("tool.leaving.made_by_others", made_by_others),
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
    quiescence()?;
    nothing_is_left()
}

/// Who cannot load an image's table does not remove what another process has made of it meanwhile.
fn made_by_others(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.lsmt", &dir)?;
    let plan = image.plan()?;
    let faster = |step| {
        if step == Step::Created("web".to_owned()) {
            let other = run(&words(&image, &["up", "web"]));
            assert!(other.is_ok_and(|other| other.status.success()));
            // From now on the kernel takes no table with this layer.
            assert!(wipe(&image.layers[0]).is_ok());
        }
    };
    let made = up::up(&plan, &Name::new("web")?, None, &faster);
    ensure!(info("web")?.live, "{made:?}");
    ensure!(made?.already);
    take_down("web")?;
    nothing_is_left()
}

/// Zeros, in the same file.
fn wipe(layer: &Path) -> Result<()> {
    let file = File::options().write(true).open(layer)?;
    let length = usize::try_from(file.metadata()?.len())?;
    Ok(file.write_all_at(&vec![0; length], 0)?)
}
