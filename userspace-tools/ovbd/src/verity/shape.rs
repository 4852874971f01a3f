// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How a tree is laid out, and the superblock of `veritysetup` in which that is written down.
//!
//! Only one kind of tree is known here: format 1, SHA-256, hash blocks of 4096 bytes. The superblock
//! is not covered by the root hash, so that whoever can change the tree can claim any other shape:
//! nothing that they might gain from a weaker hash, or from blocks of hashes that pass for data of
//! their size, is worth reading trees that nobody makes.

use overlaybd_format::Bytes;
use serde::Serialize;

use super::{RootHash, Salt};

/// Bytes of a block of hashes.
pub const HASH_BLOCK: u32 = 4096;
/// How many hashes are in one, as a power of two.
const FAN_OUT_BITS: u32 = 7;
/// Blocks of data can have 512 bytes to a page of the smallest kind.
const DATA_BLOCKS: [u32; 2] = [512, 4096];
/// The most bytes of salt.
pub const SALT_MAX: usize = 256;
/// Bytes of the superblock; the first level begins with the next block of hashes.
pub const SUPERBLOCK: usize = 512;
/// Where the hashes begin in a tree, in blocks of hashes.
pub const HASH_START: u64 = 1;
/// Devices and files are no longer than that.
const DATA_MAX: Bytes = i64::MAX as u64;

const MAGIC: &[u8; 8] = b"verity\0\0";
const ALGORITHM: &[u8; 6] = b"sha256";

// Where the superblock has its fields.
const VERSION_AT: usize = 8;
const HASH_TYPE_AT: usize = 12;
const UUID_AT: usize = 16;
const ALGORITHM_AT: usize = 32;
const ALGORITHM_LEN: usize = 32;
const DATA_BLOCK_AT: usize = 64;
const HASH_BLOCK_AT: usize = 68;
const DATA_BLOCKS_AT: usize = 72;
const SALT_SIZE_AT: usize = 80;
const SALT_AT: usize = 88;

/// Everything that the root hash depends on but the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// Bytes in a block of data: 512 or 4096.
    data_block: u32,
    /// How many of them there are, 1 at least.
    data_blocks: u64,
    /// What is hashed ahead of each block.
    salt: Salt,
}

/// A level of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Its first block in the file, counted in blocks of hashes.
    pub start: u64,
    /// How many blocks it has.
    pub blocks: u64,
}

impl Shape {
    /// For data of `length` bytes; `None` if there are none or too many.
    pub fn of(length: Bytes, data_block: u32, salt: Salt) -> Option<Self> {
        let data_blocks = length.div_ceil(u64::from(data_block));
        Self::new(data_block, data_blocks, salt)
    }

    fn new(data_block: u32, data_blocks: u64, salt: Salt) -> Option<Self> {
        let most = DATA_MAX / u64::from(HASH_BLOCK);
        let shape = Self {
            data_block,
            data_blocks,
            salt,
        };
        (DATA_BLOCKS.contains(&data_block) && (1..=most).contains(&data_blocks)).then_some(shape)
    }

    /// Bytes in a block of data.
    pub fn data_block(&self) -> u32 {
        self.data_block
    }

    /// How many blocks of data there are.
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// What is hashed ahead of each block.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Bytes of the data, the zeros that fill its last block included.
    pub fn data_length(&self) -> Bytes {
        self.data_blocks * u64::from(self.data_block)
    }

    /// Whether data of `length` bytes have so many blocks.
    pub fn fits(&self, length: Bytes) -> bool {
        length.div_ceil(u64::from(self.data_block)) == self.data_blocks
    }

    /// The levels, the one with the hashes of data first. There is none if there is but one block of
    /// data: its hash is the root.
    pub fn levels(&self) -> Vec<Level> {
        let mut levels = Vec::new();
        let mut blocks = self.data_blocks;
        while blocks > 1 {
            blocks = blocks.div_ceil(1 << FAN_OUT_BITS);
            levels.push(Level { start: 0, blocks });
        }
        let mut start = HASH_START;
        for level in levels.iter_mut().rev() {
            level.start = start;
            start += level.blocks;
        }
        levels
    }

    /// Bytes of the tree, superblock included.
    pub fn tree_length(&self) -> Bytes {
        let blocks: u64 = self.levels().iter().map(|level| level.blocks).sum();
        (HASH_START + blocks) * u64::from(HASH_BLOCK)
    }

    /// The superblock of a tree with this root.
    pub fn encode(&self, root: &RootHash) -> [u8; SUPERBLOCK] {
        let mut bytes = [0; SUPERBLOCK];
        let mut set = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let salt = self.salt.as_bytes();
        set(0, MAGIC);
        set(VERSION_AT, &1u32.to_le_bytes());
        set(HASH_TYPE_AT, &1u32.to_le_bytes());
        set(UUID_AT, &uuid(root));
        set(ALGORITHM_AT, ALGORITHM);
        set(DATA_BLOCK_AT, &self.data_block.to_le_bytes());
        set(HASH_BLOCK_AT, &HASH_BLOCK.to_le_bytes());
        set(DATA_BLOCKS_AT, &self.data_blocks.to_le_bytes());
        set(SALT_SIZE_AT, &(salt.len() as u16).to_le_bytes());
        set(SALT_AT, salt);
        bytes
    }

