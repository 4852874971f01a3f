// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Sealed layers: what reads right, what is shared, and what becomes of a flipped bit, with the dm-verity
//! of the kernel.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context as _, Result};
use ovbd::dm::Name;
use ovbd::error::ExitCode;
use ovbd::image::inspect::{inspect, FileInfo};
use ovbd::list;
use ovbd::output::Progress;
use ovbd::plan::{Demand, Plan, Settings};
use ovbd::up::{self, Report};
use ovbd::verity::seal::{seal, Known, Options, Sealed as Tree};
use ovbd::verity::{beside, RootHash};
use rustix::io::Errno;

use super::basics::{json, run};
use super::storage::large_blocks;
use super::store::Stocked;
use super::{count, devices, loops, nothing_is_left, take_down, Image, OVBD};
use crate::ctx::{self, Ctx, LoopSpec};
use crate::harness::Case;
use crate::read;
use crate::rng::Rng;

const EXIT_USAGE: i32 = 2;
const EXIT_INVALID: i32 = 3;
const EXIT_NOT_FOUND: i32 = 6;
/// What a verity device hashes at a time at most.
const BLOCK: u64 = 4096;
/// How many hashes are in a block of them.
const HASHES: u64 = BLOCK / 32;
/// How many bits are flipped at places that nobody chose, in each layer.
const RANDOM_FLIPS: usize = 6;

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("tool.verity.program", program),
        Case::new("tool.verity.odd_ends", |ctx| {
            let dir = ctx.tmp()?;
            odd_ends(ctx, &dir)
        }),
        Case::new("tool.verity.large_blocks", |ctx| {
            let dir = large_blocks(ctx)?;
            odd_ends(ctx, &dir)
        }),
        Case::new("tool.verity.disks", disks),
        Case::new("tool.verity.shared", shared),
        Case::new("tool.verity.refused", refused),
        Case::new("tool.verity.flipped.zfiles", |ctx| {
            flipped(ctx, "ext4/layer*.lz4.zfile")
        }),
        Case::new("tool.verity.flipped.tars", |ctx| {
            flipped(ctx, "ext4/layer*.tar")
        }),
        Case::new("tool.verity.flipped.layers", |ctx| {
            flipped(ctx, "lsmt/stack*.lsmt")
        }),
        Case::new("tool.verity.flipped.tree", flipped_tree),
        Case::new("tool.verity.flipped.not_shared", not_shared),
        Case::new("tool.verity.kernel_refuses", kernel_refuses),
        Case::new("tool.verity.concise_table", concise_table),
        Case::new("tool.verity.merged", merged),
        Case::new("tool.verity.store", store),
    ]
}

/// An image whose layers are sealed.
struct Sealed {
    image: Image,
    trees: Vec<Tree>,
}

impl Sealed {
    fn new(image: Image) -> Result<Self> {
        let options = Options::default();
        let hidden = Progress::hidden();
        let layers = image.layers.iter();
        let trees = layers.map(|layer| Ok(seal(layer, &options, Known::default(), &hidden)?));
        let trees = trees.collect::<Result<_>>()?;
        Ok(Self { image, trees })
    }

    fn hashes(&self) -> Vec<RootHash> {
        self.trees.iter().map(|tree| tree.root_hash).collect()
    }

    fn settings(&self) -> Settings {
        let verity = Demand {
            required: true,
            root_hashes: self.hashes(),
            hash_trees: self.trees.iter().map(|tree| tree.tree.clone()).collect(),
            signatures: Vec::new(),
        };
        Settings {
            verity,
            ..Settings::default()
        }
    }

    fn plan(&self) -> ovbd::Result<Plan> {
        Plan::new(&self.image.config(), self.settings())
    }

    fn up(&self, name: &str) -> Result<Report> {
        Ok(up::up(&self.plan()?, &Name::new(name)?, None, &|_| {})?)
    }

