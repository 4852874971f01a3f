// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The OverlayBD on-disk formats: bytes in, values out.
#![cfg_attr(not(MODULE), no_std)]
