// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The jump table against prefix sums.

mod common;

use common::{Scarce, Std};
use overlaybd_format::jump::{Builder, JumpTable};
use overlaybd_format::OutOfMemory;
use proptest::collection::vec;
use proptest::prelude::*;

/// The longest a block of 4 KiB can be stored in, with zstd and a CRC.
const LONGEST: u32 = 4178;

fn build(lengths: &[u32], longest: u32, start: u64) -> JumpTable<Std> {
    let mut builder = Builder::new(lengths.len() as u64, longest, start).unwrap();
    assert!(builder.is_empty());
    for &len in lengths {
        builder.push(len);
    }
    assert_eq!(builder.len(), lengths.len() as u64);
    assert_eq!(builder.is_empty(), lengths.is_empty());
    builder.finish()
}

/// Where each block begins, and the last one ends.
fn sums(lengths: &[u32], start: u64) -> Vec<u64> {
    let mut at = start;
    let ends = lengths.iter().map(|&len| {
        at += u64::from(len);
        at
    });
    [start].into_iter().chain(ends).collect()
}

fn check(lengths: &[u32], longest: u32, start: u64) {
    let table = build(lengths, longest, start);
    let sums = sums(lengths, start);
    let blocks = lengths.len() as u64;
    for (block, &sum) in (0..).zip(&sums) {
        assert_eq!(table.start(block), sum, "block {block}");
        assert_eq!(
            table.extent(block / 2..block),
            sums[block as usize / 2]..sum
        );
    }
    let end = *sums.last().unwrap();
    assert_eq!((table.blocks(), table.end()), (blocks, end));
    for beyond in [blocks + 1, blocks + 16, blocks + 1000, u64::MAX] {
        assert_eq!(table.start(beyond), end);
    }
}

proptest! {
    #[test]
    fn narrow(lengths in vec(1..=LONGEST, 0..100), start in 0..1u64 << 60) {
        check(&lengths, LONGEST, start);
    }

    #[test]
    fn wide(lengths in vec(1..=70_000u32, 0..100), start in 0..1u64 << 60) {
        check(&lengths, 70_000, start);
    }
}

/// Where offsets within a group are as large as they get.
#[test]
fn longest_blocks() {
    check(&[LONGEST; 64], LONGEST, 512);
    // 15 * 4369 is the most that 16 bits hold.
    check(&[4369; 64], 4369, 512);
    check(&[4370; 64], 4370, 512);
    check(&[u32::MAX / 15; 64], u32::MAX / 15, 512);
}

#[test]
fn memory() {
    let bytes = |blocks: usize, longest| build(&vec![1; blocks], longest, 0).memory();
    assert_eq!(bytes(16_000, LONGEST), 16_000 * 5 / 2);
    assert_eq!(bytes(16_000, 4369), 16_000 * 5 / 2);
    assert_eq!(bytes(16_000, 4370), 16_000 * 9 / 2);
    assert_eq!(bytes(16_000, 65_813), 16_000 * 9 / 2);
    assert_eq!(bytes(1, LONGEST), 40);
    assert_eq!(bytes(0, LONGEST), 0);
}

/// More or fewer blocks than there is room for do no harm.
#[test]
fn wrong_number_of_blocks() {
    let mut builder = Builder::<Std>::new(3, LONGEST, 512).unwrap();
    for _ in 0..40 {
        builder.push(10);
    }
    let table = builder.finish();
    assert_eq!((table.blocks(), table.start(2), table.end()), (3, 532, 912));
    let table = Builder::<Std>::new(3, LONGEST, 512).unwrap().finish();
    assert_eq!((table.blocks(), table.start(0)), (0, 512));
}

#[test]
fn lack_of_memory_is_passed_on() {
    Scarce::grant(0);
    for longest in [LONGEST, 65_813] {
        assert_eq!(
            Builder::<Scarce>::new(1, longest, 0).err(),
            Some(OutOfMemory)
        );
    }
}
