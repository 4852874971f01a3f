// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the kernel's integrity measurement records of the targets. Comes last: from then on, all devices
//! are measured.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use ovbd::image::digest::Digest;
use rustix::mount::MountFlags;

use crate::ctx::{output, Ctx, Device, SECTOR};
use crate::forge::Layer;
use crate::golden::Shape;
use crate::harness::Case;

const SECURITY: &str = "/sys/kernel/security";
const POLICY: &str = "ima/policy";
const LOG: &str = "integrity/ima/ascii_runtime_measurements";
/// What dm core keeps of a target.
const LINE_MAX: usize = 2047;
/// As many layers as there can be.
const LAYERS_MAX: usize = 255;

pub fn cases() -> Vec<Case> {
    vec![Case::new("ima.measurements", measurements)]
}

/// Has device-mapper measured. The stock kernel takes one policy.
fn measure() -> Result<()> {
    let policy = Path::new(SECURITY).join(POLICY);
    if !policy.exists() {
        rustix::mount::mount(
            "securityfs",
            SECURITY,
            "securityfs",
            MountFlags::empty(),
            None,
        )
        .context("mount securityfs")?;
    }
    let rule = "measure func=CRITICAL_DATA label=device-mapper\n";
    fs::write(&policy, rule).with_context(|| policy.display().to_string())
}

/// What was measured of the last table of `device`: one target's attributes.
fn measured(device: &Device) -> Result<String> {
    let log = fs::read_to_string(Path::new(SECURITY).join(LOG))?;
    let of_device = format!("name={},", device.name);
    let mut tables = log.lines().filter_map(table_load);
    let last = tables.rfind(|text| text.contains(&of_device));
    let text = last.with_context(|| format!("{} was not measured", device.name))?;
    let begin = text.find("target_name=").context("no target")?;
    Ok(text[begin..].to_owned())
}

/// What was measured when a table was loaded: `PCR HASH ima-buf HASH dm_table_load HEX`.
fn table_load(line: &str) -> Option<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let [_, _, "ima-buf", _, "dm_table_load", hex] = words[..] else {
        return None;
    };
    let digits = hex.as_bytes().chunks_exact(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

fn measurements(ctx: &mut Ctx) -> Result<()> {
    measure()?;
    zfile(ctx)?;
    let (mut listed, mut hashed) = (0, 0);
    for layers in (1..40).chain([LAYERS_MAX]) {
        match lsmt(ctx, layers)? {
            true => listed += 1,
            false => hashed += 1,
        }
    }
    ensure!(
        listed > 20 && hashed > 1,
        "{listed} listed, {hashed} hashed"
    );
    Ok(())
}

fn zfile(ctx: &mut Ctx) -> Result<()> {
    let golden = ctx.golden()?;
    let entry = golden.entry("zfile/text-lz4-4k.zfile")?;
    let Shape::Zfile(size) = entry.shape else {
        anyhow::bail!("{} is no ZFile", entry.name);
    };
    let params = format!("{} {}", golden.dev(), entry.payload.words());
    let device = ctx.target(size.div_ceil(SECTOR), "zfile", &params)?;
    let text = measured(&device)?;
    let expected = format!(
        "target_name=zfile,target_version=1.1.0,device_name={},offset={},length={},size={size},\
         block_size=4096,ignore_crc=n,digest=",
        golden.dev(),
        entry.payload.sector,
        entry.payload.length
    );
    ensure!(text.starts_with(&expected) && text.ends_with(';'), "{text}");
    Ok(())
}

/// Whether the layers are listed, as opposed to hashed.
fn lsmt(ctx: &mut Ctx, layers: usize) -> Result<bool> {
    let bytes = Layer::new(64 << 10).zeros(8, 16).bytes();
    let disk = ctx.image(&bytes)?;
    let layer = format!(" {} 0 {}", disk.dev, bytes.len());
    let params = format!("{layers}{}", layer.repeat(layers));
    let device = ctx.target((64 << 10) / SECTOR, "lsmt", &params)?;
    let text = measured(&device)?;
    let begin = format!(
        "target_name=lsmt,target_version=1.2.0,nr_layers={layers},size={}",
        (64 << 10) / SECTOR
    );
    let attributes = (0..layers).map(|index| {
        let (dev, length) = (disk.dev, bytes.len());
        format!(
            ",layer_{index}_device_name={dev},layer_{index}_offset=0,layer_{index}_length={length}"
        )
    });
    let list = format!("{begin}{};", attributes.collect::<String>());
    let fits = list.len() <= LINE_MAX;
    let expected = match fits {
        true => list,
        false => {
            let table = ctx.table(&device)?;
            format!(
                "{begin},layers_hash={};",
                Digest::of_bytes(table.as_bytes())
            )
        }
    };
    ensure!(text == expected, "measured {text}, expected {expected}");
    // Who asks, with whatever buffer, is told the same.
    let asked = output(&["dmsetup", "measure", &device.name])?;
    ensure!(asked.trim_end().ends_with(&expected), "{asked}");
    ctx.remove(&device)?;
    Ok(fits)
}
