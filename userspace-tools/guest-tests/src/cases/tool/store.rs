// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Images of the store: set up by reference, writable through an overlay, never removed under a
//! device.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{ensure, Context as _, Result};
use ovbd::image::digest::Digest;
use ovbd::store::{Descriptor, ImageRecord, Ingest, Store};
use rustix::mount::MountFlags;

use super::basics::{json, run};
use super::{loops, nothing_is_left, Image, OVBD};
use crate::cases::image;
use crate::ctx::Ctx;
use crate::harness::Case;

const EXIT_NOT_FOUND: i32 = 6;
const PROCESSES: usize = 20;
const ROUNDS: usize = 2;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.store_image", store_image),
        Case::new("tool.store_parallel", store_parallel),
        Case::new("tool.store_shares_with_no_liar", liar),
        Case::new("tool.store_has_a_configurations_layer", configuration),
        Case::new("tool.store_on_a_full_disk", full_disk),
        Case::new("tool.hundred_devices", hundred_devices),
        Case::new("tool.writable", writable),
        Case::new("tool.forced", forced),
    ]
}

/// A store with images of golden layers.
pub(super) struct Stocked {
    pub(super) store: Store,
    pub(super) image: Image,
}

impl Stocked {
    pub(super) fn new(ctx: &Ctx, pattern: &str, dir: &Path) -> Result<Self> {
        Ok(Self {
            store: Store::open(Some(dir.join("store"))),
            image: Image::golden(ctx, pattern, dir)?,
        })
    }

    /// Records an image of the first `layers` layers.
    pub(super) fn add(&self, reference: &str, layers: usize) -> Result<()> {
        let layers = self.image.layers[..layers].iter();
        let layers = layers.map(|layer| self.put(layer));
        let image = ImageRecord {
            reference: reference.parse()?,
            manifest: describe(reference.as_bytes()),
            layers: layers.collect::<Result<_>>()?,
        };
        Ok(self.store.record(&image)?)
    }

    fn put(&self, file: &Path) -> Result<Descriptor> {
        let bytes = fs::read(file)?;
        let blob = describe(&bytes);
        if let Ingest::Partial(partial) = self.store.begin(&blob.digest, blob.size)? {
            partial.append(&bytes)?;
            partial.finish()?;
        }
        Ok(blob)
    }

    pub(super) fn root(&self) -> Result<&str> {
        self.store.root().to_str().context("path")
    }

    fn blobs(&self) -> Result<usize> {
        Ok(self.store.usage()?.blobs)
    }
}

fn describe(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
        digest: Digest::of_bytes(bytes),
        size: bytes.len() as u64,
        annotations: BTreeMap::new(),
    }
}