    /// For the command line: the layers, and their root hashes.
    fn words(&self) -> Result<(Vec<&str>, String)> {
        let layers = self.image.layers.iter().map(|layer| layer.to_str());
        let hashes: Vec<String> = self.hashes().iter().map(ToString::to_string).collect();
        let layers: Option<Vec<&str>> = layers.collect();
        Ok((layers.context("path")?, hashes.join(",")))
    }
}

/// seal, inspect, up, status, ls and down as a user types them; a configuration with root hashes.
fn program(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::mixed(ctx, &dir)?;
    let lowers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| serde_json::json!({ "file": layer }))
        .collect();
    let config = dir.join("config.v1.json");
    fs::write(&config, serde_json::json!({ "lowers": lowers }).to_string())?;
    let config = config.to_str().context("path")?;
    let refused = run(&["up", "web", config, "--verity"])?;
    ensure!(refused.status.code() == Some(EXIT_INVALID), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        said.contains("there is no root hash for this layer"),
        "{said}"
    );

    let report = json(&["--json", "seal", config, "--update"])?;
    let root = report["layers"][0]["root_hash"].clone();
    let noted: serde_json::Value = serde_json::from_slice(&fs::read(config)?)?;
    ensure!(noted["lowers"][0]["verityRootHash"] == root, "{noted}");
    let bottom = image.layers[0].to_str().context("path")?;
    let seen = json(&["--json", "inspect", bottom])?;
    ensure!(seen["files"][0]["verity"]["root_hash"] == root, "{seen}");

    // What a configuration has a root hash for is verified, whether that is asked for or not.
    let report = json(&["--json", "up", "web", config])?;
    ensure!(report["layers"][0]["root_hash"] == root, "{report}");
    read::check(
        Path::new("/dev/mapper/web"),
        image.content.clone(),
        ctx.rng(),
    )?;
    let status = json(&["--json", "status", "web"])?;
    let verity: Vec<_> = status["layers"]
        .as_array()
        .context("no layers")?
        .iter()
        .filter(|layer| layer["role"] == "verity")
        .collect();
    ensure!(verity.len() == 3, "{status}");
    ensure!(
        verity
            .iter()
            .all(|layer| layer["verity"]["corrupted"] == false),
        "{status}"
    );
    ensure!(
        verity
            .iter()
            .any(|layer| layer["verity"]["root_hash"] == root),
        "{status}"
    );
    let graph = ctx::output(&[OVBD, "ls", "--graph"])?;
    ensure!(graph.matches('✓').count() == 3, "{graph}");
    ensure!(run(&["down", "web"])?.status.success());
    nothing_is_left()
}

/// Layers of every kind whose files end within a block; nobody writes to them.
fn odd_ends(ctx: &mut Ctx, dir: &Path) -> Result<()> {
    for image in [
        Image::mixed(ctx, dir)?,
        Image::golden(ctx, "ext4/layer*.tar", dir)?,
    ] {
        let lengths = image
            .layers
            .iter()
            .map(|layer| Ok(fs::metadata(layer)?.len()));
        let odd = lengths.collect::<Result<Vec<_>>>()?;
        ensure!(odd.iter().any(|length| length % BLOCK != 0), "{odd:?}");
        let before = contents(&image.layers)?;
        let loops_before = loops();
        let sealed = Sealed::new(image)?;
        let report = sealed.up("web")?;
        ensure!(
            report.layers.iter().all(|layer| layer.root_hash.is_some()),
            "{report:?}"
        );
        // A verity device wants memory aligned to what it hashes; the image does not.
        let aligned = format!("/sys/dev/block/{}/queue/dma_alignment", report.number);
        let aligned = fs::read_to_string(&aligned).context(aligned)?;
        ensure!(aligned.trim() == "511", "dma_alignment is {aligned}");
        read::check(&report.device, sealed.image.content.clone(), ctx.rng())?;
        take_down("web")?;
        ensure!(
            contents(&sealed.image.layers)? == before,
            "a layer's file was changed"
        );
        ensure!(loops() == loops_before, "{:?}", loops());
        ensure!(devices()?.is_empty(), "{:?}", devices()?);
    }
    Ok(())
}

