// SPDX-License-Identifier: GPL-2.0-only

//! Status lines.

use crate::bindings;
use core::{
    fmt::{self, Write as _},
    marker::PhantomData,
    mem::MaybeUninit,
    ptr,
};
use kernel::{
    ffi::{c_char, c_uint},
    prelude::*,
};

/// Which status line is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusKind {
    /// What is going on (`dmsetup status`).
    Info,
    /// The table line that makes the same target again (`dmsetup table`).
    Table,
    /// What the kernel's integrity measurement records about the target.
    Ima,
}

impl StatusKind {
    pub(super) fn from_raw(raw: bindings::status_type_t) -> Self {
        match raw {
            bindings::status_type_t_STATUSTYPE_TABLE => Self::Table,
            bindings::status_type_t_STATUSTYPE_IMA => Self::Ima,
            _ => Self::Info,
        }
    }
}

/// What dm core measures of a target, in bytes: its `DM_IMA_TARGET_DATA_BUF_LEN`.
const MEASURED: usize = 2048;

/// Writes into dm core's result buffer, which always holds a C string.
///
/// # Invariants
///
/// `at` and the `left` bytes from it on are writable for `'a`; `left` is not 0.
pub(crate) struct StatusWriter<'a> {
    at: *mut u8,
    left: usize,
    written: usize,
    _buffer: PhantomData<&'a mut [u8]>,
}

impl StatusWriter<'_> {
    /// # Safety
    ///
    /// `result` has `maxlen` bytes, 1 at least, that nobody else uses for `'a`.
    pub(super) unsafe fn from_raw(result: *mut c_char, maxlen: c_uint) -> Self {
        // SAFETY: By the requirement of this function.
        unsafe { result.write(0) };
        // INVARIANT: By the requirement of this function.
        Self {
            at: result.cast(),
            left: maxlen as usize,
            written: 0,
            _buffer: PhantomData,
        }
    }

    /// Whether `text`, with `more` bytes behind it, is measured as a whole. That does not depend
    /// on the buffer: who asks with a larger one (`dmsetup measure`) is told what was measured.
    pub(crate) fn is_measured(&self, text: &impl fmt::Display, more: usize) -> bool {
        let mut length = Length(self.written.saturating_add(more));
        let counted = write!(length, "{text}");
        // One byte stays for the NUL.
        counted.is_ok() && length.0 < MEASURED
    }

    /// The fields with which every IMA line begins.
    pub(super) fn target_name_version(&mut self, name: &CStr, version: [u32; 3]) {
        let [major, minor, patch] = version;
        let _ = write!(
            self,
            "target_name={},target_version={major}.{minor}.{patch}",
            name.to_str().unwrap_or("?")
        );
    }
}

/// Counts what is written.
struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 = self.0.saturating_add(text.len());
        Ok(())
    }
}

/// The SHA-256 of what a text prints: `sha256:` and 64 digits, as dm core prints hashes.
pub(crate) struct TextHash([u8; 32]);

impl TextHash {
    /// The hash of what `text` prints; `None` on kernels without IMA, which measure nothing.
    pub(crate) fn of(text: &impl fmt::Display) -> Option<Self> {
        let (mut state, mut hash) = (MaybeUninit::uninit(), [0; 32]);
        // SAFETY: The function initialises `state`, if there is what it calls.
        if !unsafe { bindings::dm_ovbd_sha256_init(state.as_mut_ptr()) } {
            return None;
        }
        // INVARIANT: It was just initialised.
        let mut hasher = Hasher(state);
        write!(hasher, "{text}").ok()?;
        // SAFETY: By the invariant of `Hasher`; a hash has 32 bytes.
        unsafe { bindings::dm_ovbd_sha256_final(hasher.0.as_mut_ptr(), hash.as_mut_ptr()) };
        Some(Self(hash))
    }
}

/// Hashes what is written.
///
/// # Invariants
///
/// The state is initialised, and there is what computes it.
struct Hasher(MaybeUninit<bindings::sha256_ctx>);

impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // SAFETY: By the type's invariant; the function only reads `text`.
        unsafe {
            bindings::dm_ovbd_sha256_update(self.0.as_mut_ptr(), text.as_ptr(), text.len());
        }
        Ok(())
    }
}

