// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the commands promise.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::{Dm, Id};
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::Value;

use super::{count, devices, loops, nothing_is_left, quiescence, take_down, Image, OVBD};
use crate::cases::image;
use crate::ctx::{self, Ctx};
use crate::harness::Case;
use crate::read;

const EXIT_FAILURE: i32 = 1;
const EXIT_BUSY: i32 = 4;
const EXIT_NOT_FOUND: i32 = 6;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.command_line", command_line),
        Case::new("tool.configuration_with_result_file", configuration),
        Case::new("tool.layers_are_shared", layers_are_shared),
        Case::new("tool.ignore_crc_is_not_shared", ignore_crc_is_not_shared),
        Case::new("tool.repeated", repeated),
        Case::new("tool.name_is_taken", name_is_taken),
        Case::new("tool.down_all", down_all),
        Case::new("tool.in_use", in_use),
        Case::new("tool.covered", covered),
        Case::new("tool.failed_attempts", failed_attempts),
        Case::new("tool.removed_by_hand", removed_by_hand),
        Case::new("tool.concise_table", concise_table),
        Case::new("tool.refused_layer", refused_layer),
    ]
}

pub(super) fn run(words: &[&str]) -> Result<Output> {
    Command::new(OVBD).args(words).output().context(OVBD)
}

pub(super) fn json(words: &[&str]) -> Result<Value> {
    let run = run(words)?;
    let said = String::from_utf8_lossy(&run.stderr);
    ensure!(
        run.status.success(),
        "ovbd {words:?}: {}: {said}",
        run.status
    );
    Ok(serde_json::from_slice(&run.stdout)?)
}

