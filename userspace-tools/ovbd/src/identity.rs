// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What makes two devices the same device.
//!
//! A device of device-mapper has a UUID that nobody else may have. Ours say what the device shows:
//! two images that need the same thing find the same UUID and share the device, and two processes
//! that want to make it at once cannot make two. So the UUID is the hash of an *identity*: where the
//! bytes come from, and every setting that changes what a read returns or what is checked.
//!
//! Names of inner devices are as much of the same hash: of fewer bits, somebody who knows a layer could
//! make another one with its name, and be in its way. The UUID decides.

use std::fmt::Write;

use sha2::{Digest as _, Sha256};

/// A prefix of the UUIDs of all of this tool's devices.
pub const UUID_PREFIX: &str = "OVBD-";

/// What a device of this tool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// An image: target lsmt. Its name is the user's.
    Image,
    /// A compressed layer: target zfile.
    Zfile,
    /// A file and its last bytes, joined: target linear.
    Joined,
    /// What a root hash vouches for: target verity.
    Verity,
}

impl Role {
    const ALL: [Self; 4] = [Self::Image, Self::Zfile, Self::Joined, Self::Verity];

    fn letter(self) -> char {
        match self {
            Self::Image => 'I',
            Self::Zfile => 'Z',
            Self::Joined => 'J',
            Self::Verity => 'V',
        }
    }

    /// What the device with this UUID is; `None` if it is not one of ours.
    pub fn of_uuid(uuid: &str) -> Option<Self> {
        let mut rest = uuid.strip_prefix(UUID_PREFIX)?.chars();
        let (letter, dash) = (rest.next()?, rest.next()?);
        Self::ALL
            .into_iter()
            .find(|role| role.letter() == letter && dash == '-')
    }

    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Zfile => "zfile",
            Self::Joined => "joined",
            Self::Verity => "verity",
        }
    }
}

/// The hash of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity([u8; 32]);

impl Identity {
    /// The identity that these parts make, in this order.
    pub fn new(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // With its length, so that parts cannot run into each other.
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// The bytes, to become part of another identity.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// 128 bits of the hash.
    fn hex(&self) -> String {
        self.0
            .iter()
            .take(16)
            .fold(String::new(), |mut text, byte| {
                // Writing to a string cannot fail.
                let _ = write!(text, "{byte:02x}");
                text
            })
    }

    /// The UUID of the device with this identity.
    pub fn uuid(&self, role: Role) -> String {
        format!("{UUID_PREFIX}{}-{}", role.letter(), self.hex())
    }

    /// The name of an inner device with this identity.
    pub fn name(&self, role: Role) -> String {
        format!("ovbd-{}-{}", role.letter().to_ascii_lowercase(), self.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_uuids_are_stable() {
        // They are found again by later versions: a change breaks sharing across an upgrade.
        let identity = Identity::new(&[b"digest", b"sha256:1"]);
        assert_eq!(
            identity.uuid(Role::Zfile),
            "OVBD-Z-b2b7abe081cf5aecb3c6dd1c9fa0807c"
        );
        assert_eq!(
            identity.name(Role::Zfile),
            "ovbd-z-b2b7abe081cf5aecb3c6dd1c9fa0807c"
        );
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(Identity::new(&[b"ab", b"c"]), Identity::new(&[b"a", b"bc"]));
        assert_ne!(Identity::new(&[b"ab"]), Identity::new(&[b"ab", b""]));
    }

    #[test]
    fn roles_are_read_from_uuids() {
        for role in Role::ALL {
            assert_eq!(Role::of_uuid(&Identity::new(&[]).uuid(role)), Some(role));
        }
        for other in [
            "",
            "OVBD-",
            "OVBD-Z",
            "OVBD-X-1",
            "OVBD-ZZ-1",
            "LVM-Z-1",
            "CRYPT-OVBD-Z-1",
        ] {
            assert_eq!(Role::of_uuid(other), None, "{other}");
        }
    }
}
