// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Opening LSMT layers: what is refused, and why; what is accepted; what is read.

mod common;

use common::sample::Lsmt;
use common::{Broken, Scarce, Std, Watched};
use overlaybd_format::lsmt::{
    flag, parent_mismatch, user_tag, Entry, Header, Layer, Uuid, MAX_ENTRY_LEN, MAX_SECTORS,
};
use overlaybd_format::{Error, Invalid, Part, Rule};
use proptest::prelude::*;

/// Opens a file that is refused.
fn refused(bytes: &[u8]) -> Invalid {
    match Layer::<Std>::open(bytes, bytes.len() as u64) {
        Err(Error::Invalid(invalid)) => invalid,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted"),
    }
}

fn open(bytes: &[u8]) -> Layer<Std> {
    Layer::open(bytes, bytes.len() as u64).unwrap_or_else(|error| panic!("{error}"))
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

/// Where the parts of [`Lsmt::small`] are.
const INDEX: u64 = 4096 + 16 * 512;
const TRAILER: u64 = INDEX + 5 * 16;

const MAGIC0: u64 = u64::from_le_bytes(*b"LSMT\0\x01\x02\0");
const MAGIC1: u64 = 0x8aae_cf4f_ecc8_d2a2;

#[test]
fn sample_is_valid() {
    let layer = open(&Lsmt::small().bytes());
    let entries = [
        Entry::data(0, 8, 8),
        Entry::zeros(8, 1, 16),
        Entry::data(20, 8, 16),
    ];
    assert_eq!(layer.entries(), entries);
    assert_eq!(layer.as_ref(), entries);
    assert_eq!(layer.virtual_size(), 64 * 512);
    assert_eq!(layer.index_offset(), INDEX);
    assert_eq!(layer.data_end(), 24);
    assert_eq!(layer.partial_tail(), None);
    assert_eq!(layer.user_tag(), b"tag");
    assert_eq!((layer.uuid(), layer.parent_uuid()), (None, None));
    assert_eq!(layer.header().flags, 7);
    assert_eq!(layer.trailer().flags, 6);
    assert_eq!(
        (layer.trailer().version, layer.trailer().sub_version),
        (1, 1)
    );
}

/// A field of header or trailer, set to bytes.
fn patched(trailer: bool, field: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = Lsmt::small();
    let record = if trailer {
        &mut file.trailer
    } else {
        &mut file.header
    };
    record[field..field + bytes.len()].copy_from_slice(bytes);
    file.bytes()
}

/// A record (the trailer, if true), a field and its bytes; the rule that breaks,
/// the field that is named, what is found and expected.
type Case<'a> = (bool, usize, &'a [u8], Rule, u64, u64, u64);

