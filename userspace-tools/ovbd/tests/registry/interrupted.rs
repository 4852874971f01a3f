// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A pull that is killed again and again.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::server::Server;
use crate::support::{assert_store_holds, noise, Repository};

const LAYERS: u64 = 3;
const LAYER: usize = 6 << 20;
const KILLS: u64 = 10;

fn pull(host: &str, store: &Path, rate: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args([
            "pull",
            "--json",
            "--max-rate",
            rate,
            "--connections",
            "2",
            "--store",
        ])
        .arg(store)
        .arg(format!("{host}/app:1"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The seed of the points at which pulls are killed; another one each day would be a flaky test.
fn seed() -> u64 {
    let seed = std::env::var("OVBD_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    seed.unwrap_or(1)
}

#[test]
fn ten_kills_leave_right_bytes_and_nothing_else() {
    let layers: Vec<Vec<u8>> = (0..LAYERS).map(|n| noise(n, LAYER)).collect();
    let repository = Repository::with(&layers);
    let server = Server::start(move |asked| repository.answer(asked));
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    let points = noise(seed(), KILLS as usize);
    let mut killed = 0;
    for point in points {
        // At the start, or behind one of the first events.
        let events = usize::from(point) % 8;
        let mut child = pull(&server.host(), &store, "20M");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let last = lines.take(events).last();
        killed += u64::from(!last.is_some_and(|line| line.unwrap().contains("\"done\"")));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(
        killed >= KILLS / 2,
        "only {killed} pulls were killed before they had finished"
    );
    let mut child = pull(&server.host(), &store, "1G");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let done = lines.last().unwrap().unwrap();
    assert!(done.contains("\"event\":\"done\""), "{done}");
    assert!(child.wait().unwrap().success());
    // A lease of a process that was killed counts for nothing; gc removes it.
    let gc = Command::new(env!("CARGO_BIN_EXE_ovbd"))
        .args(["gc", "--store"])
        .arg(&store)
        .output()
        .unwrap();
    assert!(
        gc.status.success(),
        "{}",
        String::from_utf8_lossy(&gc.stderr)
    );
    assert_store_holds(&store, &layers);
    // What had arrived was not fetched again.
    assert!(server.count(|asked| asked.from().is_some()) > 0);
}