fn folder(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// From a reference to files and back; what a device stands on stays in the store until it is gone.
fn store_image(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let stocked = Stocked::new(ctx, "ext4/layer*.tar", &dir)?;
    let (store, mnt) = (stocked.root()?, folder(&dir, "mnt")?);
    let reference = "registry.example/app:1";
    let missing = run(&["up", "web", reference, "--no-pull", "--store", store])?;
    ensure!(missing.status.code() == Some(EXIT_NOT_FOUND), "{missing:?}");
    stocked.add(reference, 3)?;
    let mount = mnt.to_str().context("path")?;
    let words = [
        "--json", "up", "web", reference, "--store", store, "--mount", mount,
    ];
    let report = json(&words)?;
    ensure!(report["layers"][0]["shared"] == false, "{report}");
    image::compare_files(&ctx.golden()?, &mnt)?;
    // The files themselves, not copies.
    let blobs = stocked.store.root().join("blobs/sha256");
    let in_store = loops()
        .iter()
        .filter(|file| Path::new(file).starts_with(&blobs))
        .count();
    ensure!(in_store == 3, "{:?}", loops());

    let listing = json(&["--json", "ls", "--store", store])?;
    ensure!(
        listing["images"][0]["references"][0] == reference,
        "{listing}"
    );
    let images = json(&["--json", "images", "--store", store])?;
    ensure!(images["images"][0]["reference"] == reference, "{images}");
    let removed = json(&["--json", "rmi", reference, "--store", store])?;
    let removed = &removed["images"][0];
    ensure!(
        removed["in_use"].as_array().map(Vec::len) == Some(3),
        "{removed}"
    );
    ensure!(
        removed["removed"].as_array().map(Vec::len) == Some(0),
        "{removed}"
    );
    let collected = json(&["--json", "gc", "--store", store])?;
    ensure!(collected["bytes"] == 0, "{collected}");
    ensure!(stocked.blobs()? == 3);
    image::compare_files(&ctx.golden()?, &mnt)?;
    ensure!(run(&["down", "web"])?.status.success());
    ensure!(run(&["gc", "--store", store])?.status.success());
    ensure!(stocked.blobs()? == 0);
    nothing_is_left()
}

/// up and down, again and again, of images that have layers in common, with a collection running
/// beside them all the time.
fn store_parallel(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let stocked = Stocked::new(ctx, "ext4/layer*.tar", &dir)?;
    // Only the whole stack is a file system; the others share its layers.
    for height in 1..=3 {
        stocked.add(&format!("registry.example/app:{height}"), height)?;
    }
    let store = stocked.root()?;
    // All of them want these modules at the same time. That one was not loaded is as well.
    for module in ["overlay", "dm_overlaybd"] {
        Command::new("rmmod").arg(module).output()?;
    }
    let mut children = Vec::new();
    for number in 0..PROCESSES {
        let height = 1 + number % 3;
        let mnt = folder(&dir, &format!("mnt{number}"))?;
        let mount = if height == 3 { mnt.to_str() } else { None };
        children.push(start(store, number, height, mount)?);
    }
    let mut collections = 0;
    let mut running = true;
    while running {
        let collected = run(&["gc", "--store", store])?;
        ensure!(collected.status.success(), "{collected:?}");
        collections += 1;
        running = false;
        for child in &mut children {
            running |= child.try_wait()?.is_none();
        }
    }
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().context("sh")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "process {number}: {said}");
    }
    ensure!(collections > 0 && stocked.blobs()? == 3);
    nothing_is_left()
}

fn start(store: &str, number: usize, height: usize, mount: Option<&str>) -> Result<Child> {
    let up = match mount {
        Some(mount) => format!("--mount {mount} --writable"),
        None => String::new(),
    };
    let script = format!(
        "for i in $(seq {ROUNDS}); do {OVBD} -q up web{number} registry.example/app:{height} \
         --store {store} {up} >/dev/null && {OVBD} -q down web{number} >/dev/null || exit 1; done"
    );
    let shell = Command::new("sh")
        .args(["-c", &script])
        .stderr(Stdio::piped())
        .spawn();
    Ok(shell?)
}

/// A layer that is not in the folder that its configuration names is looked for in the store.
fn configuration(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let stocked = Stocked::new(ctx, "lsmt/stack*.zfile", &dir)?;
    let top = stocked.put(&stocked.image.layers[2])?;
    let config = serde_json::json!({
        "repoBlobUrl": "https://registry.example/v2/app/blobs",
        "lowers": [
            { "file": stocked.image.layers[0] },
            { "file": stocked.image.layers[1] },
            { "digest": top.digest, "size": top.size, "dir": dir.join("none") }
        ]
    });
    let path = dir.join("config.v1.json");
    fs::write(&path, config.to_string())?;
    let path = path.to_str().context("path")?;
    let report = json(&["--json", "up", "web", path, "--store", stocked.root()?])?;
    let device = Path::new("/dev/mapper/web");
    crate::read::check_once(device, stocked.image.content.clone())?;
    let blob = stocked.store.blob(&top.digest).context("blob")?;
    ensure!(
        report["layers"][2]["path"] == blob.to_str().context("path")?,
        "{report}"
    );
    super::take_down("web")?;
    nothing_is_left()
}

