// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! LSMT: one layer of a log-structured block device.
//!
//! ```text
//! header 4096 B | data | index | trailer 4096 B
//! ```
//!
//! The index says which sectors of the disk the layer holds, and where. A sealed
//! layer, which is what [`Layer::open`] opens, has a sorted one; where header and
//! trailer differ, the trailer counts.

#[cfg(not(MODULE))]
mod encode;
mod entry;
mod header;
mod uuid;

pub use self::entry::{Entry, ENTRY_LEN, MAX_ENTRY_LEN, MAX_SECTORS};
pub use self::header::{flag, user_tag, Header, SIZE, TAG_LEN};
pub use self::uuid::Uuid;

pub(super) use self::header::MAGIC;

use core::ops::Range;

use self::header::at;
use super::fields::LEN;
use super::platform::{for_each_chunk, read};
use super::{Bytes, Error, Invalid, Part, Platform, ReadAt, Rule, Sectors, SECTOR};

/// First sector of the data, behind the header.
pub const DATA_START: Sectors = SIZE / SECTOR;

/// An opened sealed layer.
///
/// # Invariants
///
/// The entries are sorted, do not overlap, are not empty, end within
/// [`MAX_SECTORS`], and those with data have them between [`DATA_START`] and
/// [`Layer::data_end`]. None is padding. Some may lie beyond the virtual size.
pub struct Layer<P: Platform> {
    header: Header,
    trailer: Header,
    tag: P::Vec<u8>,
    index: Index<P>,
}

impl<P: Platform> Layer<P> {
    /// Opens the sealed layer of exactly `length` bytes that `src` holds.
    ///
    /// Reads header, trailer and index, and nothing else.
    pub fn open<S: ReadAt + ?Sized>(src: &S, length: Bytes) -> Result<Self, Error<S::Error>> {
        let end = trailer_offset(length)?;
        let mut bytes = [0; LEN];
        read(src, 0, &mut bytes)?;
        let header = Header::parse(&bytes, 0, Part::Header)?;
        check_data_flag(&header, 0)?;
        read(src, end, &mut bytes)?;
        let trailer = parse_trailer(&bytes, end, &header)?;
        let index = index_range(&trailer, end)?;
        let tag = copy::<P>(user_tag(&bytes))?;
        let index = Index::load(src, &trailer, index)?;
        Ok(Self {
            header,
            trailer,
            tag,
            index,
        })
    }

    /// The header at the beginning of the file.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The trailer, which counts where the two differ.
    pub fn trailer(&self) -> &Header {
        &self.trailer
    }

    /// Name of the layer.
    pub fn uuid(&self) -> Option<Uuid> {
        self.trailer.uuid
    }

    /// Name of the layer below.
    pub fn parent_uuid(&self) -> Option<Uuid> {
        self.trailer.parent_uuid
    }

    /// Size of the disk; 0 leaves it to the layers below.
    pub fn virtual_size(&self) -> Bytes {
        self.trailer.virtual_size
    }

    /// Free text, without the NULs that fill it up.
    pub fn user_tag(&self) -> &[u8] {
        &self.tag
    }

    /// The index, without padding.
    pub fn entries(&self) -> &[Entry] {
        self.index
            .entries
            .get(..self.index.used)
            .unwrap_or_default()
    }

    /// Where the index begins, and the data end.
    pub fn index_offset(&self) -> Bytes {
        self.trailer.index_offset
    }

    /// The sector behind the last one that holds data.
    pub fn data_end(&self) -> Sectors {
        data_end(&self.trailer)
    }

    /// The last sector of the data and how many of its bytes are data, if it is
    /// not full: index bytes follow, which have to read as zeros.
    pub fn partial_tail(&self) -> Option<(Sectors, u16)> {
        let offset = self.index_offset();
        // Under 512.
        let valid = (offset % SECTOR) as u16;
        (valid != 0).then_some((offset / SECTOR, valid))
    }
}

/// The entries, for [`Map::build`](super::map::Map::build).
impl<P: Platform> AsRef<[Entry]> for Layer<P> {
    fn as_ref(&self) -> &[Entry] {
        self.entries()
    }
}

/// Whether `upper` names a layer other than `lower` as the one below it; worth a
/// warning. Layers without names do not mismatch.
pub fn parent_mismatch(lower: Option<Uuid>, upper_parent: Option<Uuid>) -> bool {
    matches!((lower, upper_parent), (Some(lower), Some(parent)) if lower != parent)
}

/// Where the trailer begins.
fn trailer_offset(length: Bytes) -> Result<Bytes, Invalid> {
    const LEAST: Bytes = 2 * SIZE;
    if length < LEAST {
        return Err(Invalid::new(Rule::LsmtLength, 0, length, LEAST));
    }
    Ok(length.saturating_sub(SIZE))
}

fn check_data_flag(header: &Header, offset: Bytes) -> Result<(), Invalid> {
    if header.is_data() {
        return Ok(());
    }
    Err(wrong_flag(Rule::LsmtDataFlag, header, offset, flag::DATA))
}

/// What to say about a record that lacks a flag.
fn wrong_flag(rule: Rule, record: &Header, offset: Bytes, flag: u32) -> Invalid {
    let at = offset.saturating_add(at::FLAGS as u64);
    Invalid::new(rule, at, record.flags.into(), (record.flags | flag).into())
}

