// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Digests by which registries know blobs.

use std::fmt;
use std::str::FromStr;

use serde::{de, Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use crate::output::shown;

/// A SHA-256 digest; as text `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// What every digest that we know begins with.
const PREFIX: &str = "sha256:";

impl Digest {
    /// The digest of what `hash` has seen.
    pub fn of(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// The digest of `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 digits without `sha256:`, which are safe as a file name.
    pub fn hex(&self) -> String {
        let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble & 15)]);
        let pairs = self.0.iter().flat_map(|byte| [byte >> 4, *byte]);
        pairs.map(digit).collect()
    }

    /// Parses what [`hex`](Self::hex) wrote: lower case only, so that a digest has one name.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digest: Self = format!("{PREFIX}{hex}").parse().ok()?;
        (digest.hex() == hex).then_some(digest)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex())
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no digest: sha256: and 64 hexadecimal digits expected", shown::text(.0))]
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
        assert_eq!(digest, Digest::of_bytes(b""));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(json, format!("\"{EMPTY}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"sha256:1\"").is_err());
    }

    #[test]
    fn a_digest_has_one_file_name() {
        let digest = Digest::of_bytes(b"");
        assert_eq!(digest.hex(), EMPTY[7..]);
        assert_eq!(Digest::from_hex(&digest.hex()), Some(digest));
        assert_eq!(Digest::from_hex(&digest.hex().to_uppercase()), None);
        assert_eq!(Digest::from_hex("../lock"), None);
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "sha256:", &EMPTY[7..], &EMPTY[..70], "sha512:00"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        let foreign = "\u{1b}[2J".parse::<Digest>().unwrap_err().to_string();
        assert!(!foreign.contains('\u{1b}'), "{foreign}");
        let signs = format!("sha256:{}", "+1".repeat(32));
        assert!(signs.parse::<Digest>().is_err());
    }
}