fn contents(files: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    files.iter().map(|file| Ok(fs::read(file)?)).collect()
}

/// Layers and trees that are disks, as in a virtual machine; the layers end within a block, or much
/// before the disk does.
fn disks(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    for pattern in [
        "ext4/layer*.tar",
        "ext4/layer*.lz4.zfile",
        "lsmt/stack*.lsmt",
    ] {
        let mut sealed = Sealed::new(Image::golden(ctx, pattern, &dir)?)?;
        for (number, layer) in sealed.image.layers.iter_mut().enumerate() {
            let length = fs::metadata(&*layer)?.len().next_multiple_of(ctx::SECTOR);
            let more = if number == 0 { 4 << 20 } else { 0 };
            File::options()
                .write(true)
                .open(&*layer)?
                .set_len(length + more)?;
            *layer = ctx.loop_device(&LoopSpec::of(&*layer))?;
        }
        for tree in &mut sealed.trees {
            tree.tree = ctx.loop_device(&LoopSpec::of(&tree.tree))?;
        }
        let report = sealed.up("web").context(pattern)?;
        read::check_once(&report.device, sealed.image.content.clone())?;
        take_down("web")?;
        ensure!(devices()?.is_empty(), "{:?}", devices()?);
    }
    Ok(())
}

/// Images with a sealed layer in common have one device for it, wherever their files are; one that is
/// not verified has another.
fn shared(ctx: &mut Ctx) -> Result<()> {
    let (dir, other) = (ctx.tmp()?, ctx.tmp()?);
    let sealed = Sealed::new(Image::golden(ctx, "lsmt/stack*.zfile", &dir)?)?;
    let copy = Sealed::new(Image::golden(ctx, "lsmt/stack*.zfile", &other)?)?;
    ensure!(
        sealed.hashes() == copy.hashes(),
        "a tree depends on more than its blob"
    );
    sealed.up("one")?;
    let second = copy.up("two")?;
    ensure!(second.layers.iter().all(|layer| layer.shared), "{second:?}");
    ensure!(
        count("ovbd-v-")? == 3 && count("ovbd-z-")? == 3,
        "{:?}",
        devices()?
    );
    let third = sealed.image.up("three")?;
    ensure!(third.layers.iter().all(|layer| !layer.shared), "{third:?}");
    take_down("one")?;
    read::check_once(&second.device, copy.image.content.clone())?;
    take_down("three")?;
    ensure!(
        count("ovbd-v-")? == 3 && count("ovbd-z-")? == 3,
        "{:?}",
        devices()?
    );
    take_down("two")?;
    nothing_is_left()
}

/// What is asked for and is not there, or does not fit.
fn refused(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let sealed = Sealed::new(Image::golden(ctx, "lsmt/stack*.zfile", &dir)?)?;
    let (layers, hashes) = sealed.words()?;
    let up = |more: &[&str], code: i32, sentence: &str| -> Result<()> {
        let words: Vec<&str> = ["up", "web"]
            .iter()
            .chain(&layers)
            .chain(more)
            .copied()
            .collect();
        let refused = run(&words)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(code), "{more:?}: {refused:?}");
        ensure!(said.contains(sentence), "{more:?}: {said}");
        nothing_is_left()
    };
    up(
        &["--verity"],
        EXIT_INVALID,
        "there is no root hash for this layer",
    )?;
    let (first, _) = hashes.split_once(',').context("one root hash")?;
    up(
        &["--root-hash", first],
        EXIT_USAGE,
        "1 root hashes for 3 layers",
    )?;
    up(&["--root-hash", "00"], EXIT_USAGE, "`00` is no root hash")?;
    let wrong = hashes.replacen(first, &"0".repeat(64), 1);
    let bottom = &sealed.trees[0].tree;
    let sentence = format!("{}: its root is not the root hash", bottom.display());
    up(&["--root-hash", &wrong], EXIT_INVALID, &sentence)?;
    // Another layer's tree, with its own root hash: all of it is right but the layer.
    let upper = &sealed.trees[1];
    let swapped = hashes.replacen(first, &upper.root_hash.to_string(), 1);
    let good = fs::read(bottom)?;
    fs::copy(&upper.tree, bottom)?;
    up(
        &["--root-hash", &swapped],
        EXIT_INVALID,
        sealed.image.layers[0].to_str().context("path")?,
    )?;
    fs::remove_file(bottom)?;
    up(
        &["--root-hash", &hashes],
        EXIT_NOT_FOUND,
        "its hash tree is not at",
    )?;
    fs::write(bottom, &good[..good.len() - BLOCK as usize])?;
    up(
        &["--root-hash", &hashes],
        EXIT_INVALID,
        "no hash tree of dm-verity that can be used",
    )?;
    fs::write(bottom, &good)?;
    let words = [
        vec!["up", "web"],
        layers.clone(),
        vec!["--root-hash", &hashes],
    ]
    .concat();
    ensure!(run(&words)?.status.success());
    read::check_once(Path::new("/dev/mapper/web"), sealed.image.content.clone())?;
    take_down("web")?;
    nothing_is_left()
}

