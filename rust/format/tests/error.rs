// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What refusals say, and that each is met.

use std::collections::HashSet;

use overlaybd_format::platform::EndOfData;
use overlaybd_format::{Error, Invalid, OutOfMemory, ReadAt, Rule};

use Rule::*;

/// All rules; `rules_are_all_here` sees to it.
const RULES: [Rule; 50] = [
    BlobKind,
    TarType,
    TarNumber,
    TarPaxSize,
    TarPaxRecord,
    TarPaxMember,
    TarPayload,
    ZfileLength,
    ZfileMagic,
    ZfileTrailerMagic,
    ZfileRecordSize,
    ZfileHeaderFlag,
    ZfileTrailerFlag,
    ZfileDataFlag,
    ZfileSealedFlag,
    ZfileIndexCompressed,
    ZfileDigest,
    ZfileTrailerDigest,
    ZfileAlgorithm,
    ZfileBlockSize,
    ZfileVerify,
    ZfileDictionary,
    ZfileTrailerDiffers,
    ZfileIndexStart,
    ZfileIndexEnd,
    ZfileBlockCount,
    ZfileIndexDigest,
    ZfileBlockShort,
    ZfileBlockLong,
    ZfileBlocksEnd,
    LsmtLength,
    LsmtMagic,
    LsmtTrailerMagic,
    LsmtRecordSize,
    LsmtVersion,
    LsmtHeaderFlag,
    LsmtTrailerFlag,
    LsmtDataFlag,
    LsmtWritable,
    LsmtSealedFlag,
    LsmtIndexStart,
    LsmtIndexEnd,
    LsmtEntryEmpty,
    LsmtEntryEnd,
    LsmtEntryOrder,
    LsmtEntryOverlap,
    LsmtDataStart,
    LsmtDataEnd,
    LayerCount,
    VirtualSizeZero,
];

fn invalid(rule: Rule) -> Invalid {
    Invalid {
        rule,
        offset: 4368,
        item: 17,
        found: 99,
        expected: 88,
    }
}

/// The list above, and one more, has the number of the last rule.
#[test]
fn rules_are_all_here() {
    assert_eq!(VirtualSizeLimit as usize, RULES.len());
    for (number, rule) in RULES.into_iter().enumerate() {
        assert_eq!(rule as usize, number);
    }
}

/// The suites that open what is wrong. They name a rule for one purpose: to expect it.
const SUITES: &str = concat!(
    include_str!("lsmt.rs"),
    include_str!("map.rs"),
    include_str!("tar.rs"),
    include_str!("zfile.rs")
);

/// Every rule is broken by some file, and so is every other way to fail met.
#[test]
fn every_error_is_expected_somewhere() {
    let named: HashSet<_> = SUITES.split(|c: char| !c.is_alphanumeric()).collect();
    for rule in RULES.into_iter().chain([VirtualSizeLimit]) {
        let name = format!("{rule:?}");
        assert!(named.contains(name.as_str()), "no test breaks {name}");
    }
    for error in [
        Error::Read {
            offset: 0,
            error: EndOfData,
        },
        Error::NoMemory,
        Error::Invalid(invalid(BlobKind)),
    ] {
        let name = match error {
            Error::Read { .. } => "Read",
            Error::NoMemory => "NoMemory",
            Error::Invalid(_) => "Invalid",
        };
        assert!(named.contains(name), "no test meets {name}");
    }
}

/// Every reason is worded as device-mapper's are, and unlike any other.
#[test]
fn reasons() {
    let mut seen = Vec::new();
    for rule in RULES.into_iter().chain([VirtualSizeLimit]) {
        let text = invalid(rule).reason().to_str().unwrap();
        assert!(
            text.starts_with(char::is_uppercase) && !text.ends_with('.'),
            "{text}"
        );
        assert!(text.split(' ').count() <= 6 && text.len() <= 32, "{text}");
        assert!(!seen.contains(&text), "{text}");
        seen.push(text);
    }
}

/// Every message names the place and the value found, and what to do is a phrase.
#[test]
fn messages_name_place_and_value() {
    for rule in RULES.into_iter().chain([VirtualSizeLimit]) {
        let text = invalid(rule).to_string();
        let found = [" 99,", " 0x63,", r#" "c\x00\x00\x00\x00\x00\x00\x00","#];
        assert!(found.iter().any(|found| text.contains(found)), "{text}");
        assert!(text.contains(", expected "), "{text}");
        let place = text.contains(" at byte 4368: ") || text.starts_with("image: ");
        assert!(place, "{text}");
        let remedy = rule.remedy();
        assert!(
            remedy.starts_with(char::is_lowercase) && !remedy.ends_with('.'),
            "{remedy}"
        );
    }
}

#[test]
fn messages() {
    let cases = [
        (
            LsmtEntryEnd,
            "LSMT index entry 17 at byte 4368: ends at sector 99, expected at most 88",
        ),
        (
            ZfileBlockShort,
            "ZFile index entry 17 at byte 4368: stored length 99, expected at least 88",
        ),
        (
            ZfileDigest,
            "ZFile header at byte 4368: digest 0x63, expected 0x58",
        ),
        (
            ZfileVerify,
            "ZFile header or trailer at byte 4368: verify 99, expected 0 or 1",
        ),
        (
            ZfileIndexEnd,
            "ZFile trailer at byte 4368: index ends at byte 99, expected 88",
        ),
        (LayerCount, "image: layers 99, expected 1 to 255"),
    ];
    for (rule, text) in cases {
        assert_eq!(invalid(rule).to_string(), text);
        assert_eq!(Error::<EndOfData>::Invalid(invalid(rule)).to_string(), text);
    }
}

#[test]
fn other_errors() {
    let read = Error::Read {
        offset: 7,
        error: EndOfData,
    };
    assert_eq!(
        read.to_string(),
        "reading byte 7 on: the data end before that"
    );
    assert_eq!(Error::<EndOfData>::from(OutOfMemory), Error::NoMemory);
    assert_eq!(
        Error::<EndOfData>::NoMemory.to_string(),
        "not enough memory"
    );
}

/// A slice is a file.
#[test]
fn slices_are_read() {
    let bytes: &[u8] = b"0123456789";
    let mut buf = [0; 4];
    assert_eq!((&bytes).read_exact_at(6, &mut buf), Ok(()));
    assert_eq!(&buf, b"6789");
    for beyond in [7, 10, 11, u64::MAX] {
        assert_eq!(bytes.read_exact_at(beyond, &mut buf), Err(EndOfData));
    }
    assert_eq!(bytes.read_exact_at(10, &mut []), Ok(()));
}
