// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Mounting an image that is set up, or finding that it is mounted.

use std::fs::File;

use rustix::fs::FlockOperation;

use super::{MountAt, MountReport, Report, UpError};
use crate::dm::{Dm, Id};
use crate::step::{Step, Watch};
use crate::{mount, Error, Result};

/// Mounts the image of `report`, whose device has this UUID, as `at` says.
///
/// Whoever mounts an image has its device locked: nobody else then mounts it between the look at what
/// is mounted and the mount, or takes a mount away that an overlay is about to be put on.
pub(super) fn mount_image(
    dm: &Dm,
    uuid: &str,
    report: &mut Report,
    at: &MountAt,
    watch: Watch<'_>,
) -> Result<()> {
    let device = &report.device;
    let open = |e| Error::io("open", device, e);
    let file = File::open(device).map_err(open)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
        .map_err(|e| Error::io("lock", device, e.into()))?;
    let dev = rustix::fs::fstat(&file)
        .map_err(|e| open(e.into()))?
        .st_rdev;
    // Since it was composed, the name may have become another image's. As long as the device is open
    // it stays, and so does its name.
    if dm.info(Id::Dev(dev))?.is_none_or(|now| now.uuid != uuid) {
        return Err(UpError::Contended(report.name.clone()).into());
    }
    let mounted = mount::mount(device, &file, dev, &at.target, &at.options)?;
    if !mounted.already {
        watch(Step::Mounted(at.target.clone()));
    }
    report.notes.extend(mounted.note);
    let (source, upper) = (device.display().to_string(), at.upper.as_ref());
    let overlay = mount::overlay::mount(dev, &mounted.target, upper, &source, mounted.flags);
    if overlay.is_err() && !mounted.already {
        // The error that counts is the overlay's.
        let _ = mount::unmount_from(dev, &mounted.target);
    }
    overlay?;
    report.mount = Some(MountReport {
        target: at.target.clone(),
        fs_type: mounted.fs_type,
        options: mounted.options,
        writable: at.upper.is_some(),
        already: mounted.already,
    });
    Ok(())
}
