// SPDX-License-Identifier: GPL-2.0-only

//! Decompressors and checksums. The input of decompressors is untrusted, and so
//! is what they say about it: both check every bound themselves, and the length
//! of their output is checked by the caller.

use super::segments::Span;
use crate::bindings;
use core::ptr::NonNull;
use kernel::{alloc::AllocError, ffi::c_int, prelude::*};

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
        let mut workspace = KVVec::<u64>::zeroed(bytes.div_ceil(size_of::<u64>()), GFP_KERNEL)?;
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
