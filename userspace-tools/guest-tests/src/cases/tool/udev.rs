// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Beside udev: a stand-in for it that hears the kernel's events and answers cookies as udev's
//! rules do, with `dmsetup udevcomplete`, only slowly.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::{Dm, Name};
use ovbd::down;
use rustix::net::netlink::{SocketAddrNetlink, KOBJECT_UEVENT};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::{nothing_is_left, take_down, Image};
use crate::ctx::{self, Ctx};
use crate::harness::Case;

/// The flags that keep udev from looking into our devices: no subsystem, disk and other rules; the
/// event is the managing program's own.
const FLAGS: u32 = 0x4e;
const COOKIE: &str = "DM_COOKIE=";

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.beside_udev", beside_udev),
        Case::new("tool.udev_without_rules", udev_without_rules),
        Case::new("tool.cookie_of_a_dead_process", cookie_of_a_dead_process),
    ]
}

/// Files by which the tool recognises udev; they go with this value.
struct Signs(Vec<&'static str>);

impl Signs {
    fn put(files: &[&'static str]) -> Result<Self> {
        for file in files {
            let folder = Path::new(file).parent().context("folder")?;
            fs::create_dir_all(folder)?;
            fs::write(file, "")?;
        }
        Ok(Self(files.to_vec()))
    }
}

impl Drop for Signs {
    fn drop(&mut self) {
        for file in &self.0 {
            // It is only there for the tests.
            let _ = fs::remove_file(file);
        }
    }
}

const RUNNING: &str = "/run/udev/control";
const RULE: &str = "/run/udev/rules.d/95-dm-notify.rules";

/// Hears events, until it is told to stop, and answers their cookies.
struct Stand {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Vec<u32>>>,
    thread: JoinHandle<Result<()>>,
}

impl Stand {
    fn start() -> Result<Self> {
        let kind = SocketType::DGRAM;
        let protocol = Some(KOBJECT_UEVENT);
        let flags = SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, kind, flags, protocol)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, 1))?;
        let stop = Arc::new(AtomicBool::new(false));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (stopped, list) = (Arc::clone(&stop), Arc::clone(&heard));
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 16 << 10];
            loop {
                let (received, _) =
                    match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty()) {
                        Ok(received) => received,
                        Err(rustix::io::Errno::AGAIN) if stopped.load(Ordering::SeqCst) => {
                            return Ok(())
                        }
                        Err(rustix::io::Errno::AGAIN) => {
                            thread::yield_now();
                            continue;
                        }
                        Err(error) => return Err(error.into()),
                    };
                let text = String::from_utf8_lossy(&buffer[..received]).into_owned();
                let cookie = text.split('\0').find_map(|word| word.strip_prefix(COOKIE));
                let Some(cookie) = cookie else { continue };
                list.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(cookie.parse()?);
                // Answered late, so that a tool that does not wait is done before.
                for _ in 0..1000 {
                    thread::yield_now();
                }
                complete(cookie)?;
            }
        });
        Ok(Self {
            stop,
            heard,
            thread,
        })
    }

    /// The cookies of all events.
    fn finish(self) -> Result<Vec<u32>> {
        self.stop.store(true, Ordering::SeqCst);
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the stand-in panicked"))??;
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(heard.clone())
    }
}

/// What the last of udev's rules does.
fn complete(cookie: &str) -> Result<()> {
    let status = Command::new("dmsetup")
        .args(["udevcomplete", cookie])
        .stdout(Stdio::null())
        // The tests' own devices are made without udev.
        .env_remove("DM_DISABLE_UDEV")
        .status()?;
    ensure!(status.success(), "dmsetup udevcomplete {cookie}: {status}");
    Ok(())
}

/// Every event is waited for, and has the flags and one cookie a command.
fn beside_udev(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let _signs = Signs::put(&[RUNNING, RULE])?;
    let stand = Stand::start()?;
    let report = image.up("web")?;
    if !report.notes.is_empty() {
        stand
            .finish()
            .with_context(|| format!("{:?}", report.notes))?;
        bail!("{:?}", report.notes);
    }
    let during = stand
        .heard
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    // Four inner devices and the image went live.
    ensure!(during.len() == 5, "{during:x?}");
    let report = take_down("web")?;
    ensure!(report.notes.is_empty(), "{:?}", report.notes);
    let heard = stand.finish()?;
    ensure!(heard.len() >= 6, "{heard:x?}");
    ensure!(
        heard.iter().all(|cookie| cookie >> 16 == FLAGS),
        "{heard:x?}"
    );
    ensure!(
        during
            .iter()
            .all(|cookie| cookie & 0xffff == during[0] & 0xffff),
        "{heard:x?}"
    );
    ensure!(
        heard.iter().all(|cookie| cookie & 0xffff != 0),
        "{heard:x?}"
    );
    nothing_is_left()
}

/// Without the rules nobody answers: the tool does not wait, and makes the link itself.
fn udev_without_rules(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let _signs = Signs::put(&[RUNNING])?;
    let report = image.up("web")?;
    ensure!(report.notes.is_empty(), "{:?}", report.notes);
    ensure!(
        fs::read_link("/dev/mapper/web")?.starts_with("../"),
        "no link"
    );
    take_down("web")?;
    nothing_is_left()
}

/// A process that dies leaves its cookie; the next command takes it away.
fn cookie_of_a_dead_process(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let layers = image.layers.iter().filter_map(|layer| layer.to_str());
    let program = std::env::current_exe()?;
    let program = program.to_str().context("path")?;
    {
        let _signs = Signs::put(&[RUNNING, RULE])?;
        let words: Vec<&str> = [program, "child", "1", "up"]
            .into_iter()
            .chain(layers)
            .collect();
        ensure!(ctx::output(&words).is_err(), "it was not killed");
    }
    let list = fs::read_to_string("/proc/sysvipc/sem")?;
    ensure!(list.lines().count() == 2, "there is no cookie: {list}");
    // Any command that removes something does; there is no image here.
    let name = Name::new("other")?;
    down::down(&name, down::Options::default(), &|_| {})?;
    down::clean(&Dm::open()?, BTreeSet::new(), &|_| {})?;
    nothing_is_left()
}
