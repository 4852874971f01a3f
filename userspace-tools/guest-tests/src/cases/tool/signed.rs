// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Root hashes with a signature that the kernel checks, by its keyring for dm-verity.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::output::Progress;
use ovbd::verity::seal::{seal, Known, Options};

use super::basics::{json, run};
use super::{nothing_is_left, take_down, Image};
use crate::ctx::{output, Ctx};
use crate::harness::Case;
use crate::read;
use crate::rig::until;

/// Certificates, and their signatures of the root hash of [`LAYER`].
const KEYS: &str = "/opt/keys";
const LAYER: &str = "ext4/layer*.lz4.zfile";
const EXIT_INVALID: i32 = 3;
const UNSEALED: &str = "/sys/module/dm_verity/parameters/keyring_unsealed";

pub fn cases() -> Vec<Case> {
    vec![Case::new("tool.verity.signed", signed)]
}

/// The module with an empty keyring that takes keys, until the test ends.
fn fresh_keyring(ctx: &mut Ctx) -> Result<()> {
    if Path::new(UNSEALED).exists() {
        output(&["rmmod", "dm_verity"])?;
    }
    output(&["modprobe", "dm-verity", "keyring_unsealed=1"])?;
    ctx.defer("the module", || output(&["rmmod", "dm_verity"]).map(drop));
    ensure!(fs::read_to_string(UNSEALED)?.trim() == "Y");
    Ok(())
}

/// Adds a certificate to the keyring, and seals that: unsealed, the kernel does not use it.
fn trust(name: &str) -> Result<()> {
    let command = format!(
        "set -e; k=%keyring:.dm-verity; keyctl padd asymmetric '' $k <{KEYS}/{name}.der; \
         keyctl restrict_keyring $k"
    );
    output(&["sh", "-c", &command]).map(drop)
}

fn words<'a>(layer: &'a str, hash: &'a str, signature: &'a str) -> [&'a str; 8] {
    let option = "--roothash-sig";
    [
        "--json",
        "up",
        "web",
        layer,
        "--root-hash",
        hash,
        option,
        signature,
    ]
}

/// A good signature is taken; one of another key, of another root hash, of nothing is not, and neither
/// is a good one without the key.
fn signed(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, LAYER, &dir)?;
    let (good, other) = (format!("{KEYS}/trusted.p7s"), format!("{KEYS}/other.p7s"));
    let broken = dir.join("broken.p7s");
    fs::write(&broken, b"no signature")?;
    let broken = broken.to_str().context("path")?;
    let mut hashes = Vec::new();
    for layer in &image.layers {
        let sealed = seal(
            layer,
            &Options::default(),
            Known::default(),
            &Progress::hidden(),
        )?;
        hashes.push(sealed.root_hash.to_string());
    }
    let [bottom, upper, ..] = &image.layers[..] else {
        bail!("one layer");
    };
    let (bottom, upper) = (
        bottom.to_str().context("path")?,
        upper.to_str().context("path")?,
    );
    let refused = |layer: &str, hash: &str, signature: &str| -> Result<()> {
        let refused = run(&words(layer, hash, signature))?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            refused.status.code() == Some(EXIT_INVALID),
            "{signature}: {refused:?}"
        );
        ensure!(
            said.contains(&format!("{layer}: the kernel refuses the layer")),
            "{said}"
        );
        ensure!(said.contains("Root hash verification failed"), "{said}");
        nothing_is_left()
    };

    fresh_keyring(ctx)?;
    refused(bottom, &hashes[0], &good).context("no key is there")?;
    trust("trusted")?;
    refused(bottom, &hashes[0], &other).context("signed by another key")?;
    refused(upper, &hashes[1], &good).context("signed for another root hash")?;
    refused(bottom, &hashes[0], broken).context("no signature")?;

    let report = json(&words(bottom, &hashes[0], &good))?;
    ensure!(report["layers"][0]["root_hash"] == hashes[0], "{report}");
    let status = json(&["--json", "status", "web"])?;
    let layers = status["layers"].as_array().context("no layers")?;
    ensure!(
        layers.iter().any(|layer| layer["verity"]["signed"] == true),
        "{status}"
    );
    let golden = ctx.golden()?;
    let content = golden.content(golden.stack(LAYER)?[0])?;
    read::check_once(Path::new("/dev/mapper/web"), content)?;

    // Another image that does not ask for a signature has a device of its own.
    let unsigned = json(&["--json", "up", "two", bottom, "--root-hash", &hashes[0]])?;
    ensure!(unsigned["layers"][0]["shared"] == false, "{unsigned}");
    take_down("two")?;
    take_down("web")?;
    // The signatures go with the processes that brought them.
    until("no key is left", Duration::from_secs(60), || {
        Ok(!fs::read_to_string("/proc/keys")?.contains("ovbd:"))
    })?;
    nothing_is_left()
}