/// Parses the trailer that was read at `offset`.
fn parse_trailer(bytes: &[u8; LEN], offset: Bytes, header: &Header) -> Result<Header, Invalid> {
    let trailer = match Header::parse(bytes, offset, Part::Trailer) {
        // No trailer, and none promised: that is how a writable layer looks.
        Err(error) if error.rule == Rule::LsmtTrailerMagic && !header.is_sealed() => {
            return Err(wrong_flag(Rule::LsmtWritable, header, 0, flag::SEALED));
        }
        other => other?,
    };
    check_data_flag(&trailer, offset)?;
    if !trailer.is_sealed() {
        return Err(wrong_flag(
            Rule::LsmtSealedFlag,
            &trailer,
            offset,
            flag::SEALED,
        ));
    }
    Ok(trailer)
}

/// Where the index is, which has to lie between header and `end`, where the
/// trailer begins.
fn index_range(trailer: &Header, end: Bytes) -> Result<Range<Bytes>, Invalid> {
    let start = trailer.index_offset;
    if start < SIZE {
        let at = end.saturating_add(at::INDEX_OFFSET as u64);
        return Err(Invalid::new(Rule::LsmtIndexStart, at, start, SIZE));
    }
    let bytes = trailer.index_size.saturating_mul(ENTRY_LEN as u64);
    let found = start.saturating_add(bytes);
    if found > end {
        let at = end.saturating_add(at::INDEX_SIZE as u64);
        return Err(Invalid::new(Rule::LsmtIndexEnd, at, found, end));
    }
    Ok(start..found)
}

/// Index bytes are never data, but share the last sector with them.
fn data_end(trailer: &Header) -> Sectors {
    trailer.index_offset.div_ceil(SECTOR)
}

fn copy<P: Platform>(bytes: &[u8]) -> Result<P::Vec<u8>, super::OutOfMemory> {
    let mut copy = P::alloc(bytes.len())?;
    for (to, from) in copy.iter_mut().zip(bytes) {
        *to = *from;
    }
    Ok(copy)
}

/// The entries of a layer.
struct Index<P: Platform> {
    /// As many as the index has on disk, where some may be padding.
    entries: P::Vec<Entry>,
    /// How many of them are in use.
    used: usize,
}

impl<P: Platform> Index<P> {
    /// Reads and checks the index, which is at `range`.
    fn load<S: ReadAt + ?Sized>(
        src: &S,
        trailer: &Header,
        range: Range<Bytes>,
    ) -> Result<Self, Error<S::Error>> {
        let len = usize::try_from(trailer.index_size).map_err(|_| Error::NoMemory)?;
        let mut entries = P::alloc::<Entry>(len)?;
        let mut slots = entries.iter_mut();
        let mut check = Check::new(range.start, data_end(trailer));
        for_each_chunk::<P, S>(src, range, |chunk| check.take(chunk, &mut slots))?;
        let used = len.saturating_sub(slots.len());
        match check.wrong {
            Some(wrong) => Err(wrong.into()),
            None => Ok(Self { entries, used }),
        }
    }
}

/// The state of checking an index.
struct Check {
    /// Number of the next entry.
    item: u64,
    /// Offset of the index.
    index: Bytes,
    /// End of the data.
    data_end: Sectors,
    /// The last entry that was not padding.
    last: Entry,
    /// The first entry that is wrong.
    wrong: Option<Invalid>,
}

impl Check {
    fn new(index: Bytes, data_end: Sectors) -> Self {
        Self {
            item: 0,
            index,
            data_end,
            last: Entry::default(),
            wrong: None,
        }
    }

    /// Moves the entries of `chunk` to `slots`, up to the first wrong one.
    fn take<'a>(&mut self, chunk: &[u8], slots: &mut impl Iterator<Item = &'a mut Entry>) {
        if self.wrong.is_some() {
            return;
        }
        for bytes in chunk.chunks_exact(ENTRY_LEN) {
            let entry = Entry::decode(&super::fields::array(bytes, 0));
            if !entry.is_padding() {
                if !self.is_right(entry) {
                    self.wrong = Some(self.refuse(entry));
                    return;
                }
                self.last = entry;
                if let Some(slot) = slots.next() {
                    *slot = entry;
                }
            }
            self.item = self.item.saturating_add(1);
        }
    }

    /// All that the format demands of an entry.
    #[inline]
    fn is_right(&self, entry: Entry) -> bool {
        !entry.is_empty()
            && entry.start() >= self.last.end()
            && entry.end() <= MAX_SECTORS
            && (entry.zeroed() || self.has_data(entry))
    }

    #[inline]
    fn has_data(&self, entry: Entry) -> bool {
        entry.moffset() >= DATA_START && data_end_of(entry) <= self.data_end
    }

    /// Why an entry is wrong.
    #[cold]
    fn refuse(&self, entry: Entry) -> Invalid {
        let (start, last) = (entry.start(), self.last);
        let (rule, found, expected) = if entry.is_empty() {
            (Rule::LsmtEntryEmpty, 0, 1)
        } else if start < last.start() {
            (Rule::LsmtEntryOrder, start, last.start())
        } else if start < last.end() {
            (Rule::LsmtEntryOverlap, start, last.end())
        } else if entry.end() > MAX_SECTORS {
            (Rule::LsmtEntryEnd, entry.end(), MAX_SECTORS)
        } else if entry.moffset() < DATA_START {
            (Rule::LsmtDataStart, entry.moffset(), DATA_START)
        } else {
            (Rule::LsmtDataEnd, data_end_of(entry), self.data_end)
        };
        let offset = self.item.saturating_mul(ENTRY_LEN as u64);
        let offset = self.index.saturating_add(offset);
        Invalid {
            item: self.item,
            ..Invalid::new(rule, offset, found, expected)
        }
    }
}

/// The sector behind an entry's data; 2^55 and 2^14 do not overflow.
#[inline]
fn data_end_of(entry: Entry) -> Sectors {
    entry.moffset().wrapping_add(entry.len())
}
