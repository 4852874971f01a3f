// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What `ovbd` reads and writes, against the files of the reference tools and against models that
//! are too simple to be wrong.
// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod build;
mod cli;
mod corrupt;
mod golden;
mod mkfs;
mod roundtrip;
mod store;
mod support;
