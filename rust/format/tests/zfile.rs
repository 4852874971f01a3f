// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Opening ZFiles: what is refused, and why; what is accepted; what is read.

mod common;

use common::sample::{Zfile, DIGEST};
use common::{Broken, Scarce, Std, Watched};
use overlaybd_format::zfile::{Algorithm, Header, ZFile};
use overlaybd_format::{Error, Invalid, Rule};

/// Opens a file that is refused.
fn refused(bytes: &[u8]) -> Invalid {
    match ZFile::<Std>::open(bytes, bytes.len() as u64) {
        Err(Error::Invalid(invalid)) => invalid,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("accepted"),
    }
}

fn open(bytes: &[u8]) -> ZFile<Std> {
    ZFile::open(bytes, bytes.len() as u64).unwrap_or_else(|error| panic!("{error}"))
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

/// Where the parts of [`Zfile::small`] are.
const INDEX: u64 = 512 + 100 + 4132 + 5;
const TRAILER: u64 = INDEX + 12;

const MAGIC0: u64 = u64::from_le_bytes(*b"ZFile\0\x01\0");
const MAGIC1: u64 = u64::from_le_bytes(*b"@Alibaba");

#[test]
fn sample_is_valid() {
    let zfile = open(&Zfile::small().bytes());
    assert_eq!(zfile.block_count(), 3);
    assert_eq!(zfile.original_size(), 2 * 4096 + 1);
    assert_eq!(zfile.algorithm(), Algorithm::Lz4);
    assert_eq!(zfile.block_size(), 4096);
    assert!(zfile.verify());
    assert_eq!(zfile.stored_len(), 5..=4132);
    assert_eq!(zfile.table().extent(0..3), 512..INDEX);
    assert_eq!(zfile.table().extent(1..2), 612..4744);
    let lens: Vec<_> = (0..5).map(|block| zfile.block_len(block)).collect();
    assert_eq!(lens, [4096, 4096, 1, 0, 0]);
    assert_eq!(zfile.block_len(u64::MAX), 0);
    open(&Zfile::small().overwrite().bytes());
}

/// A field of header or trailer, set to bytes, with all digests made right.
fn patched(trailer: bool, field: usize, bytes: &[u8]) -> Vec<u8> {
    patch(Zfile::small(), trailer, field, bytes).seal().bytes()
}

fn patch(mut file: Zfile, trailer: bool, field: usize, bytes: &[u8]) -> Zfile {
    let record = if trailer {
        &mut file.trailer
    } else {
        &mut file.header
    };
    record[field..field + bytes.len()].copy_from_slice(bytes);
    file
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
        (HEAD, 0, b"zFile", ZfileMagic, 0, MAGIC0 | 0x20, MAGIC0),
        (HEAD, 23, b"A", ZfileMagic, 16, MAGIC1 & !(0x20 << 56), MAGIC1),
        (TAIL, 0, b"zFile", ZfileTrailerMagic, 0, MAGIC0 | 0x20, MAGIC0),
        (TAIL, 23, b"A", ZfileTrailerMagic, 16, MAGIC1 & !(0x20 << 56), MAGIC1),
        (HEAD, 24, &[97], ZfileRecordSize, 24, 97, 96),
        (TAIL, 24, &[0], ZfileRecordSize, 24, 0, 96),
        (HEAD, 32, &[0x12], ZfileHeaderFlag, 32, 0x12, 0x13),
        (HEAD, 32, &[0x33], ZfileIndexCompressed, 32, 0x33, 0x13),
        (TAIL, 32, &[0x17], ZfileTrailerFlag, 32, 0x17, 0x16),
        (TAIL, 32, &[0x14], ZfileDataFlag, 32, 0x14, 0x16),
        (TAIL, 32, &[0x12], ZfileSealedFlag, 32, 0x12, 0x16),
        (TAIL, 32, &[0x36], ZfileIndexCompressed, 32, 0x36, 0x16),
        (HEAD, 72, &5000u32.to_le_bytes(), ZfileBlockSize, 72, 5000, 5000),
        (HEAD, 72, &0u32.to_le_bytes(), ZfileBlockSize, 72, 0, 4096),
        (TAIL, 72, &2048u32.to_le_bytes(), ZfileBlockSize, 72, 2048, 4096),
        (TAIL, 72, &131_072u32.to_le_bytes(), ZfileBlockSize, 72, 131_072, 65536),
        (HEAD, 76, &[0], ZfileAlgorithm, 76, 0, 1),
        (TAIL, 76, &[3], ZfileAlgorithm, 76, 3, 1),
        (HEAD, 78, &[1], ZfileDictionary, 78, 1, 0),
        (TAIL, 84, &[0, 1], ZfileDictionary, 84, 256, 0),
        (HEAD, 88, &[2], ZfileVerify, 88, 2, 1),
        (TAIL, 88, &[255], ZfileVerify, 88, 255, 1),
        (TAIL, 72, &8192u32.to_le_bytes(), ZfileTrailerDiffers, 72, 8192, 4096),
        (TAIL, 76, &[2], ZfileTrailerDiffers, 76, 2, 1),
        (TAIL, 88, &[0], ZfileTrailerDiffers, 88, 0, 1),
        (TAIL, 40, &511u64.to_le_bytes(), ZfileIndexStart, 40, 511, 512),
        (TAIL, 40, &u64::MAX.to_le_bytes(), ZfileIndexEnd, 48, u64::MAX, TRAILER),
        (TAIL, 40, &(INDEX - 1).to_le_bytes(), ZfileIndexEnd, 48, TRAILER - 1, TRAILER),
        (TAIL, 48, &[2], ZfileIndexEnd, 48, TRAILER - 4, TRAILER),
        (TAIL, 48, &u64::MAX.to_le_bytes(), ZfileIndexEnd, 48, u64::MAX, TRAILER),
        (TAIL, 56, &8192u64.to_le_bytes(), ZfileBlockCount, 48, 3, 2),
        (TAIL, 56, &u64::MAX.to_le_bytes(), ZfileBlockCount, 48, 3, 1 << 52),
        (TAIL, 56, &0u64.to_le_bytes(), ZfileBlockCount, 48, 3, 0),
    ];
    for &(part, field, bytes, rule, named, found, expected) in cases {
        let begin = if part == TAIL { TRAILER } else { 0 };
        let want = invalid(rule, begin + named, found, expected);
        assert_eq!(refused(&patched(part, field, bytes)), want, "{want}");
    }
}

