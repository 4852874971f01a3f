// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Removing an image: mounts, its device, and whatever nothing stands on any more.
//!
//! The kernel removes layers with their last user by itself ([`crate::up`]). It does so a moment
//! later, and removes only what is marked; here they are removed at once, so that everything is gone
//! when the command returns, and what a killed process left without a mark goes as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::Serialize;

use crate::dm::udev::{self, Udev};
use crate::dm::{node, Dm, Id, Info, Name};
use crate::error::ExitCode;
use crate::identity::Role;
use crate::lock::HostLock;
use crate::step::{Step, Watch};
use crate::{busy, loopdev, mount, Result};

/// How long others may have the image's device open in passing: whoever looks at every new block
/// device.
const PASSING: Duration = Duration::from_secs(2);
/// How long the kernel may take to free loop devices.
const FREEING: Duration = Duration::from_secs(2);
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
         with its last user"
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
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The image's name.
    pub name: String,
    /// There was such an image.
    pub existed: bool,
    /// Where it was unmounted.
    pub unmounted: Vec<PathBuf>,
    /// It is in use and will be removed with its last user.
    pub deferred: bool,
    /// What the user should know: a sentence each.
    pub notes: Vec<String>,
}

/// Unmounts and removes the image `name`, and the layers that nothing else uses. That there is no
/// such image is no error.
pub fn down(name: &Name, options: Options, watch: Watch<'_>) -> Result<Report> {
    let dm = Dm::open()?;
    let _lock = HostLock::exclusive();
    let udev = Udev::begin();
    let mut cleaner = Cleaner::new(&dm, &udev, watch);
    let mut report = Report {
        name: name.to_string(),
        ..Report::default()
    };
    let result = cleaner.image(name, options, &mut report);
    cleaner.inner_devices()?;
    let (removed, loops) = (cleaner.removed, cleaner.loops);
    report.notes.extend(finish(&dm, udev, removed, loops)?);
    result.map(|()| report)
}

/// Names of all images that are set up, or are left of a process that was killed.
pub fn images(dm: &Dm) -> Result<Vec<String>> {
    let images = own_devices(dm)?
        .into_iter()
        .filter(|(role, _)| *role == Role::Image);
    Ok(images.map(|(_, info)| info.name).collect())
}

/// Removes the inner devices that nothing stands on, and what else dead processes left.
pub fn clean(dm: &Dm, watch: Watch<'_>) -> Result<()> {
    let _lock = HostLock::exclusive();
    let udev = Udev::begin();
    let mut cleaner = Cleaner::new(dm, &udev, watch);
    cleaner.inner_devices()?;
    let (removed, loops) = (cleaner.removed, cleaner.loops);
    finish(dm, udev, removed, loops)?;
    Ok(())
}

/// Waits until the kernel and udev have done their part.
fn finish(
    dm: &Dm,
    udev: Udev,
    removed: BTreeMap<String, u64>,
    loops: BTreeSet<u64>,
) -> Result<Vec<String>> {
    let mut notes = Vec::new();
    if !udev.settle() {
        notes.push("udev did not handle the removal within half a minute".to_owned());
    }
    for (name, dev) in removed {
        node::forget(&name, dev);
    }
    notes.extend(wait_for_loops(dm, loops)?);
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
    udev: &'a Udev,
    watch: Watch<'a>,
    /// Names and numbers of what was removed.
    removed: BTreeMap<String, u64>,
    /// Loop devices that were in use by it.
    loops: BTreeSet<u64>,
}

impl<'a> Cleaner<'a> {
    fn new(dm: &'a Dm, udev: &'a Udev, watch: Watch<'a>) -> Self {
        Self {
            dm,
            udev,
            watch,
            removed: BTreeMap::new(),
            loops: BTreeSet::new(),
        }
    }

    fn image(&mut self, name: &Name, options: Options, report: &mut Report) -> Result<()> {
        let Some(info) = self.dm.info(Id::Name(name.as_str()))? else {
            return Ok(());
        };
        if Role::of_uuid(&info.uuid) != Some(Role::Image) {
            return Err(DownError::NotOurs(name.to_string()).into());
        }
        report.existed = true;
        report.unmounted = mount::unmount_all(info.dev, options.deferred)?;
        for target in &report.unmounted {
            (self.watch)(Step::Unmounted(target.clone()));
        }
        let deadline = Instant::now() + PASSING;
        while !self.remove(&info)? {
            if options.deferred {
                self.dm.remove_deferred(Id::Uuid(&info.uuid), self.udev)?;
                report.deferred = true;
                break;
            }
            if Instant::now() >= deadline {
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
            thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Removes a device; false if it is open.
    fn remove(&mut self, info: &Info) -> Result<bool> {
        let id = Id::Uuid(&info.uuid);
        let loops = self
            .dm
            .deps(id)?
            .into_iter()
            .filter(|&dev| loopdev::is_loop(dev));
        let loops: Vec<u64> = loops.collect();
        match self.dm.remove(id, self.udev) {
            Ok(()) => {
                (self.watch)(Step::Removed(info.name.clone()));
                self.removed.insert(info.name.clone(), info.dev);
            }
            Err(error) if error.errno() == Some(Errno::BUSY) => return Ok(false),
            // The kernel, or somebody else, was faster.
            Err(error) if error.errno() == Some(Errno::NXIO) => {
                self.removed.insert(info.name.clone(), info.dev);
            }
            Err(error) => return Err(error.into()),
        }
        self.loops.extend(loops);
        Ok(true)
    }

    /// Removes every inner device that is not open, and then what that has closed.
    fn inner_devices(&mut self) -> Result<()> {
        loop {
            let mut progress = false;
            for (role, info) in own_devices(self.dm)? {
                if role != Role::Image && info.open_count == 0 {
                    progress |= self.remove(&info)?;
                }
            }
            if !progress {
                return Ok(());
            }
        }
    }
}

/// Waits until the kernel has freed the loop devices that nothing of ours stands on.
fn wait_for_loops(dm: &Dm, mut loops: BTreeSet<u64>) -> Result<Option<String>> {
    if loops.is_empty() {
        return Ok(None);
    }
    for (_, info) in own_devices(dm)? {
        for dev in dm.deps(Id::Dev(info.dev))? {
            loops.remove(&dev);
        }
    }
    let deadline = Instant::now() + FREEING;
    loop {
        loops.retain(|&dev| loopdev::is_bound(dev));
        if loops.is_empty() {
            return Ok(None);
        }
        if Instant::now() >= deadline {
            let count = loops.len();
            return Ok(Some(format!(
                "{count} loop devices are still in use by other programs"
            )));
        }
        thread::sleep(INTERVAL);
    }
}
