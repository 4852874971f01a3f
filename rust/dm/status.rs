// SPDX-License-Identifier: GPL-2.0-only

//! Status lines.

use crate::bindings;
use core::{
    fmt::{self, Write as _},
    marker::PhantomData,
    ptr,
};
use kernel::{
    ffi::{c_char, c_uint},
    prelude::*,
    str::CString,
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

/// Writes into dm core's result buffer, which always holds a C string.
///
/// # Invariants
///
/// `at` and the `left` bytes from it on are writable for `'a`; `left` is not 0.
pub(crate) struct StatusWriter<'a> {
    at: *mut u8,
    left: usize,
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
            _buffer: PhantomData,
        }
    }

    /// Whether `text` fits, with `more` bytes behind it.
    pub(crate) fn fits(&self, text: &impl fmt::Display, more: usize) -> bool {
        let mut length = Length(more);
        let counted = write!(length, "{text}");
        // One byte stays for the NUL.
        counted.is_ok() && length.0 < self.left
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

/// The SHA-256 of what `text` prints: `sha256:` and 64 digits, as dm core prints hashes. All zeros on
/// kernels without IMA, which do not ask for lines that have one.
pub(crate) struct TextHash([u8; 32]);

impl TextHash {
    /// May sleep. Fails without memory for the text.
    pub(crate) fn of(text: &impl fmt::Display) -> Result<Self> {
        let text = CString::try_from_fmt(format_args!("{text}"))?;
        let (bytes, mut hash) = (text.to_bytes(), [0; 32]);
        // SAFETY: The function reads `bytes`, and writes 32 bytes at most.
        unsafe { bindings::dm_ovbd_sha256(bytes.as_ptr(), bytes.len(), hash.as_mut_ptr()) };
        Ok(Self(hash))
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
        if fits < text.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}
