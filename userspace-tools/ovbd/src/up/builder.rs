// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Making devices of device-mapper, or finding that they are there.

use std::fs::File;
use std::thread;

use rustix::io::Errno;

use super::{LayerReport, UpError};
use crate::dm::udev::Udev;
use crate::dm::{self, node, DevNo, Dm, Id, Info, Name, Target};
use crate::identity::{Identity, Role};
use crate::loopdev::LoopDevice;
use crate::plan::{Form, Layer};
use crate::step::{Step, Watch};
use crate::{table, Error, Result};

/// How often another process may change what we are looking at.
const ATTEMPTS: u32 = 100;

/// Makes an image's devices, and holds what it made until something stands on it.
pub(super) struct Builder<'a> {
    pub(super) dm: &'a Dm,
    pub(super) udev: &'a Udev,
    pub(super) watch: Watch<'a>,
    /// Inner devices, open, so that they cannot be removed.
    devices: Vec<File>,
    /// Loop devices, open, so that they are not freed.
    pub(super) loops: Vec<LoopDevice>,
}

/// A device that lsmt or zfile can stand on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lower {
    /// Its number.
    pub(super) dev: u64,
    /// It was there already.
    pub(super) shared: bool,
    /// Whether the file at the bottom is read past the page cache, where that is known.
    pub(super) direct_io: Option<bool>,
}

/// What came of one attempt: something, or another process was faster and it has to be tried again.
type Attempt<T> = Result<Option<T>>;

fn attempts<T>(name: &str, mut attempt: impl FnMut() -> Attempt<T>) -> Result<T> {
    for _ in 0..ATTEMPTS {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        thread::yield_now();
    }
    Err(UpError::Contended(name.to_owned()).into())
}

impl<'a> Builder<'a> {
    pub(super) fn new(dm: &'a Dm, udev: &'a Udev, watch: Watch<'a>) -> Self {
        Self {
            dm,
            udev,
            watch,
            devices: Vec::new(),
            loops: Vec::new(),
        }
    }

    /// Makes the device that lsmt reads for `layer`.
    pub(super) fn layer(&mut self, layer: &Layer) -> Result<LayerReport> {
        let lower = match layer.form {
            Form::Lsmt => self.storage(layer)?,
            Form::Zfile {
                original,
                ignore_crc,
            } => {
                let mut direct_io = None;
                let made = self.inner(layer, layer.identity(), Role::Zfile, |builder| {
                    let lower = builder.storage(layer)?;
                    direct_io = lower.direct_io;
                    let device = DevNo(lower.dev).to_string();
                    Ok(vec![table::zfile(layer, &device, original, ignore_crc)])
                })?;
                Lower { direct_io, ..made }
            }
        };
        Ok(LayerReport {
            path: layer.path.clone(),
            number: DevNo(lower.dev).to_string(),
            compressed: layer.form != Form::Lsmt,
            shared: lower.shared,
            direct_io: lower.direct_io,
        })
    }

    /// Makes or finds the inner device with this identity. `make_table` makes what it stands on, and
    /// is called only if the device has to be made.
    pub(super) fn inner(
        &mut self,
        layer: &Layer,
        identity: Identity,
        role: Role,
        make_table: impl FnOnce(&mut Self) -> Result<Vec<Target>>,
    ) -> Result<Lower> {
        let (name, uuid) = (identity.name(role), identity.uuid(role));
        let mut make_table = Some(make_table);
        let mut lines = None;
        let (dev, shared) = attempts(&name, || {
            let Some(info) = self.find_or_create(&name, &uuid)? else {
                return Ok(None);
            };
            let Some(info) = self.hold(info)? else {
                return Ok(None);
            };
            if info.live {
                (self.watch)(Step::Shared(name.clone()));
                return Ok(Some((info.dev, true)));
            }
            if let Some(make_table) = make_table.take() {
                lines = Some(make_table(self)?);
            }
            let refused = |source| UpError::Layer {
                path: layer.path.clone(),
                source,
            };
            self.go_live(&info, lines.as_deref().unwrap_or_default())
                .map_err(refused)?;
            Ok(Some((info.dev, false)))
        })?;
        Ok(Lower {
            dev,
            shared,
            direct_io: None,
        })
    }

    fn find_or_create(&self, name: &str, uuid: &str) -> Attempt<Info> {
        if let Some(info) = self.dm.info(Id::Uuid(uuid))? {
            return Ok(Some(info));
        }
        match self.dm.create(name, uuid) {
            Ok(info) => {
                (self.watch)(Step::Created(name.to_owned()));
                Ok(Some(info))
            }
            Err(error) if error.errno() == Some(Errno::BUSY) => {
                // Another process has just made it, unless the name is somebody else's.
                match self.dm.info(Id::Name(name))? {
                    Some(other) if other.uuid != uuid => Err(name_taken(&other)),
                    _ => Ok(None),
                }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens an inner device, so that it stays, and has the kernel remove it with its last user.
    /// Returns what it is now; nothing if it is another one by now.
    fn hold(&mut self, info: Info) -> Attempt<Info> {
        let opened = node::open(&info.name, info.dev);
        let now = self
            .dm
            .info(Id::Dev(info.dev))?
            .filter(|now| now.uuid == info.uuid);
        let file = match (opened, &now) {
            (_, None) => return Ok(None),
            (Ok(file), Some(_)) => file,
            (Err(e), Some(_)) if Errno::from_io_error(&e) == Some(Errno::NXIO) => return Ok(None),
            (Err(e), Some(_)) => return Err(Error::io("open", node::mapper_path(&info.name), e)),
        };
        self.devices.push(file);
        if !info.deferred_remove {
            self.dm.remove_deferred(Id::Dev(info.dev), self.udev)?;
            (self.watch)(Step::Marked(info.name));
        }
        Ok(now)
    }

    fn go_live(&self, info: &Info, table: &[Target]) -> Result<Info, dm::Error> {
        self.dm.load(info.dev, table)?;
        (self.watch)(Step::Loaded(info.name.clone()));
        let info = self.dm.resume(info.dev, self.udev)?;
        (self.watch)(Step::Live(info.name.clone()));
        Ok(info)
    }

    /// The image's device, if it is there and live. An error if the name is taken.
    pub(super) fn live_image(&self, name: &Name, uuid: &str) -> Attempt<Info> {
        match self.dm.info(Id::Name(name.as_str()))? {
            Some(other) if other.uuid != uuid => Err(name_taken(&other)),
            found => Ok(found.filter(|info| info.live)),
        }
    }

    /// Makes the image's device; returns it, and whether another process has just done that.
    pub(super) fn image(&self, name: &Name, uuid: &str, table: Target) -> Result<(Info, bool)> {
        let table = [table];
        attempts(name.as_str(), || {
            if let Some(info) = self.live_image(name, uuid)? {
                return Ok(Some((info, true)));
            }
            let Some(info) = self.find_or_create(name.as_str(), uuid)? else {
                return Ok(None);
            };
            match self.go_live(&info, &table) {
                Ok(info) => Ok(Some((info, false))),
                // Removed under our hands.
                Err(error) if error.errno() == Some(Errno::NXIO) => Ok(None),
                Err(error) => {
                    // Without a table it is of no use to anybody. The error that counts is the one
                    // before.
                    let _ = self.dm.remove(Id::Uuid(uuid), self.udev);
                    Err(error.into())
                }
            }
        })
    }
}

fn name_taken(other: &Info) -> Error {
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
