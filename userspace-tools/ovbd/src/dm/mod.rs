// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Device-mapper: devices made of tables, through the ioctls of `/dev/mapper/control`.
//!
//! Only what this tool needs, because the crates that offer the interface build with libclang or
//! link libdevmapper, and neither suits a static tool for an initramfs. The bytes are in [`wire`],
//! the conversation with udev in [`udev`], nodes in `/dev/mapper` in [`node`].

pub mod kmsg;
pub mod node;
pub mod udev;
mod wire;

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;

use rustix::io::Errno;

use crate::error::ExitCode;
use crate::sys::{DmControl, DM_CONTROL_MINOR, MISC_MAJOR};
use kmsg::KernelLog;
use udev::Udev;
use wire::{flags, Buffer, Command};

pub use wire::Target;

const CONTROL: &str = "/dev/mapper/control";

/// Room for an answer at first; it doubles until the answer fits.
const ROOM: usize = 16 << 10;
/// More room than any answer needs: 255 layers take 20 KiB.
const ROOM_MAX: usize = 64 << 20;

/// The name of a device: 1 to 127 of `A-Z a-z 0-9 # + - . : = @ _`, not starting with `-` or `.`.
///
/// These are the characters that udev and libdm pass on unchanged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    pub fn new(name: impl Into<String>) -> Result<Self, Error> {
        let name = name.into();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"#+-.:=@_".contains(&b);
        let fits = (1..=wire::NAME_MAX).contains(&name.len());
        if fits && name.bytes().all(plain) && !name.starts_with(['-', '.']) && name != "control" {
            Ok(Self(name))
        } else {
            Err(Error::BadName { name })
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What device-mapper says about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its UUID, empty if it has none.
    pub uuid: String,
    /// Its device number, as `stat` gives it.
    pub dev: u64,
    /// How often it is open, by mounts, by devices on top of it and by programs.
    pub open_count: u32,
    /// It has a live table: reads are served.
    pub live: bool,
    /// A table is loaded and waits for a resume.
    pub inactive: bool,
    /// It is suspended: reads wait.
    pub suspended: bool,
    /// It cannot be written.
    pub read_only: bool,
    /// The kernel will remove it when it is closed for the last time.
    pub deferred_remove: bool,
}

/// Which device a request is about.
#[derive(Clone, Copy, Debug)]
pub enum Id<'a> {
    /// By name.
    Name(&'a str),
    /// By UUID.
    Uuid(&'a str),
    /// By device number.
    Dev(u64),
}

impl From<u64> for Id<'_> {
    fn from(dev: u64) -> Self {
        Self::Dev(dev)
    }
}

impl Id<'_> {
    fn request(self) -> Buffer {
        match self {
            Self::Name(name) => Buffer::new().name(name),
            Self::Uuid(uuid) => Buffer::new().uuid(uuid),
            Self::Dev(dev) => Buffer::new().dev(dev),
        }
    }
}

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(text) | Self::Uuid(text) => f.write_str(text),
            Self::Dev(dev) => DevNo(*dev).fmt(f),
        }
    }
}

/// A device number, printed as `major:minor`, which is also how tables name devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevNo(pub u64);

impl fmt::Display for DevNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}",
            rustix::fs::major(self.0),
            rustix::fs::minor(self.0)
        )
    }
}

/// What device-mapper refuses, or cannot do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that cannot be a device's.
    #[error(
        "\"{name}\" cannot be a device name: use 1 to 127 letters, digits and # + - . : = @ _, \
         not starting with - or ."
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// The control node does not open.
    #[error("{CONTROL}: cannot open: {0}{remedy}", remedy = control_remedy(.0))]
    Control(io::Error),
    /// A target is not known to the kernel, and loading its module did not help.
    #[error(
        "the kernel has no device-mapper target \"{target}\": load it with `modprobe dm-{target}`"
    )]
    NoTarget {
        /// Its name.
        target: String,
    },
    /// A request failed.
    #[error("{device}: cannot {action}: {source}{log}", log = Bracketed(.log))]
    Request {
        /// Name, UUID or number of the device.
        device: String,
        /// What was asked.
        action: &'static str,
        /// Why the kernel refused.
        source: io::Error,
        /// What it wrote to its log meanwhile.
        log: Vec<String>,
    },
}

struct Bracketed<'a>(&'a [String]);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, " (kernel log: {})", self.0.join("; "))
    }
}

fn control_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (device-mapper needs root)",
        _ => " (is device-mapper in this kernel? Try `modprobe dm-mod`)",
    }
}

impl Error {
    /// A request about `id` that failed with `errno`.
    pub(crate) fn request(id: Id<'_>, action: &'static str, errno: Errno) -> Self {
        Self::Request {
            device: id.to_string(),
            action,
            source: errno.into(),
            log: Vec::new(),
        }
    }

    /// The system's error number, if a request failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Request { source, .. } => Errno::from_io_error(source),
            _ => None,
        }
    }

    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::BadName { .. } => ExitCode::Usage,
            Self::Control(e) if e.kind() == io::ErrorKind::PermissionDenied => ExitCode::Permission,
            Self::Control(_) | Self::NoTarget { .. } => ExitCode::Unsupported,
            Self::Request { .. } => match self.errno() {
                Some(Errno::BUSY) => ExitCode::Busy,
                Some(Errno::PERM | Errno::ACCESS) => ExitCode::Permission,
                Some(Errno::NXIO) => ExitCode::NotFound,
                _ => ExitCode::Failure,
            },
        }
    }
}

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

    /// Makes sure that the kernel knows a target; this loads its module.
    pub fn require_target(&self, target: &str) -> Result<[u32; 3]> {
        let request = Buffer::new().name(target).room(ROOM);
        self.run(&target, "find the target", Command::TargetVersion, request)
            .ok()
            .and_then(|answer| answer.target_version())
            .ok_or_else(|| Error::NoTarget {
                target: target.to_owned(),
            })
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
        match self.run(&id, "load the table", Command::Load, request) {
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
        let id = id.into();
        let answer = udev.tell(|event_nr| {
            let request = id.request().event_nr(event_nr);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["web", "a", "app:1.2_x@y=z+#-", &"x".repeat(127)] {
            assert_eq!(Name::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "a/b",
            "a b",
            "..",
            "-x",
            "control",
            "ä",
            "a\n",
            &"x".repeat(128),
        ] {
            let error = Name::new(bad).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Usage, "{bad}");
        }
    }

    #[test]
    fn device_numbers_print_as_tables_name_them() {
        assert_eq!(DevNo(rustix::fs::makedev(253, 300)).to_string(), "253:300");
    }

    #[test]
    fn a_refused_table_is_explained() {
        let error = Error::Request {
            device: "253:4".into(),
            action: "load the table",
            source: io::Error::from_raw_os_error(22),
            log: vec!["zfile: Index checksum mismatch".into()],
        };
        assert_eq!(
            error.to_string(),
            "253:4: cannot load the table: Invalid argument (os error 22) \
             (kernel log: zfile: Index checksum mismatch)"
        );
    }
}
