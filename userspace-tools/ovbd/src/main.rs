// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The `ovbd` command line.

fn main() {}