#[test]
fn wrong_digests_are_refused() {
    let mut file = Zfile::small();
    let digest = |record: &[u8; 512]| u32::from_le_bytes(record[28..32].try_into().unwrap());
    let (head, tail) = (digest(&file.header), digest(&file.trailer));
    file.header[DIGEST] ^= 1;
    let want = invalid(Rule::ZfileDigest, 28, (head ^ 1).into(), head.into());
    assert_eq!(refused(&file.bytes()), want);

    let mut file = Zfile::small();
    file.trailer[DIGEST] ^= 1;
    let at = TRAILER + 28;
    let want = invalid(Rule::ZfileTrailerDigest, at, (tail ^ 1).into(), tail.into());
    assert_eq!(refused(&file.bytes()), want);
}

/// A digest covers all 512 bytes, before and behind itself.
#[test]
fn digests_cover_everything() {
    for at in [76 + 1, 100, 511] {
        let mut file = Zfile::small();
        file.header[at] ^= 1;
        assert_eq!(refused(&file.bytes()).rule, Rule::ZfileDigest);
        let mut file = Zfile::small();
        file.trailer[at] ^= 1;
        assert_eq!(refused(&file.bytes()).rule, Rule::ZfileTrailerDigest);
    }
}

#[test]
fn wrong_index_checksum_is_refused() {
    let mut file = Zfile::small();
    let right = u32::from_le_bytes(file.trailer[64..68].try_into().unwrap());
    file.lengths[1] -= 1;
    file.lengths[0] += 1;
    let found = refused(&file.bytes());
    assert_eq!((found.rule, found.offset), (Rule::ZfileIndexDigest, INDEX));
    assert_eq!(found.expected, u64::from(right));
    assert_eq!(refused(&file.clone().bytes()), found);
    open(&file.seal().bytes());
}

