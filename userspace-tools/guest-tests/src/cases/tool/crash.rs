// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tool is killed after every single step, and then run again.
//!
//! A process of its own does the work and kills itself when it is told of the step in question, so
//! that the kernel finds it in exactly that state.

use std::cell::Cell;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::Name;
use ovbd::output::Progress;
use ovbd::plan::{Plan, Settings};
use ovbd::verity::seal::{seal, Known, Options};
use ovbd::{config::ImageConfig, down, up};
use rustix::process::Signal;

use super::{nothing_is_left, quiescence, take_down, Image};
use crate::ctx::Ctx;
use crate::harness::Case;
use crate::read;
use crate::rig::lower;

/// More steps than any of the commands takes.
const STEPS_MAX: usize = 200;
const NAME: &str = "web";

/// What is done to an image.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Up,
    Down,
}

pub fn cases() -> Vec<Case> {
    let case = |name: &str, killed, then| {
        Case::new(format!("tool.killed.{name}"), move |ctx| {
            let dir = ctx.tmp()?;
            let image = Image::mixed(ctx, &dir)?;
            killed_everywhere(
                &Subject::new(image.config(), image.content, &dir)?,
                killed,
                then,
            )
        })
    };
    vec![
        case("up_then_up", Action::Up, Action::Up),
        case("up_then_down", Action::Up, Action::Down),
        case("down_then_down", Action::Down, Action::Down),
        case("down_then_up", Action::Down, Action::Up),
        Case::new("tool.killed.up_sealed_then_up", sealed),
    ]
}

/// An image, and the file with its configuration.
pub(super) struct Subject {
    config: ImageConfig,
    path: PathBuf,
    content: Vec<u8>,
}

impl Subject {
    pub(super) fn new(config: ImageConfig, content: Vec<u8>, dir: &Path) -> Result<Self> {
        let lowers = config.layers.iter().map(
            |layer| serde_json::json!({ "file": layer.file, "verityRootHash": layer.root_hash }),
        );
        let lowers: Vec<_> = lowers.collect();
        let path = dir.join("config.json");
        fs::write(&path, serde_json::json!({ "lowers": lowers }).to_string())?;
        Ok(Self {
            config,
            path,
            content,
        })
    }

    fn up(&self) -> Result<up::Report> {
        let plan = Plan::new(&self.config, Settings::default())?;
        Ok(up::up(&plan, &Name::new(NAME)?, None, &|_| {})?)
    }
}

/// One layer has all kinds of devices: loop, joined, verity, zfile.
fn sealed(ctx: &mut Ctx) -> Result<()> {
    keep_buffers(ctx)?;
    const LAYERS: &str = "lsmt/stack*.zfile";
    let dir = ctx.tmp()?;
    let mut config = Image::golden(ctx, LAYERS, &dir)?.config();
    config.layers.truncate(1);
    for layer in &mut config.layers {
        let file = layer.file.as_ref().context("no file")?;
        let tree = seal(
            file,
            &Options::default(),
            Known::default(),
            &Progress::hidden(),
        )?;
        layer.root_hash = Some(tree.root_hash);
    }
    let golden = ctx.golden()?;
    let content = golden.content(golden.stack(LAYERS)?[0])?;
    killed_everywhere(
        &Subject::new(config, content, &dir)?,
        Action::Up,
        Action::Up,
    )
}

/// Keeps a verity device. With the last one dm-bufio's slab cache goes, and a kernel that makes that
/// again for a new device, while another process's device is still going, complains of two files in
/// sysfs with the same name. Nothing is ever read of this one.
fn keep_buffers(ctx: &mut Ctx) -> Result<()> {
    let disk = lower::null_blk(ctx, 1 << 20, &[])?;
    let disk = disk.display();
    let root = "0".repeat(64);
    let params = format!("1 {disk} {disk} 4096 4096 1 1 sha256 {root} -");
    ctx.target(8, "verity", &params).map(drop)
}

/// `guest-tests child STEP up|down CONFIG`: does it, and dies after so many steps.
pub fn child(words: &[&str]) -> Result<ExitCode> {
    let [stop, action, config] = words else {
        bail!("child STEP up|down CONFIG");
    };
    let left = Cell::new(stop.parse::<usize>()?);
    let watch = |_| {
        left.set(left.get().saturating_sub(1));
        if left.get() == 0 {
            // Only a process without permission to signal itself would go on.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::KILL);
        }
    };
    let name = Name::new(NAME)?;
    if *action == "up" {
        let config = ImageConfig::read(Path::new(config))?;
        let plan = Plan::new(&config, Settings::default())?;
        up::up(&plan, &name, None, &watch)?;
    } else {
        down::down(&name, down::Options::default(), &watch)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Kills `action` after so many steps; whether it was killed, rather than done.
pub(super) fn kill_after(step: usize, action: Action, image: &Subject) -> Result<bool> {
    let word = match action {
        Action::Up => "up",
        Action::Down => "down",
    };
    let status = Command::new(std::env::current_exe()?)
        .args(["child", &step.to_string(), word])
        .arg(&image.path)
        .status()?;
    let killed = status.signal() == Some(Signal::KILL.as_raw());
    ensure!(
        killed || status.success(),
        "{word} killed after step {step}: {status}"
    );
    Ok(killed)
}

fn killed_everywhere(image: &Subject, killed: Action, then: Action) -> Result<()> {
    for step in 1..STEPS_MAX {
        if matches!(killed, Action::Down) {
            image.up()?;
        }
        let was_killed = kill_after(step, killed, image)?;
        recover(image, then).with_context(|| format!("{killed:?} killed after step {step}"))?;
        if !was_killed {
            ensure!(step > 1, "it was not killed once");
            return Ok(());
        }
    }
    bail!("more than {STEPS_MAX} steps");
}

/// What the user does next has to work, and nothing may remain.
fn recover(image: &Subject, then: Action) -> Result<()> {
    if matches!(then, Action::Up) {
        let report = image.up()?;
        read::check_once(&report.device, image.content.clone())?;
    }
    take_down(NAME)?;
    quiescence()?;
    nothing_is_left()
}
