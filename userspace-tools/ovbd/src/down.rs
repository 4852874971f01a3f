// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Removing an image: mounts, its device, and whatever nothing stands on any more.
//!
//! The kernel removes layers with their last user by itself ([`crate::up`]), from a work item, a
//! moment after that user went, and a loop device's file is closed yet a moment later: whoever then
//! unmounts the file system that the layers lie on finds it busy. So the marks are taken off for the
//! duration, and everything is removed from here, after which it is gone when the command returns.
//! What other images use is marked again. If the tool dies in between, layers without a user may
//! remain; like those that a dead `up` has not marked yet, they go with the next `down` of anything.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::Serialize;

use crate::dm::udev::{self, Udev};
use crate::dm::{node, Dm, Id, Info, Name, CANCEL_REMOVAL};
use crate::error::ExitCode;
use crate::identity::Role;
use crate::lock::HostLock;
use crate::output::paths;
use crate::step::{Step, Watch};
use crate::{busy, loopdev, mount, Result};

/// How long the image's device may be open in passing: to whoever looks at every new block device.
const PASSING: Duration = Duration::from_secs(2);
/// How long the kernel may take to let go of what stood below a device that was removed.
const LETTING_GO: Duration = Duration::from_secs(5);
/// How often to look.
const INTERVAL: Duration = Duration::from_millis(5);

/// Why an image cannot be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownError {
    /// The name is that of another device.
    #[error("{0}: is a device, but no image that ovbd set up; `dmsetup remove` removes it")]
    NotOurs(String),
    /// It is in use.
    #[error(
        "{name}: the device is in use ({users}); stop that, or give --deferred to have it removed \
         with its last user, or --force to have its reads fail from now on"
    )]
    Busy {
        /// The image's name.
        name: String,
        /// By whom.
        users: String,
    },
}

impl DownError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::Busy
    }
}

/// How to remove.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What is in use is detached now and removed by the kernel when its last user goes.
    pub deferred: bool,
    /// Besides, its reads fail from now on, and its layers are removed without it.
    pub force: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The image's name.
    pub name: String,
    /// There was such an image.
    pub existed: bool,
    /// Where it was unmounted.
    #[serde(serialize_with = "paths::many")]
    pub unmounted: Vec<PathBuf>,
    /// It is in use and will be removed with its last user.
    pub deferred: bool,
    /// Its users cannot read from it any more.
    pub forced: bool,
    /// What the user should know: a sentence each.
    pub notes: Vec<String>,
}

/// Unmounts and removes the image `name`, and the layers that nothing else uses. That there is no
/// such image is no error.
pub fn down(name: &Name, options: Options, watch: Watch<'_>) -> Result<Report> {
    let dm = Dm::open()?;
    let _lock = HostLock::exclusive();
    let mut cleaner = Cleaner::new(&dm, watch);
    let mut report = Report {
        name: name.to_string(),
        ..Report::default()
    };
    let result = cleaner.image(name, options, &mut report);
    let finished = finish(cleaner);
    // What went wrong first is what the user has to know.
    result?;
    report.notes = finished?;
    Ok(report)
}

/// Removes the image with this UUID, which an `up` has made that failed then, and the layers that
/// nothing else uses. If somebody has mounted it meanwhile, or has it open, it stays.
pub(crate) fn withdraw(dm: &Dm, uuid: &str, watch: Watch<'_>) -> Result<()> {
    let _lock = HostLock::exclusive();
    let mut cleaner = Cleaner::new(dm, watch);
    let withdrawn = cleaner.withdraw(uuid);
    let finished = finish(cleaner);
    withdrawn.and(finished).map(drop)
}

/// Names of all images that are set up, or are left of a process that was killed.
pub fn images(dm: &Dm) -> Result<Vec<String>> {
    let images = own_devices(dm)?
        .into_iter()
        .filter(|(role, _)| *role == Role::Image);
    Ok(images.map(|(_, info)| info.name).collect())
}

/// Removes the inner devices that nothing stands on, and what else dead processes left. Waits until
/// the kernel has freed `loops`, which are loop devices by number, unless something stands on them.
pub fn clean(dm: &Dm, loops: BTreeSet<u64>, watch: Watch<'_>) -> Result<Vec<String>> {
    let _lock = HostLock::exclusive();
    let mut cleaner = Cleaner::new(dm, watch);
    cleaner.loops = loops;
    finish(cleaner)
}

