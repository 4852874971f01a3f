// SPDX-License-Identifier: GPL-2.0-only

//! What a constructor sees: the target that it fills, and its arguments.

use super::{device::Device, log::dm_err};
use crate::{
    bindings,
    format::{self, Bytes, SECTOR},
};
use core::{fmt, marker::PhantomData, ptr::NonNull};
use kernel::{
    error::to_result,
    ffi::{c_char, c_uint},
    prelude::*,
};

/// Why a constructor refuses a table line.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// `ti->error`: about four words, capital first, no full stop.
    pub(crate) reason: &'static CStr,
    /// What the ioctl returns.
    pub(crate) errno: Error,
}

impl Refusal {
    /// A table line that cannot be accepted: `EINVAL`.
    pub(crate) const fn invalid(reason: &'static CStr) -> Self {
        Self {
            reason,
            errno: EINVAL,
        }
    }

    /// A file that cannot be opened, with a line in the log that says why;
    /// `what` is the device and the file.
    pub(crate) fn unreadable(
        target: &CStr,
        what: fmt::Arguments<'_>,
        error: &format::Error<Error>,
    ) -> Self {
        match error {
            format::Error::Read { offset, error } => {
                let errno = error.to_errno();
                dm_err!(target, "{what}: reading byte {offset} on: error {errno}");
                Self {
                    reason: c"Cannot read device",
                    errno: *error,
                }
            }
            format::Error::NoMemory => {
                dm_err!(target, "{what}: not enough memory for the index");
                Self {
                    reason: c"Cannot allocate index",
                    errno: ENOMEM,
                }
            }
            format::Error::Invalid(invalid) => {
                dm_err!(target, "{what}: {invalid}");
                Self::invalid(invalid.reason())
            }
        }
    }

    /// No memory for what the target needs: `ENOMEM`.
    pub(crate) const fn no_memory() -> Self {
        Self {
            reason: c"Cannot allocate target",
            errno: ENOMEM,
        }
    }
}

impl From<kernel::alloc::AllocError> for Refusal {
    fn from(_: kernel::alloc::AllocError) -> Self {
        Self::no_memory()
    }
}

impl From<Error> for Refusal {
    fn from(errno: Error) -> Self {
        Self {
            reason: c"Cannot set up target",
            errno,
        }
    }
}

/// A target under construction.
///
/// # Invariants
///
/// `ti` is valid, and only used by its constructor, for `'a`.
pub(crate) struct Constructor<'a> {
    ti: NonNull<bindings::dm_target>,
    _call: PhantomData<&'a mut bindings::dm_target>,
}

impl<'a> Constructor<'a> {
    /// # Safety
    ///
    /// `ti` is the argument of a `ctr` call that has not returned for `'a`.
    pub(super) unsafe fn from_raw(ti: *mut bindings::dm_target) -> Self {
        // INVARIANT: By the requirement of this function.
        Self {
            // SAFETY: dm core passes no null pointer.
            ti: unsafe { NonNull::new_unchecked(ti) },
            _call: PhantomData,
        }
    }

    /// The target's length, in sectors.
    fn sectors(&self) -> u64 {
        // SAFETY: By the type's invariant.
        unsafe { self.ti.as_ref().len }
    }

    /// Refuses a table that is not loaded for reading only.
    pub(crate) fn check_read_only(&self) -> Result<(), Refusal> {
        // SAFETY: By the type's invariant; `table` is the one that is being built.
        let mode = unsafe { bindings::dm_table_get_mode(self.ti.as_ref().table) };
        if mode & bindings::BLK_OPEN_WRITE == 0 {
            Ok(())
        } else {
            Err(Refusal {
                reason: c"Table must be read-only",
                errno: EROFS,
            })
        }
    }

