// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Everything that `ovbd` does, as a library.
//!
//! Two halves that meet in [`table`]:
//!
//! * [`image`] reads and writes what lies in files: it inspects, verifies, builds, compresses and
//!   extracts layers, and needs no privilege.
//! * the host half turns layers into devices: [`config`] says which layers, [`table`] says which
//!   tables, and the modules below it talk to the kernel.
//!
//! Nothing in here prints, exits or reads arguments: the command line does, in the binary. Every
//! function that can fail returns [`Error`], which knows the exit code that fits it.
#![deny(unsafe_code)]

pub mod boot;
mod busy;
pub mod config;
pub mod dm;
pub mod down;
pub mod error;
pub mod identity;
pub mod image;
pub mod list;
mod lock;
pub mod loopdev;
mod module;
pub mod mount;
pub mod output;
pub mod plan;
pub mod reference;
#[cfg(feature = "registry")]
pub mod registry;
pub mod resolve;
pub mod run;
pub mod step;
pub mod store;
mod sys;
pub mod table;
pub mod up;
pub mod verity;

pub use error::{Error, Result};
