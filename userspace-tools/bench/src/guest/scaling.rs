// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a second CPU is good for.
//!
//! Each test is done with one CPU and at once again with two, and what ran before counts for both:
//! in the same machine, with the same devices, one CPU taken away and given back. Its clock is the
//! host's, so that its two CPUs have to be two of the host's that do nothing else: the control, two
//! threads that only decompress, tells of each round whether they were, and a round begins when they
//! are.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Instant;

use anyhow::{anyhow, ensure, Context, Result};

use super::device::{Bottom, Devices, Image};
use super::limits::{Stored, Work};
use super::machine;
use super::read::{Area, Test};
use crate::content::BLOCK;
use crate::pack::List;
use crate::print;
use crate::rows::LEAST_SPEEDUP;
use crate::sample::{Sample, Unit};

const SECOND_CPU: &str = "/sys/devices/system/cpu/cpu1/online";
/// Threads that read at random places.
const READERS: usize = 4;
/// Random reads of each of them.
const READS: usize = 5000;
/// How often the control decompresses everything.
const CONTROL_PASSES: u32 = 3;
/// How often the control is tried at most until a round begins; a round that begins nevertheless
/// does not count.
const TRIES: usize = 20;
/// How often a device is read from end to end, so that it takes about as long as the control.
const PASSES: [(&str, usize); 2] = [("raw", 16), ("zfile", 3)];

/// Work that returns how many blocks were read.
type Blocks<'a> = &'a dyn Fn() -> Result<u64>;

/// Everything in each of `rounds`.
pub fn run(disk: &Path, rounds: u32) -> Result<()> {
    ensure!(
        Path::new(SECOND_CPU).exists(),
        "there is no {SECOND_CPU}: the machine needs two CPUs, and a kernel that can do without one"
    );
    machine::settle_memory()?;
    let list = List::read(disk)?;
    let ram = machine::ram_disks(1, list.end())?.remove(0);
    machine::copy(disk, &ram, list.end())?;
    let mut devices = Devices::open()?;
    let bottom = Bottom::new(&ram, &list)?;
    let item = list.item("raw")?;
    let raw = Area {
        path: ram.clone(),
        offset: item.offset,
        length: item.length,
    };
    let mut zfile = Vec::new();
    for name in ["one", "another"] {
        let path = devices.make(name, &bottom, &Image::Zfile("zfile", true))?;
        zfile.push(Area::whole(path, item.length));
    }
    let decompress = Stored::open(&ram, list.item("zfile")?)?.jobs(Work::Lz4, CONTROL_PASSES)?;
    let blocks = item.length / BLOCK as u64;
    for round in 0..rounds {
        control(round, &|| {
            at_once(2, |_| decompress.run().map(drop))?;
            Ok(2 * u64::from(CONTROL_PASSES) * blocks)
        })?;
        for ((name, passes), of) in PASSES.into_iter().zip([[&raw; 2], [&zfile[0], &zfile[1]]]) {
            device(round, name, passes, of)?;
        }
    }
    devices.remove_all()
}

/// Decompresses until it pays to have two CPUs.
fn control(round: u32, work: Blocks<'_>) -> Result<()> {
    let mut times = measure(work)?;
    for _ in 1..TRIES {
        if times[0] / times[1] >= LEAST_SPEEDUP {
            break;
        }
        times = measure(work)?;
    }
    report(round, "lz4", times)
}

/// Every way to read the device `name`, of which there are two.
fn device(round: u32, name: &str, passes: usize, of: [&Area; 2]) -> Result<()> {
    let [one, _] = of;
    let blocks = passes as u64 * one.length / BLOCK as u64;
    compare(round, &format!("{name} stream"), &|| {
        stream(one, passes)?;
        Ok(blocks)
    })?;
    compare(round, &format!("{name} buffered"), &|| {
        for _ in 0..passes {
            machine::drop_caches()?;
            one.read(Test::Buffered, one.length, 0)?;
        }
        Ok(blocks)
    })?;
    compare(round, &format!("{name} readers"), &|| {
        at_once(READERS, |_| {
            one.read(Test::Random1, one.length, READS).map(drop)
        })?;
        Ok((READERS * READS) as u64)
    })?;
    compare(round, &format!("{name} two"), &|| {
        at_once(2, |n| stream(of[n], passes))?;
        Ok(2 * blocks)
    })
}

fn stream(area: &Area, passes: usize) -> Result<()> {
    (0..passes).try_for_each(|_| area.read(Test::Sequential, area.length, 0).map(drop))
}

fn compare(round: u32, device: &str, work: Blocks<'_>) -> Result<()> {
    report(round, device, measure(work)?)
}

/// Does `work` with one CPU and with two. Returns the time for each block, in nanoseconds.
fn measure(work: Blocks<'_>) -> Result<[f64; 2]> {
    let mut times = [0.0; 2];
    for (second, time) in ["0", "1"].into_iter().zip(&mut times) {
        fs::write(SECOND_CPU, second).with_context(|| format!("cannot write {SECOND_CPU}"))?;
        let start = Instant::now();
        let blocks = work()?;
        *time = start.elapsed().as_nanos() as f64 / blocks as f64;
    }
    Ok(times)
}

fn report(round: u32, device: &str, times: [f64; 2]) -> Result<()> {
    for (test, value) in ["wall-1", "wall-2"].into_iter().zip(times) {
        let sample = Sample {
            device: device.to_owned(),
            test: test.to_owned(),
            value,
            unit: Unit::Nanoseconds,
            round: Some(round),
        };
        print(serde_json::to_string(&sample)?);
    }
    Ok(())
}

/// Does `work` in `count` threads, which it gets the number of.
fn at_once(count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|n| scope.spawn(move || work(n))).collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a thread of the bench has died")))
        })
    })
}