/// A configuration that claims the digest of somebody else's layer for a file of its own, which has
/// the same ends, gets a device of its own, and nobody else stands on it.
fn liar(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let stocked = Stocked::new(ctx, "ext4/layer*.tar", &dir)?;
    let reference = "registry.example/app:1";
    stocked.add(reference, 3)?;
    let honest = stocked.image.layers[0].as_path();
    let bytes = fs::read(honest)?;
    let lie = dir.join("lie");
    let mut changed = bytes.clone();
    changed[bytes.len() / 2] ^= 1;
    fs::write(&lie, changed)?;
    let config = dir.join("config.v1.json");
    let lower = serde_json::json!({ "file": lie, "digest": Digest::of_bytes(&bytes) });
    fs::write(
        &config,
        serde_json::json!({ "lowers": [lower] }).to_string(),
    )?;
    json(&["--json", "up", "liar", config.to_str().context("path")?])?;
    let report = json(&["--json", "up", "web", reference, "--store", stocked.root()?])?;
    ensure!(report["layers"][0]["shared"] == false, "{report}");
    let device = Path::new("/dev/mapper/web");
    crate::read::check_once(device, stocked.image.content.clone())?;
    // Whoever means the file in the store has what stands on it, whatever name the file has.
    let blob = stocked
        .store
        .blob(&Digest::of_bytes(&bytes))
        .context("blob")?;
    let report = json(&["--json", "up", "same", blob.to_str().context("path")?])?;
    ensure!(report["layers"][0]["shared"] == true, "{report}");
    ensure!(run(&["down", "--all"])?.status.success());
    nothing_is_left()
}

/// What does not fit is told before it is fetched, and leaves nothing.
fn full_disk(ctx: &mut Ctx) -> Result<()> {
    let disk = folder(&ctx.tmp()?, "disk")?;
    rustix::mount::mount("tmpfs", &disk, "tmpfs", MountFlags::empty(), c"size=1m")?;
    let store = Store::open(Some(disk.join("store")));
    let large = store.begin(&describe(b"large").digest, 2 << 20);
    let refused = large.and_then(|ingest| match ingest {
        Ingest::Partial(partial) => partial.reserve(),
        Ingest::There(_) => Ok(()),
    });
    let fits = store.begin(&describe(b"small").digest, 5);
    let fetched = fits.and_then(|ingest| match ingest {
        Ingest::Partial(partial) => partial.append(b"small").and(partial.finish()),
        Ingest::There(path) => Ok(path),
    });
    let collected = store.gc(false);
    let left = fs::read_dir(store.root().join("ingest"))?.count();
    rustix::mount::unmount(&disk, rustix::mount::UnmountFlags::empty())?;
    let error = refused.err().context("2 MiB fit into 1 MiB")?.to_string();
    ensure!(error.contains("cannot reserve room"), "{error}");
    fetched?;
    ensure!(
        collected?.removed.len() == 1 && left == 0,
        "{left} files are left"
    );
    Ok(())
}

/// The layers of one of twenty images, of one, two or three layers. Not all of them make sense, and
/// all of them make a disk.
fn stack(image: usize) -> Vec<usize> {
    match image {
        0..3 => vec![image],
        3..12 => vec![(image - 3) / 3, image % 3],
        _ => vec![0, (image - 12) / 3, image % 3],
    }
}

/// A hundred devices of twenty images that are made of three layers: each layer is there once.
fn hundred_devices(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    for number in 0..100 {
        let layers = stack(number % 20).into_iter();
        let layers = layers.map(|layer| image.layers[layer].clone()).collect();
        let content = Vec::new();
        Image { layers, content }.up(&format!("web{number}"))?;
    }
    ensure!(super::count("web")? == 100);
    ensure!(super::count("ovbd-z-")? == 3, "{:?}", super::devices()?);
    // A file and its last bytes, for each layer.
    ensure!(loops().len() == 6, "{:?}", loops());
    let whole = (0..20).find(|number| stack(*number) == [0, 1, 2]);
    let device = format!("/dev/mapper/web{}", whole.context("stack")?);
    crate::read::check_once(Path::new(&device), image.content)?;

    let picture = dir.join("images.svg");
    let svg = picture.to_str().context("path")?;
    let listing = json(&["--json", "ls", "--svg", svg])?;
    let images = listing["images"].as_array().context("images")?;
    ensure!(images.len() == 100, "{} images", images.len());
    ensure!(
        images
            .iter()
            .all(|image| image["memory_bytes"].as_u64() > Some(0)),
        "{listing}"
    );
    // A box for each of the twenty images, which names its five devices.
    let picture = fs::read_to_string(picture)?;
    ensure!(picture.matches("class=\"image\"").count() == 20);
    let named = |number: usize| picture.contains(&format!("web{number}"));
    ensure!((0..100).all(named), "{picture}");
    ensure!(run(&["down", "--all"])?.status.success());
    nothing_is_left()
}