    /// Refuses a target whose length is not that of `size` bytes, rounded up to
    /// a sector.
    pub(crate) fn check_length(&self, target: &CStr, size: Bytes) -> Result<(), Refusal> {
        let (found, expected) = (self.sectors(), size.div_ceil(SECTOR));
        if found == expected {
            return Ok(());
        }
        let name = self.device_name();
        dm_err!(
            target,
            "{name}: length is {found} sectors, expected {expected}"
        );
        Err(Refusal::invalid(c"Invalid target length"))
    }

    /// The name under which messages in the log appear: `major:minor` of the
    /// device whose table this is.
    pub(crate) fn device_name(&self) -> DeviceName {
        // SAFETY: By the type's invariant; a table belongs to a device, whose name
        // is a C string that lives as long.
        let name = unsafe {
            let device = bindings::dm_table_get_md(self.ti.as_ref().table);
            CStr::from_char_ptr(bindings::dm_device_name(device))
        };
        DeviceName::new(name.to_bytes())
    }

    /// Opens the device that `below` names by one of `arguments`.
    pub(crate) fn open_word(
        &mut self,
        target: &CStr,
        arguments: Arguments<'_>,
        below: &Below<'_>,
    ) -> Result<Device, Refusal> {
        let path = arguments.c_str(below.device).ok_or(ENODEV);
        path.and_then(|path| self.open(path)).map_err(|errno| {
            dm_err!(target, "{below}: cannot open: error {}", errno.to_errno());
            Refusal {
                reason: c"Device lookup failed",
                errno,
            }
        })
    }

    /// Opens a device in the mode of the table.
    ///
    /// # Errors
    ///
    /// Those of `dm_get_device()`: `ENODEV` if there is none, `EBUSY`, …
    fn open(&mut self, path: &CStr) -> Result<Device> {
        let mut device = core::ptr::null_mut();
        // SAFETY: `ti` is under construction, by the type's invariant; `path` is a C string.
        to_result(unsafe {
            let mode = bindings::dm_table_get_mode(self.ti.as_ref().table);
            bindings::dm_get_device(self.ti.as_ptr(), path.as_char_ptr(), mode, &mut device)
        })?;
        // SAFETY: `dm_get_device` returned 0: `device` is held by `ti` until it is put.
        Ok(unsafe { Device::from_raw(self.ti, device) })
    }
}

/// `major:minor`, kept by value so that a message may be printed at any time.
pub(crate) struct DeviceName {
    bytes: [u8; 16],
    len: usize,
}

impl DeviceName {
    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; 16];
        let mut len = 0;
        for (to, from) in bytes.iter_mut().zip(name) {
            *to = *from;
            len += 1;
        }
        Self { bytes, len }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.bytes.get(..self.len).unwrap_or_default();
        f.write_str(core::str::from_utf8(name).unwrap_or("?"))
    }
}

/// What a line in the log is about: the device that is made, and what is below.
pub(crate) struct Below<'a> {
    pub(crate) name: &'a DeviceName,
    /// The layer's number, from the bottom, if there can be several.
    pub(crate) layer: Option<usize>,
    /// The device below, as the table names it.
    pub(crate) device: &'a str,
}

impl fmt::Display for Below<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            layer,
            device,
        } = self;
        match layer {
            Some(layer) => write!(f, "{name}: layer {layer} ({device})"),
            None => write!(f, "{name}: {device}"),
        }
    }
}

/// The words of a table line or message.
///
/// # Invariants
///
/// `argv` points to `argc` C strings that are valid for `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Arguments<'a> {
    argv: *const *mut c_char,
    argc: usize,
    _strings: PhantomData<&'a CStr>,
}

impl<'a> Arguments<'a> {
    /// # Safety
    ///
    /// `argv` points to `argc` C strings that are valid, and not written, for `'a`.
    pub(super) unsafe fn from_raw(argc: c_uint, argv: *const *mut c_char) -> Self {
        // INVARIANT: By the requirement of this function.
        Self {
            argv,
            argc: argc as usize,
            _strings: PhantomData,
        }
    }

