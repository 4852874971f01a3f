// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Systems that images are made for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A system that images are made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64` and others, as Go names them.
    pub architecture: String,
    /// `v8` for example; without one any will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Linux on the machine that this runs on.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            same => same,
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }

    /// Whether what is made for `other` runs here.
    pub fn fits(&self, other: &Self) -> bool {
        let variant = self.variant.is_none() || self.variant == other.variant;
        self.os == other.os && self.architecture == other.architecture && variant
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts[..] {
            [os, architecture] | [os, architecture, _] if !parts.contains(&"") => Ok(Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: parts.get(2).map(|variant| (*variant).to_owned()),
            }),
            _ => Err("expected OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT: linux/amd64".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_written() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for wrong in ["", "linux", "linux/", "/amd64", "linux/arm64/v8/x"] {
            assert!(wrong.parse::<Platform>().is_err(), "{wrong}");
        }
        assert_eq!(Platform::host().os, "linux");
    }
}