/// A file of which one bit is flipped, until this value goes.
struct Flipped {
    file: File,
    at: u64,
}

impl Flipped {
    fn new(path: &Path, at: u64) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let flipped = Self { file, at };
        flipped.flip()?;
        Ok(flipped)
    }

    fn flip(&self) -> Result<()> {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, self.at)?;
        byte[0] ^= 0x04;
        self.file.write_all_at(&byte, self.at)?;
        Ok(())
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        // A file that stays wrong fails the comparison that follows.
        let _ = self.flip();
    }
}

/// What a flipped bit is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// What is read when the image is set up: that fails.
    Metadata,
    /// What is read later: that fails.
    Data,
    /// Nobody knows.
    Anything,
}

/// Places in a layer's file. In a ZFile the last block holds the layer's index and trailer.
fn places(info: &FileInfo, rng: &mut Rng) -> Result<Vec<(u64, What)>> {
    let payload = info.tar.as_ref().map_or(0, |tar| tar.payload_offset);
    let mut places = vec![(payload + 9, What::Metadata)];
    if let Some(zfile) = &info.zfile {
        let index = zfile.trailer.as_ref().context("no trailer")?.index_offset;
        let end = zfile.size;
        places.extend([
            (payload + index + 1, What::Metadata),
            (payload + index - 9, What::Metadata),
            (payload + end - 512 + 9, What::Metadata),
            // Neither in the block of the layer's header nor in those of its index.
            (payload + index / 3, What::Data),
        ]);
    } else {
        let lsmt = info.lsmt.as_ref().context("no layer")?;
        let index = lsmt.trailer.as_ref().context("no trailer")?.index_offset;
        places.extend([
            (payload + index + 1, What::Metadata),
            (payload + lsmt.size - 4096 + 9, What::Metadata),
            (payload + (4096 + index) / 2, What::Data),
        ]);
    }
    if payload > 0 {
        places.push((payload - 512 + 130, What::Metadata));
    }
    places.extend((0..RANDOM_FLIPS).map(|_| (rng.within(0..info.size), What::Anything)));
    places.push((info.size - 1, What::Anything));
    Ok(places)
}

/// One bit anywhere in a layer: EIO for who reads it, and a mark at the device; and if it is needed for
/// setting the image up, a refusal that names the file.
fn flipped(ctx: &mut Ctx, pattern: &str) -> Result<()> {
    let dir = ctx.tmp()?;
    let sealed = Sealed::new(Image::golden(ctx, pattern, &dir)?)?;
    for (number, layer) in sealed.image.layers.iter().enumerate() {
        let info = inspect(layer)?;
        for (at, what) in places(&info, ctx.rng())? {
            let flipped = Flipped::new(layer, at)?;
            check_flip(&sealed, number, at, what)
                .with_context(|| format!("layer {number}, {what:?} at byte {at}"))?;
            drop(flipped);
        }
    }
    let report = sealed.up("web")?;
    read::check_once(&report.device, sealed.image.content.clone())?;
    take_down("web")?;
    nothing_is_left()
}

