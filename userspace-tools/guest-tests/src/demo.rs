// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What `make demo` shows: an image is set up by the tool, mounted and looked at.
//!
//! Runs the commands that a person would type and shows what they print; around them, in a few
//! lines, what the image is made of and how long it took.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};
use ovbd::config::ImageConfig;
use ovbd::image::size::Human;
use ovbd::image::stack::Stack;

const MOUNT: &str = "/mnt";
const NAME: &str = "demo";
/// How much is read to measure a rate.
const STREAM: u64 = 64 << 20;

/// Shows the image of a configuration file.
pub fn show(config: &Path) -> Result<()> {
    let config = config.to_str().context("name of the configuration")?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    say(&format!(
        "Linux {} as Debian ships it; no daemon runs.",
        kernel.trim()
    ))?;

    describe(Path::new(config))?;
    let start = Instant::now();
    shell(&format!("ovbd up {NAME} {config} --mount {MOUNT}"))?;
    let up = start.elapsed();
    let file = first_file(Path::new(MOUNT))?;
    let name = file.display().to_string();
    let mut byte = [0];
    fs::File::open(&file)?.read_exact(&mut byte)?;
    let first_byte = start.elapsed();

    shell("lsmod | grep overlaybd")?;
    shell(&format!("ovbd status {NAME}"))?;
    shell("dmsetup table | cut -c1-100")?;
    shell(&format!("ls -l {MOUNT}"))?;
    if Path::new(MOUNT).join("etc/motd").exists() {
        shell(&format!("cat {MOUNT}/etc/motd"))?;
    }
    if Path::new(MOUNT).join("bin/busybox").exists() {
        shell(&format!(
            "chroot {MOUNT} /bin/sh -c 'head -n 3 /srv/app/strict.pm'"
        ))?;
    }
    let (files, bytes, read) = read_all()?;
    shell(&format!("ovbd down {NAME}"))?;

    say("")?;
    say(&format!(
        "Set up and mounted after {}, first byte of a file ({name}) after {}.",
        seconds(up),
        seconds(first_byte)
    ))?;
    say(&format!(
        "All {files} files read, {} in {} on an emulated processor.",
        Human(bytes),
        seconds(read)
    ))
}

/// What the image is made of, a line a layer.
fn describe(config: &Path) -> Result<()> {
    let layers = ImageConfig::read(config)?.layers;
    let files = layers.iter().map(|layer| Ok(layer.locate()?));
    let stack = Stack::open(&files.collect::<Result<Vec<_>>>()?)?;
    say(&format!("\n{}:", config.display()))?;
    for (number, (blob, layer)) in stack.blobs().iter().zip(stack.layers()).enumerate() {
        let (stored, content) = (blob.size(), blob.content().size());
        let how = blob.zfile().map_or("not compressed".to_owned(), |zfile| {
            let zfile = zfile.zfile();
            let block = u64::from(zfile.block_size());
            format!("{} in blocks of {}", zfile.algorithm().name(), Human(block))
        });
        let percent = stored * 100 / content.max(1);
        let wrapped = if blob.wrapper().is_some() {
            ", in a tar"
        } else {
            ""
        };
        say(&format!(
            "  layer {number}: {} of disk in {} extents, stored in {} ({percent} %): {how}{wrapped}",
            Human(content),
            layer.entries().len(),
            Human(stored)
        ))?;
    }
    let map = stack.map();
    say(&format!(
        "  merged: a disk of {}, {} extents of data",
        Human(map.size() * 512),
        map.data_segments()
    ))
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// Shows a command and runs it.
fn shell(line: &str) -> Result<()> {
    say(&format!("\n# {line}"))?;
    let status = Command::new("sh")
        .args(["-c", line])
        .stdin(Stdio::null())
        .status()
        .context("sh")?;
    ensure!(status.success(), "{line}: {status}");
    Ok(())
}

/// Some file that is not empty, the first that is found.
fn first_file(dir: &Path) -> Result<PathBuf> {
    let mut found = None;
    walk(dir, &mut |path, length| {
        if length > 0 && found.is_none() {
            found = Some(path.to_owned());
        }
        Ok(found.is_none())
    })?;
    found.with_context(|| format!("{} holds no files", dir.display()))
}

/// Reads the files of the image: how many, how many bytes, how long.
fn read_all() -> Result<(u64, u64, Duration)> {
    let start = Instant::now();
    let (mut files, mut bytes) = (0, 0);
    let mut buffer = vec![0; 128 << 10];
    walk(Path::new(MOUNT), &mut |path, _| {
        let mut file = fs::File::open(path)?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                got => bytes += got as u64,
            }
        }
        files += 1;
        Ok(bytes < STREAM)
    })?;
    Ok((files, bytes, start.elapsed()))
}

/// Gives every file and its length to `each`, until that returns false.
fn walk(dir: &Path, each: &mut dyn FnMut(&Path, u64) -> Result<bool>) -> Result<bool> {
    let mut entries = fs::read_dir(dir)?.collect::<std::io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        let path = entry.path();
        let go_on = if kind.is_dir() {
            walk(&path, each)?
        } else if kind.is_file() {
            each(&path, entry.metadata()?.len())?
        } else {
            true
        };
        if !go_on {
            return Ok(false);
        }
    }
    Ok(true)
}
