// SPDX-License-Identifier: GPL-2.0-only

//! Decompressors and checksums. The input of decompressors is untrusted, and so
//! is what they say about it: both check every bound themselves, and the length
//! of their output is checked by the caller.

use super::segments::Span;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    alloc::{flags::__GFP_NOWARN, AllocError},
    ffi::c_int,
    prelude::*,
};

/// CRC-32C of `data`, raw: `seed` is the register before the first byte, the
/// result the register after the last, with no inversion.
#[inline]
pub(crate) fn crc32c(seed: u32, data: &[u8]) -> u32 {
    // SAFETY: `data` is as long as it says.
    unsafe { bindings::crc32c(seed, data.as_ptr().cast(), data.len()) }
}

/// Decompresses one LZ4 block. Returns the length of the output in bytes, or
/// `None` if `source` is malformed or does not fit `destination`.
pub(crate) fn lz4(source: &[u8], mut destination: Span<'_>) -> Option<usize> {
    let source_len = c_int::try_from(source.len()).ok()?;
    let capacity = c_int::try_from(destination.len()).ok()?;
    // SAFETY: The decoder reads `source_len` bytes and writes at most `capacity`, whatever
    // `source` holds. It may read back what it wrote, for data only, not for bounds.
    let len = unsafe {
        bindings::LZ4_decompress_safe(
            source.as_ptr().cast(),
            destination.as_mut_ptr().cast(),
            source_len,
            capacity,
        )
    };
    usize::try_from(len).ok()
}

/// The state of a zstd decompressor.
///
/// # Invariants
///
/// `context` lies in `workspace`, which neither moves nor changes its length.
pub(crate) struct Zstd {
    context: NonNull<bindings::zstd_dctx>,
    _workspace: KVVec<u64>,
}

// SAFETY: The context is plain memory.
unsafe impl Send for Zstd {}

impl Zstd {
    /// Allocates; may sleep.
    pub(crate) fn new() -> Result<Self, AllocError> {
        // SAFETY: It only computes a number of bytes.
        let bytes = unsafe { bindings::zstd_dctx_workspace_bound() };
        let mut workspace =
            KVVec::<u64>::zeroed(bytes.div_ceil(size_of::<u64>()), GFP_KERNEL | __GFP_NOWARN)?;
        // SAFETY: The workspace is aligned to 8 bytes, and as long as it says. It is kept
        // as long as the context, and its memory stays in place when the vector moves.
        let context = unsafe {
            bindings::zstd_init_dctx(
                workspace.as_mut_ptr().cast(),
                workspace.len().saturating_mul(size_of::<u64>()),
            )
        };
        // INVARIANT: zstd puts the context into the workspace.
        Ok(Self {
            context: NonNull::new(context).ok_or(AllocError)?,
            _workspace: workspace,
        })
    }

    /// Decompresses one zstd frame. Returns the length of the output in bytes, or
    /// `None` if `source` is malformed or does not fit `destination`.
    pub(crate) fn decompress(&mut self, source: &[u8], mut destination: Span<'_>) -> Option<usize> {
        // SAFETY: The context is valid, by the type's invariant. The decoder reads no more
        // than `source` and writes no more than `destination`, whatever `source` holds.
        let (len, failed) = unsafe {
            let len = bindings::zstd_decompress_dctx(
                self.context.as_ptr(),
                destination.as_mut_ptr().cast(),
                destination.len(),
                source.as_ptr().cast(),
                source.len(),
            );
            (len, bindings::zstd_is_error(len) != 0)
        };
        (!failed).then_some(len)
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_codec)]
mod tests {
    use super::*;

    const UNTOUCHED: u8 = 0xa5;

    /// "hello, hello, hello!" as one sequence with a match, and literals.
    const LZ4: &[u8] = b"\x74hello, \x07\x00\x50ello!";
    /// The same as a raw block in a frame with its size.
    const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd\x20\x14\xa1\x00\x00hello, hello, hello!";
    const HELLO: &[u8] = b"hello, hello, hello!";

    /// What `decompress` makes of room for `room` bytes, behind which nothing may be written.
    fn into_room(
        room: usize,
        decompress: impl FnOnce(Span<'_>) -> Option<usize>,
    ) -> Result<(Option<usize>, KVec<u8>, bool)> {
        let mut memory = KVec::from_elem(UNTOUCHED, room + 64, GFP_KERNEL)?;
        let (to, _) = memory.split_at_mut(room);
        let len = decompress(Span::from(to));
        let kept = memory[room..].iter().all(|&byte| byte == UNTOUCHED);
        Ok((len, memory, kept))
    }

    /// RFC 3720 has the values, inverted before and after.
    #[test]
    fn crc32c_is_the_one_of_rfc_3720() {
        assert_eq!(!crc32c(!0, &[0; 32]), 0x8a91_36aa);
        assert_eq!(!crc32c(!0, &[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(crc32c(7, b"he"), b"llo"), crc32c(7, b"hello"));
        assert_eq!(crc32c(7, b""), 7);
    }

    /// Every room that is too small, and every beginning of the input.
    #[test]
    fn lz4_keeps_to_its_room() -> Result {
        for room in 0..HELLO.len() + 40 {
            let (len, memory, kept) = into_room(room, |to| lz4(LZ4, to))?;
            assert!(kept);
            assert_eq!(len, (room >= HELLO.len()).then_some(HELLO.len()));
            assert!(len.is_none_or(|len| memory[..len] == *HELLO));
        }
        for cut in 0..LZ4.len() {
            let (len, _, kept) = into_room(HELLO.len(), |to| lz4(&LZ4[..cut], to))?;
            assert!(kept && len != Some(HELLO.len()));
        }
        Ok(())
    }

    /// A match that begins before the output does.
    #[test]
    fn lz4_reads_nothing_before_its_room() -> Result {
        for offset in [8u8, 9, 255] {
            let stream = [b"\x74hello, ".as_slice(), &[offset, 0], b"\x50ello!"];
            let mut source = KVec::new();
            for part in stream {
                source.extend_from_slice(part, GFP_KERNEL)?;
            }
            let (len, _, kept) = into_room(HELLO.len(), |to| lz4(&source, to))?;
            assert!(kept && len.is_none());
        }
        Ok(())
    }

    /// The same context, after whatever it met before.
    #[test]
    fn zstd_keeps_to_its_room() -> Result {
        let mut zstd = Zstd::new()?;
        for room in 0..HELLO.len() + 40 {
            let (len, memory, kept) = into_room(room, |to| zstd.decompress(ZSTD, to))?;
            assert!(kept);
            assert_eq!(len, (room >= HELLO.len()).then_some(HELLO.len()));
            assert!(len.is_none_or(|len| memory[..len] == *HELLO));
        }
        for cut in 0..ZSTD.len() {
            let (len, _, kept) = into_room(HELLO.len(), |to| zstd.decompress(&ZSTD[..cut], to))?;
            assert!(kept && len != Some(HELLO.len()));
        }
        // Moved, it works as before.
        let mut moved = KBox::new(zstd, GFP_KERNEL)?;
        let (len, _, _) = into_room(HELLO.len(), |to| moved.decompress(ZSTD, to))?;
        assert_eq!(len, Some(HELLO.len()));
        Ok(())
    }
}
