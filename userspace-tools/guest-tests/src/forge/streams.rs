// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Compressed blocks that no compressor writes: malformed ones, ones that lie about their length,
//! and ones that are unusual but right.

use anyhow::Result;

use super::{block_crc, Zfile};

impl Zfile {
    /// Stores a compressed block, whatever it is, with the checksum that belongs to it.
    pub fn put_stream(&mut self, block: usize, stream: &[u8]) {
        let mut stored = stream.to_vec();
        if self.header[VERIFY_AT] == 1 {
            stored.extend_from_slice(&block_crc(stream).to_le_bytes());
        }
        self.put_stored(block, stored);
    }
}

/// A compressed block.
pub struct Stream {
    /// What is the matter with it.
    pub name: &'static str,
    /// The compressed bytes.
    pub bytes: Vec<u8>,
    /// What it decompresses to; nothing if it must fail.
    pub content: Option<Vec<u8>>,
}

fn bad(name: &'static str, bytes: Vec<u8>) -> Stream {
    Stream {
        name,
        bytes,
        content: None,
    }
}

fn good(name: &'static str, bytes: Vec<u8>, content: &[u8]) -> Stream {
    Stream {
        name,
        bytes,
        content: Some(content.to_vec()),
    }
}

/// LZ4 blocks in place of one that holds `content`.
pub fn lz4(content: &[u8]) -> Result<Vec<Stream>> {
    let last = content.len() - 1;
    let right = lz4_literals(content);
    let long = [content, b"x"].concat();
    // A literal, and a match that repeats it.
    let run = |offset: u16, length: usize| lz4_match(b"x", offset, length);
    let tail = lz4_literals(b"12345");
    Ok(vec![
        good("literals only", right.clone(), content),
        good(
            "as many matches as fit",
            lz4_short_matches(content.len()),
            &vec![b'x'; content.len()],
        ),
        bad("nothing but a token", vec![0]),
        bad("a byte too few", lz4_literals(&content[..last])),
        bad("a byte too many", lz4_literals(&long)),
        bad("cut off", right[..right.len() - 1].to_vec()),
        bad("something behind the end", [&right[..], &[0, 0]].concat()),
        bad("literals beyond the input", vec![0xf0, 0xff, 0xff, 7, b'x']),
        bad("a length without end", vec![0xff; 600]),
        bad(
            "a match of unknown length",
            [&[0x1f, b'x', 1, 0][..], &[0xff; 40]].concat(),
        ),
        bad(
            "a match before the beginning",
            [run(2, 4000), tail.clone()].concat(),
        ),
        bad(
            "a match far before the beginning",
            [run(65535, 4000), tail.clone()].concat(),
        ),
        bad("a bomb", [run(1, 100_000), tail.clone()].concat()),
        bad("a bomb that ends with a match", run(1, 65_536)),
        bad("an offset that is cut off", vec![0x10, b'x', 1]),
        bad(
            "too short by a match",
            [run(1, content.len() - 7), tail].concat(),
        ),
    ])
}

/// A match of offset 0, which a decoder may take for a copy of what was in the memory before.
pub fn lz4_offset_zero(length: usize) -> Vec<u8> {
    [lz4_match(b"x", 0, length - 6), lz4_literals(b"12345")].concat()
}

/// The shortest matches there are, of four bytes each: the most work for a block.
fn lz4_short_matches(length: usize) -> Vec<u8> {
    const FIRST: usize = 5;
    // The last bytes of a block have to be literals.
    const LAST: usize = 13;
    let matches = (length - FIRST - LAST) / 4;
    let mut out = vec![0x10, b'x', 1, 0];
    out.extend([0, 1, 0].repeat(matches));
    out.extend(lz4_literals(&vec![b'x'; length - FIRST - 4 * matches]));
    out
}

/// A block of one byte over and over, all but the end of it in one match.
pub fn lz4_run(byte: u8, length: usize) -> Vec<u8> {
    [lz4_match(&[byte], 1, length - 6), lz4_literals(&[byte; 5])].concat()
}

fn lz4_length(out: &mut Vec<u8>, mut rest: usize) {
    while rest >= 255 {
        out.push(255);
        rest -= 255;
    }
    out.push(rest as u8);
}

/// The last sequence of a block.
fn lz4_literals(literals: &[u8]) -> Vec<u8> {
    let mut out = vec![(literals.len().min(15) as u8) << 4];
    if literals.len() >= 15 {
        lz4_length(&mut out, literals.len() - 15);
    }
    out.extend_from_slice(literals);
    out
}

/// A sequence: fewer than 15 literals, and a match of 19 bytes or more.
fn lz4_match(literals: &[u8], offset: u16, length: usize) -> Vec<u8> {
    let mut out = vec![(literals.len() as u8) << 4 | 15];
    out.extend_from_slice(literals);
    out.extend_from_slice(&offset.to_le_bytes());
    lz4_length(&mut out, length - 19);
    out
}

/// Where a header says whether blocks have checksums.
const VERIFY_AT: usize = 88;

const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
// Types of a block.
const RAW: u32 = 0;
const RLE: u32 = 1;
const RESERVED: u32 = 3;