/// Each rule about one field of a record that breaks when the field does.
#[test]
fn wrong_fields_are_refused() {
    use Rule::*;
    const HEAD: bool = false;
    const TAIL: bool = true;
    #[rustfmt::skip]
    let cases: &[Case<'_>] = &[
        (HEAD, 0, b"lSMT", LsmtMagic, 0, MAGIC0 | 0x20, MAGIC0),
        (HEAD, 23, &[0], LsmtMagic, 16, MAGIC1 << 8 >> 8, MAGIC1),
        (TAIL, 0, b"lSMT", LsmtTrailerMagic, 0, MAGIC0 | 0x20, MAGIC0),
        (TAIL, 23, &[0], LsmtTrailerMagic, 16, MAGIC1 << 8 >> 8, MAGIC1),
        (HEAD, 24, &[0x87], LsmtRecordSize, 24, 391, 390),
        (TAIL, 24, &[0x87], LsmtRecordSize, 24, 391, 390),
        (HEAD, 132, &[2], LsmtVersion, 132, 2, 1),
        (TAIL, 132, &[255], LsmtVersion, 132, 255, 1),
        (HEAD, 28, &[0x06], LsmtHeaderFlag, 28, 6, 7),
        (TAIL, 28, &[0x07], LsmtTrailerFlag, 28, 7, 6),
        (HEAD, 28, &[0x05], LsmtDataFlag, 28, 5, 7),
        (TAIL, 28, &[0x04], LsmtDataFlag, 28, 4, 6),
        (TAIL, 28, &[0x02], LsmtSealedFlag, 28, 2, 6),
        (TAIL, 32, &4095u64.to_le_bytes(), LsmtIndexStart, 32, 4095, 4096),
        (TAIL, 32, &0u64.to_le_bytes(), LsmtIndexStart, 32, 0, 4096),
        (TAIL, 32, &(INDEX + 1).to_le_bytes(), LsmtIndexEnd, 40, TRAILER + 1, TRAILER),
        (TAIL, 32, &u64::MAX.to_le_bytes(), LsmtIndexEnd, 40, u64::MAX, TRAILER),
        (TAIL, 40, &[6], LsmtIndexEnd, 40, TRAILER + 16, TRAILER),
        (TAIL, 40, &u64::MAX.to_le_bytes(), LsmtIndexEnd, 40, u64::MAX, TRAILER),
    ];
    for &(part, field, bytes, rule, named, found, expected) in cases {
        let begin = if part == TAIL { TRAILER } else { 0 };
        let want = invalid(rule, begin + named, found, expected);
        assert_eq!(refused(&patched(part, field, bytes)), want, "{want}");
    }
}

/// Each rule about an entry, with the entry that breaks it behind two good ones.
#[test]
fn wrong_entries_are_refused() {
    use Rule::*;
    let far = MAX_SECTORS - 2;
    #[rustfmt::skip]
    let cases = [
        (Entry::data(20, 0, 8), LsmtEntryEmpty, 0, 1),
        (Entry::zeros(20, 0, 8), LsmtEntryEmpty, 0, 1),
        (Entry::data(9, 1, 8), LsmtEntryOrder, 9, 10),
        (Entry::data(0, 100, 8), LsmtEntryOrder, 0, 10),
        (Entry::data(10, 1, 8), LsmtEntryOverlap, 10, 12),
        (Entry::zeros(11, 1, 8), LsmtEntryOverlap, 11, 12),
        (Entry::data(far, 3, 8), LsmtEntryEnd, far + 3, MAX_SECTORS),
        (Entry::zeros(far, MAX_ENTRY_LEN, 8), LsmtEntryEnd, far + MAX_ENTRY_LEN, MAX_SECTORS),
        (Entry::data(20, 1, 7), LsmtDataStart, 7, 8),
        (Entry::data(far, 2, 7), LsmtDataStart, 7, 8),
        (Entry::data(20, 1, 0), LsmtDataStart, 0, 8),
        (Entry::data(20, 1, 24), LsmtDataEnd, 25, 24),
        (Entry::data(20, 2, 23), LsmtDataEnd, 25, 24),
        (Entry::data(20, 1, (1 << 55) - 1), LsmtDataEnd, 1 << 55, 24),
    ];
    for (wrong, rule, found, expected) in cases {
        let mut file = Lsmt::small();
        file.entries = vec![
            Entry::data(1, 2, 8),
            Entry::zeros(10, 2, 8),
            Entry::PADDING,
            wrong,
            Entry::data(0, 0, 0), // not named, because it is not the first
        ];
        let want = Invalid {
            item: 3,
            ..invalid(rule, INDEX + 3 * 16, found, expected)
        };
        assert_eq!(refused(&file.bytes()), want, "{want}");
    }
}