    /// The word at `index`, from 0.
    pub(crate) fn get(&self, index: usize) -> Option<&'a CStr> {
        if index >= self.argc {
            return None;
        }
        // SAFETY: `index` is below `argc`, by the type's invariant.
        Some(unsafe { CStr::from_char_ptr(*self.argv.add(index)) })
    }

    /// The words as text. A word that is not UTF-8 becomes an empty one, which
    /// no grammar accepts.
    pub(crate) fn words(self) -> impl Iterator<Item = &'a str> + Clone {
        (0..self.argc).map(move |index| {
            let word = self.get(index).unwrap_or_default();
            word.to_str().unwrap_or_default()
        })
    }

    /// Accepts the message `reset_stats`, the only one.
    ///
    /// # Errors
    ///
    /// `EINVAL` for any other.
    pub(crate) fn expect_reset_stats(&self) -> Result {
        let mut words = self.words();
        if words.next() == Some("reset_stats") && words.next().is_none() {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }

    /// The C string that `word`, one of [`Arguments::words`], came from.
    pub(crate) fn c_str(&self, word: &str) -> Option<&'a CStr> {
        (0..self.argc)
            .filter_map(|index| self.get(index))
            .find(|c_str| core::ptr::eq(c_str.as_char_ptr(), word.as_ptr()))
    }
}

#[kernel::macros::kunit_tests(dm_overlaybd_construct)]
mod tests {
    use super::*;

    /// Does `work` with these words as arguments.
    fn with<R>(words: &[&'static CStr], work: impl FnOnce(Arguments<'_>) -> R) -> Result<R> {
        let mut argv = KVec::new();
        for word in words {
            argv.push(word.as_char_ptr().cast_mut(), GFP_KERNEL)?;
        }
        // SAFETY: They are as many C strings, and there until `work` has returned.
        Ok(work(unsafe {
            Arguments::from_raw(argv.len() as c_uint, argv.as_ptr())
        }))
    }

    #[test]
    fn arguments_are_words() -> Result {
        with(&[c"7:0", c"", c"\xff", c"12"], |arguments| {
            let words = ["7:0", "", "", "12"];
            assert!(arguments.words().eq(words));
            assert!(arguments
                .get(3)
                .is_some_and(|word| word.to_bytes() == b"12"));
            assert!(arguments.get(4).is_none());
            assert!(arguments.get(usize::MAX).is_none());
        })?;
        with(&[], |arguments| assert!(arguments.words().next().is_none()))
    }

    /// A word leads back to the string that it came from, and no other one does.
    #[test]
    fn words_are_found_by_where_they_are() -> Result {
        with(&[c"7:0", c"0", c"7:0 "], |arguments| {
            for (index, word) in arguments.words().enumerate() {
                let found = arguments.c_str(word);
                assert!(
                    found.map(CStr::as_char_ptr) == arguments.get(index).map(CStr::as_char_ptr)
                );
            }
            assert!(arguments.c_str("7:1").is_none());
            assert!(arguments.c_str("").is_none());
        })
    }

    #[test]
    fn one_message_is_known() -> Result {
        const MESSAGES: [(&[&CStr], bool); 5] = [
            (&[c"reset_stats"], true),
            (&[], false),
            (&[c"reset"], false),
            (&[c"reset_stats", c""], false),
            (&[c"reset_stats", c"now"], false),
        ];
        for (words, known) in MESSAGES {
            let result = with(words, |arguments| arguments.expect_reset_stats())?;
            assert_eq!(result, if known { Ok(()) } else { Err(EINVAL) });
        }
        Ok(())
    }

    #[test]
    fn names_are_cut_and_shown() -> Result {
        const NAMES: [(&[u8], &str); 4] = [
            (b"253:1048575", "253:1048575"),
            (b"", ""),
            (b"0123456789abcdefgh", "0123456789abcdef"),
            (b"\xff", "?"),
        ];
        for (name, shown) in NAMES {
            let name = DeviceName::new(name);
            let text = kernel::str::CString::try_from_fmt(format_args!("{name}"))?;
            assert_eq!(text.to_bytes(), shown.as_bytes());
        }
        Ok(())
    }
}
