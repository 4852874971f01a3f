// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a user without `CAP_SYS_ADMIN` can do: read what permissions allow, and nothing else.
//!
//! A process of its own becomes an ordinary user, tries everything, and tells what came of it.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::{Dm, Id};
use rustix::fs::{fallocate, FallocateFlags};
use rustix::io::Errno;
use rustix::thread::{
    set_capabilities, set_keep_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid, CapabilitySet, CapabilitySets, Gid, Uid,
};

use super::lsmt;
use crate::ctx::{output, target, Ctx, Device, SECTOR};
use crate::forge::{self, Codec, Layer, Zfile};
use crate::harness::Case;
use crate::read::Direct;
use crate::rig::ioctl;

const CONTROL: &str = "/dev/mapper/control";
const NOBODY: u32 = 65534;
const DISK: u64 = 64 << 10;

/// What the user has beyond being one.
const CAPABILITIES: [(&str, CapabilitySet); 2] = [
    ("without_privileges", CapabilitySet::empty()),
    ("with_raw_io", CapabilitySet::SYS_RAWIO),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, _) in CAPABILITIES {
        cases.push(Case::new(format!("user.{name}"), move |ctx| {
            everything(ctx, name)
        }));
    }
    cases
}

/// Devices of both targets.
fn devices(ctx: &mut Ctx) -> Result<[Device; 2]> {
    let bytes = forge::content(DISK as usize, ctx.rng());
    let file = Zfile::new(&bytes, 4096, Codec::Lz4, true).bytes();
    let disk = ctx.image(&file)?;
    let params = format!("{} 0 {}", disk.dev, file.len());
    let zfile = ctx.target(DISK / SECTOR, "zfile", &params)?;
    let lsmt = lsmt::of_forged(ctx, &[Layer::new(DISK).data(8, &bytes[..8192])])?;
    Ok([zfile, lsmt])
}

