// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Beside udev: Debian's own daemon with all its rules and those of device-mapper.
//!
//! It runs only as long as such a test does: what the tool does without it, the others show.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{symlink, FileExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::{Dm, Name};
use ovbd::down;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use super::basics::json;
use super::crash::{kill_after, Action, Subject};
use super::parallel::{parallel, Setting};
use super::{nothing_is_left, take_down, Image, OVBD};
use crate::ctx::{self, Ctx};
use crate::harness::Case;
use crate::read;
use crate::rig::until;

/// The flags that keep udev from looking into our devices: no subsystem, disk and other rules; the
/// event is the managing program's own.
const FLAGS: u32 = 0x4e;
/// What udev makes of them.
const PROPERTIES: [&str; 4] = [
    "DM_UDEV_DISABLE_SUBSYSTEM_RULES_FLAG=1",
    "DM_UDEV_DISABLE_DISK_RULES_FLAG=1",
    "DM_UDEV_DISABLE_OTHER_RULES_FLAG=1",
    "DM_UDEV_PRIMARY_SOURCE_FLAG=1",
];

const DAEMON: &str = "/usr/lib/systemd/systemd-udevd";
const RUN: &str = "/run/udev";
const RULES: &str = "/usr/lib/udev/rules.d";
const LINKS: &str = "/dev/disk";
const SEMAPHORES: &str = "/proc/sysvipc/sem";

/// Where the rule below notes cookies.
const COOKIES: &str = "/run/udev/cookies";
/// A pipe that a handler of an event opens for reading: it gets on as soon as somebody writes.
const GATE: &str = "/run/udev/gate";
/// Comes before the rule that answers.
const GATE_RULE: &str = concat!(
    r#"ENV{DM_COOKIE}=="?*", "#,
    r#"RUN+="/bin/sh -c ': </run/udev/gate; echo $env{DM_COOKIE} >>/run/udev/cookies'""#,
    "\n"
);

/// Of the file systems that the images hold.
const FS_UUID: &str = "6f766264-0000-4000-8000-000000000001";
const FS_SIZE: &str = "16M";

/// How long udev may take for anything on an emulated processor of a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.udev.is_waited_for", is_waited_for),
        Case::new("tool.udev.links", links),
        Case::new("tool.udev.parallel", in_parallel),
        Case::new("tool.udev.without_rules", without_rules),
        Case::new("tool.udev.masked_rule", masked_rule),
        Case::new("tool.udev.is_killed", is_killed),
        Case::new("tool.udev.is_dead", is_dead),
        Case::new(
            "tool.udev.cookie_of_a_dead_process",
            cookie_of_a_dead_process,
        ),
    ]
}

/// The daemon; it goes with this value, and so do the signs of it.
struct Udevd(Child);

impl Udevd {
    fn start() -> Result<Self> {
        fs::create_dir_all(RUN)?;
        let mut udevd = Self(Self::spawn()?);
        udevd.answers()?;
        Ok(udevd)
    }

    fn spawn() -> Result<Child> {
        let log = File::create(Path::new(RUN).join("log"))?;
        Command::new(DAEMON)
            .env("SYSTEMD_LOG_TARGET", "console")
            // The tests' own devices are made without udev.
            .env_remove("DM_DISABLE_UDEV")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context(DAEMON)
    }

    /// Waits until it does.
    fn answers(&mut self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while let Err(error) = ctx::output(&["udevadm", "control", "--ping"]) {
            let ended = self.0.try_wait()?;
            if ended.is_some() || Instant::now() >= deadline {
                let log = fs::read_to_string(Path::new(RUN).join("log"))?;
                bail!("{DAEMON} does not answer ({ended:?}): {error:#}: {log}");
            }
            thread::yield_now();
        }
        Ok(())
    }

    /// From now on it leaves events alone.
    fn pause(&self) -> Result<()> {
        let signal = Signal::STOP;
        Ok(rustix::process::kill_process(
            Pid::from_child(&self.0),
            signal,
        )?)
    }

