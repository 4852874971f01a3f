// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Device-mapper: devices made of tables, through the ioctls of `/dev/mapper/control`.
//!
//! Only what this tool needs, because the crates that offer the interface build with libclang or
//! link libdevmapper, and neither suits a static tool for an initramfs. The bytes are in `wire`, the
//! conversation with udev in [`udev`], nodes in `/dev/mapper` in [`node`].

mod error;
pub mod kmsg;
mod names;
pub mod node;
pub mod udev;
mod wire;

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::module;
use crate::sys::{DmControl, DM_CONTROL_MINOR, MISC_MAJOR};
use kmsg::KernelLog;
use udev::Udev;
use wire::{flags, Buffer, Command};

pub use error::Error;
pub use names::{DevNo, Id, Info, Name};
pub use wire::Target;

const CONTROL: &str = "/dev/mapper/control";
/// A message that device-mapper itself takes, whatever the target.
pub(crate) const CANCEL_REMOVAL: &str = "@cancel_deferred_remove";
/// Of the project.
const MODULE: &str = "dm-overlaybd";

/// Room for an answer at first; it doubles until the answer fits.
const ROOM: usize = 16 << 10;
/// More room than any answer needs: 255 layers take 20 KiB.
const ROOM_MAX: usize = 64 << 20;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Device-mapper.
#[derive(Debug)]
pub struct Dm {
    control: DmControl,
}