    /// What a superblock says; an error is a phrase with what was found and what was expected.
    pub fn parse(bytes: &[u8; SUPERBLOCK]) -> Result<Self, String> {
        if !bytes.starts_with(MAGIC) {
            return Err("it does not begin with a superblock".to_owned());
        }
        let number = |at: usize| u32::from_le_bytes(field(bytes, at));
        let expect = |what: &str, found: u32, expected: u32| match found == expected {
            true => Ok(()),
            false => Err(format!("{what} {found}, expected {expected}")),
        };
        expect("version", number(VERSION_AT), 1)?;
        expect("hash type", number(HASH_TYPE_AT), 1)?;
        let algorithm: [u8; ALGORITHM_LEN] = field(bytes, ALGORITHM_AT);
        let end = algorithm.iter().position(|&byte| byte == 0);
        let algorithm = &algorithm[..end.unwrap_or(ALGORITHM_LEN)];
        if algorithm != ALGORITHM {
            let found = String::from_utf8_lossy(algorithm)
                .escape_default()
                .to_string();
            return Err(format!("hash algorithm {found}, expected sha256"));
        }
        expect("hash block size", number(HASH_BLOCK_AT), HASH_BLOCK)?;
        let (data_block, data_blocks) = (
            number(DATA_BLOCK_AT),
            u64::from_le_bytes(field(bytes, DATA_BLOCKS_AT)),
        );
        let length = usize::from(u16::from_le_bytes(field(bytes, SALT_SIZE_AT)));
        let salt = bytes[SALT_AT..SALT_AT + SALT_MAX].get(..length);
        let salt = salt.and_then(|salt| Salt::new(salt.to_vec()));
        let salt =
            salt.ok_or_else(|| format!("{length} bytes of salt, expected at most {SALT_MAX}"))?;
        Self::new(data_block, data_blocks, salt).ok_or_else(|| {
            format!("{data_blocks} data blocks of {data_block} bytes, expected some of 512 or 4096")
        })
    }
}

/// The `N` bytes at a constant place within the superblock.
fn field<const N: usize>(bytes: &[u8; SUPERBLOCK], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

/// The UUID of a tree: version 8, of the root hash, so that the same tree is the same bytes.
fn uuid(root: &RootHash) -> [u8; 16] {
    let mut uuid = std::array::from_fn(|i| root.as_bytes()[i]);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(blocks: u64) -> Shape {
        Shape::of(blocks * 4096, 4096, Salt::default()).unwrap()
    }

    #[test]
    fn levels_end_with_a_single_block() {
        let levels = |blocks| {
            let levels = shape(blocks).levels();
            levels
                .iter()
                .map(|level| (level.start, level.blocks))
                .collect::<Vec<_>>()
        };
        assert_eq!(levels(1), []);
        assert_eq!(levels(2), [(1, 1)]);
        assert_eq!(levels(128), [(1, 1)]);
        // 128 hashes fit in a block: 129 blocks need a second level. The topmost comes first.
        assert_eq!(levels(129), [(2, 2), (1, 1)]);
        assert_eq!(levels(128 * 128 + 1), [(4, 129), (2, 2), (1, 1)]);
        assert_eq!(shape(1).tree_length(), 4096);
        assert_eq!(shape(129).tree_length(), 4 * 4096);
    }

    #[test]
    fn lengths_are_rounded_up() {
        let shape = Shape::of(4097, 4096, Salt::default()).unwrap();
        assert_eq!((shape.data_blocks(), shape.data_length()), (2, 8192));
        assert!(shape.fits(4097) && shape.fits(8192) && !shape.fits(4096) && !shape.fits(8193));
        assert_eq!(Shape::of(0, 4096, Salt::default()), None);
        assert_eq!(Shape::of(1, 1024, Salt::default()), None);
        assert_eq!(Shape::of(u64::MAX, 4096, Salt::default()), None);
    }

    #[test]
    fn a_superblock_is_read_back() {
        let root = RootHash::new([0xff; 32]);
        for salt in ["-", "00ff", &"5a".repeat(256)] {
            let shape = Shape::of(12345, 512, salt.parse().unwrap()).unwrap();
            let bytes = shape.encode(&root);
            assert_eq!(Shape::parse(&bytes).as_ref(), Ok(&shape));
        }
        let uuid: [u8; 16] = field(&shape(1).encode(&root), UUID_AT);
        assert_eq!((uuid[6], uuid[8]), (0x8f, 0xbf));
    }

    #[test]
    fn other_superblocks_are_refused() {
        let good = shape(5).encode(&RootHash::new([1; 32]));
        assert!(Shape::parse(&good).is_ok());
        for (at, value, words) in [
            (0, 0, "does not begin"),
            (VERSION_AT, 2, "version 2, expected 1"),
            (HASH_TYPE_AT, 0, "hash type 0, expected 1"),
            (ALGORITHM_AT + 3, b'5', "sha556"),
            (ALGORITHM_AT + 6, b'x', "sha256x"),
            (DATA_BLOCK_AT + 1, 4, "of 1024 bytes"),
            (HASH_BLOCK_AT + 1, 2, "hash block size 512"),
            (DATA_BLOCKS_AT, 0, "0 data blocks"),
            (DATA_BLOCKS_AT + 7, 0x80, "data blocks of 4096"),
            (SALT_SIZE_AT + 1, 2, "512 bytes of salt"),
        ] {
            let mut bytes = good;
            bytes[at] = value;
            let error = Shape::parse(&bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
