// SPDX-License-Identifier: GPL-2.0-only

//! Status lines.

use crate::bindings;
use core::{marker::PhantomData, ptr};
use kernel::{
    ffi::{c_char, c_uint},
    fmt::{self, Write as _},
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
