// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Digests by which registries know blobs.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest; as text `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

/// What every digest that we know begins with.
const PREFIX: &str = "sha256:";

impl Digest {
    /// The digest of what `hash` has seen.
    pub fn of(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no digest: sha256: and 64 hexadecimal digits expected")]
pub struct InvalidDigest(String);

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, InvalidDigest> {
        let invalid = || InvalidDigest(text.to_owned());
        let hex = text.strip_prefix(PREFIX).ok_or_else(invalid)?;
        let mut bytes = [0; 32];
        if hex.len() != 2 * bytes.len() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(invalid());
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).map_err(|_| invalid())?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_back() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(Sha256::new()));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(EMPTY.replace('e', "E").parse(), Ok(digest));
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "sha256:", &EMPTY[7..], &EMPTY[..70], "sha512:00"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        let signs = format!("sha256:{}", "+1".repeat(32));
        assert!(signs.parse::<Digest>().is_err());
    }
}
