// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The device of the image itself.

use rustix::io::Errno;

use super::builder::{attempts, still_there, Attempt, Builder};
use super::UpError;
use crate::busy;
use crate::dm::{Id, Info, Name, Target, CANCEL_REMOVAL};
use crate::identity::Role;
use crate::{Error, Result};

/// The target of an image.
const LSMT: &str = "lsmt";

/// An image's device that was there.
pub(super) struct Found {
    pub(super) info: Info,
    /// It would have been removed with its last user, and is not any more.
    pub(super) kept: bool,
}

/// An image's device.
pub(super) enum Image {
    Made(Info),
    Found(Found),
}

impl Builder<'_> {
    /// The image's device, if it is there and live, and stays. An error if the name is taken, or what
    /// has it only waits for its last user.
    pub(super) fn live_image(&self, name: &Name, uuid: &str) -> Attempt<Found> {
        let found = match self.dm.info(Id::Name(name.as_str()))? {
            Some(other) if other.uuid != uuid => return Err(name_taken(&other)),
            found => found.filter(|info| info.live),
        };
        let Some(info) = found else {
            return Ok(None);
        };
        let Some(table) = still_there(self.dm.table(Id::Uuid(uuid)))? else {
            return Ok(None);
        };
        if table.iter().any(|line| line.kind != LSMT) {
            return Err(wiped(&info));
        }
        if info.deferred_remove && !self.cancel_removal(uuid)? {
            return Ok(None);
        }
        Ok(Some(Found {
            kept: info.deferred_remove,
            info,
        }))
    }

    /// Keeps the kernel from removing a device with its last user; false if it does so right now.
    fn cancel_removal(&self, uuid: &str) -> Result<bool> {
        match self.dm.message(Id::Uuid(uuid), 0, CANCEL_REMOVAL) {
            Err(error) if matches!(error.errno(), Some(Errno::NXIO | Errno::BUSY)) => Ok(false),
            other => Ok(other.map(|()| true)?),
        }
    }

    /// Makes the image's device; or finds the one that another process has just made.
    pub(super) fn image(&self, name: &Name, uuid: &str, table: Target) -> Result<Image> {
        let table = [table];
        attempts(name.as_str(), || {
            if let Some(found) = self.live_image(name, uuid)? {
                return Ok(Some(Image::Found(found)));
            }
            let Some(info) = self.find_or_create(name.as_str(), uuid)? else {
                return Ok(None);
            };
            if info.name != name.as_str() {
                return Err(UpError::Renamed(name.to_string(), info.name).into());
            }
            match self.load(&info, &table).and_then(|()| self.go_live(&info)) {
                Ok(info) => Ok(Some(Image::Made(info))),
                Err(error) => {
                    let now = self.dm.info(Id::Uuid(uuid))?;
                    if now.is_some_and(|now| now.live) {
                        // Another process could.
                        return Ok(None);
                    }
                    // Without a table it is of no use to anybody. The error that counts is the one
                    // before.
                    let _ = self.dm.remove(Id::Uuid(uuid), self.udev);
                    still_there(Err(error)).map_err(Error::from)
                }
            }
        })
    }
}

/// What `down --force` leaves of an image that is in use: a device all of whose reads fail.
fn wiped(info: &Info) -> Error {
    let users = match busy::users(info.dev) {
        users if users.is_empty() => "unknown".to_owned(),
        users => users.join("; "),
    };
    UpError::Leaving {
        name: info.name.clone(),
        users,
    }
    .into()
}

pub(super) fn name_taken(other: &Info) -> Error {
    let owner = match Role::of_uuid(&other.uuid) {
        Some(Role::Image) => {
            "an image of other layers or settings: `ovbd down` it first, or use \
                              another name"
        }
        Some(_) => "a layer: use another name",
        None => "a device that is not ovbd's: use another name",
    };
    UpError::NameTaken {
        name: other.name.clone(),
        owner,
    }
    .into()
}