fn everything(ctx: &mut Ctx, capabilities: &str) -> Result<()> {
    for device in devices(ctx)? {
        let id = Id::Dev(device.dev.0);
        let (table, info) = (ctx.dm()?.table(id)?, ctx.dm()?.info(id)?);
        let content = Direct::open(&device.path)?.read(0, DISK as usize)?;
        // Nodes as they are, and then with every permission that a node can have.
        refused(&device, capabilities, Nodes::Closed)?;
        let control = PathBuf::from(CONTROL);
        for path in [device.path.clone(), control] {
            let before = fs::metadata(&path)?.permissions();
            fs::set_permissions(&path, Permissions::from_mode(0o666))?;
            ctx.defer("permissions", move || {
                Ok(fs::set_permissions(path, before)?)
            });
        }
        refused(&device, capabilities, Nodes::Open)?;
        fs::set_permissions(CONTROL, Permissions::from_mode(0o600))?;

        let again = ctx.dm()?.table(id)?;
        ensure!(again == table, "{again:?}, expected {table:?}");
        let now = ctx.dm()?.info(id)?;
        ensure!(
            format!("{now:?}") == format!("{info:?}"),
            "{now:?}, expected {info:?}"
        );
        ensure!(
            Direct::open(&device.path)?.read(0, DISK as usize)? == content,
            "other bytes"
        );
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nodes {
    /// For root only.
    Closed,
    /// For everybody.
    Open,
}

/// Has the user try; each attempt must have been refused, for one of the reasons that mean so.
fn refused(device: &Device, capabilities: &str, nodes: Nodes) -> Result<()> {
    let node = device.path.to_str().context("node")?;
    let myself = std::env::current_exe()?;
    let out = Command::new(myself)
        .args(["user", capabilities, node])
        .output()?;
    ensure!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let text = String::from_utf8(out.stdout)?;
    let attempts = text.lines().map(|line| {
        let (what, result) = line.split_once('\t').context("a line without a result")?;
        Ok((what, result.parse::<i32>()?))
    });
    let attempts: Vec<_> = attempts.collect::<Result<_>>()?;
    let wrong: Vec<_> = attempts
        .iter()
        .filter(|&&(what, errno)| !may_be(what, errno, nodes))
        .collect();
    ensure!(
        wrong.is_empty(),
        "nodes {nodes:?}, {capabilities}: {wrong:?}"
    );
    // Who cannot open a node cannot try the rest.
    let least = match nodes {
        Nodes::Closed => 20,
        Nodes::Open => 20 + ioctl::FORBIDDEN.len(),
    };
    ensure!(
        attempts.len() >= least,
        "only {} attempts: {text}",
        attempts.len()
    );
    Ok(())
}

/// Whether an attempt may end like this.
fn may_be(what: &str, errno: i32, nodes: Nodes) -> bool {
    let opens = what.starts_with("open ");
    if opens && nodes == Nodes::Closed {
        return errno == Errno::ACCESS.raw_os_error();
    }
    if opens || what == "read" {
        // Reading is what the permissions of the node allow, now that they do.
        return errno == 0 || what == "open to write";
    }
    let reasons = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::ROFS,
        // Not open for writing.
        Errno::BADF,
        // Not a thing that the device knows.
        Errno::NOTTY,
        Errno::OPNOTSUPP,
    ];
    reasons.iter().any(|reason| reason.raw_os_error() == errno)
}

/// `guest-tests user CAPABILITIES NODE`: becomes a user, tries, and prints a line for each
/// attempt: what, and the error number or 0.
pub fn child(words: &[&str]) -> Result<ExitCode> {
    let [capabilities, node] = words else {
        bail!("user CAPABILITIES NODE");
    };
    let found = CAPABILITIES.iter().find(|(name, _)| name == capabilities);
    let (_, set) = found.context("unknown capabilities")?;
    become_a_user(*set)?;
    let mut attempts = Attempts(Vec::new());
    on_the_node(&mut attempts, Path::new(node));
    on_the_control_node(&mut attempts, Path::new(node))?;
    on_files(&mut attempts, Path::new(node))?;
    on_the_module(&mut attempts);
    let mut out = std::io::stdout().lock();
    for (what, errno) in attempts.0 {
        writeln!(out, "{what}\t{errno}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn become_a_user(keep: CapabilitySet) -> Result<()> {
    set_keep_capabilities(true)?;
    set_thread_groups(&[])?;
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    let sets = CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}

/// What was tried, and the error number, or 0.
struct Attempts(Vec<(String, i32)>);

impl Attempts {
    fn add<T, E: Into<std::io::Error>>(&mut self, what: impl Into<String>, result: Result<T, E>) {
        let errno = match result {
            Ok(_) => 0,
            // Whatever has no number is no refusal of the kernel's.
            Err(error) => error.into().raw_os_error().unwrap_or(-1),
        };
        self.0.push((what.into(), errno));
    }
}

fn on_the_node(attempts: &mut Attempts, node: &Path) {
    let reading = File::open(node);
    let writing = File::options().read(true).write(true).open(node);
    let number = |result: &std::io::Result<File>| match result {
        Ok(_) => Ok(()),
        Err(error) => Err(std::io::Error::from(
            Errno::from_io_error(error).unwrap_or(Errno::IO),
        )),
    };
    attempts.add("open to read", number(&reading));
    attempts.add("open to write", number(&writing));
    let Ok(reading) = reading else {
        return;
    };
    let mut sector = [0; 512];
    attempts.add("read", reading.read_exact_at(&mut sector, 0));
    for (how, file) in [("", Some(reading)), (", to write", writing.ok())] {
        let Some(file) = file else {
            continue;
        };
        attempts.add(format!("write{how}"), file.write_all_at(&sector, 0));
        for (name, flags) in [
            ("zero a range", FallocateFlags::ZERO_RANGE),
            (
                "punch a hole",
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            ),
        ] {
            let result = fallocate(&file, flags, 0, 4096);
            attempts.add(format!("{name}{how}"), result);
        }
        for request in ioctl::FORBIDDEN {
            let result = ioctl::attempt(&file, request);
            attempts.add(format!("{}{how}", request.name), result);
        }
    }
}

/// All that device-mapper can be asked.
fn on_the_control_node(attempts: &mut Attempts, node: &Path) -> Result<()> {
    let dm = match Dm::open() {
        Ok(dm) => dm,
        Err(ovbd::dm::Error::Control(error)) => {
            attempts.add::<(), _>("open device-mapper", Err(error));
            return Ok(());
        }
        Err(other) => return Err(other.into()),
    };
    attempts.add::<_, Errno>("open device-mapper", Ok(()));
    let dev = rustix::fs::stat(node)?.st_rdev;
    let id = Id::Dev(dev);
    let zero = target(0, 8, "zero", "");
    let udev = Udev::begin();
    let mut ask = |what: &str, result: Result<(), ovbd::dm::Error>| {
        let refused = result.map_err(|error| error.errno().unwrap_or(Errno::INVAL));
        attempts.add(format!("device-mapper: {what}"), refused);
    };
    ask("list", dm.devices().map(drop));
    ask("create", dm.create("unprivileged", "").map(drop));
    ask("load", dm.load(id, &[zero]));
    ask("suspend", dm.suspend(dev));
    ask("resume", dm.resume(id, &udev).map(drop));
    ask("remove", dm.remove(id, &udev));
    ask("remove later", dm.remove_deferred(id, &udev));
    ask("info", dm.info(id).map(drop));
    ask("dependencies", dm.deps(id).map(drop));
    ask("status", dm.status(id).map(drop));
    ask("table", dm.table(id).map(drop));
    ask("message", dm.message(id, 0, "reset_stats"));
    Ok(())
}

/// Everything in sysfs about the device and the module, and the kernel's files for debugging.
fn on_files(attempts: &mut Attempts, node: &Path) -> Result<()> {
    let name = node.file_name().context("node")?;
    let device = Path::new("/sys/block").join(name).canonicalize()?;
    let mut files = Vec::new();
    for folder in [&device, Path::new("/sys/module/dm_overlaybd")] {
        collect(folder, &mut files, 0)?;
    }
    ensure!(files.len() > 20, "only {files:?}");
    for file in files {
        let result = File::options().write(true).open(&file);
        attempts.add(format!("write {}", file.display()), result);
    }
    for folder in ["/sys/kernel/debug", "/sys/kernel/tracing"] {
        attempts.add(format!("look into {folder}"), fs::read_dir(folder));
    }
    for file in [
        "/sys/module/dm_overlaybd/sections/.text",
        "/proc/vmallocinfo",
        "/proc/slabinfo",
    ] {
        attempts.add(format!("look at {file}"), File::open(file));
    }
    Ok(())
}

/// The files below a folder; links are not followed, and lead elsewhere.
fn collect(folder: &Path, files: &mut Vec<PathBuf>, depth: u32) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() && depth < 4 {
            collect(&entry.path(), files, depth + 1)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Loading and unloading.
fn on_the_module(attempts: &mut Attempts) {
    let refused = |words: &[&str]| match output(words) {
        Ok(_) => Ok(()),
        Err(error) if format!("{error:#}").contains("not permitted") => Err(Errno::PERM),
        // Refused, but not because of who asked.
        Err(_) => Err(Errno::BUSY),
    };
    attempts.add("unload the module", refused(&["rmmod", "dm_overlaybd"]));
}
