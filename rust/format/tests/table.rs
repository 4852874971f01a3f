// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Table arguments: what is refused, and that what is printed parses back.

use overlaybd_format::table::{write_lsmt, ArgError, LayerArg, LsmtArgs, ZfileArgs};
use proptest::collection::vec;
use proptest::prelude::*;

/// Splits a line as device-mapper does: at white space, but for what a backslash
/// precedes.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c.is_ascii_whitespace() || c == '\x0b' {
            words.push(String::new());
        } else {
            let c = if c == '\\' { chars.next().unwrap() } else { c };
            words.last_mut().unwrap().push(c);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn zfile(line: &str) -> Result<ZfileArgs<'_>, ArgError> {
    ZfileArgs::parse(line.split_whitespace())
}

fn lsmt(line: &str) -> Result<Vec<LayerArg<'_>>, ArgError> {
    let mut args = LsmtArgs::parse(line.split_whitespace())?;
    let mut layers = Vec::new();
    while let Some(layer) = args.next_layer()? {
        layers.push(layer);
    }
    assert_eq!(usize::from(args.layers()), layers.len());
    args.finish()?;
    Ok(layers)
}

#[test]
fn zfile_arguments() {
    let plain = ZfileArgs {
        device: "7:1",
        offset: 3,
        length: 1234,
        ignore_crc: false,
    };
    assert_eq!(zfile("7:1 3 1234"), Ok(plain));
    assert_eq!(zfile("7:1 3 1234 0"), Ok(plain));
    let ignoring = ZfileArgs {
        ignore_crc: true,
        ..plain
    };
    assert_eq!(zfile("7:1 3 1234 1 ignore_crc"), Ok(ignoring));
    assert_eq!(plain.to_string(), "7:1 3 1234");
    assert_eq!(ignoring.to_string(), "7:1 3 1234 1 ignore_crc");
}

/// Arguments of a target, and what is wrong with them.
type Wrong<'a> = (&'a str, ArgError);

#[rustfmt::skip]
const WRONG_ZFILE: &[Wrong<'static>] = {
    use ArgError::*;
    &[
        ("", Missing),
        ("7:1", Missing),
        ("7:1 3", Missing),
        ("7:1 -3 1", Offset),
        ("7:1 +3 1", Offset),
        ("7:1 0x3 1", Offset),
        ("7:1 3s 1", Offset),
        ("7:1 18446744073709551616 1", Offset),
        ("7:1 3 0", Length),
        ("7:1 3 +1", Length),
        ("7:1 3 -1", Length),
        ("7:1 3 1.5", Length),
        ("7:1 3 ٣", Length),
        ("7:1 3 18446744073709551616", Length),
        ("7:1 0 9223372036854775808", Extent),
        ("7:1 1 9223372036854775296", Extent),
        ("7:1 18014398509481984 1", Extent),
        ("7:1 36028797018963968 1", Extent),
        ("7:1 18446744073709551615 1", Extent),
        ("7:1 18014398509481983 18446744073709551615", Extent),
        ("7:1 3 9 ignore_crc", OptionCount),
        ("7:1 3 9 -1", OptionCount),
        ("7:1 3 9 1", OptionMissing),
        ("7:1 3 9 2 ignore_crc", OptionMissing),
        ("7:1 3 9 18446744073709551615 ignore_crc", OptionMissing),
        ("7:1 3 9 1 ignore_crcs", OptionUnknown),
        ("7:1 3 9 1 writable", OptionUnknown),
        ("7:1 3 9 2 ignore_crc ignore_crc", OptionRepeated),
        ("7:1 3 9 0 ignore_crc", Extra),
        ("7:1 3 9 1 ignore_crc more", Extra),
    ]
};

#[test]
fn wrong_zfile_arguments() {
    for &(line, want) in WRONG_ZFILE {
        assert_eq!(zfile(line), Err(want), "{line}");
    }
}

/// The largest extent: up to byte 2^63 - 1.
#[test]
fn largest_extents() {
    assert!(zfile("7:1 0 9223372036854775807").is_ok());
    assert!(zfile("7:1 1 9223372036854775295").is_ok());
    assert!(zfile("7:1 18014398509481983 511").is_ok());
    assert_eq!(zfile("7:1 18014398509481983 512"), Err(ArgError::Extent));
}

#[test]
fn lsmt_arguments() {
    let layer = |device, offset, length| LayerArg {
        device,
        offset,
        length,
    };
    assert_eq!(lsmt("1 7:1 0 8192"), Ok(vec![layer("7:1", 0, 8192)]));
    let two = vec![layer("7:1", 0, 8192), layer("/dev/loop2", 3, 9000)];
    assert_eq!(lsmt("2 7:1 0 8192 /dev/loop2 3 9000"), Ok(two.clone()));
    assert_eq!(lsmt("2 7:1 0 8192 /dev/loop2 3 9000 0"), Ok(two));
    let most = format!("255{}", " 7:1 0 8192".repeat(255));
    assert_eq!(lsmt(&most).map(|layers| layers.len()), Ok(255));
}

