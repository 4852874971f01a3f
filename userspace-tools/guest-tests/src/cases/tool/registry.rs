// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! From a registry to files: one that runs here, and breaks off in the middle of each layer once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use anyhow::{ensure, Context as _, Result};
use ovbd::image::digest::Digest;
use serde_json::json;

use super::basics::{json, run};
use super::{loops, nothing_is_left, Image};
use crate::cases::image;
use crate::ctx::Ctx;
use crate::harness::Case;

pub fn cases() -> Vec<Case> {
    vec![Case::new("tool.registry", registry)]
}

/// Pull, up, mount, compare, down; then up at once, which pulls on the way.
fn registry(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let served = Served::new(&Image::golden(ctx, "ext4/layer*.tar", &dir)?.layers)?;
    let reference = &format!("{}/app:1", served.start()?);
    let mnt = dir.join("mnt");
    fs::create_dir(&mnt)?;
    let mount = mnt.to_str().context("path")?;

    let store = dir.join("store");
    let store = store.to_str().context("path")?;
    let pulled = run(&["--json", "pull", reference, "--store", store])?;
    ensure!(pulled.status.success(), "{pulled:?}");
    let events = String::from_utf8(pulled.stdout)?;
    let retries = events
        .lines()
        .filter(|line| line.contains("\"event\":\"retry\""));
    ensure!(retries.count() == 3, "{events}");
    let up = [
        "--json",
        "up",
        "web",
        reference,
        "--no-pull",
        "--store",
        store,
        "--mount",
        mount,
    ];
    json(&up)?;
    image::compare_files(&ctx.golden()?, &mnt)?;
    ensure!(run(&["down", "web"])?.status.success());
    nothing_is_left()?;

    let store = dir.join("other");
    let store = store.to_str().context("path")?;
    json(&[
        "--json", "up", "web", reference, "--store", store, "--mount", mount,
    ])?;
    image::compare_files(&ctx.golden()?, &mnt)?;
    ensure!(
        loops().iter().all(|file| file.starts_with(store)),
        "{:?}",
        loops()
    );
    ensure!(run(&["down", "web"])?.status.success());
    nothing_is_left()
}

/// What the registry has, by path.
struct Served {
    files: BTreeMap<String, Vec<u8>>,
    broken: BTreeSet<String>,
}

impl Served {
    fn new(layers: &[PathBuf]) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut entries = Vec::new();
        for layer in layers {
            let content = fs::read(layer)?;
            let (digest, size) = (Digest::of_bytes(&content), content.len());
            entries.push(json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": size,
                "annotations": {
                    "containerd.io/snapshot/overlaybd/blob-digest": digest,
                    "containerd.io/snapshot/overlaybd/blob-size": size.to_string(),
                }
            }));
            files.insert(format!("/v2/app/blobs/{digest}"), content);
        }
        let broken = files.keys().cloned().collect();
        let manifest = json!({"schemaVersion": 2, "layers": entries}).to_string();
        files.insert("/v2/app/manifests/1".to_owned(), manifest.into_bytes());
        Ok(Self { files, broken })
    }

    /// Serves one connection after the other, as long as this process lives.
    fn start(mut self) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that goes away, or speaks TLS, is none of our business.
                let _ = self.serve(stream);
            }
        });
        Ok(address)
    }

    /// One request, one answer.
    fn serve(&mut self, mut stream: TcpStream) -> Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let request = lines.next().context("request")??;
        let path = request.split(' ').nth(1).context("path")?;
        let (mut from, mut to) = (0, None);
        for line in lines {
            let line = line?.to_ascii_lowercase();
            if let Some(range) = line.strip_prefix("range: bytes=") {
                let (first, last) = range.split_once('-').context("range")?;
                (from, to) = (first.parse()?, last.parse::<usize>().ok());
            }
            if line.is_empty() {
                break;
            }
        }
        let Some(content) = self.files.get(path) else {
            stream
                .write_all(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
            return Ok(());
        };
        let (size, last) = (content.len(), to.unwrap_or(content.len() - 1));
        let status = match (from, to) {
            (0, None) => "200 OK".to_owned(),
            _ => format!("206 Part\r\nContent-Range: bytes {from}-{last}/{size}"),
        };
        let rest = &content[from..=last];
        let length = rest.len();
        let head =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let sent = if self.broken.remove(path) {
            length / 2
        } else {
            length
        };
        stream.write_all(&rest[..sent])?;
        Ok(())
    }
}