/// Entries at the limits of what is allowed.
#[test]
fn extreme_entries_are_accepted() {
    let cases = [
        // Neighbours that touch.
        vec![Entry::data(0, 1, 8), Entry::data(1, 1, 8)],
        // All of the data; the last sector.
        vec![Entry::data(0, 16, 8), Entry::data(100, 1, 23)],
        // Far beyond the virtual size, up to the end of the address space.
        vec![Entry::data(MAX_SECTORS - 2, 2, 8)],
        vec![Entry::zeros(
            MAX_SECTORS - 1 - MAX_ENTRY_LEN,
            MAX_ENTRY_LEN,
            0,
        )],
        // Zeros do not use moffset.
        vec![Entry::zeros(0, 1, 0), Entry::zeros(1, 1, (1 << 55) - 1)],
        // Tags mean nothing.
        vec![
            Entry::data(0, 1, 8).with_tag(255),
            Entry::zeros(5, 1, 8).with_tag(1),
        ],
    ];
    for entries in cases {
        let mut file = Lsmt::small();
        file.entries.clone_from(&entries);
        file.entries.resize(5, Entry::PADDING);
        assert_eq!(open(&file.bytes()).entries(), entries);
    }
}

/// What begins at the last sector is padding, whatever else it says.
#[test]
fn padding_is_known_by_its_start() {
    let start = MAX_SECTORS - 1;
    for padding in [
        Entry::PADDING,
        Entry::data(start, 7, 1),
        Entry::zeros(start, 1, 0),
    ] {
        assert!(padding.is_padding());
        let mut file = Lsmt::small();
        file.entries = vec![padding, padding, Entry::data(3, 1, 8), padding, padding];
        assert_eq!(open(&file.bytes()).entries(), [Entry::data(3, 1, 8)]);
    }
}

/// A writable layer has no trailer; that is said, instead of a wrong magic.
#[test]
fn writable_layer_is_refused() {
    for flags in [0x03, 0x13] {
        let mut file = Lsmt::small();
        file.header[28] = flags;
        // Sealed in place: only the trailer says so.
        assert!(!open(&file.bytes()).header().is_sealed());
        file.trailer.fill(0);
        let flags = u64::from(flags);
        assert_eq!(
            refused(&file.bytes()),
            invalid(Rule::LsmtWritable, 28, flags, flags | 4)
        );
    }
}

#[test]
fn length_is_exact() {
    let bytes = Lsmt::small().bytes();
    for length in [0, 4096, 8191] {
        let error = Layer::<Std>::open(&bytes[..], length).err();
        let want = invalid(Rule::LsmtLength, 0, length, 8192);
        assert_eq!(error, Some(Error::Invalid(want)));
    }
    let longer = [&bytes[..], &[0; 3]].concat();
    assert_eq!(refused(&longer).rule, Rule::LsmtTrailerMagic);
    assert_eq!(
        refused(&bytes[..bytes.len() - 1]).rule,
        Rule::LsmtTrailerMagic
    );
}

/// Where header and trailer differ, the trailer counts; its unknown flags do not.
#[test]
fn trailer_counts() {
    let uuid = Uuid::parse("00112233-4455-6677-8899-aabbccddeeff");
    let mut file = Lsmt::small();
    let trailer = Header::parse(file.trailer[..512].try_into().unwrap(), 0, Part::Trailer);
    let trailer = Header {
        flags: !flag::HEADER,
        virtual_size: 512,
        uuid,
        parent_uuid: uuid,
        version: 0,
        sub_version: 77,
        ..trailer.unwrap()
    };
    file.trailer = trailer.encode(b"other").to_vec();
    let layer = open(&file.bytes());
    assert_eq!(layer.virtual_size(), 512);
    assert_eq!((layer.uuid(), layer.parent_uuid()), (uuid, uuid));
    assert_eq!(layer.user_tag(), b"other");
    assert_eq!(*layer.trailer(), trailer);
    assert_eq!(layer.header().virtual_size, 64 * 512);
}

/// The index need not end at the trailer, nor begin at a sector.
#[test]
fn odd_places_are_accepted() {
    let mut file = Lsmt::new(1 << 20, 1000, &[Entry::data(0, 2, 8)]);
    file.rest = vec![0xff; 7];
    let layer = open(&file.bytes());
    assert_eq!(layer.entries(), [Entry::data(0, 2, 8)]);
    assert_eq!(layer.data_end(), 10);
    assert_eq!(layer.partial_tail(), Some((9, 1000 - 512)));
    file.entries = vec![Entry::data(0, 3, 8)];
    assert_eq!(refused(&file.bytes()).rule, Rule::LsmtDataEnd);
}