fn check_flip(sealed: &Sealed, number: usize, at: u64, what: What) -> Result<()> {
    match sealed.plan() {
        Err(error) => {
            ensure!(what != What::Data, "{error}");
            let layer = sealed.image.layers[number].display();
            let begin = format!("{layer}: the ");
            let said = error.to_string();
            ensure!(
                said.starts_with(&begin) && said.contains("that were sealed"),
                "{said}"
            );
            return nothing_is_left();
        }
        Ok(_) => ensure!(what != What::Metadata, "it was not noticed"),
    }
    let report = sealed.up("web")?;
    let root = sealed.trees[number].root_hash;
    let verity = verity_device(root)?;
    ensure!(!verity.corrupted, "{verity:?}");
    expect_eio(&verity.path, at)?;
    let after = verity_device(root)?;
    ensure!(after.corrupted, "{after:?}");
    if what == What::Data && is_top(sealed, number) {
        let error = fs::read(&report.device)
            .err()
            .context("the image was read")?;
        ensure!(Errno::from_io_error(&error) == Some(Errno::IO), "{error}");
        let listing = list::list()?;
        let counted = listing.images.iter().filter_map(|image| image.counters);
        let errors: u64 = counted.map(|counters| counters.io_errors).sum();
        ensure!(errors > 0, "nothing was counted");
        let graph = ctx::output(&[OVBD, "ls", "--graph"])?;
        ensure!(graph.contains("✗ CORRUPTED"), "{graph}");
    }
    take_down("web")?;
    nothing_is_left()
}

/// All of the topmost layer's data can be seen.
fn is_top(sealed: &Sealed, number: usize) -> bool {
    number + 1 == sealed.image.layers.len()
}

#[derive(Debug)]
struct Device {
    path: PathBuf,
    corrupted: bool,
}

/// The device that checks what this root hash vouches for.
fn verity_device(root: RootHash) -> Result<Device> {
    for layer in list::list()?.layers {
        if let Some(verity) = layer.verity.filter(|verity| verity.root_hash == root) {
            let (_, minor) = layer.number.split_once(':').context("number")?;
            return Ok(Device {
                path: format!("/dev/dm-{minor}").into(),
                corrupted: verity.corrupted,
            });
        }
    }
    bail!("no device has the root hash {root}");
}

fn expect_eio(device: &Path, at: u64) -> Result<()> {
    let mut byte = [0];
    match File::open(device)?.read_exact_at(&mut byte, at) {
        Err(e) if Errno::from_io_error(&e) == Some(Errno::IO) => Ok(()),
        other => bail!(
            "reading byte {at} of {}: {other:?}, expected EIO",
            device.display()
        ),
    }
}

/// One bit of a hash tree.
fn flipped_tree(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let sealed = Sealed::new(Image::golden(ctx, "ext4/layer*.lsmt", &dir)?)?;
    let Tree { tree, shape, .. } = &sealed.trees[0];
    for (at, sentence) in [
        (3, "it does not begin with a superblock"),
        (64, "data blocks of"),
        (72, "is of"),
        (BLOCK + 7, "its root is not the root hash"),
    ] {
        let _flipped = Flipped::new(tree, at)?;
        let error = sealed
            .plan()
            .err()
            .context("it was not noticed")?
            .to_string();
        ensure!(
            error.contains(sentence) && error.contains(".verity"),
            "{error}"
        );
    }
    // The hashes of the first blocks are those of the header; those in the middle are of data.
    let first = 2 * BLOCK;
    {
        let _flipped = Flipped::new(tree, first)?;
        let error = sealed
            .plan()
            .err()
            .context("it was not noticed")?
            .to_string();
        ensure!(error.contains("are not those of the root hash"), "{error}");
    }
    let data = shape.data_blocks() / 3;
    let last = (shape.data_blocks() - 1) / HASHES;
    ensure!(
        (1..last).contains(&(data / HASHES)),
        "the layer is too small"
    );
    let flipped = Flipped::new(tree, first + data * 32)?;
    sealed.up("web")?;
    let root = sealed.trees[0].root_hash;
    let device = verity_device(root)?;
    expect_eio(&device.path, data * u64::from(shape.data_block()))?;
    ensure!(verity_device(root)?.corrupted);
    take_down("web")?;
    drop(flipped);
    nothing_is_left()
}