/// up, ls, status and down as a user types them; the files are those of the image.
fn command_line(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.tar", &dir)?;
    let mnt = dir.join("mnt");
    fs::create_dir(&mnt)?;
    let mnt_word = mnt.to_str().context("folder")?;
    let layers: Vec<&str> = image.layers.iter().filter_map(|l| l.to_str()).collect();
    let mut words = vec!["--json", "up", "web", "--mount", mnt_word];
    words.extend(&layers);
    let report = json(&words)?;
    ensure!(report["version"] == 1, "{report}");
    ensure!(report["device"] == "/dev/mapper/web", "{report}");
    ensure!(report["mount"]["fs_type"] == "ext4", "{report}");
    image::compare_files(&ctx.golden()?, &mnt)?;

    let listing = json(&["--json", "ls"])?;
    let web = &listing["images"][0];
    ensure!(web["name"] == "web" && web["state"] == "live", "{listing}");
    ensure!(web["mounts"][0] == mnt_word, "{listing}");
    ensure!(
        listing["layers"].as_array().map(Vec::len) == Some(3),
        "{listing}"
    );
    ensure!(listing["layers"][0]["used_by"][0] == "web", "{listing}");
    let status = json(&["--json", "status", "web"])?;
    ensure!(
        status["layers"][0]["counters"]["algorithm"] == "zstd",
        "{status}"
    );
    ensure!(
        status["layers"][0]["counters"]["crc_errors"] == 0,
        "{status}"
    );
    let bottom = &status["images"][0]["layers"][0]["name"];
    let layer = status["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|l| &l["name"] == bottom);
    let file = layer.map(|layer| &layer["lowers"][0]["file"]);
    ensure!(file == Some(&Value::from(layers[0])), "{status}");

    let down = json(&["--json", "down", "web"])?;
    ensure!(down["images"][0]["unmounted"][0] == mnt_word, "{down}");
    nothing_is_left()?;
    ensure!(run(&["status", "web"])?.status.code() == Some(EXIT_NOT_FOUND));
    let again = json(&["--json", "down", "web"])?;
    ensure!(again["images"][0]["existed"] == false, "{again}");
    Ok(())
}

fn configuration(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    // A folder for each layer, as a snapshotter keeps them.
    let mut lowers = Vec::new();
    for (i, layer) in image.layers.iter().enumerate() {
        let folder = dir.join(i.to_string());
        fs::create_dir(&folder)?;
        fs::rename(layer, folder.join("overlaybd.commit"))?;
        lowers.push(serde_json::json!({ "dir": folder }));
    }
    let result = dir.join("result");
    let write = |lowers: &[Value]| -> Result<()> {
        let config = serde_json::json!({
            "repoBlobUrl": "", "lowers": lowers, "upper": {}, "resultFile": result
        });
        Ok(fs::write(dir.join("config.v1.json"), config.to_string())?)
    };
    let path = dir.join("config.v1.json");
    let path = path.to_str().context("path")?;
    write(&lowers)?;
    json(&["--json", "up", "web", path])?;
    ensure!(fs::read_to_string(&result)? == "success");
    read::check_once(Path::new("/dev/mapper/web"), image.content)?;
    take_down("web")?;

    // Whether somebody can be told or not, the image is up.
    let unheard = serde_json::json!({ "lowers": lowers, "resultFile": "/nowhere/result" });
    fs::write(path, unheard.to_string())?;
    let report = json(&["--json", "up", "web", path])?;
    let notes = report["notes"].to_string();
    ensure!(notes.contains("/nowhere/result"), "{report}");
    take_down("web")?;

    lowers.push(serde_json::json!({ "dir": dir.join("none") }));
    write(&lowers)?;
    ensure!(run(&["up", "web", path])?.status.code() == Some(EXIT_NOT_FOUND));
    let reason = fs::read_to_string(&result)?;
    ensure!(
        reason.starts_with("failed:a layer is not on this host"),
        "{reason}"
    );
    nothing_is_left()
}

/// Two images with a base in common have one device for each layer of it, in use until the last of
/// them goes.
fn layers_are_shared(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let tall = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let golden = ctx.golden()?;
    let base = Image {
        layers: tall.layers[..2].to_vec(),
        content: golden.content(golden.stack("lsmt/stack*.zfile")?[1])?,
    };
    let first = tall.up("tall")?;
    ensure!(first.layers.iter().all(|layer| !layer.shared), "{first:?}");
    let second = base.up("base")?;
    ensure!(second.layers.iter().all(|layer| layer.shared), "{second:?}");
    ensure!(count("ovbd-z-")? == 3, "{:?}", devices()?);
    ensure!(loops().len() == 6, "{:?}", loops());

    let report = take_down("tall")?;
    ensure!(report.notes.is_empty(), "{report:?}");
    ensure!(count("ovbd-z-")? == 2, "{:?}", devices()?);
    ensure!(loops().len() == 4, "{:?}", loops());
    read::check(Path::new("/dev/mapper/base"), base.content, ctx.rng())?;
    take_down("base")?;
    nothing_is_left()
}

/// What is checked less is another device.
fn ignore_crc_is_not_shared(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    image.up("checked")?;
    let layers = image.layers.iter().filter_map(|layer| layer.to_str());
    let words: Vec<&str> = ["up", "unchecked", "--ignore-crc"]
        .into_iter()
        .chain(layers)
        .collect();
    ensure!(run(&words)?.status.success());
    ensure!(count("ovbd-z-")? == 6, "{:?}", devices()?);
    let status = json(&["--json", "status", "unchecked"])?;
    let layers = status["layers"].as_array().context("no layers")?;
    let ignoring = layers.iter().filter(|layer| layer["ignore_crc"] == true);
    ensure!(ignoring.count() == 3, "{status}");
    ensure!(run(&["down", "--all"])?.status.success());
    nothing_is_left()
}

fn repeated(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?;
    let mnt = dir.join("mnt");
    let first = image.up_mounted("web", &mnt)?;
    ensure!(!first.already && first.mount.is_some_and(|mount| !mount.already));
    let second = image.up_mounted("web", &mnt)?;
    ensure!(second.already && second.mount.is_some_and(|mount| mount.already));
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let there = mounts
        .lines()
        .filter(|line| line.starts_with("/dev/mapper/web "));
    ensure!(there.count() == 1, "{mounts}");
    take_down("web")?;
    ensure!(!take_down("web")?.existed);
    nothing_is_left()
}

fn name_is_taken(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let device = ctx.target(8, "zero", "")?;
    let layer = image.layers[0].to_str().context("path")?;
    for command in [vec!["up", &device.name, layer], vec!["down", &device.name]] {
        let run = run(&command)?;
        ensure!(run.status.code() == Some(EXIT_BUSY), "{command:?}: {run:?}");
    }
    ensure!(devices()? == [device.name.as_str()], "{:?}", devices()?);
    // An image of other layers.
    image.up("web")?;
    let other = run(&["up", "web", layer])?;
    ensure!(other.status.code() == Some(EXIT_BUSY), "{other:?}");
    ensure!(count("ovbd-z-")? == 3, "{:?}", devices()?);
    // The same image under another name that somebody gave it.
    ctx::output(&["dmsetup", "rename", "web", "renamed"])?;
    let error = image.up("web").err().context("it was set up")?.to_string();
    ensure!(error.contains("renamed to renamed"), "{error}");
    take_down("renamed")?;
    ctx.remove(&device)?;
    nothing_is_left()
}

/// An image whose name this tool does not take does not keep the others.
fn down_all(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    for name in ["one", "two", "zero"] {
        image.up(name)?;
    }
    ctx::output(&["dmsetup", "rename", "two", "a b"])?;
    let failed = run(&["down", "--all"])?;
    ensure!(failed.status.code() == Some(EXIT_FAILURE), "{failed:?}");
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    ensure!(said.contains("x20b: the image was renamed"), "{said}");
    let left = devices()?;
    ensure!(
        !left.iter().any(|name| name == "one" || name == "zero"),
        "{left:?}"
    );
    ctx::output(&["dmsetup", "rename", "a b", "two"])?;
    ensure!(run(&["down", "--all"])?.status.success());
    nothing_is_left()
}

fn in_use(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let report = image.up("web")?;
    let user = File::open(&report.device)?;
    let refused = run(&["down", "web"])?;
    ensure!(refused.status.code() == Some(EXIT_BUSY), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let pid = std::process::id();
    ensure!(
        said.contains(&format!("process {pid} (guest-tests) has it open")),
        "{said}"
    );
    ensure!(count("ovbd-z-")? == 3, "{:?}", devices()?);

    let later = json(&["--json", "down", "--deferred", "web"])?;
    ensure!(later["images"][0]["deferred"] == true, "{later}");
    let state = json(&["--json", "ls"])?;
    ensure!(state["images"][0]["state"] == "leaving", "{state}");
    read::check_once(&report.device, image.content)?;
    drop(user);
    // The kernel removes it from a work item; this waits for that.
    ensure!(run(&["down", "web"])?.status.success());
    nothing_is_left()
}

/// What somebody else has mounted on top of an image is neither unmounted nor written to.
fn covered(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?;
    let mnt = dir.join("mnt");
    image.up_mounted("web", &mnt)?;
    rustix::mount::mount("precious", &mnt, "tmpfs", MountFlags::empty(), None)?;
    fs::write(mnt.join("file"), "")?;
    let mut up = vec!["up", "web", "--writable", "--mount"];
    up.extend([mnt.to_str().context("path")?]);
    up.extend(image.layers.iter().filter_map(|layer| layer.to_str()));
    for words in [&["down", "web"][..], &up] {
        let refused = run(words)?;
        ensure!(refused.status.code() == Some(EXIT_BUSY), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            said.contains("precious (tmpfs) is mounted on top"),
            "{said}"
        );
        ensure!(mnt.join("file").exists(), "{words:?}");
    }
    let later = json(&["--json", "down", "--deferred", "web"])?;
    ensure!(later["images"][0]["deferred"] == true, "{later}");
    ensure!(mnt.join("file").exists());
    rustix::mount::unmount(&mnt, UnmountFlags::empty())?;
    image::compare_files(&ctx.golden()?, &mnt)?;
    take_down("web")?;
    nothing_is_left()
}

/// An attempt that fails leaves what was there before, and nothing else.
fn failed_attempts(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?;
    // A folder is where the node has to be.
    fs::create_dir("/dev/mapper/web")?;
    let made = image.up("web");
    fs::remove_dir("/dev/mapper/web")?;
    ensure!(made.is_err(), "{made:?}");
    nothing_is_left()?;

    // A file is where changes have to go.
    image.up("web")?;
    let (mnt, file) = (dir.join("mnt"), dir.join("file"));
    fs::create_dir(&mnt)?;
    fs::write(&file, "")?;
    let writable = format!("--writable={}", file.display());
    let mut up = vec!["up", "web", &writable, "--mount"];
    up.extend([mnt.to_str().context("path")?]);
    up.extend(image.layers.iter().filter_map(|layer| layer.to_str()));
    let refused = run(&up)?;
    ensure!(!refused.status.success(), "{refused:?}");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains("/dev/mapper/web "), "{mounts}");
    ensure!(Dm::open()?.info(Id::Name("web"))?.is_some(), "it is gone");
    take_down("web")?;
    nothing_is_left()
}

/// The kernel removes the layers of an image that is removed without the tool.
fn removed_by_hand(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    image.up("web")?;
    ctx::output(&["dmsetup", "remove", "web"])?;
    ovbd::down::clean(&Dm::open()?, BTreeSet::new(), &|_| {})?;
    quiescence()?;
    nothing_is_left()
}

/// What `table --concise` prints is what dmsetup takes, and makes the same disk.
fn concise_table(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.tar", &dir)?;
    let mut devices = Vec::new();
    for layer in &image.layers {
        devices.push(
            ctx.loop_device(&ctx::LoopSpec::of(layer))?
                .display()
                .to_string(),
        );
    }
    let devices = devices.join(",");
    let layers = image.layers.iter().filter_map(|layer| layer.to_str());
    let words = [
        "table",
        "--name",
        "hand",
        "--concise",
        "--devices",
        &devices,
    ];
    let words: Vec<&str> = words.into_iter().chain(layers).collect();
    let printed = run(&words)?;
    ensure!(printed.status.success(), "{printed:?}");
    let text = String::from_utf8(printed.stdout)?;
    let names: Vec<&str> = text
        .trim()
        .split(';')
        .filter_map(|d| d.split(',').next())
        .collect();
    ctx::output(&["dmsetup", "create", "--concise", text.trim()])?;
    let same = read::check_once(Path::new("/dev/mapper/hand"), image.content);
    for name in names.into_iter().rev() {
        ctx::output(&["dmsetup", "remove", name])?;
    }
    same
}

/// What only the kernel refuses is reported in its words, and nothing remains.
fn refused_layer(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let plan = image.plan()?;
    // The file is replaced by a shorter one behind the tool's back: same inode.
    let file = File::options().write(true).open(&image.layers[0])?;
    file.set_len(plan.layers[0].length / 2)?;
    let name = ovbd::dm::Name::new("web")?;
    let error = ovbd::up::up(&plan, &name, None, &|_| {});
    let error = error.err().context("it was taken")?.to_string();
    ensure!(
        error.starts_with(&*image.layers[0].to_string_lossy()),
        "{error}"
    );
    ensure!(Dm::open()?.info(Id::Name("web"))?.is_none(), "it is there");
    nothing_is_left()
}
