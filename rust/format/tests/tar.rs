// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The tar wrapper, and what is in it.

mod common;

use common::sample::{Lsmt, Zfile};
use common::{Broken, Watched};
use overlaybd_format::blob::{Blob, Kind};
use overlaybd_format::tar::{detect, encode_pax, encode_ustar, padding, Payload, MAX_USTAR_SIZE};
use overlaybd_format::{Error, Invalid, Rule};
use proptest::prelude::*;

/// Looks into a file, of which only the first bytes are there.
fn look(bytes: &[u8], length: u64) -> Result<Option<Payload>, Invalid> {
    match detect(bytes, length) {
        Ok(payload) => Ok(payload),
        Err(Error::Invalid(invalid)) => Err(invalid),
        Err(error) => panic!("{error}"),
    }
}

fn invalid(rule: Rule, offset: u64, found: u64, expected: u64) -> Invalid {
    Invalid {
        rule,
        offset,
        item: 0,
        found,
        expected,
    }
}

fn payload(offset: u64, length: u64) -> Result<Option<Payload>, Invalid> {
    Ok(Some(Payload { offset, length }))
}

const SIZE: usize = 124;
const TYPE: usize = 156;

/// A wrapper with a field changed, and the checksum of that header made right.
fn patched(mut bytes: Vec<u8>, field: usize, value: &[u8]) -> Vec<u8> {
    bytes[field..field + value.len()].copy_from_slice(value);
    let header = &mut bytes[field / 512 * 512..][..512];
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:>6o} \0").as_bytes());
    bytes
}

fn short() -> Vec<u8> {
    encode_ustar(1000).unwrap().to_vec()
}

fn long() -> Vec<u8> {
    encode_pax(1000).to_vec()
}

/// The long form with other pax data; header 0 says how long they are.
fn with_records(records: &[u8]) -> Vec<u8> {
    let size = format!("{:>11o} ", records.len());
    let mut bytes = patched(long(), SIZE, size.as_bytes());
    bytes[512..1024].fill(0);
    bytes[512..512 + records.len()].copy_from_slice(records);
    bytes
}

#[test]
fn both_forms() {
    assert_eq!(look(&short(), 1512), payload(512, 1000));
    assert_eq!(look(&long(), 2536), payload(1536, 1000));
    // Without `size`, the member's own counts.
    let mut bytes = with_records(b"8 a=b=c\n");
    assert_eq!(look(&bytes, 4000), payload(1536, 0));
    bytes = patched(bytes, 1024 + SIZE, b"       1750 ");
    assert_eq!(look(&bytes, 4000), payload(1536, 1000));
    // Of several records, the last `size` counts; text may hold anything.
    bytes = with_records(b"9 size=1\n18 comment=size=3\n11 size=22\n");
    assert_eq!(look(&bytes, 4000), payload(1536, 22));
}

#[test]
fn no_tar() {
    assert_eq!(look(&[], 0), Ok(None));
    assert_eq!(look(&[0; 511], 511), Ok(None));
    assert_eq!(look(&[0; 512], 512), Ok(None));
    for at in 257..265 {
        // GNU's magic differs in three of them.
        assert_eq!(look(&patched(short(), at, b"x"), 1512), Ok(None));
    }
    let gnu = patched(short(), 257, b"ustar  \0");
    assert_eq!(look(&gnu, 1512), Ok(None));
}

/// The checksum covers all bytes but its own.
#[test]
fn wrong_checksum_is_no_tar() {
    for at in (0..512).filter(|at| !(257..265).contains(at)) {
        let mut bytes = short();
        bytes[at] ^= 1;
        assert_eq!(look(&bytes, 1512), Ok(None), "byte {at}");
    }
    let mut bytes = short();
    bytes[148..156].fill(b' ');
    assert_eq!(look(&bytes, 1512), Ok(None));
}

