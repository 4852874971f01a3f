// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How layers are fetched, as configurations of hosts and of images have it.

use serde::Deserialize;

/// All fields that there are. Those that are not below are about downloads in the background, which
/// nobody has to wait for: here layers are there before the device is.
pub(super) const FIELDS: [&str; 6] = [
    "enable",
    "delay",
    "delayExtra",
    "maxMBps",
    "tryCnt",
    "blockSize",
];

/// How to fetch layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Download {
    /// At most so many MiB a second.
    #[serde(rename = "maxMBps")]
    pub max_rate: Option<u64>,
    /// How often to try.
    #[serde(rename = "tryCnt")]
    pub tries: Option<u32>,
}

impl Download {
    /// This one, and where it says nothing, `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            max_rate: self.max_rate.or(other.max_rate),
            tries: self.tries.or(other.tries),
        }
    }

    /// Bytes a second at most.
    pub fn bytes_per_second(self) -> Option<u64> {
        let rate = self.max_rate.filter(|&rate| rate > 0);
        rate.map(|rate| rate.saturating_mul(1 << 20))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_own_settings_come_first() {
        let image = Download {
            max_rate: Some(1),
            tries: None,
        };
        let host = Download {
            max_rate: Some(2),
            tries: Some(3),
        };
        let expected = Download {
            max_rate: Some(1),
            tries: Some(3),
        };
        assert_eq!(image.or(host), expected);
        let unlimited = Download {
            max_rate: Some(0),
            tries: None,
        };
        assert_eq!(unlimited.bytes_per_second(), None);
    }
}
