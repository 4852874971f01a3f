// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Every check that a file has to pass, one [`Rule`] each.

use core::ffi::CStr;

/// A check. For each one: what [`Invalid::found`](super::Invalid::found) and
/// [`Invalid::expected`](super::Invalid::expected) hold, and in brackets the
/// section of the format description that demands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// The file holds neither a ZFile nor an LSMT layer: its first 8 bytes as a
    /// number, and those of a ZFile. (blobs)
    BlobKind,

    /// A tar member that is neither a file nor a pax header: its type, and that
    /// of a file. (blobs)
    TarType,
    /// A number in a tar header that is not octal digits between spaces: the
    /// offset of the wrong byte in the field. (blobs)
    TarNumber,
    /// The pax header's data do not fit one record: their length, 512. (blobs)
    TarPaxSize,
    /// The pax header's data are not `length key=value` lines: the offset of the
    /// wrong line in them. (blobs)
    TarPaxRecord,
    /// No tar header follows the pax header: the first byte instead. (blobs)
    TarPaxMember,
    /// The payload reaches beyond the file: its end, the file's length. (blobs)
    TarPayload,

    /// Too short for header and trailer: the length, 1024. (ZFile, opening 2)
    ZfileLength,
    /// The header's magic: 8 bytes of it as a number, the right ones. (opening 1)
    ZfileMagic,
    /// The trailer's magic, likewise; often the length is not the exact one.
    /// (opening 2)
    ZfileTrailerMagic,
    /// The size field: its value, 96. (header and trailer)
    ZfileRecordSize,
    /// A header without flag 0: the flags, with it. (opening 1)
    ZfileHeaderFlag,
    /// A trailer with flag 0: the flags, without it. (opening 2)
    ZfileTrailerFlag,
    /// A trailer without flag 1, data file: the flags, with it. (opening 2)
    ZfileDataFlag,
    /// A trailer without flag 2, sealed: the flags, with it. (opening 2)
    ZfileSealedFlag,
    /// Flag 5, a compressed index: the flags, without it. (opening 5)
    ZfileIndexCompressed,
    /// The header's digest: the stored one, the right one. (opening 1)
    ZfileDigest,
    /// The trailer's digest, likewise. (opening 5)
    ZfileTrailerDigest,
    /// An algorithm that is neither LZ4 nor zstd: its number. (opening 5)
    ZfileAlgorithm,
    /// The block size, where it is no power of two from 4096 to 65536. (header
    /// and trailer)
    ZfileBlockSize,
    /// The field `verify`, where it is neither 0 nor 1. (opening 5)
    ZfileVerify,
    /// A dictionary, by `use_dict` or `dict_size`: the field, 0. (opening 5)
    ZfileDictionary,
    /// Header and trailer differ: the trailer's field, the header's. (opening 4)
    ZfileTrailerDiffers,
    /// The index begins in the header: its offset, 512. (opening 4)
    ZfileIndexStart,
    /// The index does not end at the trailer: its end (2^64 - 1 if beyond that),
    /// the trailer's offset. (opening 4)
    ZfileIndexEnd,
    /// The number of blocks is not that of the original size: it, the right one.
    /// (opening 4)
    ZfileBlockCount,
    /// The index's CRC: the one it has, the one in the trailer. (opening 3)
    ZfileIndexDigest,
    /// A block's stored length is too small: it, the least. (opening 4)
    ZfileBlockShort,
    /// A block's stored length is more than compression can expand to: it, the
    /// most. (opening 4)
    ZfileBlockLong,
    /// The blocks do not end at the index: their end, the index's offset.
    /// (opening 4)
    ZfileBlocksEnd,

    /// Too short for header and trailer: the length, 8192. (LSMT)
    LsmtLength,
    /// The header's magic: 8 bytes of it as a number, the right ones. (header)
    LsmtMagic,
    /// The trailer's magic, likewise; often the length is not the exact one.
    /// (header)
    LsmtTrailerMagic,
    /// The size field: its value, 390. (header)
    LsmtRecordSize,
    /// A version above 1: it, 1. (header)
    LsmtVersion,
    /// A header without flag 0: the flags, with it. (flag bits)
    LsmtHeaderFlag,
    /// A trailer with flag 0: the flags, without it. (flag bits)
    LsmtTrailerFlag,
    /// Flag 1 is not set, an index file: the flags, with it. (flag bits)
    LsmtDataFlag,
    /// A writable layer, which has no trailer: the header's flags, with flag 2.
    /// (writable layer)
    LsmtWritable,
    /// A trailer without flag 2, sealed: the flags, with it. (flag bits)
    LsmtSealedFlag,
    /// The index begins in the header: its offset, 4096. (index entry)
    LsmtIndexStart,
    /// The index reaches into the trailer: its end (2^64 - 1 if beyond that), the
    /// trailer's offset. (index entry)
    LsmtIndexEnd,
    /// An entry of length 0 that is no padding: 0, 1. (index entry)
    LsmtEntryEmpty,
    /// An entry reaches beyond the format's address space: its end, 2^50 sectors.
    /// (index entry)
    LsmtEntryEnd,
    /// An entry begins before the one ahead of it: its first sector, that one's.
    /// (index entry)
    LsmtEntryOrder,
    /// An entry begins within the one ahead of it: its first sector, that one's
    /// end. (index entry)
    LsmtEntryOverlap,
    /// An entry's data begin in the header: their first sector, 8. (index entry)
    LsmtDataStart,
    /// An entry's data reach beyond the data: their end in sectors, that of all
    /// data. (index entry)
    LsmtDataEnd,

    /// No layer, or more than 255: the number, 255. (merged view)
    LayerCount,
    /// All layers have virtual size 0. (merged view)
    VirtualSizeZero,
    /// A virtual size beyond the format's address space: it and 2^50, in sectors.
    /// (index entry)
    VirtualSizeLimit,
}

