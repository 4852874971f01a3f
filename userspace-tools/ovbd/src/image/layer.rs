// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Writing an LSMT layer: header, data in the order of the disk, index, trailer.

use std::io::{self, Write};

use overlaybd_format::lsmt::{
    Entry, Header, Uuid, DATA_START, ENTRY_LEN, MAX_ENTRY_LEN, MAX_SECTORS, SIZE, TAG_LEN,
};
use overlaybd_format::SECTOR;

/// The index is filled up with padding to a multiple of this many bytes.
const INDEX_ALIGNMENT: usize = 4096;

/// What a layer's header says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerSettings {
    /// Size of the disk, bytes.
    pub virtual_size: u64,
    /// The layer's name.
    pub uuid: Option<Uuid>,
    /// Name of the layer below.
    pub parent_uuid: Option<Uuid>,
    /// Free text, at most 256 bytes.
    pub tag: Vec<u8>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerSummary {
    /// Length of the layer, bytes.
    pub size: u64,
    /// Entries of the index, without padding.
    pub extents: u64,
    /// Bytes of data.
    pub data: u64,
    /// Bytes of the disk that the layer sets to zero.
    pub zeroed: u64,
}

/// Writes a sealed layer front to back.
///
/// Ranges have to come in ascending order and must not overlap. Neighbours that continue each
/// other become one entry as long as its length fits. Memory: 16 bytes an entry.
pub struct LayerWriter<W> {
    out: W,
    settings: LayerSettings,
    entries: Vec<Entry>,
    /// First sector of the file that is not written yet.
    position: u64,
    summary: LayerSummary,
}

impl<W: Write> LayerWriter<W> {
    /// Begins a layer: writes its header.
    ///
    /// # Errors
    /// `InvalidInput` for a tag that is too long; whatever writing gives.
    pub fn new(mut out: W, settings: LayerSettings) -> io::Result<Self> {
        if settings.tag.len() > TAG_LEN {
            return Err(invalid(format!(
                "the user tag has {} bytes; at most {TAG_LEN} fit",
                settings.tag.len()
            )));
        }
        out.write_all(&header(&settings).encode(&settings.tag))?;
        Ok(Self {
            out,
            settings,
            entries: Vec::new(),
            position: DATA_START,
            summary: LayerSummary::default(),
        })
    }

    /// `bytes`, whole sectors, are at sector `start` of the disk.
    ///
    /// # Errors
    /// `InvalidInput` for a range that is out of order, off the address space or not of whole
    /// sectors; whatever writing gives.
    pub fn data(&mut self, start: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() as u64 % SECTOR != 0 {
            return Err(invalid(format!(
                "{} bytes are no whole sectors",
                bytes.len()
            )));
        }
        let sectors = bytes.len() as u64 / SECTOR;
        self.check_order(start, sectors)?;
        self.out.write_all(bytes)?;
        self.add(start, sectors, Entry::data);
        self.position += sectors;
        self.summary.data += bytes.len() as u64;
        Ok(())
    }

    /// `sectors` sectors from `start` on are zero, whatever lies below.
    ///
    /// # Errors
    /// `InvalidInput` for a range that is out of order or off the address space.
    pub fn zeros(&mut self, start: u64, sectors: u64) -> io::Result<()> {
        self.check_order(start, sectors)?;
        self.add(start, sectors, Entry::zeros);
        self.summary.zeroed += sectors * SECTOR;
        Ok(())
    }

    fn check_order(&self, start: u64, sectors: u64) -> io::Result<()> {
        let least = self.entries.last().map_or(0, Entry::end);
        let end = start.checked_add(sectors);
        // The last sector of the address space would read as padding.
        if start < least || end.is_none_or(|end| end >= MAX_SECTORS) {
            return Err(invalid(format!(
                "range of {sectors} sectors at sector {start} after one that ends at {least}"
            )));
        }
        Ok(())
    }

    /// Adds entries for a range, the data of which would be at `self.position`.
    fn add(&mut self, start: u64, sectors: u64, entry: fn(u64, u64, u64) -> Entry) {
        let (mut start, mut rest, mut moffset) = (start, sectors, self.position);
        if let Some(last) = self.entries.last_mut() {
            let next = entry(start, 1, moffset);
            if continues(last, &next) {
                let more = rest.min(MAX_ENTRY_LEN - last.len());
                *last = entry(last.start(), last.len() + more, last.moffset());
                (start, rest) = (start + more, rest - more);
                moffset = advance(&next, more);
            }
        }
        while rest > 0 {
            let length = rest.min(MAX_ENTRY_LEN);
            let piece = entry(start, length, moffset);
            moffset = advance(&piece, length);
            self.entries.push(piece);
            (start, rest) = (start + length, rest - length);
        }
    }

    /// Writes index and trailer; returns the output.
    pub fn finish(mut self) -> io::Result<(W, LayerSummary)> {
        let extents = self.entries.len();
        let padded = (extents * ENTRY_LEN).next_multiple_of(INDEX_ALIGNMENT) / ENTRY_LEN;
        self.entries.resize(padded, Entry::PADDING);
        for entries in self.entries.chunks(INDEX_ALIGNMENT / ENTRY_LEN) {
            let bytes: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
            self.out.write_all(&bytes)?;
        }
        let index_offset = self.position * SECTOR;
        let trailer = header(&self.settings).trailer(index_offset, padded as u64);
        self.out.write_all(&trailer.encode(&self.settings.tag))?;
        self.summary.extents = extents as u64;
        self.summary.size = index_offset + (padded * ENTRY_LEN) as u64 + SIZE;
        Ok((self.out, self.summary))
    }
}

fn header(settings: &LayerSettings) -> Header {
    Header::sealed(settings.virtual_size, settings.uuid, settings.parent_uuid)
}

/// Whether `next` lies behind `last` both on the disk and in the file.
fn continues(last: &Entry, next: &Entry) -> bool {
    last.end() == next.start()
        && last.zeroed() == next.zeroed()
        && advance(last, last.len()) == next.moffset()
}

/// Where the data are `sectors` behind the beginning of `entry`; zeros have none.
fn advance(entry: &Entry, sectors: u64) -> u64 {
    if entry.zeroed() {
        entry.moffset()
    } else {
        entry.moffset() + sectors
    }
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}
