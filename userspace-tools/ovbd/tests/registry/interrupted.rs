// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A pull that is killed again and again, wherever it happens to be.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::server::Server;
use crate::support::{assert_store_holds, noise, Repository};

/// The last one comes in parts.
const LAYERS: [usize; 3] = [6 << 20, 6 << 20, 40 << 20];
const KILLS: u64 = 10;
/// One of so many is killed while it is still starting.
const EARLY: u64 = 5;
/// Of what is missing, at most such a part arrives before a kill.
const SHARE: u64 = 4;

fn pull(host: &str, store: &Path, rate: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args(["pull", "--json", "--max-rate", rate, "--store"])
        .arg(store)
        .arg(format!("{host}/app:1"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What decides where a pull is killed. It is printed, as all that a test that fails has said.
#[allow(clippy::print_stdout)]
fn seed() -> u64 {
    let given = std::env::var("OVBD_SEED").ok();
    let seed = given.map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    println!("OVBD_SEED={seed} kills at the same places again");
    seed
}

/// The bytes that have arrived, as far as events tell.
#[derive(Default)]
struct Progress {
    /// By the number of the layer: what was there at first, and what is there now.
    layers: BTreeMap<u64, (u64, u64)>,
    bytes: u64,
    done: bool,
}

impl Progress {
    fn event(&mut self, line: &str) {
        let event: Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| event[name].as_u64().unwrap();
        match event["event"].as_str().unwrap() {
            "resolved" => self.bytes = number("bytes"),
            "started" | "progress" => {
                let present = number("present");
                let layer = self.layers.entry(number("layer"));
                layer.or_insert((present, present)).1 = present;
            }
            "done" => self.done = true,
            _ => {}
        }
    }

    fn gained(&self) -> u64 {
        self.layers.values().map(|(before, now)| now - before).sum()
    }

    fn missing(&self) -> u64 {
        let before: u64 = self.layers.values().map(|(before, _)| before).sum();
        self.bytes - before
    }
}

/// Follows a pull until `point`, below 1, of a share of what was missing has arrived; false if it has
/// finished before.
fn follow(child: &mut Child, point: f64) -> bool {
    let mut progress = Progress::default();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        progress.event(&line.unwrap());
        let known = progress.layers.len() == LAYERS.len();
        if known && progress.gained() as f64 >= (progress.missing() / SHARE) as f64 * point {
            break;
        }
    }
    !progress.done
}

#[test]
fn ten_kills_leave_right_bytes_and_nothing_else() {
    let sizes = LAYERS.iter().zip(0..);
    let layers: Vec<Vec<u8>> = sizes.map(|(size, n)| noise(n, *size)).collect();
    let repository = Repository::with(&layers);
    let server = Server::start(move |asked| repository.answer(asked));
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let mut random = fastrand::Rng::with_seed(seed());
    let mut killed = 0;
    for _ in 0..KILLS {
        let mut child = pull(&server.host(), &store, "40M");
        let early = random.u64(0..EARLY) == 0;
        let point = random.f64();
        killed += u64::from(early || follow(&mut child, point));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(
        killed >= KILLS - 2,
        "only {killed} pulls were killed before they had finished"
    );
    let mut child = pull(&server.host(), &store, "1G");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let done = lines.last().unwrap().unwrap();
    assert!(done.contains("\"event\":\"done\""), "{done}");
    assert!(child.wait().unwrap().success());
    assert_store_holds(&store, &layers);
    // What had arrived was not fetched again.
    assert!(server.count(|asked| asked.from().is_some()) > 0);
}
