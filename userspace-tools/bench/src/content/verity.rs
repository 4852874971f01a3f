// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The hash tree of dm-verity, version 1, without salt: what `veritysetup` would make.

use sha2::{Digest, Sha256};

use super::BLOCK;

const HASH: usize = 32;

/// The hashes of a device.
pub struct Tree {
    /// Blocks of hashes, the level at the top first.
    pub hashes: Vec<u8>,
    root: [u8; HASH],
}

impl Tree {
    /// The tree over `data`, which has whole blocks.
    pub fn new(data: &[u8]) -> Self {
        let mut levels = vec![level(data)];
        while let Some(last) = levels.last().filter(|level| level.len() > BLOCK) {
            levels.push(level(last));
        }
        let root = levels.last().map(|top| Sha256::digest(top).into());
        Self {
            hashes: levels.into_iter().rev().flatten().collect(),
            root: root.unwrap_or_default(),
        }
    }

    /// The hash of the top, in hexadecimal digits.
    pub fn root(&self) -> String {
        self.root.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The hashes of the blocks of `data`, filled up with zeros to whole blocks.
fn level(data: &[u8]) -> Vec<u8> {
    let hashes = data.chunks(BLOCK).flat_map(Sha256::digest);
    let mut level: Vec<u8> = hashes.collect();
    level.resize(level.len().next_multiple_of(BLOCK), 0);
    level
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_end_with_a_single_block() {
        // 128 hashes fit in a block: 129 blocks need a second level.
        assert_eq!(Tree::new(&vec![1; 128 * BLOCK]).hashes.len(), BLOCK);
        assert_eq!(Tree::new(&vec![1; 129 * BLOCK]).hashes.len(), 3 * BLOCK);
    }
}
