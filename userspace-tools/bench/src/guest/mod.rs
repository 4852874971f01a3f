// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What runs in the guest.
//!
//! Its clock counts instructions if the machine was started so (`-icount shift=0`): a
//! nanosecond is an instruction, and what the host does meanwhile does not show.

pub mod blocks;
pub mod clock;
mod containers;
pub mod core;
mod costs;
pub mod cpu;
mod device;
mod files;
pub mod gate;
mod limits;
mod machine;
mod peak;
pub mod profile;
mod read;
#[allow(unsafe_code)]
mod ring;
pub mod scaling;
mod ublk;

use crate::print;
use crate::sample::{Sample, Unit};

/// Prints a number.
fn emit(device: &str, test: &str, value: f64, unit: Unit) {
    let sample = Sample {
        device: device.to_owned(),
        test: test.to_owned(),
        value,
        unit,
        round: None,
    };
    // A structure of texts and numbers always has a form.
    print(serde_json::to_string(&sample).unwrap_or_default());
}