/// Removes what nothing stands on, and waits until kernel and udev have done their part. Returns
/// what did not work out.
fn finish(mut cleaner: Cleaner<'_>) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    let cleaned = cleaner.inner_devices();
    cleaner.mark_again()?;
    notes.extend(cleaned?);
    notes.extend(cleaner.wait_for_loops()?);
    let Cleaner {
        dm, removed, udev, ..
    } = cleaner;
    notes.extend(udev.settle().note("handle the removal"));
    for name in removed {
        // Without the lock, another process may have made it again.
        if dm.info(Id::Name(&name))?.is_none() {
            node::forget(&name);
        }
    }
    udev::sweep();
    Ok(notes)
}

/// The devices of this tool, and what they are.
pub(crate) fn own_devices(dm: &Dm) -> Result<Vec<(Role, Info)>> {
    let mut own = Vec::new();
    for (_, dev) in dm.devices()? {
        // One that is gone by now is not there.
        let info = dm.info(Id::Dev(dev))?;
        own.extend(info.and_then(|info| Some((Role::of_uuid(&info.uuid)?, info))));
    }
    Ok(own)
}

struct Cleaner<'a> {
    dm: &'a Dm,
    udev: Udev,
    watch: Watch<'a>,
    /// Names of what is gone.
    removed: BTreeSet<String>,
    /// Loop devices that were in use by it.
    loops: BTreeSet<u64>,
    /// UUIDs of inner devices that the kernel does not remove by itself for now.
    unmarked: BTreeSet<String>,
}

impl<'a> Cleaner<'a> {
    fn new(dm: &'a Dm, watch: Watch<'a>) -> Self {
        Self {
            dm,
            udev: Udev::begin(),
            watch,
            removed: BTreeSet::new(),
            loops: BTreeSet::new(),
            unmarked: BTreeSet::new(),
        }
    }

    fn image(&mut self, name: &Name, options: Options, report: &mut Report) -> Result<()> {
        let Some(info) = self.dm.info(Id::Name(name.as_str()))? else {
            // What the kernel removed by itself may have left a link.
            self.removed.insert(name.to_string());
            return Ok(());
        };
        if Role::of_uuid(&info.uuid) != Some(Role::Image) {
            return Err(DownError::NotOurs(name.to_string()).into());
        }
        report.existed = true;
        let later = options.deferred || options.force;
        report.unmounted = mount::unmount_all(info.dev, later)?;
        for target in &report.unmounted {
            (self.watch)(Step::Unmounted(target.clone()));
        }
        self.unmark_below(info.dev)?;
        if later {
            if self.remove(&info)? {
                return Ok(());
            }
            if options.force && info.live {
                self.dm.wipe(Id::Uuid(&info.uuid), &self.udev)?;
                report.forced = true;
            }
            self.dm.remove_deferred(Id::Uuid(&info.uuid), &self.udev)?;
            report.deferred = true;
        } else if !self.remove_in_time(&info)? {
            let users = match busy::users(info.dev) {
                users if users.is_empty() => format!("opened {} times", info.open_count),
                users => users.join("; "),
            };
            return Err(DownError::Busy {
                name: name.to_string(),
                users,
            }
            .into());
        }
        Ok(())
    }

    fn withdraw(&mut self, uuid: &str) -> Result<()> {
        let Some(info) = self.dm.info(Id::Uuid(uuid))? else {
            return Ok(());
        };
        self.unmark_below(info.dev)?;
        self.remove_in_time(&info).map(drop)
    }

    /// All that `dev` stands on: our inner devices in `inner`, and the loop devices at the bottom,
    /// those that the kernel frees by itself, in `self.loops`.
    fn survey_below(&mut self, dev: u64) -> Result<Vec<Info>> {
        let mut inner = Vec::new();
        let mut below = self.dm.deps(Id::Dev(dev))?;
        while let Some(dev) = below.pop() {
            if loopdev::is_loop(dev) {
                self.loops
                    .extend(Some(dev).filter(|&dev| loopdev::is_autoclear(dev)));
            } else if let Some(info) = self.dm.info(Id::Dev(dev))? {
                below.extend(self.dm.deps(Id::Dev(dev))?);
                inner.push(info);
            }
        }
        inner.retain(|info| Role::of_uuid(&info.uuid).is_some());
        Ok(inner)
    }

