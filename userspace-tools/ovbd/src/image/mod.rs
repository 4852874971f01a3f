// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What lies in files: reading, checking and writing layers.
