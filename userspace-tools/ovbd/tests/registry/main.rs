// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Registries: a real one (Debian's `docker-registry`) with an independent client (`skopeo`), and
//! one of ours that does what the real one cannot. All on loopback.
#![cfg(feature = "registry")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod auth;
mod interrupted;
mod parts;
mod push;
mod real;
mod redirect;
mod resolve;
mod server;
mod support;
mod transfer;
mod upload;
mod ways;
