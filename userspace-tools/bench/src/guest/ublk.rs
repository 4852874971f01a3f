// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The server in userspace that does what the zfile target does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::machine;
use crate::pack::Item;

const PROGRAM: &str = "/opt/ovbd-ublk";
const DEVICE: &str = "/dev/ublkb0";

/// A running server, which ends with this.
pub struct Server {
    process: Child,
    /// What decompressing all blocks took it by itself, in nanoseconds.
    pub decompressing: f64,
}

impl Server {
    /// Serves the ZFile `item` of `disk`.
    pub fn start(disk: &Path, item: &Item) -> Result<Self> {
        machine::modprobe(&["ublk_drv"])?;
        let process = Command::new(PROGRAM)
            .arg(disk)
            .args([item.offset.to_string(), item.length.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {PROGRAM}"))?;
        let mut server = Self {
            process,
            decompressing: 0.0,
        };
        server.decompressing = server.first_line()?;
        server.wait_for_device()?;
        Ok(server)
    }

    fn first_line(&mut self) -> Result<f64> {
        let output = self.process.stdout.take();
        let mut line = String::new();
        BufReader::new(output.context("the server has no output")?).read_line(&mut line)?;
        let number = line.trim().parse();
        number.with_context(|| format!("{PROGRAM} does not begin with a number: '{line}'"))
    }

    fn wait_for_device(&mut self) -> Result<()> {
        for _ in 0..500 {
            if Path::new(DEVICE).exists() {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("{PROGRAM} ended: {status}");
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("{PROGRAM} made no {DEVICE} within 10 s")
    }

    /// What it serves.
    pub fn device(&self) -> PathBuf {
        PathBuf::from(DEVICE)
    }

    /// How often its threads waited and ran again since it was started.
    pub fn switches(&self) -> Result<u64> {
        let folder = format!("/proc/{}/task", self.process.id());
        let mut sum = 0;
        for thread in fs::read_dir(&folder).with_context(|| format!("cannot list {folder}"))? {
            let path = thread?.path().join("status");
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .and_then(|count| count.trim().parse::<u64>().ok());
            sum +=
                count.with_context(|| format!("{} does not count its switches", path.display()))?;
        }
        Ok(sum)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