/// The checksum explains a wrong length, and is named first.
#[test]
fn checksum_comes_before_lengths() {
    let mut file = Zfile::small();
    file.lengths[0] = 0;
    assert_eq!(refused(&file.bytes()).rule, Rule::ZfileIndexDigest);
}

#[test]
fn wrong_lengths_are_refused() {
    let cases = [
        ([100, 4133, 5], Rule::ZfileBlockLong, 1, 4133u32, 4132u32),
        ([4, 4132, 101], Rule::ZfileBlockShort, 0, 4, 5),
        ([100, 4132, 0], Rule::ZfileBlockShort, 2, 0, 5),
        (
            [100, 4132, u32::MAX],
            Rule::ZfileBlockLong,
            2,
            u32::MAX,
            4132,
        ),
        // The first wrong one is named.
        ([1, 2, 3], Rule::ZfileBlockShort, 0, 1, 5),
    ];
    for (lengths, rule, item, found, expected) in cases {
        let mut file = Zfile::small();
        file.lengths = lengths.to_vec();
        let want = Invalid {
            item,
            ..invalid(rule, INDEX + 4 * item, found.into(), expected.into())
        };
        assert_eq!(refused(&file.seal().bytes()), want, "{want}");
    }
}

/// The limits of the stored length, one side and the other, for each algorithm,
/// with and without CRC.
#[test]
fn stored_lengths_have_limits() {
    let cases = [
        (Algorithm::Lz4, 4096, 4096 + 16 + 16),
        (Algorithm::Lz4, 65536, 65536 + 257 + 16),
        (Algorithm::Zstd, 4096, 4096 + 16 + 62),
        (Algorithm::Zstd, 65536, 65536 + 256 + 32),
    ];
    for (algorithm, block_size, bound) in cases {
        for (verify, crc) in [(false, 0), (true, 4)] {
            let header = Header::new(algorithm, block_size, verify);
            open(&Zfile::new(header, &[1 + crc, bound + crc]).bytes());
            let short = refused(&Zfile::new(header, &[bound, crc]).bytes());
            assert_eq!((short.rule, short.item), (Rule::ZfileBlockShort, 1));
            let long = refused(&Zfile::new(header, &[bound + crc + 1]).bytes());
            assert_eq!((long.rule, long.item), (Rule::ZfileBlockLong, 0));
            assert_eq!(long.expected, u64::from(bound + crc));
        }
    }
}

#[test]
fn blocks_end_at_the_index() {
    let mut file = Zfile::small();
    file.lengths = vec![101, 4132, 5];
    let want = invalid(Rule::ZfileBlocksEnd, INDEX, INDEX + 1, INDEX);
    assert_eq!(refused(&file.seal().bytes()), want);
}

#[test]
fn length_is_exact() {
    let bytes = Zfile::small().bytes();
    for length in [0, 1, 511, 512, 1023] {
        let result = ZFile::<Std>::open(&bytes[..], length);
        let want = invalid(Rule::ZfileLength, 0, length, 1024);
        assert_eq!(result.err(), Some(Error::Invalid(want)));
    }
    let longer = [&bytes[..], &[0; 3]].concat();
    assert_eq!(refused(&longer).rule, Rule::ZfileTrailerMagic);
    assert_eq!(
        refused(&bytes[..bytes.len() - 1]).rule,
        Rule::ZfileTrailerMagic
    );
}

