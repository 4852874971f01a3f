// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Mounts of images, and the folders that changes go to.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use anyhow::{anyhow, ensure, Context as _, Result};
use ovbd::config::ImageConfig;
use ovbd::dm::{Dm, Id, Name};
use ovbd::plan::{Plan, Settings};
use ovbd::step::Step;
use ovbd::up::{self, MountAt};
use serde_json::Value;

use super::basics::run;
use super::{nothing_is_left, quiescence, take_down, Image, OVBD};
use crate::cases::image;
use crate::ctx::{self, Ctx};
use crate::harness::Case;
use crate::rig::sample;

const EXIT_BUSY: i32 = 4;
/// How many want to mount an image at once, and how often.
const PROCESSES: usize = 6;
const ROUNDS: usize = 5;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.mounts.one_overlay_a_folder", one_overlay_a_folder),
        Case::new("tool.mounts.folder_of_another", folder_of_another),
        Case::new("tool.mounts.erofs", erofs),
        Case::new("tool.mounts.checked_first", checked_first),
        Case::new("tool.mounts.those_of_others", those_of_others),
        Case::new("tool.mounts.exchanged", exchanged),
        Case::new("tool.mounts.at_once", at_once),
        Case::new("tool.mounts.otherwise", otherwise),
        Case::new("tool.mounts.root", root),
    ]
}

/// Images, and places to mount them.
struct Places {
    dir: PathBuf,
    layers: Vec<PathBuf>,
}

impl Places {
    fn new(ctx: &mut Ctx) -> Result<Self> {
        let dir = ctx.tmp()?;
        let layers = Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?.layers;
        Ok(Self { dir, layers })
    }

    /// One layer of this disk.
    fn of_disk(dir: PathBuf, disk: &Path) -> Result<Self> {
        let layer = dir.join("layer.tar");
        let [raw, out] = [disk, &layer].map(|path| path.display().to_string());
        ctx::output(&[OVBD, "build", "--tar", "--raw", &raw, "--output", &out])?;
        let layers = vec![layer];
        Ok(Self { dir, layers })
    }

    fn plan(&self) -> Result<Plan> {
        let config = ImageConfig::of_files(self.layers.iter().cloned());
        Ok(Plan::new(&config, Settings::default())?)
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder)?;
        Ok(folder)
    }

    fn writable(&self, name: &str) -> String {
        format!("--writable={}", self.dir.join(name).display())
    }

    /// Sets the image up, and mounts it on a folder of this name.
    fn up(&self, name: &str, mnt: &str, options: &[&str]) -> Result<Output> {
        let mnt = self.folder(mnt)?;
        let mut words = vec!["up", name, "--mount", mnt.to_str().context("path")?];
        words.extend(options);
        words.extend(self.layers.iter().filter_map(|layer| layer.to_str()));
        run(&words)
    }
}

fn at(target: &Path) -> MountAt {
    MountAt {
        target: target.to_owned(),
        ..MountAt::default()
    }
}

fn done(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}