    /// What it has left in the file system stays, as after a crash.
    fn kill(&mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    fn start_again(&mut self) -> Result<()> {
        self.0 = Self::spawn()?;
        self.answers()
    }
}

impl Drop for Udevd {
    fn drop(&mut self) {
        // It may be dead already, and what it made is there only for the tests.
        let _ = self.kill();
        let _ = fs::remove_dir_all(RUN);
        for folder in link_folders() {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// All events until now have been handled.
fn settle() -> Result<()> {
    let limit = format!("--timeout={}", LIMIT.as_secs());
    ctx::output(&["udevadm", "settle", &limit]).map(drop)
}

/// The folders of udev's links. What lies beside them are the guest's own.
fn link_folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(LINKS).into_iter().flatten().flatten();
    let by = |path: &PathBuf| path.is_dir() && path.to_string_lossy().contains("/by-");
    entries.map(|entry| entry.path()).filter(by).collect()
}

/// What udev's links lead to: `loop0`.
fn linked() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for folder in link_folders() {
        for entry in fs::read_dir(folder)? {
            let target = fs::read_link(entry?.path())?;
            let name = target.file_name().context("a link to nothing")?;
            names.insert(name.to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

/// The cookies of events, in their order.
fn cookies() -> Result<Vec<u32>> {
    let list = fs::read_to_string(COOKIES).context("no event was handled until now")?;
    list.lines()
        .map(|line| line.parse().with_context(|| line.to_owned()))
        .collect()
}

/// All is down, and nobody is at it any more.
fn all_is_quiet() -> Result<()> {
    settle()?;
    nothing_is_left()
}

/// Keeps udev from handling events of device-mapper to their end, until it is open.
struct Gate(Option<File>);

impl Gate {
    fn new() -> Result<Self> {
        ctx::output(&["mkfifo", GATE])?;
        Ok(Self(None))
    }

    fn open(&mut self) -> Result<()> {
        self.0 = Some(File::options().read(true).write(true).open(GATE)?);
        Ok(())
    }

    fn close(&mut self) {
        self.0 = None;
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // For those who stand before it, after a failure.
        let _ = self.open();
    }
}

/// Runs the tool, which must wait for events that are handled no sooner than it does.
fn waits(gate: &mut Gate, words: &[&str]) -> Result<()> {
    gate.close();
    let mut tool = Command::new(OVBD)
        .arg("--json")
        .args(words)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let place = format!("/proc/{}/wchan", tool.id());
    until("it waits for udev", LIMIT, || {
        ensure!(tool.try_wait()?.is_none(), "it did not wait for udev");
        Ok(fs::read_to_string(&place)?.contains("semtimedop"))
    })?;
    gate.open()?;
    let output = tool.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {said}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let notes = report["notes"].as_array();
    ensure!(notes.is_none_or(Vec::is_empty), "{report}");
    Ok(())
}

/// Every event is waited for, and has the flags and one cookie a command.
fn is_waited_for(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let rules = Path::new(RUN).join("rules.d");
    fs::create_dir_all(&rules)?;
    fs::write(rules.join("94-gate.rules"), GATE_RULE)?;
    let _udevd = Udevd::start()?;
    let mut gate = Gate::new()?;
    let layers = image.layers.iter().filter_map(|layer| layer.to_str());
    let words: Vec<&str> = ["up", "web"].into_iter().chain(layers).collect();
    waits(&mut gate, &words)?;
    let up = cookies()?;
    // Four inner devices and the image went live.
    ensure!(up.len() == 5, "{up:x?}");
    waits(&mut gate, &["down", "web"])?;
    let all = cookies()?;
    let down = &all[up.len()..];
    ensure!(!down.is_empty(), "{all:x?}");
    ensure!(all.iter().all(|cookie| cookie >> 16 == FLAGS), "{all:x?}");
    ensure!(all.iter().all(|cookie| cookie & 0xffff != 0), "{all:x?}");
    ensure!(up.iter().all(|cookie| *cookie == up[0]), "{up:x?}");
    ensure!(down.iter().all(|cookie| *cookie == down[0]), "{all:x?}");
    all_is_quiet()
}

/// Makes a layer of an ext4 with the one file `text`, over those in `base`.
fn layer(dir: &Path, text: &str, base: &[&str]) -> Result<String> {
    let folder = dir.join(text);
    fs::create_dir(&folder)?;
    fs::write(folder.join("file"), text)?;
    let folder = folder.to_str().context("path")?;
    let out = format!("{folder}.tar");
    let mut words = vec![OVBD, "build", "--from-dir", folder, "--fs-uuid", FS_UUID];
    words.extend(["--virtual-size", FS_SIZE, "--tar", "-o", &out]);
    if !base.is_empty() {
        words.push("--base");
        words.extend(base);
    }
    ctx::output(&words)?;
    Ok(out)
}

/// The UUID in the superblock of an ext4, as udev writes it.
fn uuid(disk: &Path) -> Result<String> {
    const AT: u64 = 1024 + 0x68;
    let mut bytes = [0; 16];
    File::open(disk)?.read_exact_at(&mut bytes, AT)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)];
    Ok(parts.map(|(from, to)| &digits[from..to]).join("-"))
}

/// Two images from one base have the same file-system UUID. udev links an ordinary disk with it by
/// its UUID, and neither the images nor what they stand on, also when that disk is gone.
fn links(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let base = layer(&dir, "base", &[])?;
    let top = layer(&dir, "tall", &[&base])?;
    let disk = dir.join("disk");
    let disk = disk.to_str().context("path")?;
    ctx::output(&["mke2fs", "-q", "-t", "ext4", "-U", FS_UUID, disk, FS_SIZE])?;
    let by_uuid = Path::new(LINKS).join("by-uuid").join(FS_UUID);
    let _udevd = Udevd::start()?;
    let disk = ctx::output(&["losetup", "--find", "--show", "--read-only", disk])?;
    settle()?;
    let leads_to_disk = || {
        by_uuid
            .canonicalize()
            .is_ok_and(|path| path == Path::new(&disk))
    };
    ensure!(leads_to_disk(), "no {}: {:?}", by_uuid.display(), linked()?);

    for (name, layers) in [("tall", &[&base, &top][..]), ("base", &[&base])] {
        let mnt = dir.join("mnt").join(name);
        fs::create_dir_all(&mnt)?;
        let mnt_word = mnt.to_str().context("path")?;
        let words = ["--json", "up", name, "--mount", mnt_word].into_iter();
        let words: Vec<&str> = words.chain(layers.iter().map(|l| l.as_str())).collect();
        let report = json(&words)?;
        let notes = report["notes"].as_array();
        ensure!(notes.is_none_or(Vec::is_empty), "{report}");
        ensure!(fs::read_to_string(mnt.join("file"))? == name);
        let node = Path::new("/dev/mapper").join(name);
        ensure!(fs::read_link(&node)?.starts_with("../"), "no link");
        ensure!(uuid(&node)? == FS_UUID, "{name} has another UUID");
    }
    settle()?;
    ensure!(leads_to_disk(), "{} was taken away", by_uuid.display());
    // One for each layer, and the images.
    let devices = Dm::open()?.devices()?;
    ensure!(devices.len() == 4, "{devices:?}");
    for (name, dev) in devices {
        is_left_alone(&format!("dm-{}", rustix::fs::minor(dev))).context(name)?;
    }

    ctx::output(&["losetup", "-d", &disk])?;
    settle()?;
    ensure!(
        !by_uuid.is_symlink(),
        "{} is still there",
        by_uuid.display()
    );
    for name in ["tall", "base"] {
        let report = take_down(name)?;
        ensure!(report.notes.is_empty(), "{:?}", report.notes);
        ensure!(report.unmounted.len() == 1, "{report:?}");
    }
    all_is_quiet()
}

/// udev has had the flags of the device `kernel`, has no link to it, and has not looked into it.
fn is_left_alone(kernel: &str) -> Result<()> {
    ensure!(!linked()?.contains(kernel), "it has a link");
    let path = format!("/dev/{kernel}");
    let known = ctx::output(&["udevadm", "info", "--query=property", &path])?;
    for property in PROPERTIES {
        let there = known.lines().any(|line| line == property);
        ensure!(there, "without {property}: {known}");
    }
    let looked_into = known.lines().any(|line| line.starts_with("ID_FS_"));
    ensure!(!looked_into, "{known}");
    Ok(())
}

fn in_parallel(ctx: &mut Ctx) -> Result<()> {
    let _udevd = Udevd::start()?;
    let setting = Setting {
        processes: 6,
        names: 6,
        lock: true,
    };
    parallel(ctx, &setting)?;
    all_is_quiet()
}

/// Without device-mapper's rules nobody answers: the tool does not wait, and makes the link itself.
fn without_rules(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    for name in ["55-dm", "60-persistent-storage-dm", "95-dm-notify"] {
        let (rule, off) = (
            format!("{RULES}/{name}.rules"),
            format!("{RULES}/{name}.off"),
        );
        fs::rename(&rule, &off).context(rule.clone())?;
        ctx.defer("a rule", move || Ok(fs::rename(off, rule)?));
    }
    let _udevd = Udevd::start()?;
    is_not_waited_for(&image)
}

/// The same with a rule that an administrator has turned off.
fn masked_rule(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let rules = Path::new(RUN).join("rules.d");
    fs::create_dir_all(&rules)?;
    symlink("/dev/null", rules.join("95-dm-notify.rules"))?;
    let _udevd = Udevd::start()?;
    is_not_waited_for(&image)
}

/// An image comes and goes, and the tool has nothing to say about udev.
fn is_not_waited_for(image: &Image) -> Result<()> {
    let report = image.up("web")?;
    ensure!(report.notes.is_empty(), "{:?}", report.notes);
    settle()?;
    ensure!(
        fs::read_link("/dev/mapper/web")?.starts_with("../"),
        "no link"
    );
    let report = take_down("web")?;
    ensure!(report.notes.is_empty(), "{:?}", report.notes);
    all_is_quiet()
}

/// udev dies with events that it has not handled: the tool notices that before its patience ends, and
/// goes on; with the next udev all is as ever.
fn is_killed(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let mut udevd = Udevd::start()?;
    udevd.pause()?;
    let up = Command::new(OVBD)
        .args(["up", "web"])
        .args(&image.layers)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let deadline = Instant::now() + LIMIT;
    while Dm::open()?.devices()?.len() < 5 {
        ensure!(Instant::now() < deadline, "the devices do not appear");
        thread::yield_now();
    }
    udevd.kill()?;
    let output = up.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{}: {said}", output.status);
    ensure!(
        said.contains("udev has ended, and did not handle"),
        "{said}"
    );
    let list = fs::read_to_string(SEMAPHORES)?;
    ensure!(list.lines().count() == 1, "a cookie is left: {list}");
    read::check_once(Path::new("/dev/mapper/web"), image.content.clone())?;

    udevd.start_again()?;
    let report = take_down("web")?;
    ensure!(report.notes.is_empty(), "{:?}", report.notes);
    all_is_quiet()
}

/// What a udev that died has left in the file system does not make the tool wait for it.
fn is_dead(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let mut udevd = Udevd::start()?;
    udevd.kill()?;
    ensure!(Path::new(RUN).join("control").exists(), "no socket is left");
    let report = image.up("web")?;
    ensure!(report.notes.is_empty(), "{:?}", report.notes);
    read::check_once(Path::new("/dev/mapper/web"), image.content)?;
    let report = take_down("web")?;
    ensure!(report.notes.is_empty(), "{:?}", report.notes);
    nothing_is_left()
}

/// A process that dies leaves its cookie; the next command takes it away.
fn cookie_of_a_dead_process(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let subject = Subject::new(image.config(), image.content, &dir)?;
    let _udevd = Udevd::start()?;
    ensure!(kill_after(1, Action::Up, &subject)?, "it was not killed");
    let list = fs::read_to_string(SEMAPHORES)?;
    ensure!(list.lines().count() == 2, "there is no cookie: {list}");
    // Any command that removes something does; there is no image here.
    let name = Name::new("other")?;
    down::down(&name, down::Options::default(), &|_| {})?;
    down::clean(&Dm::open()?, BTreeSet::new(), &|_| {})?;
    all_is_quiet()
}
