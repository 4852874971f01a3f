// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! libFuzzer on [`fuzz::zfile`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::zfile(data));