impl fmt::Display for TextHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Write for StatusWriter<'_> {
    /// Writes what fits; an error says that `text` was cut.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays for the NUL.
        let fits = text.len().min(self.left.saturating_sub(1));
        // SAFETY: `fits + 1` bytes are writable, by the type's invariant; the buffer
        // is not part of a Rust string.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr(), self.at, fits);
            self.at = self.at.add(fits);
            self.at.write(0);
        }
        // INVARIANT: `fits` is less than `left`.
        self.left -= fits;
        self.written = self.written.saturating_add(fits);
        if fits < text.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_status)]
mod tests {
    use super::*;

    const UNTOUCHED: u8 = 0xa5;

    /// What a buffer of `len` bytes holds after `work`, and one byte more.
    fn written(
        len: usize,
        work: impl FnOnce(&mut StatusWriter<'_>) -> fmt::Result,
    ) -> Result<(KVec<u8>, bool)> {
        let mut buffer = KVec::from_elem(UNTOUCHED, len + 1, GFP_KERNEL)?;
        // SAFETY: `len` bytes of the buffer are the writer's, which is gone before the buffer.
        let mut writer =
            unsafe { StatusWriter::from_raw(buffer.as_mut_ptr().cast(), len as c_uint) };
        let all = work(&mut writer).is_ok();
        Ok((buffer, all))
    }

    /// A line that does not fit is cut, and fills the buffer: device-mapper sees it by that.
    #[test]
    fn lines_are_cut_to_the_buffer() -> Result {
        const WORDS: &[u8] = b"12 words: 3456";
        for len in 1..WORDS.len() + 4 {
            let (buffer, all) = written(len, |out| {
                write!(out, "{} words", 12)?;
                write!(out, ": {}", 3456)
            })?;
            let fits = WORDS.len().min(len - 1);
            assert_eq!(buffer[..fits], WORDS[..fits]);
            assert_eq!(buffer[fits], 0);
            assert!(buffer[fits + 1..].iter().all(|&byte| byte == UNTOUCHED));
            assert_eq!(all, fits == WORDS.len());
        }
        Ok(())
    }

    #[test]
    fn nothing_is_an_empty_line() -> Result {
        let (buffer, all) = written(5, |_| Ok(()))?;
        assert!(all);
        assert_eq!(
            buffer[..],
            [0, UNTOUCHED, UNTOUCHED, UNTOUCHED, UNTOUCHED, UNTOUCHED]
        );
        Ok(())
    }

    #[test]
    fn what_is_measured_begins_with_name_and_version() -> Result {
        let (buffer, _) = written(80, |out| {
            out.target_name_version(c"zfile", [1, 20, 3]);
            out.write_str(",x;")
        })?;
        let line = b"target_name=zfile,target_version=1.20.3,x;\0";
        assert_eq!(buffer[..line.len()], line[..]);
        Ok(())
    }

    /// What was written before, all of it, what else is asked for, and the NUL; whatever the buffer.
    #[test]
    fn what_is_measured_is_known_before() -> Result {
        const BEFORE: usize = MEASURED - 100;
        for len in [MEASURED, 2 * MEASURED] {
            written(len, |out| {
                (0..BEFORE).try_for_each(|_| out.write_str("x"))?;
                for more in 80..110 {
                    assert_eq!(
                        out.is_measured(&format_args!("{}:{}", 12, 345), more),
                        BEFORE + 6 + more < MEASURED
                    );
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// FIPS 180-2 has the values. Kernels without IMA have none.
    #[test]
    fn texts_are_hashed() -> Result {
        let Some(hash) = TextHash::of(&format_args!("a{}", "bc")) else {
            return Ok(());
        };
        let known = [0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea];
        assert!(hash.0[..8] == known);
        let (buffer, all) = written(72, |out| write!(out, "{hash}"))?;
        assert!(all && buffer.starts_with(b"sha256:") && buffer[71] == 0);
        Ok(())
    }

    #[test]
    fn kinds() {
        for (raw, kind) in [
            (bindings::status_type_t_STATUSTYPE_INFO, StatusKind::Info),
            (bindings::status_type_t_STATUSTYPE_TABLE, StatusKind::Table),
            (bindings::status_type_t_STATUSTYPE_IMA, StatusKind::Ima),
        ] {
            assert!(StatusKind::from_raw(raw) == kind);
        }
    }
}