#[test]
fn empty_layer_opens() {
    let file = Lsmt::new(0, 0, &[]).bytes();
    assert_eq!(file.len(), 8192);
    let layer = open(&file);
    assert!(layer.entries().is_empty());
    assert_eq!(layer.data_end(), 8);
}

#[test]
fn user_tags() {
    let header = Header::sealed(0, None, None);
    let full = [b'T'; 256];
    for tag in [&b""[..], b"x", &full] {
        let record = header.encode(tag);
        assert_eq!(user_tag(record[..512].try_into().unwrap()), tag);
    }
    // Longer ones are cut.
    assert_eq!(header.encode(&[b'T'; 300]), header.encode(&full));
}

#[test]
fn uuids_are_compared_without_case() {
    let upper = "0A1B2C3D-4E5F-6071-8293-A4B5C6D7E8F9";
    let uuid = Uuid::parse(upper).unwrap();
    assert_eq!(Uuid::parse(&upper.to_lowercase()), Some(uuid));
    assert_eq!(uuid.to_string(), upper);
    assert_eq!(uuid.as_bytes()[..3], [0x0a, 0x1b, 0x2c]);
    let record = Header::sealed(0, Some(uuid), None).encode(b"");
    assert_eq!(&record[56..93], format!("{upper}\0").as_bytes());
    assert_eq!(&record[93..130], b"00000000-0000-0000-0000-000000000000\0");
}

/// Text that is no UUID names nothing, like an empty one and one of zeros.
#[test]
fn no_uuid() {
    let texts = [
        "",
        "00000000-0000-0000-0000-000000000000",
        "00112233-4455-6677-8899-aabbccddeef",
        "00112233-4455-6677-8899-aabbccddeeff0",
        "00112233-4455-6677-8899-aabbccddeefg",
        "0011223-34455-6677-8899-aabbccddeeff",
        "00112233044550667708899-aabbccddeeff",
        "+0112233-4455-6677-8899-aabbccddeeff",
    ];
    for text in texts {
        assert_eq!(Uuid::parse(text), None, "{text}");
    }
    let mut file = Lsmt::small();
    file.trailer[56..92].copy_from_slice(b"00112233-4455-6677-8899-aabbccddeeff");
    assert!(open(&file.bytes()).uuid().is_some());
    file.trailer[92] = b'0'; // no NUL
    assert_eq!(open(&file.bytes()).uuid(), None);
    file.trailer[56..93].fill(0);
    assert_eq!(open(&file.bytes()).uuid(), None);
}

#[test]
fn parents_match_unless_both_are_named() {
    let a = Uuid::parse("aaaaaaaa-0000-0000-0000-000000000000");
    let b = Uuid::parse("bbbbbbbb-0000-0000-0000-000000000000");
    assert!(parent_mismatch(a, b));
    assert!(!parent_mismatch(a, a));
    assert!(!parent_mismatch(a, None));
    assert!(!parent_mismatch(None, b));
    assert!(!parent_mismatch(None, None));
}

/// Headers of writable layers parse, too.
#[test]
fn writable_headers_parse() {
    for flags in [0x03, 0x01, 0x13] {
        let header = Header {
            flags,
            ..Header::sealed(512, None, None)
        };
        let record = header.encode(b"");
        let parsed = Header::parse(record[..512].try_into().unwrap(), 0, Part::Header).unwrap();
        assert_eq!(parsed, header);
        assert_eq!(parsed.is_data(), flags & 2 != 0);
        assert!(!parsed.is_sealed());
    }
}

