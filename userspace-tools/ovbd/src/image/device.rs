// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Where a ZFile or a layer ends on a block device.
//!
//! Both are opened from their last bytes, and a device is longer than what was written to it: it is
//! padded with zeros to a sector, and perhaps much further. The last byte that is not zero belongs to
//! the trailer, and the trailer says by its magic where it begins. What is found that way is checked
//! like any other file, so that a device with something else on it is refused, not misread.
//!
//! In a tar this is not needed: its header has the length.

use overlaybd_format::blob::Kind;
use overlaybd_format::{lsmt, zfile};

use super::source::{ReadError, Source};

/// How many zeros at the end of a device are looked through: several extents of a volume manager.
const PADDING_MAX: u64 = 64 << 20;
/// Bytes by which a kind is recognised.
const MAGIC_LEN: usize = 8;
/// How much is read at once.
const PIECE: u64 = 1 << 20;

/// The end, in bytes, of the file of this kind that begins at the device's first byte; `None` if no
/// trailer is found.
pub fn end(device: &dyn Source, kind: Kind) -> Result<Option<u64>, ReadError> {
    let length = match kind {
        Kind::Zfile => zfile::SIZE,
        Kind::Lsmt => lsmt::SIZE,
    };
    let Some(last) = last_byte(device)? else {
        return Ok(None);
    };
    let from = (last + 1).saturating_sub(length);
    let window = read(device, from, last + 1)?;
    let begins = |bytes: &[u8]| bytes.try_into().ok().and_then(Kind::of) == Some(kind);
    let Some(place) = window.windows(MAGIC_LEN).rposition(begins) else {
        return Ok(None);
    };
    let trailer = from + place as u64;
    let end = trailer + length;
    // The header begins with the same magic.
    Ok((trailer >= length && end <= device.size()).then_some(end))
}

/// Where the last byte that is not zero is, unless there are too many zeros behind it.
fn last_byte(device: &dyn Source) -> Result<Option<u64>, ReadError> {
    let mut end = device.size();
    let give_up = end.saturating_sub(PADDING_MAX);
    while end > give_up {
        let from = end.saturating_sub(PIECE).max(give_up);
        let piece = read(device, from, end)?;
        if let Some(place) = piece.iter().rposition(|&byte| byte != 0) {
            return Ok(Some(from + place as u64));
        }
        end = from;
    }
    Ok(None)
}

/// Reads `from..to`, which is at most a piece.
fn read(device: &dyn Source, from: u64, to: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = vec![0; to.saturating_sub(from) as usize];
    device.read_exact_at(from, &mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::source::FileSource;
    use crate::plan::tests::{lsmt as layer, zfile};

    fn end_of(content: &[u8], padding: usize, kind: Kind) -> Option<u64> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = [content, &vec![0; padding]].concat();
        std::fs::write(file.path(), device).unwrap();
        end(&FileSource::open(file.path()).unwrap(), kind).unwrap()
    }

    #[test]
    fn padding_is_told_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let layer = layer(16, 7);
        let zfile = std::fs::read(zfile(folder.path(), "z", &layer)).unwrap();
        for (content, kind) in [(&layer, Kind::Lsmt), (&zfile, Kind::Zfile)] {
            let length = content.len() as u64;
            for padding in [0, 1, 511, 4096, 3 << 20] {
                assert_eq!(
                    end_of(content, padding, kind),
                    Some(length),
                    "{kind:?} {padding}"
                );
            }
        }
    }

    #[test]
    fn no_trailer_is_made_up() {
        let layer = layer(16, 7);
        assert_eq!(end_of(&[], 0, Kind::Zfile), None);
        assert_eq!(end_of(&[], 4096, Kind::Lsmt), None);
        // The header alone; a trailer that is cut off; something behind the trailer.
        assert_eq!(end_of(&layer[..4096], 8192, Kind::Lsmt), None);
        assert_eq!(end_of(&layer[..layer.len() - 1], 0, Kind::Lsmt), None);
        let more = [&layer[..], &[0; 4096], b"x"].concat();
        assert_eq!(end_of(&more, 511, Kind::Lsmt), None);
        assert_eq!(end_of(&layer, 0, Kind::Zfile), None);
    }

    #[test]
    fn the_search_ends() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), layer(16, 7)).unwrap();
        file.as_file().set_len(PADDING_MAX + (1 << 20)).unwrap();
        let device = FileSource::open(file.path()).unwrap();
        assert_eq!(end(&device, Kind::Lsmt).unwrap(), None);
    }
}