/// A device that has met a flipped bit is not shared any further, and the one zfile on it neither.
fn not_shared(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let sealed = Sealed::new(Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?)?;
    let bottom = &sealed.image.layers[0];
    let places = places(&inspect(bottom)?, ctx.rng())?;
    let data = places.iter().find(|(_, what)| *what == What::Data);
    let (at, _) = *data.context("no data")?;
    let flipped = Flipped::new(bottom, at)?;
    sealed.up("web")?;
    // Nobody has read it yet.
    sealed.up("other")?;
    expect_eio(&verity_device(sealed.trees[0].root_hash)?.path, at)?;
    let error = sealed
        .up("third")
        .err()
        .context("it is shared")?
        .to_string();
    ensure!(
        error.contains("(other, web)") && error.contains("ovbd-v-"),
        "{error}"
    );
    drop(flipped);
    take_down("web")?;
    take_down("other")?;
    let report = sealed.up("third")?;
    read::check_once(&report.device, sealed.image.content.clone())?;
    take_down("third")?;
    nothing_is_left()
}

/// What changes between the tool's look at a layer and the kernel's: the kernel refuses.
fn kernel_refuses(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let sealed = Sealed::new(Image::golden(ctx, "lsmt/stack*.zfile", &dir)?)?;
    let layer = &sealed.image.layers[1];
    let trailer = fs::metadata(layer)?.len() - 512;
    for at in [9, trailer + 9] {
        let plan = sealed.plan()?;
        let _flipped = Flipped::new(layer, at)?;
        let result = up::up(&plan, &Name::new("web")?, None, &|_| {});
        let error = result.err().context("it was set up")?;
        ensure!(error.exit_code() == ExitCode::Invalid, "{error}");
        let error = error.to_string();
        let begin = format!("{}: the kernel refuses the layer: ", layer.display());
        ensure!(
            error.starts_with(&begin) && error.contains("zfile: "),
            "{error}"
        );
        nothing_is_left()?;
    }
    Ok(())
}

/// What `table --concise` prints is what dmsetup takes, and makes the same disk.
fn concise_table(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let mut sealed = Sealed::new(Image::golden(ctx, "ext4/layer*.lz4.zfile", &dir)?)?;
    let (mut data, mut trees) = (Vec::new(), Vec::new());
    for (layer, tree) in sealed.image.layers.iter().zip(&mut sealed.trees) {
        let copy = layer.with_extension("padded");
        fs::copy(layer, &copy)?;
        let length = fs::metadata(layer)?.len().next_multiple_of(BLOCK);
        File::options().write(true).open(&copy)?.set_len(length)?;
        data.push(ctx.loop_device(&LoopSpec::of(&copy))?.display().to_string());
        trees.push(
            ctx.loop_device(&LoopSpec::of(&tree.tree))?
                .display()
                .to_string(),
        );
        ensure!(tree.tree == beside(layer));
    }
    let (layers, hashes) = sealed.words()?;
    let mut words = vec![OVBD, "table", "--quiet", "--concise", "--name", "web"];
    let (data, trees) = (data.join(","), trees.join(","));
    words.extend([
        "--devices",
        &data,
        "--tree-devices",
        &trees,
        "--root-hash",
        &hashes,
    ]);
    words.extend(&layers);
    let table = ctx::output(&words)?;
    ensure!(table.matches(" verity 1 ").count() == 3, "{table}");
    ctx::output(&["dmsetup", "create", "--concise", &table])?;
    read::check_once(Path::new("/dev/mapper/web"), sealed.image.content.clone())?;
    take_down("web")?;
    ensure!(devices()?.is_empty(), "{:?}", devices()?);
    Ok(())
}