/// An overwritten header has to agree with the trailer, but for flags and digest.
#[test]
fn overwritten_header_agrees_with_trailer() {
    let fields: [(usize, &[u8]); 5] = [
        (40, &[0]),
        (48, &[4]),
        (56, &[2]),
        (64, &[0xff; 4]),
        (77, &[9]),
    ];
    for (field, bytes) in fields {
        let mut file = patch(Zfile::small().overwrite(), false, field, bytes);
        file = file.seal();
        let found = refused(&file.bytes());
        assert_eq!(found.rule, Rule::ZfileTrailerDiffers);
        assert_eq!(found.offset, TRAILER + field as u64);
        // Not overwritten, the header's fields mean nothing.
        open(&patched(false, field, bytes));
    }
}

#[test]
fn unknown_flags_are_ignored() {
    for bit in 6..64 {
        let set = |flags: u64| (flags | 1 << bit).to_le_bytes();
        let file = patch(Zfile::small(), false, 32, &set(0x13));
        open(&patch(file, true, 32, &set(0x16)).seal().bytes());
    }
}

/// Without flag 4, neither digests nor the index's CRC count.
#[test]
fn files_without_digests_open() {
    let mut file = patch(Zfile::small(), false, 32, &[0x03]);
    file = patch(file, true, 32, &[0x06]);
    for record in [&mut file.header, &mut file.trailer] {
        record[DIGEST..DIGEST + 4].fill(0xee);
    }
    file.trailer[64..68].fill(0xee);
    let bytes = file.bytes();
    let zfile = open(&bytes);
    assert!(!zfile.header().has_digest() && !zfile.trailer().has_digest());
    // Lengths still do.
    file.lengths[2] = 0;
    assert_eq!(refused(&file.bytes()).rule, Rule::ZfileBlockShort);
}

#[test]
fn empty_file_opens() {
    let header = Header::new(Algorithm::Zstd, 65536, true);
    let file = Zfile::new(header, &[]);
    assert_eq!(file.bytes().len(), 1024);
    for file in [file.clone(), file.overwrite()] {
        let zfile = open(&file.bytes());
        assert_eq!((zfile.block_count(), zfile.original_size()), (0, 0));
        assert_eq!(zfile.table().extent(0..1), 512..512);
    }
}

/// Opening reads header, trailer and index, once, and nothing else.
#[test]
fn nothing_else_is_read() {
    let header = Header::new(Algorithm::Lz4, 4096, true);
    // An index that is longer than what is read at once.
    let file = Zfile::new(header, &[9; 70_000]).bytes();
    let watched = Watched::new(&file, usize::MAX);
    ZFile::<Std>::open(&watched, file.len() as u64)
        .ok()
        .unwrap();
    let reads = watched.reads.into_inner();
    let (index, trailer) = (512 + 9 * 70_000, file.len() as u64 - 512);
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
    let file = Zfile::small().bytes();
    for (fail, offset) in [0, TRAILER, INDEX].into_iter().enumerate() {
        let watched = Watched::new(&file, fail);
        let error = ZFile::<Std>::open(&watched, file.len() as u64).err();
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
    let file = Zfile::small().bytes();
    for granted in 0..2 {
        Scarce::grant(granted);
        let error = ZFile::<Scarce>::open(&file[..], file.len() as u64).err();
        assert_eq!(error, Some(Error::NoMemory));
    }
    Scarce::grant(2);
    ZFile::<Scarce>::open(&file[..], file.len() as u64)
        .ok()
        .unwrap();
}

/// A claim of many blocks is not believed before the file is long enough.
#[test]
fn claims_do_not_allocate() {
    Scarce::limit(1024);
    for blocks in [1u64 << 27, 1 << 40, 1 << 62, u64::MAX] {
        let file = patched(true, 48, &blocks.to_le_bytes());
        let error = ZFile::<Scarce>::open(&file[..], file.len() as u64).err();
        assert!(matches!(error, Some(Error::Invalid(i)) if i.rule == Rule::ZfileIndexEnd));
    }
}
