// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Making a tree: one pass over the data, and no more memory than a block for each level.

use std::convert::Infallible;

use overlaybd_format::Bytes;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::shape::{Level, Shape, HASH_BLOCK, SUPERBLOCK};
use super::{RootHash, Salt};

/// How much data is hashed at a time, in bytes, by all processors together.
const PIECE: usize = 4 << 20;

/// Hashes blocks with a salt.
#[derive(Clone, Debug)]
pub struct Hasher(Sha256);

impl Hasher {
    /// With this salt ahead of each block.
    pub fn new(salt: &Salt) -> Self {
        Self(Sha256::new_with_prefix(salt.as_bytes()))
    }

    /// The hash of a block.
    pub fn hash(&self, block: &[u8]) -> [u8; 32] {
        self.0.clone().chain_update(block).finalize().into()
    }
}

/// Makes the tree of `length` bytes, which `read` reads at an offset; `write` writes at an offset.
/// Returns the root.
///
/// # Errors
/// Those of `read` and `write`.
pub fn make<E>(
    shape: &Shape,
    length: Bytes,
    mut read: impl FnMut(Bytes, &mut [u8]) -> Result<(), E>,
    write: impl FnMut(Bytes, &[u8]) -> Result<(), E>,
) -> Result<RootHash, E> {
    let mut tree = Tree::new(shape, write);
    let block = shape.data_block() as usize;
    let mut piece = vec![0; PIECE];
    // A disk is mostly nothing.
    let nothing = vec![0; block];
    let of_nothing = tree.hasher.hash(&nothing);
    let mut at = 0;
    while at < length {
        let got = (length - at).min(PIECE as u64) as usize;
        read(at, &mut piece[..got])?;
        let padded = got.next_multiple_of(block);
        piece[got..padded].fill(0);
        let blocks = piece[..padded].par_chunks_exact(block);
        let hash = |block: &[u8]| match block == nothing {
            true => of_nothing,
            false => tree.hasher.hash(block),
        };
        let hashes: Vec<_> = blocks.map(hash).collect();
        for hash in hashes {
            tree.push(0, hash)?;
        }
        at += got as u64;
    }
    tree.finish(shape)
}

/// The tree of data in memory, superblock included, and its root.
pub fn in_memory(data: &[u8], shape: &Shape) -> (Vec<u8>, RootHash) {
    let mut tree = vec![0; shape.tree_length() as usize];
    let read = |at, piece: &mut [u8]| {
        piece.copy_from_slice(&data[at as usize..][..piece.len()]);
        Ok(())
    };
    let write = |at, block: &[u8]| {
        tree[at as usize..][..block.len()].copy_from_slice(block);
        Ok(())
    };
    let made: Result<_, Infallible> = make(shape, data.len() as u64, read, write);
    match made {
        Ok(root) => (tree, root),
        Err(never) => match never {},
    }
}

/// A tree whose levels grow together: a block that is full is written, and its hash goes to the level
/// above.
struct Tree<W> {
    hasher: Hasher,
    write: W,
    levels: Vec<Growing>,
    /// The hash of the top.
    root: RootHash,
}

struct Growing {
    level: Level,
    /// How many of its blocks are written.
    written: u64,
    block: Vec<u8>,
}

impl<E, W: FnMut(Bytes, &[u8]) -> Result<(), E>> Tree<W> {
    fn new(shape: &Shape, write: W) -> Self {
        let growing = |level| Growing {
            level,
            written: 0,
            block: Vec::with_capacity(HASH_BLOCK as usize),
        };
        Self {
            hasher: Hasher::new(shape.salt()),
            write,
            levels: shape.levels().into_iter().map(growing).collect(),
            root: RootHash::new([0; 32]),
        }
    }

    fn push(&mut self, at: usize, hash: [u8; 32]) -> Result<(), E> {
        let Some(level) = self.levels.get_mut(at) else {
            self.root = RootHash::new(hash);
            return Ok(());
        };
        level.block.extend_from_slice(&hash);
        match level.block.len() == HASH_BLOCK as usize {
            true => self.flush(at),
            false => Ok(()),
        }
    }

    /// Writes a block of level `at`, filled up with zeros.
    fn flush(&mut self, at: usize) -> Result<(), E> {
        let Some(growing) = self.levels.get_mut(at) else {
            return Ok(());
        };
        growing.block.resize(HASH_BLOCK as usize, 0);
        let place = growing.level.start + growing.written;
        (self.write)(place * u64::from(HASH_BLOCK), &growing.block)?;
        let hash = self.hasher.hash(&growing.block);
        growing.block.clear();
        growing.written += 1;
        self.push(at + 1, hash)
    }