#[test]
fn wrong_headers_are_refused() {
    use Rule::*;
    let number = SIZE as u64;
    let kind = TYPE as u64;
    let record = |at: u64| invalid(TarPaxRecord, 512 + at, at, 0);
    #[rustfmt::skip]
    let cases = [
        (patched(short(), TYPE, b"5"), invalid(TarType, kind, 0x35, 0x30)),
        (patched(short(), TYPE, b"g"), invalid(TarType, kind, 0x67, 0x30)),
        (patched(long(), 1024 + TYPE, b"x"), invalid(TarType, 1024 + kind, 0x78, 0x30)),
        (patched(long(), 1024 + TYPE, b"2"), invalid(TarType, 1024 + kind, 0x32, 0x30)),
        (patched(short(), SIZE, b"            "), invalid(TarNumber, number, 12, 0)),
        (patched(short(), SIZE, &[0; 12]), invalid(TarNumber, number, 12, 0)),
        (patched(short(), SIZE, b"        8   "), invalid(TarNumber, number, 8, 0)),
        (patched(short(), SIZE, b"   12 34    "), invalid(TarNumber, number, 6, 0)),
        (patched(short(), SIZE, b"       -123 "), invalid(TarNumber, number, 7, 0)),
        (patched(short(), SIZE, b"\x80\0\0\0\0\0\0\0\0\0\0\x01"), invalid(TarNumber, number, 0, 0)),
        (patched(long(), SIZE, b"         1x "), invalid(TarNumber, number, 10, 0)),
        (patched(long(), 1024 + SIZE, b"          9 "), invalid(TarNumber, 1024 + number, 10, 0)),
        (patched(long(), SIZE, b"          0 "), invalid(TarPaxSize, number, 0, 512)),
        (patched(long(), SIZE, b"       1001 "), invalid(TarPaxSize, number, 513, 512)),
        (with_records(b"8 size=\n"), record(0)),
        (with_records(b"9 size=x\n"), record(0)),
        (with_records(b"10 size=-1\n"), record(0)),
        (with_records(b"9 size=11\n"), record(0)),
        (with_records(b"8 size=1\n"), record(0)),
        (with_records(b"size=1\n"), record(0)),
        (with_records(b" size=1\n"), record(0)),
        (with_records(b"1 "), record(0)),
        (with_records(b"2 \n"), record(0)),
        (with_records(b"4 a\n"), record(0)),
        (with_records(b"9 size=1 "), record(0)),
        (with_records(b"99999999999999999999 size=1\n"), record(0)),
        (with_records(b"29 size=99999999999999999999\n"), record(0)),
        (with_records(b"9 size=1\n9 size=1"), record(9)),
        (with_records(b"9 size=1\n\0"), record(9)),
    ];
    for (bytes, want) in cases {
        assert_eq!(look(&bytes, 4000), Err(want), "{want}");
    }
}

#[test]
fn header_follows_pax() {
    let mut bytes = long();
    bytes[1024..].fill(7);
    assert_eq!(
        look(&bytes, 4000),
        Err(invalid(Rule::TarPaxMember, 1024, 7, 0))
    );
    assert_eq!(
        look(&bytes, 1535),
        Err(invalid(Rule::TarPayload, 0, 1536, 1535))
    );
}

#[test]
fn payload_lies_in_the_file() {
    let cut = |end, length| Err(invalid(Rule::TarPayload, 0, end, length));
    assert_eq!(look(&short(), 1511), cut(1512, 1511));
    assert_eq!(look(&long(), 2535), cut(2536, 2535));
    let huge = with_records(b"28 size=18446744073709551615\n");
    assert_eq!(
        look(&huge, 4000),
        Err(invalid(Rule::TarPaxRecord, 512, 0, 0))
    );
    let huge = with_records(b"29 size=18446744073709551615\n");
    assert_eq!(look(&huge, 4000), cut(u64::MAX, 4000));
}