/// Frames in place of one that holds `content`, 256 bytes at least.
pub fn zstd(content: &[u8]) -> Result<Vec<Stream>> {
    let length = content.len() as u32;
    let half = content.len() / 2;
    let right = raw_frame(content);
    let run = vec![b'r'; content.len()];
    let rle =
        |claimed: u32, size: u32| [frame(claimed), block(RLE, size, true), vec![b'r']].concat();
    let raw = [block(RAW, length, true), content.to_vec()].concat();
    let skip = [
        &0x184d_2a53_u32.to_le_bytes()[..],
        &5u32.to_le_bytes(),
        b"skip!",
    ]
    .concat();
    let empty_skip = [&0x184d_2a50_u32.to_le_bytes()[..], &[0; 4]].concat();
    let with_first_byte = |byte: u8| {
        let mut frame = right.clone();
        frame[0] = byte;
        frame
    };
    let mut checked = zstd::bulk::Compressor::new(3)?;
    checked.include_checksum(true)?;
    let checked = checked.compress(content)?;
    let mut wrong_sum = checked.clone();
    if let Some(byte) = wrong_sum.last_mut() {
        *byte ^= 1;
    }
    // Without content size: a descriptor of 0 and a window of 8 KiB; of 2^41 bytes.
    let no_size = [&MAGIC[..], &[0, 0x18], &raw].concat();
    let window = [&MAGIC[..], &[0, 0xf8], &raw].concat();
    let dictionary = [&MAGIC[..], &[0x61, 7], &size_field(length), &raw].concat();
    let reserved_bit = [&MAGIC[..], &[0x68], &size_field(length), &raw].concat();
    Ok(vec![
        good("a raw block", right.clone(), content),
        good("a run", rle(length, length), &run),
        good("a checksum", checked, content),
        good("no content size", no_size, content),
        good(
            "a thousand empty blocks",
            [
                frame(length),
                block(RAW, 0, false).repeat(1000),
                block(RLE, length, true),
                vec![b'r'],
            ]
            .concat(),
            &run,
        ),
        good(
            "hundreds of frames",
            [raw_frame(b"r").repeat(300), rle(length - 300, length - 300)].concat(),
            &run,
        ),
        good(
            "hundreds of frames to skip",
            [empty_skip.repeat(400), rle(length, length)].concat(),
            &run,
        ),
        good(
            "a frame to skip ahead",
            [skip.clone(), right.clone()].concat(),
            content,
        ),
        good(
            "a frame to skip behind",
            [right.clone(), skip.clone()].concat(),
            content,
        ),
        good(
            "two frames",
            [raw_frame(&content[..half]), raw_frame(&content[half..])].concat(),
            content,
        ),
        bad("only a frame to skip", skip.clone()),
        bad(
            "a frame to skip that is cut off",
            skip[..skip.len() - 1].to_vec(),
        ),
        bad("a wrong checksum", wrong_sum),
        bad("a byte too few", raw_frame(&content[1..])),
        bad("a byte too many", raw_frame(&[content, b"x"].concat())),
        bad(
            "a second frame too many",
            [right.clone(), raw_frame(&content[..20])].concat(),
        ),
        bad("cut off", right[..right.len() - 1].to_vec()),
        bad("only a magic number", MAGIC.to_vec()),
        bad("something behind the end", [&right[..], b"x"].concat()),
        bad("another magic number", with_first_byte(0x27)),
        bad("a bomb", rle(length, 128 << 10)),
        bad("the largest bomb", rle(length, (1 << 21) - 1)),
        bad("a bomb that owns up", rle(128 << 10, 128 << 10)),
        bad(
            "a content size that is too small",
            [frame(length - 1), raw.clone()].concat(),
        ),
        bad(
            "a content size that is too large",
            [frame(length + 1), raw.clone()].concat(),
        ),
        bad(
            "a content size of 2 GiB",
            [frame(1 << 31), raw.clone()].concat(),
        ),
        bad("a huge window", window),
        bad("a dictionary", dictionary),
        bad("a reserved bit", reserved_bit),
        bad(
            "a reserved block",
            [frame(length), block(RESERVED, 1, true), vec![0]].concat(),
        ),
        bad(
            "no last block",
            [frame(length), block(RAW, length, false), content.to_vec()].concat(),
        ),
    ])
}

/// A frame header: one segment, content size in four bytes.
fn frame(content_size: u32) -> Vec<u8> {
    [&MAGIC[..], &[0xa0], &content_size.to_le_bytes()].concat()
}

/// A content size in two bytes, as descriptors 0x60 to 0x6f want it.
fn size_field(content_size: u32) -> [u8; 2] {
    ((content_size - 256) as u16).to_le_bytes()
}

/// A block header.
fn block(kind: u32, size: u32, last: bool) -> Vec<u8> {
    let header = u32::from(last) | kind << 1 | size << 3;
    header.to_le_bytes()[..3].to_vec()
}

/// A frame of one raw block.
fn raw_frame(content: &[u8]) -> Vec<u8> {
    let length = content.len() as u32;
    [frame(length), block(RAW, length, true), content.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forge::content;
    use crate::rng::Rng;
    use ovbd::image::codec::Decompressor;
    use overlaybd_format::zfile::Algorithm;

    /// The libraries of userspace agree with what is said about each stream, and none is longer
    /// than a block may be.
    #[test]
    fn the_libraries_agree() {
        let expected = content(4096, &mut Rng::for_test("streams"));
        let all = [
            (Algorithm::Lz4, lz4(&expected).unwrap()),
            (Algorithm::Zstd, zstd(&expected).unwrap()),
        ];
        for (algorithm, streams) in all {
            let mut decompressor = Decompressor::new(algorithm).unwrap();
            for stream in streams {
                let name = stream.name;
                assert!(stream.bytes.len() as u32 <= algorithm.bound(4096), "{name}");
                let mut block = vec![0; 4096];
                let result = decompressor.decompress(&stream.bytes, &mut block);
                match stream.content {
                    Some(content) => {
                        assert!(result.is_ok(), "{name}: {result:?}");
                        assert!(block == content, "{name}");
                    }
                    None => assert!(result.is_err(), "{name}"),
                }
            }
        }
    }
}
