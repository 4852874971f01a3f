// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Numbers of bytes as people write and read them.

use std::fmt;

/// Units in ascending order, each 1024 of the one before.
const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// Shows a number of bytes with three digits or so: `1.50 MiB`.
#[derive(Clone, Copy, Debug)]
pub struct Human(pub u64);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 0;
        let mut value = self.0 as f64;
        // What rounds to 1024 is shown as 1 of the next unit.
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        let digits = match value {
            _ if unit == 0 => 0,
            v if v < 9.995 => 2,
            v if v < 99.95 => 1,
            _ => 0,
        };
        f.pad(&format!("{value:.digits$} {}", UNITS[unit]))
    }
}

/// What `part` is of `whole`: ` (37.5 %)`; nothing of nothing.
pub fn percentage(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    format!(" ({:.1} %)", part as f64 * 100.0 / whole as f64)
}

/// Parses a number of bytes: `4096`, `4k`, `64KiB`, `1.5G`. Units are powers of 1024, in either
/// case, with or without `B` or `iB`.
pub fn parse(text: &str) -> Result<u64, String> {
    let error = || format!("`{text}` is no size: a number with K, M, G, T or P expected");
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit.is_empty() || unit == "b" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(error()),
    };
    let unit = 1u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(error);
    }
    // Fractions are exact enough for what people type.
    match number.parse::<f64>() {
        Ok(value) if power > 0 && value * (unit as f64) < 9.0e15 => {
            Ok((value * unit as f64) as u64)
        }
        _ => Err(error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("17b", 17),
            ("4k", 4096),
            ("64KiB", 65536),
            ("64 KB", 65536),
            ("1.5G", 3 << 29),
            ("2T", 2 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "k",
            "-1",
            "1.5",
            "1x",
            "1kk",
            "1ib",
            "i",
            "99999999999P",
            "1..5k",
            "1e3k",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn percentages_are_shown() {
        assert_eq!(percentage(3, 8), " (37.5 %)");
        assert_eq!(percentage(0, 0), "");
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536 << 10, "1.50 MiB"),
            (64 << 20, "64.0 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(Human(bytes).to_string(), text);
        }
    }
}