    /// Writes what is left, and the superblock.
    fn finish(mut self, shape: &Shape) -> Result<RootHash, E> {
        for at in 0..self.levels.len() {
            if !self.levels[at].block.is_empty() {
                self.flush(at)?;
            }
        }
        let mut block = [0; HASH_BLOCK as usize];
        block[..SUPERBLOCK].copy_from_slice(&shape.encode(&self.root));
        (self.write)(0, &block)?;
        Ok(self.root)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::image::digest::Digest;

    /// The tree of `data`, and its root.
    pub fn tree(data: &[u8], data_block: u32, salt: &str) -> (Vec<u8>, RootHash) {
        let shape = Shape::of(data.len() as u64, data_block, salt.parse().unwrap()).unwrap();
        in_memory(data, &shape)
    }

    /// Hashes level by level, all in memory.
    fn plainly(data: &[u8], data_block: usize, salt: &[u8]) -> (Vec<u8>, [u8; 32]) {
        let hash = |block: &[u8], size: usize| -> [u8; 32] {
            let mut padded = [salt, block].concat();
            padded.resize(salt.len() + size, 0);
            Sha256::digest(padded).into()
        };
        let mut hashes: Vec<[u8; 32]> = data
            .chunks(data_block)
            .map(|b| hash(b, data_block))
            .collect();
        let mut levels = Vec::new();
        while hashes.len() > 1 {
            let mut level = hashes.concat();
            level.resize(level.len().next_multiple_of(4096), 0);
            hashes = level.chunks(4096).map(|b| hash(b, 4096)).collect();
            levels.push(level);
        }
        levels.reverse();
        (levels.concat(), hashes[0])
    }

    #[test]
    fn trees_are_those_of_a_plain_calculation() {
        let data: Vec<u8> = (0..PIECE + 5 * 4096 + 77)
            .map(|i| (i / 7 * 31) as u8)
            .collect();
        let mut data = data;
        data[3 * 4096..5 * 4096].fill(0);
        for (length, block) in [
            (1, 4096),
            (4096, 4096),
            (4097, 4096),
            (128 * 4096, 4096),
            (128 * 4096 + 1, 4096),
            (data.len(), 4096),
            (700, 512),
            (128 * 512 + 512, 512),
        ] {
            for salt in ["-", "aabbcc"] {
                let (tree, root) = tree(&data[..length], block, salt);
                let salt: Salt = salt.parse().unwrap();
                let (levels, hash) = plainly(&data[..length], block as usize, salt.as_bytes());
                assert_eq!(root.as_bytes(), &hash, "{length}");
                assert_eq!(tree[4096..], levels, "{length}");
                let superblock = tree[..SUPERBLOCK].try_into().unwrap();
                let shape = Shape::parse(&superblock).unwrap();
                assert_eq!(shape, Shape::of(length as u64, block, salt).unwrap());
            }
        }
    }

    /// What `veritysetup format` of cryptsetup 2.6.1 printed and wrote for these bytes, by SHA-256.
    #[test]
    fn trees_are_those_of_veritysetup() {
        let data: Vec<u8> = (0..300 * 4096).map(|i| (i / 7 * 31) as u8).collect();
        for (block, salt, uuid, root, file) in [
            (
                4096,
                "-",
                "00112233445566778899aabbccddeeff",
                "037eec01c6594d747972b59fffc78223ad3c929f25bd1fe6af0ae28417f0f674",
                "a1d8073325444e3e217ad416c5d83b35b46ddb426f65bb225553c5f15a5e9b91",
            ),
            (
                512,
                "00ff55",
                "feb14ff6f2d34b21bf0bc8fc10a96846",
                "2c6e75b57d49819c58bb0f3aa00b55a6541003c5e3ac6e52f82ff10e3fb14e5d",
                "04dcb55275cd5629610c5042a2c62bcf6df7114dc5a3605397121137bd92c25b",
            ),
        ] {
            let (mut tree, found) = tree(&data, block, salt);
            assert_eq!(found.to_string(), root);
            // Theirs is random, or given.
            tree[16..32].copy_from_slice(&super::super::from_hex(uuid).unwrap());
            assert_eq!(Digest::of_bytes(&tree).hex(), file);
        }
    }
}