impl Dm {
    /// Opens the control node, making it first where devtmpfs has not: opening it loads the module.
    pub fn open() -> Result<Self> {
        let path = Path::new(CONTROL);
        let open = || DmControl::open(path);
        let control = open().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound if make_control(path) => open(),
            _ => Err(error),
        });
        Ok(Self {
            control: control.map_err(Error::Control)?,
        })
    }

    fn run(
        &self,
        id: &dyn fmt::Display,
        action: &'static str,
        command: Command,
        mut buffer: Buffer,
    ) -> Result<Buffer> {
        match self.control.ioctl(command as u8, buffer.bytes()) {
            Ok(()) => Ok(buffer),
            Err(source) => Err(Error::Request {
                device: id.to_string(),
                action,
                source,
                log: Vec::new(),
            }),
        }
    }

    /// Runs a request whose answer may be long.
    fn ask(
        &self,
        id: &dyn fmt::Display,
        action: &'static str,
        command: Command,
        request: &Buffer,
    ) -> Result<Buffer> {
        let mut room = ROOM;
        loop {
            let answer = self.run(id, action, command, request.clone().room(room))?;
            if answer.answer_flags() & flags::BUFFER_FULL == 0 || room >= ROOM_MAX {
                return Ok(answer);
            }
            room *= 2;
        }
    }

    /// Names and numbers of all devices.
    pub fn devices(&self) -> Result<Vec<(String, u64)>> {
        let action = "list the devices";
        let answer = self.ask(
            &"device-mapper",
            action,
            Command::ListDevices,
            &Buffer::new(),
        )?;
        Ok(answer.device_list())
    }

    /// Makes sure that the kernel knows one of the project's targets; this loads their module.
    pub fn require_target(&self, target: &str) -> Result<[u32; 3]> {
        let find = || {
            let request = Buffer::new().name(target).room(ROOM);
            self.run(&target, "find the target", Command::TargetVersion, request)
                .ok()
                .and_then(|answer| answer.target_version())
                .ok_or_else(|| Error::NoTarget {
                    target: target.to_owned(),
                })
        };
        module::needing(MODULE, |_| true, find)
    }

    /// Makes a device without a table. EBUSY: the name or the UUID exists.
    pub fn create(&self, name: &str, uuid: &str) -> Result<Info> {
        let request = Buffer::new().name(name).uuid(uuid);
        let answer = self.run(&name, "create the device", Command::Create, request)?;
        Ok(info(&answer))
    }

    /// Loads a read-only table, which a resume makes live. The device's node appears with its first
    /// table.
    pub fn load<'a>(&self, id: impl Into<Id<'a>>, table: &[Target]) -> Result<()> {
        let id = id.into();
        let request = id.request().flags(flags::READ_ONLY);
        let request = table.iter().fold(request, |request, line| {
            request.target(line.start, line.length, &line.kind, &line.params)
        });
        let log = KernelLog::from_now();
        match self.run(&id, error::LOAD, Command::Load, request) {
            Ok(_) => Ok(()),
            Err(Error::Request {
                device,
                action,
                source,
                ..
            }) => {
                // The log knows devices by number.
                let info = self.info(id).ok().flatten();
                let log = info.map(|info| log.about(DevNo(info.dev)));
                Err(Error::Request {
                    device,
                    action,
                    source,
                    log: log.unwrap_or_default(),
                })
            }
            Err(other) => Err(other),
        }
    }

    /// Makes a loaded table live, and ends a suspension.
    pub fn resume<'a>(&self, id: impl Into<Id<'a>>, udev: &Udev) -> Result<Info> {
        self.resume_with(id.into(), 0, udev)
    }

    /// Makes the table of a new device live. Another process may just have done so with the same one,
    /// and be mounting it: there is nothing to freeze for that, and what is frozen cannot be mounted.
    pub fn make_live<'a>(&self, id: impl Into<Id<'a>>, udev: &Udev) -> Result<Info> {
        self.resume_with(id.into(), flags::SKIP_LOCKFS, udev)
    }

    fn resume_with(&self, id: Id<'_>, flags: u32, udev: &Udev) -> Result<Info> {
        let answer = udev.tell(|event_nr| {
            let request = id.request().event_nr(event_nr).flags(flags);
            let answer = self.run(&id, "resume", Command::Suspend, request)?;
            let generated = answer.answer_flags() & flags::UEVENT_GENERATED != 0;
            Ok((answer, generated))
        })?;
        Ok(info(&answer))
    }

    /// Suspends a device: reads wait until it is resumed.
    pub fn suspend(&self, dev: u64) -> Result<()> {
        let request = Buffer::new().dev(dev).flags(flags::SUSPEND);
        self.run(&DevNo(dev), "suspend", Command::Suspend, request)
            .map(drop)
    }

    /// Has all reads of a device fail from now on; what it stood on is let go.
    pub fn wipe(&self, id: Id<'_>, udev: &Udev) -> Result<()> {
        let table = self.table(id)?;
        let length = table.last().map_or(0, |line| line.start + line.length);
        let errors = Target {
            start: 0,
            length,
            kind: "error".to_owned(),
            params: String::new(),
        };
        self.load(id, &[errors])?;
        // What does not come back must not be waited for.
        self.resume_with(id, flags::SKIP_LOCKFS | flags::NO_FLUSH, udev)
            .map(drop)
    }

    /// Removes a device. EBUSY: it is open. ENXIO: it does not exist.
    pub fn remove(&self, id: Id<'_>, udev: &Udev) -> Result<()> {
        udev.tell(|event_nr| {
            let request = id.request().event_nr(event_nr);
            let answer = self.run(&id, "remove", Command::Remove, request)?;
            Ok(((), answer.answer_flags() & flags::UEVENT_GENERATED != 0))
        })
    }

    /// Removes a device now or, if it is open, when it is closed for the last time.
    pub fn remove_deferred(&self, id: Id<'_>, udev: &Udev) -> Result<()> {
        udev.tell(|event_nr| {
            let request = id
                .request()
                .event_nr(event_nr)
                .flags(flags::DEFERRED_REMOVE);
            let answer = self.run(&id, "remove later", Command::Remove, request)?;
            Ok(((), answer.answer_flags() & flags::UEVENT_GENERATED != 0))
        })
    }

    /// What there is to know about a device; `None` if it does not exist.
    pub fn info(&self, id: Id<'_>) -> Result<Option<Info>> {
        let result = self.run(&id, "examine", Command::Info, id.request());
        existing(result.map(|answer| info(&answer)))
    }

    /// The devices that a device stands on, with its live table and with one that is loaded and not
    /// live yet; none if it does not exist.
    pub fn deps(&self, id: Id<'_>) -> Result<Vec<u64>> {
        let mut deps = Vec::new();
        for which in [0, flags::QUERY_INACTIVE] {
            let request = id.request().flags(which);
            let result = self.ask(&id, "list what it stands on", Command::Deps, &request);
            deps.extend(existing(result)?.iter().flat_map(Buffer::dep_list));
        }
        deps.sort_unstable();
        deps.dedup();
        Ok(deps)
    }

    /// The status lines of a device's live table.
    pub fn status(&self, id: Id<'_>) -> Result<Vec<Target>> {
        let request = id.request().flags(flags::NO_FLUSH);
        let answer = self.ask(&id, "ask for the status", Command::Status, &request)?;
        Ok(answer.target_lines())
    }

    /// The live table of a device.
    pub fn table(&self, id: Id<'_>) -> Result<Vec<Target>> {
        let request = id.request().flags(flags::STATUS_TABLE | flags::NO_FLUSH);
        let answer = self.ask(&id, "ask for the table", Command::Status, &request)?;
        Ok(answer.target_lines())
    }

    /// Sends a message to the target at `sector`.
    pub fn message(&self, id: Id<'_>, sector: u64, text: &str) -> Result<()> {
        let request = id.request().message(sector, text);
        self.run(&id, "send the message", Command::Message, request)
            .map(drop)
    }
}

fn existing<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.errno() == Some(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

fn info(answer: &Buffer) -> Info {
    let has = |flag| answer.answer_flags() & flag != 0;
    Info {
        name: answer.answer_name(),
        uuid: answer.answer_uuid(),
        dev: answer.answer_dev(),
        open_count: answer.open_count(),
        live: has(flags::ACTIVE),
        inactive: has(flags::INACTIVE),
        suspended: has(flags::SUSPEND),
        read_only: has(flags::READ_ONLY),
        deferred_remove: has(flags::DEFERRED_REMOVE),
    }
}

/// Makes the control node with its fixed number, for an initramfs without devtmpfs entries.
fn make_control(path: &Path) -> bool {
    node::make(
        path,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::makedev(MISC_MAJOR, DM_CONTROL_MINOR),
    )
    .is_ok()
}