/// One root hash for the whole disk: verity above lsmt. What is below is not verified by itself.
fn merged(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let image = Image::golden(ctx, "ext4/layer*.lsmt", &dir)?;
    let tree = dir.join("merged");
    let layers = image.layers.iter().map(|layer| layer.to_str());
    let layers: Option<Vec<&str>> = layers.collect();
    let mut words = vec!["--json", "seal", "--merged", tree.to_str().context("path")?];
    words.extend(layers.context("path")?);
    let merged = json(&words)?;
    let root = merged["root_hash"].as_str().context("no root hash")?;
    let blocks = merged["data_blocks"]
        .as_u64()
        .context("no number of blocks")?;
    ensure!(blocks * BLOCK == image.content.len() as u64, "{merged}");
    let hashes = ctx.loop_device(&LoopSpec::of(&tree))?;
    let params = format!(
        "1 /dev/mapper/web {} 4096 4096 {blocks} 1 sha256 {root} -",
        hashes.display()
    );
    let sectors = blocks * BLOCK / ctx::SECTOR;
    image.up("web")?;
    let device = ctx.target(sectors, "verity", &params)?;
    read::check_once(&device.path, image.content.clone())?;
    ensure!(ctx.status(&device)?.starts_with('V'));
    ctx.remove(&device)?;
    take_down("web")?;

    let lsmt = inspect(&image.layers[2])?.lsmt.context("no layer")?;
    let index = lsmt.trailer.context("no trailer")?.index_offset;
    let _flipped = Flipped::new(&image.layers[2], (4096 + index) / 2)?;
    image.up("web")?;
    let device = ctx.target(sectors, "verity", &params)?;
    let error = fs::read(&device.path)
        .err()
        .context("a changed image was read")?;
    ensure!(Errno::from_io_error(&error) == Some(Errno::IO), "{error}");
    ensure!(ctx.status(&device)?.starts_with('C'));
    ctx.remove(&device)?;
    take_down("web")?;
    ensure!(devices()?.is_empty(), "{:?}", devices()?);
    Ok(())
}

/// An image of the store is sealed there, and its trees stay as long as its layers.
fn store(ctx: &mut Ctx) -> Result<()> {
    let dir = ctx.tmp()?;
    let stocked = Stocked::new(ctx, "ext4/layer*.tar", &dir)?;
    let (reference, root) = ("registry.example/app:1", stocked.root()?);
    stocked.add(reference, 3)?;
    let up = [
        "--json", "up", "web", reference, "--verity", "--store", root,
    ];
    let refused = run(&up)?;
    ensure!(refused.status.code() == Some(EXIT_INVALID), "{refused:?}");
    let sealed = json(&["--json", "seal", reference, "--store", root])?;
    let report = json(&up)?;
    ensure!(
        report["layers"][0]["root_hash"] == sealed["layers"][0]["root_hash"],
        "{report}"
    );
    read::check_once(Path::new("/dev/mapper/web"), stocked.image.content.clone())?;
    let listing = json(&["--json", "ls", "--store", root])?;
    ensure!(
        listing["images"][0]["references"][0] == reference,
        "{listing}"
    );

    let blobs = stocked.store.root().join("blobs/sha256");
    let files = || Ok::<_, anyhow::Error>(fs::read_dir(&blobs)?.count());
    ensure!(files()? == 6, "{} files", files()?);
    ensure!(run(&["rmi", reference, "--store", root])?.status.success());
    ensure!(files()? == 6, "a tree was removed that is in use");
    ensure!(run(&["down", "web"])?.status.success());
    ensure!(run(&["gc", "--store", root])?.status.success());
    ensure!(files()? == 0, "{} files are left", files()?);
    nothing_is_left()
}