#[rustfmt::skip]
const WRONG_LSMT: &[Wrong<'static>] = {
    use ArgError::*;
    &[
        ("", Missing),
        ("0", LayerCount),
        ("+1 7:1 0 1", LayerCount),
        ("-1 7:1 0 1", LayerCount),
        ("7:1 0 1", LayerCount),
        ("18446744073709551617 7:1 0 1", LayerCount),
        ("1", Missing),
        ("2 7:1 0 1", Missing),
        ("2 7:1 0 1 7:2 0", Missing),
        ("1 7:1 x 1", Offset),
        ("2 7:1 0 1 7:2 0 0", Length),
        ("1 7:1 1 9223372036854775807", Extent),
        ("1 7:1 0 1 7:2 0 1", OptionCount),
        ("1 7:1 0 1 1", OptionMissing),
        ("1 7:1 0 1 1 upper", OptionUnknown),
        ("1 7:1 0 1 0 upper", Extra),
    ]
};

#[test]
fn wrong_lsmt_arguments() {
    let many = format!("256{}", " 7:1 0 8192".repeat(256));
    for &(line, want) in WRONG_LSMT.iter().chain(&[(&*many, ArgError::LayerCount)]) {
        assert_eq!(lsmt(line), Err(want), "{line}");
    }
}

/// Layers that nobody asked for are checked all the same.
#[test]
fn finish_checks_the_rest() {
    let finish = |line: &'static str| LsmtArgs::parse(line.split(' ')).ok().unwrap().finish();
    assert_eq!(finish("2 7:1 0 1 7:2 0 1"), Ok(()));
    assert_eq!(finish("2 7:1 0 1 7:2 0 0"), Err(ArgError::Length));
}

/// A number for each error, from 0. The compiler says if there is another one.
const fn number(error: ArgError) -> usize {
    match error {
        ArgError::Missing => 0,
        ArgError::Offset => 1,
        ArgError::Length => 2,
        ArgError::Extent => 3,
        ArgError::LayerCount => 4,
        ArgError::OptionCount => 5,
        ArgError::OptionMissing => 6,
        ArgError::OptionUnknown => 7,
        ArgError::OptionRepeated => 8,
        ArgError::Extra => 9,
    }
}

const ERRORS: usize = 10;

/// Some arguments lead to each error. Its reason is worded as device-mapper's are, and unlike any
/// other.
#[test]
fn every_error_is_reached_and_has_a_reason() {
    let wrong = WRONG_ZFILE.iter().map(|(line, _)| zfile(line).err());
    let wrong = wrong.chain(WRONG_LSMT.iter().map(|(line, _)| lsmt(line).err()));
    let mut reasons = [None; ERRORS];
    for error in wrong.flatten() {
        let text = error.reason().to_str().unwrap();
        assert_eq!(error.to_string(), text);
        reasons[number(error)] = Some(text);
    }
    for (number, text) in reasons.iter().enumerate() {
        let text = text.unwrap_or_else(|| panic!("nothing leads to error {number}"));
        assert!(
            text.starts_with(char::is_uppercase) && !text.ends_with('.'),
            "{text}"
        );
        assert!(text.split(' ').count() <= 5, "{text}");
        assert!(!reasons[..number].contains(&Some(text)), "{text}");
    }
}

/// A device as a word: never empty, sometimes with what has to be escaped.
fn device() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,3}:[0-9]{1,4}",
        "/dev/[a-z/]{1,12}",
        "[ -~\\\\ é\t\x0b]{1,12}"
    ]
}

fn extent() -> impl Strategy<Value = (String, u64, u64)> {
    (device(), 0..1u64 << 53, 1..=1u64 << 62)
}

proptest! {
    #[test]
    fn zfile_round_trip((device, offset, length) in extent(), ignore_crc: bool) {
        let args = ZfileArgs { device: &device, offset, length, ignore_crc };
        let words = split(&args.to_string());
        prop_assert_eq!(ZfileArgs::parse(words.iter().map(|word| &**word)), Ok(args));
    }

    #[test]
    fn lsmt_round_trip(layers in vec(extent(), 1..=255)) {
        let layers: Vec<_> = layers
            .iter()
            .map(|&(ref device, offset, length)| LayerArg { device, offset, length })
            .collect();
        let mut line = String::new();
        write_lsmt(&mut line, layers.iter().copied()).unwrap();
        let words = split(&line);
        let mut args = LsmtArgs::parse(words.iter().map(|word| &**word)).ok().unwrap();
        for layer in layers {
            prop_assert_eq!(args.next_layer(), Ok(Some(layer)));
        }
        prop_assert_eq!(args.next_layer(), Ok(None));
        prop_assert_eq!(args.finish(), Ok(()));
    }
}