/// How to word a rule.
pub(super) struct Text {
    /// For `ti->error`: about four words, capital first, no full stop.
    pub(super) reason: &'static CStr,
    /// The record or structure that the field belongs to.
    pub(super) place: Place,
    /// What [`Invalid::found`](super::Invalid::found) is.
    pub(super) what: &'static str,
    /// How to put what was expected.
    pub(super) expected: Expected,
}

/// Where in a file a rule looks.
pub(super) enum Place {
    /// At a byte offset.
    Byte(&'static str),
    /// At a numbered entry of an index.
    Item(&'static str),
    /// At a stack of layers, not at one file.
    Stack,
}

/// How to put what was expected.
pub(super) enum Expected {
    /// The value.
    Value,
    /// The value; both it and what was found are best read in hexadecimal.
    Hex,
    /// The least value.
    AtLeast,
    /// The greatest value.
    AtMost,
    /// These words.
    Words(&'static str),
    /// These words; what was found are bytes, the first one lowest.
    Bytes(&'static str),
}

use Expected::{AtLeast, AtMost, Bytes, Hex, Value, Words};
use Place::{Byte, Item, Stack};

impl Rule {
    /// How to word the rule.
    pub(super) fn text(self) -> Text {
        let (reason, place, what, expected) = self.words();
        Text {
            reason,
            place,
            what,
            expected,
        }
    }

    #[rustfmt::skip] // a table: one line, or two, a rule
    fn words(self) -> (&'static CStr, Place, &'static str, Expected) {
        const ZHEAD: Place = Byte("ZFile header");
        const ZTAIL: Place = Byte("ZFile trailer");
        const ZREC: Place = Byte("ZFile header or trailer");
        const ZITEM: Place = Item("ZFile index entry");
        const LHEAD: Place = Byte("LSMT header");
        const LTAIL: Place = Byte("LSMT trailer");
        const LREC: Place = Byte("LSMT header or trailer");
        const LITEM: Place = Item("LSMT index entry");
        const TAR: Place = Byte("tar header");
        match self {
            Rule::BlobKind => (c"Unknown file format", Byte("file"), "begins with", Bytes("a ZFile or an LSMT layer")),

            Rule::TarType => (c"Tar member is not a file", TAR, "type", Words("48, a file")),
            Rule::TarNumber => (c"Invalid number in tar header", TAR, "no octal digit at", Words("octal digits between spaces")),
            Rule::TarPaxSize => (c"Invalid size of pax header", TAR, "pax data of length", Words("1 to 512")),
            Rule::TarPaxRecord => (c"Invalid pax record", Byte("pax header"), "no valid line at", Words("length, key and value")),
            Rule::TarPaxMember => (c"No tar header after pax", TAR, "first byte", Words("a tar header after the pax header")),
            Rule::TarPayload => (c"Tar member is cut off", TAR, "payload ends at byte", AtMost),

            Rule::ZfileLength => (c"Length too small for ZFile", Byte("ZFile"), "length", AtLeast),
            Rule::ZfileMagic => (c"ZFile magic mismatch", ZHEAD, "magic", Hex),
            Rule::ZfileTrailerMagic => (c"ZFile trailer magic mismatch", ZTAIL, "magic", Hex),
            Rule::ZfileRecordSize => (c"Invalid ZFile header size", ZREC, "size", Value),
            Rule::ZfileHeaderFlag => (c"ZFile header flag missing", ZHEAD, "flags", Hex),
            Rule::ZfileTrailerFlag => (c"ZFile trailer flag mismatch", ZTAIL, "flags", Hex),
            Rule::ZfileDataFlag => (c"ZFile is not a data file", ZTAIL, "flags", Hex),
            Rule::ZfileSealedFlag => (c"ZFile is not sealed", ZTAIL, "flags", Hex),
            Rule::ZfileIndexCompressed => (c"Compressed index not supported", ZREC, "flags", Hex),
            Rule::ZfileDigest => (c"ZFile header checksum mismatch", ZHEAD, "digest", Hex),
            Rule::ZfileTrailerDigest => (c"ZFile trailer checksum mismatch", ZTAIL, "digest", Hex),
            Rule::ZfileAlgorithm => (c"Unknown compression algorithm", ZREC, "algorithm", Words("1, LZ4, or 2, zstd")),
            Rule::ZfileBlockSize => (c"Invalid ZFile block size", ZREC, "block size", Words("a power of two from 4096 to 65536")),
            Rule::ZfileVerify => (c"Invalid ZFile verify field", ZREC, "verify", Words("0 or 1")),
            Rule::ZfileDictionary => (c"Dictionaries not supported", ZREC, "dictionary", Value),
            Rule::ZfileTrailerDiffers => (c"ZFile header and trailer differ", ZTAIL, "value", Value),
            Rule::ZfileIndexStart => (c"ZFile index inside header", ZTAIL, "index offset", AtLeast),
            Rule::ZfileIndexEnd => (c"ZFile index must end at trailer", ZTAIL, "index ends at byte", Value),
            Rule::ZfileBlockCount => (c"ZFile block count mismatch", ZTAIL, "blocks", Value),
            Rule::ZfileIndexDigest => (c"ZFile index checksum mismatch", Byte("ZFile index"), "checksum", Hex),
            Rule::ZfileBlockShort => (c"ZFile block too short", ZITEM, "stored length", AtLeast),
            Rule::ZfileBlockLong => (c"ZFile block too long", ZITEM, "stored length", AtMost),
            Rule::ZfileBlocksEnd => (c"ZFile blocks must end at index", Byte("ZFile index"), "blocks end at byte", Value),

            Rule::LsmtLength => (c"Length too small for layer", Byte("LSMT layer"), "length", AtLeast),
            Rule::LsmtMagic => (c"LSMT magic mismatch", LHEAD, "magic", Hex),
            Rule::LsmtTrailerMagic => (c"LSMT trailer magic mismatch", LTAIL, "magic", Hex),
            Rule::LsmtRecordSize => (c"Invalid LSMT header size", LREC, "size", Value),
            Rule::LsmtVersion => (c"Unknown LSMT version", LREC, "version", AtMost),
            Rule::LsmtHeaderFlag => (c"LSMT header flag missing", LHEAD, "flags", Hex),
            Rule::LsmtTrailerFlag => (c"LSMT trailer flag mismatch", LTAIL, "flags", Hex),
            Rule::LsmtDataFlag => (c"Layer is an index file", LREC, "flags", Hex),
            Rule::LsmtWritable => (c"Layer is writable, not sealed", LHEAD, "flags", Hex),
            Rule::LsmtSealedFlag => (c"Layer is not sealed", LTAIL, "flags", Hex),
            Rule::LsmtIndexStart => (c"LSMT index inside header", LTAIL, "index offset", AtLeast),
            Rule::LsmtIndexEnd => (c"LSMT index beyond file", LTAIL, "index ends at byte", AtMost),
            Rule::LsmtEntryEmpty => (c"Empty index entry", LITEM, "length", AtLeast),
            Rule::LsmtEntryEnd => (c"Index entry too far out", LITEM, "ends at sector", AtMost),
            Rule::LsmtEntryOrder => (c"Index entries out of order", LITEM, "starts at sector", AtLeast),
            Rule::LsmtEntryOverlap => (c"Index entries overlap", LITEM, "starts at sector", AtLeast),
            Rule::LsmtDataStart => (c"Index entry maps the header", LITEM, "data start at sector", AtLeast),
            Rule::LsmtDataEnd => (c"Index entry beyond data", LITEM, "data end at sector", AtMost),

            Rule::LayerCount => (c"Invalid layer count", Stack, "layers", Words("1 to 255")),
            Rule::VirtualSizeZero => (c"Virtual size is zero", Stack, "virtual size", Words("a layer with a size")),
            Rule::VirtualSizeLimit => (c"Virtual size too large", Stack, "virtual size in sectors", AtMost),
        }
    }

    /// What a person can do about it, as the end of a sentence for the tool.
    #[cfg(not(MODULE))]
    pub fn remedy(self) -> &'static str {
        match self {
            Rule::ZfileTrailerMagic | Rule::LsmtTrailerMagic | Rule::ZfileIndexEnd => {
                "is the length exact, and the file complete?"
            }
            Rule::TarPayload | Rule::ZfileLength | Rule::LsmtLength => {
                "the file is cut off; fetch it again"
            }
            Rule::LsmtWritable => "commit or seal the layer first",
            Rule::LsmtDataFlag => "name the data file, not its index",
            Rule::ZfileIndexCompressed | Rule::ZfileDictionary | Rule::ZfileAlgorithm => {
                "compress the layer again without that feature"
            }
            Rule::LayerCount => "merge some of the layers",
            _ => "the file is damaged or was not made by an OverlayBD tool; fetch it again",
        }
    }
}