/// Opening reads header, trailer and index, once, and nothing else.
#[test]
fn nothing_else_is_read() {
    // An index that is longer than what is read at once.
    let entries: Vec<_> = (0..20_000).map(|n| Entry::data(2 * n, 1, 8)).collect();
    let file = Lsmt::new(1 << 30, 4096, &entries).bytes();
    let watched = Watched::new(&file, usize::MAX);
    let layer = Layer::<Std>::open(&watched, file.len() as u64)
        .ok()
        .unwrap();
    assert_eq!(layer.entries(), entries);
    let reads = watched.reads.into_inner();
    let (index, trailer) = (8192, file.len() as u64 - 4096);
    assert_eq!(reads[..2], [0..512, trailer..trailer + 512]);
    let mut at = index;
    for read in &reads[2..] {
        assert_eq!(read.start, at);
        at = read.end;
    }
    assert_eq!(at, trailer);
}

#[test]
fn read_errors_are_passed_on() {
    let file = Lsmt::small().bytes();
    for (fail, offset) in [0, TRAILER, INDEX].into_iter().enumerate() {
        let watched = Watched::new(&file, fail);
        let error = Layer::<Std>::open(&watched, file.len() as u64).err();
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
fn lack_of_memory_is_passed_on() {
    let file = Lsmt::small().bytes();
    for granted in 0..3 {
        Scarce::grant(granted);
        let error = Layer::<Scarce>::open(&file[..], file.len() as u64).err();
        assert_eq!(error, Some(Error::NoMemory));
    }
    Scarce::grant(3);
    Layer::<Scarce>::open(&file[..], file.len() as u64)
        .ok()
        .unwrap();
}

/// A claim of many entries is not believed before the file is long enough.
#[test]
fn claims_do_not_allocate() {
    Scarce::limit(1024);
    for entries in [1u64 << 20, 1 << 40, 1 << 60, u64::MAX] {
        let file = patched(true, 40, &entries.to_le_bytes());
        let error = Layer::<Scarce>::open(&file[..], file.len() as u64).err();
        assert!(matches!(error, Some(Error::Invalid(i)) if i.rule == Rule::LsmtIndexEnd));
    }
}

#[test]
fn entries_print() {
    let entry = Entry::data(5, 6, 7).with_tag(8);
    assert_eq!(format!("{entry:?}"), "5+6 → 7 tag 8");
    assert_eq!(format!("{:?}", Entry::zeros(5, 6, 7)), "5+6 → zeros tag 0");
    assert_eq!(format!("{:?}", Entry::PADDING), "padding");
}

proptest! {
    /// Bits of an entry are where the format says.
    #[test]
    fn entry_bits(
        start in 0..MAX_SECTORS,
        len in 0..=MAX_ENTRY_LEN,
        moffset in 0..1u64 << 55,
        zeroed: bool,
        tag: u8,
    ) {
        let new = if zeroed { Entry::zeros } else { Entry::data };
        let entry = new(start, len, moffset).with_tag(tag);
        let word0 = start | len << 50;
        let word1 = moffset | u64::from(zeroed) << 55 | u64::from(tag) << 56;
        let bytes = [word0.to_le_bytes(), word1.to_le_bytes()].concat();
        prop_assert_eq!(entry.encode().to_vec(), bytes);
        prop_assert_eq!(Entry::decode(&entry.encode()), entry);
        prop_assert_eq!((entry.start(), entry.len(), entry.moffset()), (start, len, moffset));
        prop_assert_eq!((entry.zeroed(), entry.tag()), (zeroed, tag));
        prop_assert_eq!(entry.end(), start + len);
        prop_assert_eq!(entry.is_empty(), len == 0);
    }

    /// Any UUID but that of zeros survives its text.
    #[test]
    fn uuid_round_trip(bytes: [u8; 16]) {
        prop_assume!(bytes != [0; 16]);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        let uuid = Uuid::parse(&text).unwrap();
        prop_assert_eq!(uuid.as_bytes(), &bytes);
        prop_assert_eq!(uuid.to_string(), text.to_uppercase());
        let record = Header::sealed(0, None, Some(uuid)).encode(b"");
        let header = Header::parse(record[..512].try_into().unwrap(), 0, Part::Header);
        prop_assert_eq!(header.unwrap().parent_uuid, Some(uuid));
    }
}