    /// Keeps the kernel from removing what `dev` stands on by itself.
    fn unmark_below(&mut self, dev: u64) -> Result<()> {
        for info in self.survey_below(dev)? {
            // It fails for a device that is being removed, which is as good.
            let _ = self.dm.message(Id::Uuid(&info.uuid), 0, CANCEL_REMOVAL);
            self.unmarked.insert(info.uuid);
        }
        Ok(())
    }

    /// Has the kernel remove what is still there with its last user.
    fn mark_again(&mut self) -> Result<()> {
        for uuid in std::mem::take(&mut self.unmarked) {
            match self.dm.remove_deferred(Id::Uuid(&uuid), &self.udev) {
                Err(error) if error.errno() == Some(Errno::NXIO) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Removes a device; false if it is open.
    fn remove(&mut self, info: &Info) -> Result<bool> {
        match self.dm.remove(Id::Uuid(&info.uuid), &self.udev) {
            Ok(()) => (self.watch)(Step::Removed(info.name.clone())),
            Err(error) if error.errno() == Some(Errno::BUSY) => return Ok(false),
            // The kernel, or somebody else, was faster.
            Err(error) if error.errno() == Some(Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
        self.removed.insert(info.name.clone());
        Ok(true)
    }

    /// Removes a device that may be open in passing; false if it stays open.
    fn remove_in_time(&mut self, info: &Info) -> Result<bool> {
        let deadline = Instant::now() + PASSING;
        while !self.remove(info)? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(INTERVAL);
        }
        Ok(true)
    }

    /// Removes every inner device that nothing stands on. One of those that is open was just let go
    /// by the kernel, or is about to be.
    fn inner_devices(&mut self) -> Result<Option<String>> {
        let deadline = Instant::now() + LETTING_GO;
        loop {
            let idle = idle_devices(self.dm)?;
            if idle.is_empty() {
                return Ok(None);
            }
            let mut progress = false;
            for info in &idle {
                self.survey_below(info.dev)?;
                progress |= self.remove(info)?;
            }
            if !progress && Instant::now() >= deadline {
                let names: Vec<&str> = idle.iter().map(|info| info.name.as_str()).collect();
                let names = names.join(", ");
                return Ok(Some(format!("{names}: still open to other programs")));
            }
            if !progress {
                thread::sleep(INTERVAL);
            }
        }
    }

    /// Waits until the kernel has freed the loop devices that nothing of ours stands on.
    fn wait_for_loops(&mut self) -> Result<Option<String>> {
        if self.loops.is_empty() {
            return Ok(None);
        }
        let deadline = Instant::now() + LETTING_GO;
        loop {
            let dm = self.dm;
            self.loops
                .retain(|&dev| loopdev::is_bound(dev) && !is_held(dm, dev));
            if self.loops.is_empty() {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                let numbers = self.loops.iter().map(|dev| rustix::fs::minor(*dev));
                let names: Vec<String> = numbers.map(|number| format!("loop{number}")).collect();
                return Ok(Some(format!(
                    "{}: still open to other programs",
                    names.join(", ")
                )));
            }
            thread::sleep(INTERVAL);
        }
    }
}

/// The inner devices that no device stands on, not even with a table that is not live yet.
fn idle_devices(dm: &Dm) -> Result<Vec<Info>> {
    let own = own_devices(dm)?;
    let mut used = BTreeSet::new();
    for (_, info) in &own {
        used.extend(dm.deps(Id::Dev(info.dev))?);
    }
    let idle = own.into_iter().filter(|(role, info)| {
        *role != Role::Image && !used.contains(&info.dev) && !is_held(dm, info.dev)
    });
    Ok(idle.map(|(_, info)| info).collect())
}

/// Whether a device stands on `dev`. One that device-mapper does not know any more is on its way out
/// and does not count.
fn is_held(dm: &Dm, dev: u64) -> bool {
    let is_there = |name: &String| matches!(dm.info(Id::Name(name)), Ok(Some(_)));
    busy::holders(dev).iter().any(is_there)
}
