// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tool is killed after every single step, and then run again.
//!
//! A process of its own does the work and kills itself when it is told of the step in question, so
//! that the kernel finds it in exactly that state.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::Name;
use ovbd::plan::{Plan, Settings};
use ovbd::{config::ImageConfig, down, up};
use rustix::process::Signal;

use super::{nothing_is_left, quiescence, take_down, Image};
use crate::ctx::Ctx;
use crate::harness::Case;
use crate::read;

/// More steps than any of the commands takes.
const STEPS_MAX: usize = 200;
const NAME: &str = "web";

#[derive(Clone, Copy, Debug)]
enum Action {
    Up,
    Down,
}

pub fn cases() -> Vec<Case> {
    let case = |name: &str, killed, then| {
        Case::new(format!("tool.killed.{name}"), move |ctx| {
            killed_everywhere(ctx, killed, then)
        })
    };
    vec![
        case("up_then_up", Action::Up, Action::Up),
        case("up_then_down", Action::Up, Action::Down),
        case("down_then_down", Action::Down, Action::Down),
        case("down_then_up", Action::Down, Action::Up),
    ]
}

/// `guest-tests child STEP up|down [LAYER]…`: does it, and dies after so many steps.
pub fn child(words: &[&str]) -> Result<ExitCode> {
    let [stop, action, layers @ ..] = words else {
        bail!("child STEP up|down [LAYER]…");
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
        let config = ImageConfig::of_files(layers.iter().map(PathBuf::from));
        let plan = Plan::new(&config, Settings::default())?;
        up::up(&plan, &name, None, &watch)?;
    } else {
        down::down(&name, down::Options::default(), &watch)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether `action` was killed, rather than done.
fn kill_after(step: usize, action: Action, image: &Image) -> Result<bool> {
    let word = match action {
        Action::Up => "up",
        Action::Down => "down",
    };
    let status = Command::new(std::env::current_exe()?)
        .args(["child", &step.to_string(), word])
        .args(&image.layers)
        .status()?;
    let killed = status.signal() == Some(Signal::KILL.as_raw());
    ensure!(
        killed || status.success(),
        "{word} killed after step {step}: {status}"
    );
    Ok(killed)
}

fn killed_everywhere(ctx: &mut Ctx, killed: Action, then: Action) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    for step in 1..STEPS_MAX {
        if matches!(killed, Action::Down) {
            image.up(NAME)?;
        }
        let was_killed = kill_after(step, killed, &image)?;
        recover(&image, then).with_context(|| format!("{killed:?} killed after step {step}"))?;
        if !was_killed {
            ensure!(step > 1, "it was not killed once");
            return Ok(());
        }
    }
    bail!("more than {STEPS_MAX} steps");
}

/// What the user does next has to work, and nothing may remain.
fn recover(image: &Image, then: Action) -> Result<()> {
    if matches!(then, Action::Up) {
        let report = image.up(NAME)?;
        read::check_once(&report.device, image.content.clone())?;
    }
    take_down(NAME)?;
    quiescence()?;
    nothing_is_left()
}