/// It says that something is in use, and in these words.
fn busy(output: &Output, words: &str) -> Result<()> {
    ensure!(output.status.code() == Some(EXIT_BUSY), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(said.contains(words), "{said}");
    Ok(())
}

fn is_there(name: &str) -> Result<bool> {
    Ok(Dm::open()?.info(Id::Name(name))?.is_some())
}

/// Changes of two overlays do not go to one folder, even if one of them is mounted nowhere any more.
fn one_overlay_a_folder(ctx: &mut Ctx) -> Result<()> {
    let places = Places::new(ctx)?;
    let writable = places.writable("changes");
    let (mnt, in_use) = (places.folder("mnt")?, "changes: is in use by another");
    done(&places.up("web", "mnt", &[&writable])?)?;
    let user = File::create(mnt.join("a change"))?;
    busy(&places.up("other", "other", &[&writable])?, in_use)?;
    ensure!(!is_there("other")?, "it is there");

    done(&run(&["down", "--deferred", "web"])?)?;
    busy(&places.up("other", "mnt", &[&writable])?, in_use)?;
    drop(user);
    quiescence()?;
    done(&places.up("web", "mnt", &[&writable])?)?;
    ensure!(mnt.join("a change").exists(), "changes are lost");
    // Elsewhere there is place.
    done(&places.up("other", "other", &[&places.writable("others")])?)?;
    take_down("other")?;
    take_down("web")?;
    nothing_is_left()
}

/// Changes to one image are not taken for changes to another one.
fn folder_of_another(ctx: &mut Ctx) -> Result<()> {
    let places = Places::new(ctx)?;
    let writable = places.writable("changes");
    done(&places.up("web", "mnt", &[&writable])?)?;
    take_down("web")?;

    let disk = places.dir.join("disk");
    sample::ext4(&places.folder("tree")?, &disk, 8 << 20)?;
    let other = Places::of_disk(places.dir.clone(), &disk)?;
    let refused = other.up("web", "mnt", &[&writable])?;
    busy(&refused, "changes: holds changes to another image")?;
    nothing_is_left()
}

/// The same holds for a file system that has no UUID.
fn erofs(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let disk = dir.join("disk");
    fs::write(&disk, empty_erofs(0o755, 0))?;
    let places = Places::of_disk(dir, &disk)?;
    let writable = places.writable("changes");
    let mnt = places.folder("mnt")?;
    for _ in 0..2 {
        done(&places.up("web", "mnt", &[&writable])?)?;
        fs::write(mnt.join("new"), "")?;
        let refused = places.up("other", "other", &[&writable])?;
        busy(&refused, "changes: is in use by another")?;
        take_down("web")?;
    }
    nothing_is_left()
}

/// That there is nothing to mount on is noticed before anything is looked for.
fn checked_first(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let store = format!("--store={}", dir.join("store").display());
    let refused = |options: &[&str], words: &str| -> Result<()> {
        let words_of_it = ["up", "web", "registry.example/app:1", "--no-pull", &store];
        let refused = run(&[&words_of_it, options].concat())?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(said.contains(words), "{said}");
        Ok(())
    };
    refused(&["--mount", "/typo"], "/typo: is no folder to mount on")?;
    refused(&["--mount", "/", "-o", "rw"], "images are read-only")?;
    nothing_is_left()
}

/// Who cannot mount an image takes nothing away from who could.
fn those_of_others(ctx: &mut Ctx) -> Result<()> {
    let places = Places::new(ctx)?;
    let target = places.folder("mnt")?;
    let mount_at = at(&target);
    let plan = places.plan()?;
    let faster = |step| {
        if step == Step::Live("web".to_owned()) {
            let other = places.up("web", "other", &[]);
            assert!(other.is_ok_and(|other| other.status.success()));
            assert!(fs::remove_dir(&target).is_ok());
        }
    };
    let failed = up::up(&plan, &Name::new("web")?, Some(&mount_at), &faster);
    let error = failed.err().context("it was mounted")?.to_string();
    ensure!(error.contains("is no folder"), "{error}");
    image::compare_files(&ctx.golden()?, &places.folder("other")?)?;
    take_down("web")?;
    nothing_is_left()
}

/// What has the name by the time of the mount is not mounted if it is another image.
fn exchanged(ctx: &mut Ctx) -> Result<()> {
    // Without inner devices, so that the other image gets the same number.
    let dir = ctx.tmp()?;
    let layers = Image::golden(ctx, "ext4/layer*.lsmt", &dir)?.layers;
    let places = Places { dir, layers };
    let target = places.folder("mnt")?;
    // With a lock of its own: this process holds the usual one.
    let script = format!("{OVBD} -q down web && exec {OVBD} -q up web \"$1\"");
    let exchange = |step| {
        if step == Step::Live("web".to_owned()) {
            let mut other = Command::new("sh");
            other.args(["-c", &script, "sh"]).args(&places.layers);
            let done = other.env("OVBD_RUN", places.dir.join("run")).status();
            assert!(done.is_ok_and(|done| done.success()));
        }
    };
    let failed = up::up(
        &places.plan()?,
        &Name::new("web")?,
        Some(&at(&target)),
        &exchange,
    );
    let error = failed.err().context("it was mounted")?.to_string();
    ensure!(error.contains("kept changing the device"), "{error}");
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    ensure!(!mounts.contains("/dev/mapper/web "), "{mounts}");
    ensure!(is_there("web")?, "it is gone");
    take_down("web")?;
    nothing_is_left()
}

/// Several that want the same find that one has done it.
fn at_once(ctx: &mut Ctx) -> Result<()> {
    let places = Places::new(ctx)?;
    let mounted = || -> Result<usize> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let there = mounts
            .lines()
            .filter(|line| line.starts_with("/dev/mapper/"));
        Ok(there.count())
    };
    for _ in 0..ROUNDS {
        let all = thread::scope(|scope| {
            let up = || places.up("web", "mnt", &["--writable"]);
            let all: Vec<_> = (0..PROCESSES).map(|_| scope.spawn(up)).collect();
            all.into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect::<Vec<_>>()
        });
        for output in all {
            done(&output.map_err(|_| anyhow!("a thread panicked"))??)?;
        }
        // The image, and the overlay on top.
        ensure!(mounted()? == 2, "{} mounts", mounted()?);
        take_down("web")?;
    }
    nothing_is_left()
}

