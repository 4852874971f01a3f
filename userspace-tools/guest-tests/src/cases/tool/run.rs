// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Commands in an image.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use anyhow::{ensure, Context as _, Result};
use ovbd::dm::{Dm, Id};
use rustix::process::{kill_process, Pid, Signal};

use super::{nothing_is_left, quiescence, OVBD};
use crate::ctx::{self, Ctx};
use crate::harness::Case;
use crate::rig::sample;

const EXIT_FAILED: i32 = 125;
const EXIT_NOT_RUNNABLE: i32 = 126;
const EXIT_NOT_FOUND: i32 = 127;
const SIGNALLED: i32 = 128;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.run.command", command),
        Case::new("tool.run.writable", writable),
        Case::new("tool.run.one_folder", one_folder),
        Case::new("tool.run.surroundings", surroundings),
        Case::new("tool.run.links", links),
        Case::new("tool.run.result_file", result_file),
        Case::new("tool.run.several", several),
        Case::new("tool.run.signal", signal),
        Case::new("tool.run.killed", killed),
    ]
}

/// A layer with a system that is a shell.
fn layer(ctx: &mut Ctx) -> Result<PathBuf> {
    layer_with(ctx, |sys| fs::create_dir(sys))
}

/// The same, with whatever is made for /sys.
fn layer_with(ctx: &mut Ctx, make_sys: impl Fn(&Path) -> io::Result<()>) -> Result<PathBuf> {
    let dir = ctx.tmp()?;
    let tree = dir.join("tree");
    for folder in ["bin", "dev", "proc", "tmp"] {
        fs::create_dir_all(tree.join(folder))?;
    }
    make_sys(&tree.join("sys"))?;
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    for name in [
        "cat", "false", "hostname", "ls", "ps", "sh", "sleep", "touch", "true",
    ] {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    fs::write(tree.join("text"), "not a program")?;
    fs::write(tree.join("name"), "the image")?;
    let (disk, layer) = (dir.join("disk"), dir.join("layer.tar"));
    sample::ext4(&tree, &disk, 8 << 20)?;
    let [raw, out] = [&disk, &layer].map(|path| path.display().to_string());
    ctx::output(&[OVBD, "build", "--tar", "--raw", &raw, "--output", &out])?;
    Ok(layer)
}

fn start(options: &[&str], layer: &Path, words: &[&str]) -> Result<Child> {
    Command::new(OVBD)
        .arg("run")
        .args(options)
        .arg(layer)
        .arg("--")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context(OVBD)
}

fn run(options: &[&str], layer: &Path, words: &[&str]) -> Result<Output> {
    Ok(start(options, layer, words)?.wait_with_output()?)
}

/// What a command that has to succeed says.
fn said(options: &[&str], layer: &Path, words: &[&str]) -> Result<String> {
    let output = run(options, layer, words)?;
    ensure!(output.status.success(), "{words:?}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The exit code is that of the command, and nothing is left of the image.
fn command(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(said(&[], &layer, &["cat", "/name"])? == "the image");
    nothing_is_left()?;
    let words: [(&[&str], i32); 7] = [
        (&["true"], 0),
        (&["false"], 1),
        (&["sh", "-c", "exit 77"], 77),
        (&["sh", "-c", "kill -9 $$"], SIGNALLED + 9),
        (&["/text"], EXIT_NOT_RUNNABLE),
        (&["nowhere"], EXIT_NOT_FOUND),
        (&["sh", "-c", "echo x >/new"], 1),
    ];
    for (words, code) in words {
        let output = run(&[], &layer, words)?;
        ensure!(output.status.code() == Some(code), "{words:?}: {output:?}");
        nothing_is_left()?;
    }
    let output = run(&["--workdir", "/nowhere"], &layer, &["true"])?;
    ensure!(output.status.code() == Some(EXIT_FAILED), "{output:?}");
    let output = run(&[], Path::new("/nowhere"), &["true"])?;
    ensure!(output.status.code() == Some(EXIT_FAILED), "{output:?}");
    nothing_is_left()?;
    ensure!(fs::read_to_string("/proc/self/mounts")? == mounts);
    Ok(())
}

/// Nothing is mounted on what a link of the image leads to.
fn links(ctx: &mut Ctx) -> Result<()> {
    let layer = layer_with(ctx, |sys| symlink("tmp", sys))?;
    let mounts = said(&[], &layer, &["cat", "/proc/mounts"])?;
    ensure!(mounts.contains(" /dev tmpfs "), "{mounts}");
    ensure!(!mounts.contains("sysfs"), "{mounts}");
    nothing_is_left()
}

/// Changes are possible if that is wished, and kept if there is a folder for them.
fn writable(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let write = ["sh", "-c", "echo new >/tmp/change && cat /tmp/change"];
    ensure!(said(&["--writable"], &layer, &write)? == "new\n");
    let missing = run(&["--writable"], &layer, &["cat", "/tmp/change"])?;
    ensure!(missing.status.code() == Some(1), "{missing:?}");
    let folder = format!("--writable={}", ctx.tmp()?.join("changes").display());
    said(&[&folder], &layer, &write)?;
    ensure!(said(&[&folder], &layer, &["cat", "/tmp/change"])? == "new\n");
    nothing_is_left()
}

/// Two commands do not change one folder at once.
fn one_folder(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let folder = format!("--writable={}", ctx.tmp()?.join("changes").display());
    let script = ["sh", "-c", "echo; echo new >/tmp/change; sleep 1000"];
    for signal in [Signal::TERM, Signal::KILL] {
        let mut first = Running::new(start(&[&folder], &layer, &script)?)?;
        let refused = run(&[&folder], &layer, &["true"])?;
        ensure!(refused.status.code() == Some(EXIT_FAILED), "{refused:?}");
        let reason = String::from_utf8_lossy(&refused.stderr);
        ensure!(reason.contains("changes: is in use by another"), "{reason}");
        first.signal(signal)?;
        first.0.wait()?;
        // At once, though the kernel may not have let go of it yet.
        let change = said(&[&folder], &layer, &["cat", "/tmp/change"])?;
        ensure!(change == "new\n", "{change}");
    }
    quiescence()?;
    no_links()?;
    nothing_is_left()
}

/// It is the first command of its world, which has what a program expects, and nothing of the
/// host's.
fn surroundings(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?;
    let script = "set -e
        hostname; echo $$; ls /proc | grep -c '^[0-9]' || true; echo $A $HOME; pwd
        test -c /dev/null; echo x >/dev/null; test -e /dev/fd/0; ls /dev/pts /dev/shm
        test -d /sys/block; cat /proc/mounts";
    let options = ["--name", "world", "-e", "A=a b", "--workdir", "/tmp"];
    let text = said(&options, &layer, &["sh", "-c", script])?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(lines[..2] == ["world", "2"], "{text}");
    ensure!(text.contains("\na b /root\n/tmp\n"), "{text}");
    // The image, and what was mounted for the command.
    let mounts = lines.iter().filter(|line| line.starts_with("/dev/mapper/"));
    ensure!(mounts.count() == 1, "{text}");
    ensure!(fs::read_to_string("/proc/sys/kernel/hostname")? == host);
    // The name of a device may be longer than that of a host.
    let long = "a".repeat(100);
    let name = said(&["--name", &long], &layer, &["hostname"])?;
    ensure!(name.trim() == &long[..64], "{name}");
    nothing_is_left()
}

/// A command runs, whether somebody can be told that its image is up or not.
fn result_file(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let config = layer.with_file_name("config.json");
    let text = serde_json::json!({
        "lowers": [{ "file": layer }], "resultFile": "/nowhere/result"
    });
    fs::write(&config, text.to_string())?;
    ensure!(said(&[], &config, &["cat", "/name"])? == "the image");
    nothing_is_left()
}

/// Several at once share the layers, and each goes alone.
fn several(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let running: Vec<Child> = (0..4)
        .map(|_| {
            start(
                &["--writable"],
                &layer,
                &["sh", "-c", "touch /x && cat /name"],
            )
        })
        .collect::<Result<_>>()?;
    for child in running {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{output:?}");
        ensure!(output.stdout == b"the image", "{output:?}");
    }
    let taken = start(
        &["--name", "web"],
        &layer,
        &["sh", "-c", "echo; sleep 1000"],
    )?;
    let mut taken = Running::new(taken)?;
    let refused = run(&["--name", "web"], &layer, &["true"])?;
    ensure!(refused.status.code() == Some(EXIT_FAILED), "{refused:?}");
    ensure!(Dm::open()?.info(Id::Name("web"))?.is_some(), "it is gone");
    taken.signal(Signal::TERM)?;
    taken.0.wait()?;
    nothing_is_left()
}

/// A command that has said something.
struct Running(Child);

impl Running {
    fn new(mut child: Child) -> Result<Self> {
        let stdout = child.stdout.take().context("stdout")?;
        BufReader::new(stdout).read_line(&mut String::new())?;
        Ok(Self(child))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }
}

/// A signal is the command's to handle.
fn signal(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let script = "trap 'exit 9' TERM; echo; while :; do sleep 1; done";
    for (script, code) in [(script, 9), ("echo; sleep 1000", SIGNALLED + 15)] {
        let mut running = Running::new(start(&[], &layer, &["sh", "-c", script])?)?;
        running.signal(Signal::TERM)?;
        let status = running.0.wait()?;
        ensure!(status.code() == Some(code), "{status}");
        nothing_is_left()?;
    }
    Ok(())
}

/// Killed, it takes the command along, and the kernel removes the image.
fn killed(ctx: &mut Ctx) -> Result<()> {
    let layer = layer(ctx)?;
    let mut running = Running::new(start(
        &["--writable"],
        &layer,
        &["sh", "-c", "echo; sleep 1000"],
    )?)?;
    running.signal(Signal::KILL)?;
    let status = running.0.wait()?;
    ensure!(status.signal() == Some(9), "{status}");
    quiescence()?;
    no_links()?;
    nothing_is_left()
}

/// Without udev nobody removes the links of what the kernel removes by itself.
fn no_links() -> Result<()> {
    let links = fs::read_dir("/dev/mapper")?.flatten();
    for link in links.filter(|link| link.file_name() != "control") {
        ensure!(!link.path().exists(), "{:?} leads somewhere", link.path());
        fs::remove_file(link.path())?;
    }
    Ok(())
}