/// Changes go to memory and vanish, or to a folder and stay; the layers do not change.
fn writable(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?;
    let (mnt, changes) = (folder(&dir, "a:b,c")?, dir.join("changes"));
    let mount = mnt.to_str().context("path")?;
    let layers: Vec<&str> = image.layers.iter().filter_map(|l| l.to_str()).collect();
    let up = |writable: &str| {
        let mut words = vec![
            "--json", "up", "web", "--mount", mount, "-o", "nosuid", writable,
        ];
        words.extend(&layers);
        json(&words)
    };
    let to_folder = format!("--writable={}", changes.display());
    for (option, kept) in [("--writable", false), (to_folder.as_str(), true)] {
        let report = up(option)?;
        ensure!(report["mount"]["writable"] == true, "{report}");
        fs::write(mnt.join("our-change"), "new")?;
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let overlay = mounts.lines().find(|line| line.contains(" overlay "));
        ensure!(
            overlay.is_some_and(|line| line.contains("nosuid")),
            "{mounts}"
        );
        // Repeated, it stays as it is.
        let again = up(option)?;
        ensure!(again["mount"]["already"] == true, "{again}");
        ensure!(fs::read_to_string("/proc/self/mounts")? == mounts);
        ensure!(fs::read(mnt.join("our-change"))? == b"new");
        super::take_down("web")?;
        nothing_is_left()?;
        ensure!(
            fs::read_dir(&mnt)?.next().is_none(),
            "something is still mounted"
        );
        ensure!(changes.join("upper/our-change").exists() == kept);
    }
    up(&to_folder)?;
    ensure!(
        fs::read(mnt.join("our-change"))? == b"new",
        "the change is lost"
    );
    super::take_down("web")?;
    // As after a process that died before it had put the overlay on top.
    ensure!(up("--quiet")?["mount"]["writable"] == false);
    ensure!(fs::write(mnt.join("our-change"), "new").is_err());
    let report = up("--writable")?;
    ensure!(report["mount"]["already"] == true, "{report}");
    fs::write(mnt.join("our-change"), "new")?;
    fs::remove_file(mnt.join("our-change"))?;
    image::compare_files(&ctx.golden()?, &mnt)?;
    super::take_down("web")?;
    nothing_is_left()
}

/// What is in use goes with its user; its layers go at once, and its reads fail.
fn forced(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "lsmt/stack*.zfile", &dir)?;
    let report = image.up("web")?;
    let user = File::open(&report.device)?;
    let forced = json(&["--json", "down", "--force", "web"])?;
    let forced = &forced["images"][0];
    ensure!(
        forced["forced"] == true && forced["deferred"] == true,
        "{forced}"
    );
    ensure!(super::devices()? == ["web"], "{:?}", super::devices()?);
    ensure!(loops().is_empty(), "{:?}", loops());
    rustix::fs::fadvise(&user, 0, None, rustix::fs::Advice::DontNeed)?;
    let mut sector = [0; 512];
    let read = std::os::unix::fs::FileExt::read_exact_at(&user, &mut sector, 1 << 16);
    ensure!(read.is_err(), "it can still be read");
    drop(user);
    ensure!(run(&["down", "web"])?.status.success());
    // One that nobody uses is simply removed.
    image.up("web")?;
    let removed = json(&["--json", "down", "--force", "web"])?;
    ensure!(removed["images"][0]["forced"] == false, "{removed}");
    nothing_is_left()
}
