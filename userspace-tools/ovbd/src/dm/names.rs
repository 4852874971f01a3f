// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How devices are called, and what is known of one.

use std::fmt;
use std::str::FromStr;

use super::wire::{Buffer, NAME_MAX};
use super::Error;

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
        let fits = (1..=NAME_MAX).contains(&name.len());
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

    fn from_str(text: &str) -> Result<Self, Error> {
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
    pub(super) fn request(self) -> Buffer {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;

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
}
