// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Making devices of device-mapper, or finding that they are there.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::thread;

use rustix::io::Errno;

use super::image::name_taken;
use super::{LayerReport, UpError};
use crate::dm::udev::Udev;
use crate::dm::{self, node, DevNo, Dm, Id, Info, Target};
use crate::identity::{Identity, Role};
use crate::loopdev::{node_path, LoopDevice, Loops};
use crate::plan::{Form, Layer, Seal};
use crate::step::{Step, Watch};
use crate::{busy, sys, table, verity, Error, Result};

/// How often another process may change what we are looking at.
const ATTEMPTS: u32 = 100;

/// Makes an image's devices, and holds what it made until something stands on it.
pub(super) struct Builder<'a> {
    pub(super) dm: &'a Dm,
    pub(super) udev: &'a Udev,
    pub(super) watch: Watch<'a>,
    loops: OnceCell<Loops>,
    /// Inner devices, open, so that they cannot be removed.
    devices: Vec<File>,
    /// Loop devices, open, so that they are not freed.
    loop_devices: Vec<LoopDevice>,
    /// Numbers of the loop devices that were in use.
    pub(super) loop_numbers: BTreeSet<u64>,
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
pub(super) type Attempt<T> = Result<Option<T>>;

pub(super) fn attempts<T>(name: &str, mut attempt: impl FnMut() -> Attempt<T>) -> Result<T> {
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
            loops: OnceCell::new(),
            loop_devices: Vec::new(),
            loop_numbers: BTreeSet::new(),
        }
    }

    /// The loop driver.
    pub(super) fn loops(&self) -> Result<&Loops> {
        match self.loops.get() {
            Some(loops) => Ok(loops),
            None => {
                let loops = Loops::open()?;
                Ok(self.loops.get_or_init(|| loops))
            }
        }
    }

    /// Holds a loop device; returns its number.
    pub(super) fn keep(&mut self, device: LoopDevice) -> Result<u64> {
        let path = node_path(device.number());
        let dev = device.dev().map_err(|e| Error::io("examine", path, e))?;
        self.loop_devices.push(device);
        self.loop_numbers.insert(dev);
        Ok(dev)
    }

    /// Makes the device that lsmt reads for `layer`.
    pub(super) fn layer(&mut self, layer: &Layer) -> Result<LayerReport> {
        if let Some(seal) = &layer.seal {
            self.refuse_corrupted(layer, seal)?;
        }
        let lower = match layer.form {
            Form::Lsmt => self.readable(layer)?,
            Form::Zfile {
                original,
                ignore_crc,
            } => {
                let mut direct_io = None;
                let made = self.inner(layer, layer.identity(), Role::Zfile, |builder| {
                    let lower = builder.readable(layer)?;
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
            root_hash: layer.seal.as_ref().map(|seal| seal.tree.root()),
            shared: lower.shared,
            direct_io: lower.direct_io,
        })
    }

    /// An error if there is a device for this seal that has found something else than was sealed: it
    /// and what stands on it are not shared on.
    fn refuse_corrupted(&self, layer: &Layer, seal: &Seal) -> Result<()> {
        let uuid = seal.identity().uuid(Role::Verity);
        let Some(info) = self.dm.info(Id::Uuid(&uuid))? else {
            return Ok(());
        };
        let status = still_there(self.dm.status(Id::Uuid(&uuid)))?.unwrap_or_default();
        if !status.iter().any(|line| verity::is_corrupted(&line.params)) {
            return Ok(());
        }
        let images = images_on(self.dm, info.dev)?;
        Err(UpError::Corrupted {
            path: layer.path.clone(),
            device: info.name,
            images: images.into_iter().collect::<Vec<_>>().join(", "),
        }
        .into())
    }

    /// A block device on which what `layer` says can be read: if it is sealed, only what is vouched for.
    fn readable(&mut self, layer: &Layer) -> Result<Lower> {
        let Some(seal) = &layer.seal else {
            return self.storage(layer);
        };
        let mut direct_io = None;
        let made = self.inner(layer, seal.identity(), Role::Verity, |builder| {
            let data = builder.storage(layer)?;
            direct_io = data.direct_io;
            let tree = DevNo(builder.tree(seal)?).to_string();
            if let (Some(key), Some(signature)) = (seal.key(), &seal.signature) {
                sys::add_key(&key, &signature.bytes)
                    .map_err(|e| Error::io("hand to the kernel", &signature.path, e))?;
            }
            Ok(vec![table::verity(
                seal,
                &DevNo(data.dev).to_string(),
                &tree,
            )])
        })?;
        Ok(Lower { direct_io, ..made })
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
        let (devices, loop_devices) = (self.devices.len(), self.loop_devices.len());
        let mut make_table = Some(make_table);
        let mut lines = None;
        let (dev, shared) = attempts(&name, || {
            let Some(info) = self.find_or_create(&name, &uuid)? else {
                return Ok(None);
            };
            if info.live {
                let held = self.hold(&info)?;
                return Ok(held.then(|| {
                    (self.watch)(Step::Shared(name.clone()));
                    (info.dev, true)
                }));
            }
            if let Some(make_table) = make_table.take() {
                lines = Some(make_table(self)?);
            }
            let refused = |error| refused(layer, error);
            let Some(()) = still_there(self.load(&info, lines.as_deref().unwrap_or_default()))
                .map_err(refused)?
            else {
                return Ok(None);
            };
            // There is nothing to open before the first table is loaded.
            if !self.hold(&info)? {
                return Ok(None);
            }
            self.go_live(&info).map_err(refused)?;
            Ok(Some((info.dev, false)))
        })?;
        // The device holds what it stands on; 255 layers are too many files to have them all open.
        let own = self.devices.pop();
        self.devices.truncate(devices);
        self.devices.extend(own);
        self.loop_devices.truncate(loop_devices);
        Ok(Lower {
            dev,
            shared,
            direct_io: None,
        })
    }

    pub(super) fn find_or_create(&self, name: &str, uuid: &str) -> Attempt<Info> {
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
    /// False if it is gone, or another one by now.
    fn hold(&mut self, info: &Info) -> Result<bool> {
        let opened = node::open(info.dev);
        let now = self.dm.info(Id::Dev(info.dev))?;
        let file = match opened {
            _ if now.is_none_or(|now| now.uuid != info.uuid) => return Ok(false),
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NXIO) => return Ok(false),
            Err(e) => return Err(Error::io("open", node::mapper_path(&info.name), e)),
            Ok(file) => file,
        };
        self.devices.push(file);
        if !info.deferred_remove {
            self.dm.remove_deferred(Id::Dev(info.dev), self.udev)?;
            (self.watch)(Step::Marked(info.name.clone()));
        }
        Ok(true)
    }

    // By UUID: the number may be another device's by now.

    pub(super) fn load(&self, info: &Info, table: &[Target]) -> Result<(), dm::Error> {
        self.dm.load(Id::Uuid(&info.uuid), table)?;
        (self.watch)(Step::Loaded(info.name.clone()));
        Ok(())
    }

    /// Makes the loaded table live.
    ///
    /// A resume suspends, exchanges tables and resumes, and is not atomic: of two processes that do
    /// it to a new device at once, one may fail or find nothing to do while the other is at it.
    pub(super) fn go_live(&self, info: &Info) -> Result<Info, dm::Error> {
        let id = Id::Uuid(&info.uuid);
        let mut attempts = 0..ATTEMPTS;
        loop {
            let result = self.dm.make_live(id, self.udev);
            let now = self.dm.info(id)?.filter(|now| now.live);
            if let Some(now) = now {
                (self.watch)(Step::Live(now.name.clone()));
                return Ok(now);
            }
            let error = match result {
                Err(error) => error,
                Ok(_) => dm::Error::request(id, "make live", Errno::AGAIN),
            };
            if attempts.next().is_none() || error.errno() == Some(Errno::NXIO) {
                return Err(error);
            }
            thread::yield_now();
        }
    }
}

/// Nothing if the device was removed under our hands.
pub(super) fn still_there<T>(result: Result<T, dm::Error>) -> Result<Option<T>, dm::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.errno() == Some(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of the images that stand on `dev`.
fn images_on(dm: &Dm, dev: u64) -> Result<BTreeSet<String>> {
    let mut images = BTreeSet::new();
    let mut above = busy::holders(dev);
    while let Some(name) = above.pop() {
        let Some(info) = dm.info(Id::Name(&name))? else {
            continue;
        };
        if Role::of_uuid(&info.uuid) == Some(Role::Image) {
            images.insert(name);
        } else {
            above.extend(busy::holders(info.dev));
        }
    }
    Ok(images)
}

fn refused(layer: &Layer, source: dm::Error) -> Error {
    UpError::Layer {
        path: layer.path.clone(),
        source,
    }
    .into()
}