/// What is mounted is reported as it is, and an error if that is not what was asked for.
fn otherwise(ctx: &mut Ctx) -> Result<()> {
    let places = Places::new(ctx)?;
    let plain = "is mounted there as ext4 (ro,relatime)";
    done(&places.up("web", "mnt", &[])?)?;
    busy(&places.up("web", "mnt", &["-o", "nosuid"])?, plain)?;
    take_down("web")?;

    let writable = places.writable("changes");
    let options = ["-o", "nosuid,nodev", &writable];
    done(&places.up("web", "mnt", &options)?)?;
    let again = places.up("web", "mnt", &[&options[..], &["--json"]].concat())?;
    done(&again)?;
    let report: Value = serde_json::from_slice(&again.stdout)?;
    let mount = &report["mount"];
    ensure!(
        mount["already"] == true && mount["writable"] == true,
        "{report}"
    );
    ensure!(mount["options"] == "ro,nosuid,nodev,relatime", "{report}");

    busy(
        &places.up("web", "mnt", &[&writable])?,
        "(ro,nosuid,nodev,relatime)",
    )?;
    let found = "is mounted there with changes to";
    busy(&places.up("web", "mnt", &options[..2])?, found)?;
    for other in [&places.writable("others"), "--writable"] {
        let refused = places.up("web", "mnt", &["-o", "nosuid,nodev", other])?;
        busy(&refused, found)?;
    }
    take_down("web")?;
    nothing_is_left()
}

/// The root belongs to whom it belongs to in the image, and is as closed as there; and stays what it
/// was made later.
fn root(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let disk = dir.join("disk");
    fs::write(&disk, empty_erofs(0o2750, 1234))?;
    let places = Places::of_disk(dir, &disk)?;
    let mnt = places.folder("mnt")?;
    let is = || -> Result<_> {
        let meta = fs::metadata(&mnt)?;
        Ok((meta.mode() & 0o7777, meta.uid(), meta.gid()))
    };
    for writable in ["--writable", &places.writable("changes")] {
        done(&places.up("web", "mnt", &[writable])?)?;
        ensure!(is()? == (0o2750, 1234, 1234), "{writable}: {:?}", is()?);
        fs::set_permissions(&mnt, Permissions::from_mode(0o711))?;
        take_down("web")?;
    }
    done(&places.up("web", "mnt", &[&places.writable("changes")])?)?;
    ensure!(is()? == (0o711, 1234, 1234), "{:?}", is()?);
    take_down("web")?;
    nothing_is_left()
}

/// An EROFS with a root and nothing in it.
fn empty_erofs(mode: u16, owner: u16) -> Vec<u8> {
    const ROOT: u16 = 64;
    const DIRECTORY: u8 = 2;
    let mut image = vec![0; 4096];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let superblock = 1024;
    put(superblock, &0xe0f5_e1e2u32.to_le_bytes());
    put(superblock + 12, &[12]); // bits of the block size
    put(superblock + 14, &ROOT.to_le_bytes());
    put(superblock + 16, &1u64.to_le_bytes()); // inodes
    put(superblock + 36, &1u32.to_le_bytes()); // blocks
    let inode = usize::from(ROOT) * 32;
    put(inode, &4u16.to_le_bytes()); // its data follow it
    put(inode + 4, &(0o40000 | mode).to_le_bytes());
    put(inode + 6, &2u16.to_le_bytes()); // links
    put(inode + 8, &27u32.to_le_bytes()); // size
    put(inode + 24, &owner.to_le_bytes());
    put(inode + 26, &owner.to_le_bytes()); // group
    for (entry, name_at) in [(inode + 32, 24), (inode + 44, 25)] {
        put(entry, &u64::from(ROOT).to_le_bytes());
        put(entry + 8, &[name_at, 0, DIRECTORY]);
    }
    put(inode + 56, b"...");
    image
}
