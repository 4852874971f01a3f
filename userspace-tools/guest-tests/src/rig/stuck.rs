// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Reads that wait for a device below for as long as a test wants.

use std::time::Duration;

use anyhow::{ensure, Result};

use super::load::{Load, Read};
use super::{until, Linear};
use crate::ctx::Ctx;

/// Suspends `below`, has each of `stuck` wait for it until `all` of them do, and returns when each
/// of `others` has been done meanwhile. Then `below` goes on, and so must `stuck`.
pub fn beside(
    ctx: &mut Ctx,
    below: &Linear,
    stuck: &[Read<'_>],
    all: impl Fn(&mut Ctx) -> Result<bool>,
    others: &[Read<'_>],
) -> Result<()> {
    below.suspend(ctx)?;
    let (mut rng, mut other_rng) = (ctx.rng().fork(), ctx.rng().fork());
    Load::with(&mut rng, stuck, |first| {
        let limit = Duration::from_secs(60);
        let waited = until("all readers wait", limit, || all(ctx));
        Load::with(&mut other_rng, others, |second| {
            let result = waited.and_then(|()| second.more(1));
            let read = first.total();
            // Whatever came of it: else nobody would ever end.
            below.resume(ctx)?;
            result?;
            ensure!(read == 0, "{read} reads of a device that is suspended");
            first.more(1)
        })
    })
}