proptest! {
    /// Any length survives both forms.
    #[test]
    fn lengths(length in prop_oneof![0..2000u64, 0..1u64 << 40, 0..=u64::MAX - 1536]) {
        prop_assert_eq!(look(&encode_pax(length), u64::MAX), payload(1536, length));
        match encode_ustar(length) {
            Some(header) => prop_assert_eq!(look(&header, u64::MAX), payload(512, length)),
            None => prop_assert!(length > MAX_USTAR_SIZE),
        }
        let padded = length % 512 + padding(length) as u64;
        prop_assert!(matches!(padded, 1024 | 1536));
    }
}

/// Lengths at which the pax record's own length has one digit more.
#[test]
fn record_lengths() {
    for digits in 1..20u32 {
        let length = 10u64.pow(digits) - 1;
        for length in [length, length + 1] {
            assert_eq!(look(&encode_pax(length), u64::MAX), payload(1536, length));
        }
    }
    assert!(encode_pax(9)[512..].starts_with(b"9 size=9\n\0"));
    assert!(encode_pax(10)[512..].starts_with(b"11 size=10\n\0"));
    assert_eq!(encode_ustar(MAX_USTAR_SIZE + 1), None);
    assert_eq!((padding(0), padding(1), padding(512)), (1024, 1535, 1024));
}

#[test]
fn read_errors_are_passed_on() {
    let zfile = Zfile::small().bytes();
    let bytes = [&encode_pax(zfile.len() as u64)[..], &zfile, &[0; 2000]].concat();
    for (fail, offset) in [0, 512, 1024, 1536].into_iter().enumerate() {
        let watched = Watched::new(&bytes, fail);
        let error = Blob::detect(&watched, bytes.len() as u64).err();
        assert_eq!(
            error,
            Some(Error::Read {
                offset,
                error: Broken
            })
        );
    }
}

#[test]
fn blobs_are_recognised() {
    let files = [
        (Zfile::small().bytes(), Kind::Zfile),
        (Lsmt::small().bytes(), Kind::Lsmt),
    ];
    for (file, kind) in files {
        let length = file.len() as u64;
        let bare = Payload { offset: 0, length };
        let want = Blob {
            kind,
            payload: bare,
            wrapped: false,
        };
        assert_eq!(Blob::detect(&file[..], length), Ok(want));
        let headers = [
            encode_ustar(length).unwrap().to_vec(),
            encode_pax(length).to_vec(),
        ];
        for header in headers {
            let offset = header.len() as u64;
            let tail = vec![0; padding(length)];
            let tar = [&header[..], &file, &tail].concat();
            assert_eq!(tar.len() % 512, 0);
            let payload = Payload { offset, length };
            let want = Blob {
                kind,
                payload,
                wrapped: true,
            };
            assert_eq!(Blob::detect(&tar[..], tar.len() as u64), Ok(want));
        }
    }
}

#[test]
fn other_files_are_refused() {
    const ZFILE: u64 = u64::from_le_bytes(*b"ZFile\0\x01\0");
    let refused = |bytes: &[u8]| match Blob::detect(bytes, bytes.len() as u64) {
        Err(Error::Invalid(invalid)) => invalid,
        other => panic!("{other:?}"),
    };
    let text = u64::from_le_bytes(*b"ZFile\0\x01\x01");
    let want = invalid(Rule::BlobKind, 0, text, ZFILE);
    assert_eq!(refused(b"ZFile\0\x01\x01 and so on"), want);
    // Too short for a magic.
    for short in [&b""[..], b"ZFile\0\x01"] {
        assert_eq!(refused(short), invalid(Rule::BlobKind, 0, 0, ZFILE));
    }
    let tar = [&encode_ustar(4).unwrap()[..], b"text", &[0; 1532]].concat();
    assert_eq!(refused(&tar), invalid(Rule::BlobKind, 512, 0, ZFILE));
}
