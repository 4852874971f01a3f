// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Writes the corpus to begin with: `cargo run -p fuzz --example seed`.

use std::path::Path;
use std::{fs, io};

use fuzz::Lenient;
use overlaybd_format::lsmt::{self, Entry};
use overlaybd_format::zfile::{self, Algorithm};
use overlaybd_format::{tar, SECTOR};

fn main() -> io::Result<()> {
    for (name, algorithm, block_size, verify, lengths) in [
        ("empty", Algorithm::Lz4, 4096, true, &[][..]),
        ("one", Algorithm::Lz4, 4096, false, &[1]),
        ("many", Algorithm::Zstd, 4096, true, &[9; 40]),
        ("wide", Algorithm::Zstd, 65536, true, &[7, 300, 5]),
    ] {
        let header = zfile::Header::new(algorithm, block_size, verify);
        let file = zfile(header, lengths);
        write("zfile", name, &file)?;
        write("blob", &format!("zfile-{name}"), &wrap(&file))?;
        write("zfile", &format!("{name}-overwritten"), &overwrite(file))?;
    }
    for (name, entries) in [
        ("empty", &[][..]),
        (
            "data",
            &[Entry::data(0, 4, 8), Entry::PADDING, Entry::data(9, 1, 8)],
        ),
        (
            "zeros",
            &[Entry::zeros(0, 16383, 0), Entry::zeros(1 << 40, 1, 9)],
        ),
    ] {
        let file = layer(entries);
        write("lsmt", name, &file)?;
        write("blob", &format!("lsmt-{name}"), &file)?;
    }
    let ustar = tar::encode_ustar(8).unwrap_or([0; 512]);
    write(
        "blob",
        "ustar",
        &[&ustar[..], b"LSMT\0\x01\x02\0", &[0; 504]].concat(),
    )?;
    write("table", "zfile", b"7:1 3 4096 1 ignore_crc")?;
    write(
        "table",
        "lsmt",
        b"2 7:1 0 8192 /dev/loop2 3 18446744073709551615 0",
    )?;
    write("table", "lsmt-two", b"2 7:1 0 8192 7\\:2 3 9000")?;
    write(
        "status",
        "zfile",
        b"zstd block_size 4096 blocks 9 size 36001 read_sectors 4 \
        decompressed_bytes 5 cache_hits 6 reserve_waits 11 crc_errors 7 decompress_errors 8 io_errors 10",
    )?;
    write(
        "status",
        "lsmt",
        b"layers 3 extents 44 size 2048 reads 5 zero_sectors 6 tail_sectors 1 io_errors 7",
    )?;
    write(
        "merge",
        "small",
        &[9, 0, 2, 0, 1, 2, 3, 1, 2, 3, 4, 0, 0, 9, 1, 1, 32, 5, 0],
    )?;
    write(
        "merge",
        "large",
        &[200, 39, 1, 0, 255, 2, 2, 0, 240, 200, 3, 0, 16, 1, 1],
    )
}

fn write(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// A ZFile whose CRCs are those of [`Lenient`].
fn zfile(header: zfile::Header, lengths: &[u32]) -> Vec<u8> {
    let stored: u32 = lengths.iter().sum();
    let blocks = lengths.len() as u64;
    let original = blocks * u64::from(header.block_size);
    let trailer = header.trailer(512 + u64::from(stored), blocks, original, 0);
    let index: Vec<u8> = lengths.iter().flat_map(|len| len.to_le_bytes()).collect();
    let payload = vec![0; stored as usize];
    let (header, trailer) = (header.encode::<Lenient>(), trailer.encode::<Lenient>());
    [&header[..], &payload, &index, &trailer].concat()
}

/// The header gets the trailer's fields, and flag 3.
fn overwrite(mut file: Vec<u8>) -> Vec<u8> {
    let trailer = file.len() - 512;
    file.copy_within(trailer.., 0);
    file[32] = 0x1b;
    file
}

fn wrap(file: &[u8]) -> Vec<u8> {
    let length = file.len() as u64;
    [
        &tar::encode_pax(length)[..],
        file,
        &vec![0; tar::padding(length)],
    ]
    .concat()
}

fn layer(entries: &[Entry]) -> Vec<u8> {
    let data = vec![0; 4 * SECTOR as usize];
    let header = lsmt::Header::sealed(64 * SECTOR, lsmt::Uuid::parse("0"), None);
    let trailer = header.trailer(4096 + data.len() as u64, entries.len() as u64);
    let index: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    [
        &header.encode(b"tag")[..],
        &data,
        &index,
        &trailer.encode(b"tag"),
    ]
    .concat()
}
