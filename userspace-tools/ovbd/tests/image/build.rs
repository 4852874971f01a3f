// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Layers made of disks, against a comparison of the disks byte by byte.

use std::fs;
use std::path::PathBuf;
use std::slice::from_ref;

use ovbd::image::blob::Blob;
use ovbd::image::build::{build_layer, Base, BuiltLayer, LayerPlan};
use ovbd::image::output::Wrapper;
use ovbd::image::zwriter::ZSettings;
use ovbd::image::ImageError;
use ovbd::output::Progress;
use ovbd::{Error, Result};
use overlaybd_format::lsmt::Uuid;

use super::support::{check, golden, open, target, unpacked, Random, Scratch};

const SECTOR: usize = 512;

fn build(new: &[u8], base: &[PathBuf], plan: &LayerPlan, to: PathBuf) -> Result<BuiltLayer> {
    build_as(new, base, plan, to, Some(ZSettings::default()))
}

fn build_as(
    new: &[u8],
    base: &[PathBuf],
    plan: &LayerPlan,
    to: PathBuf,
    compression: Option<ZSettings>,
) -> Result<BuiltLayer> {
    let scratch = Scratch::new();
    let disk = open(&scratch.file("new", new));
    let base = match base {
        [] => None,
        [raw] if raw.ends_with("raw") => Some(Base::of_raw(raw)?),
        files => Some(Base::of_layers(files)?),
    };
    let target = target(to, compression, Wrapper::None);
    build_layer(&disk, base.as_ref(), plan, &target, &Progress::hidden())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Data,
    Zeros,
}

/// What a layer must hold for each sector of a disk of `size` bytes.
fn expected(new: &[u8], base: Option<&[u8]>, size: usize, granule: usize) -> Vec<State> {
    let padded = |disk: &[u8]| {
        let mut disk = disk.to_vec();
        disk.resize(size, 0);
        disk
    };
    let (new, old) = (padded(new), padded(base.unwrap_or_default()));
    let mut states = Vec::new();
    for (new, old) in new.chunks(granule).zip(old.chunks(granule)) {
        let state = if new == old {
            State::Absent
        } else if new.iter().all(|byte| *byte == 0) {
            State::Zeros
        } else {
            State::Data
        };
        states.extend(vec![state; new.len() / SECTOR]);
    }
    states
}

/// What the layer in `path` holds for each sector.
fn found(path: &PathBuf, size: usize) -> Vec<State> {
    let layer = Blob::open(path).unwrap().layer().unwrap();
    assert_eq!(layer.virtual_size(), size as u64);
    let mut states = vec![State::Absent; size / SECTOR];
    for entry in layer.entries() {
        let state = match entry.zeroed() {
            true => State::Zeros,
            false => State::Data,
        };
        states[entry.start() as usize..entry.end() as usize].fill(state);
    }
    states
}

/// Changes to a disk: some parts rewritten, some zeroed, some only touched.
fn changed(random: &mut Random, disk: &[u8]) -> Vec<u8> {
    let mut disk = disk.to_vec();
    for _ in 0..60 {
        let length = 1 + random.below(30_000.min(disk.len()));
        let from = random.below(disk.len() - length + 1);
        let part = &mut disk[from..from + length];
        match random.below(4) {
            0 => part.fill(0),
            1 => part.copy_from_slice(&random.bytes(length)),
            2 => part[0] ^= 1,
            _ => part.copy_from_slice(&random.text(length)),
        }
    }
    disk
}

#[test]
fn a_layer_holds_the_disk_but_its_zeros() {
    let scratch = Scratch::new();
    let mut random = Random::new(10);
    for (round, granule) in [512, 4096, 65536, 4096].into_iter().enumerate() {
        let disk = random.disk(3_000_000 + round * 777);
        let size = disk.len().next_multiple_of(SECTOR);
        let plan = LayerPlan {
            granule: granule as u64,
            ..LayerPlan::default()
        };
        let path = scratch.path("layer");
        let built = build(&disk, &[], &plan, path.clone()).unwrap();
        assert!(found(&path, size) == expected(&disk, None, size, granule));
        let data = found(&path, size)
            .iter()
            .filter(|s| **s == State::Data)
            .count();
        assert_eq!(built.layer.data, (data * SECTOR) as u64);
        assert_eq!(built.layer.zeroed, 0);
        let mut whole = disk.clone();
        whole.resize(size, 0);
        assert!(unpacked(from_ref(&path)) == whole);
        assert!(check(&path).is_ok());
    }
}

#[test]
fn a_layer_holds_the_difference_to_its_base() {
    let scratch = Scratch::new();
    let mut random = Random::new(11);
    for granule in [512, 4096, 16384] {
        let plan = LayerPlan {
            granule,
            ..LayerPlan::default()
        };
        let mut disk = random.disk(2_500_096);
        let mut layers = vec![scratch.path("layer0")];
        build(&disk, &[], &plan, layers[0].clone()).unwrap();
        for number in 1..4 {
            let new = changed(&mut random, &disk);
            let path = scratch.path(&format!("layer{number}"));
            let built = build(&new, &layers, &plan, path.clone()).unwrap();
            let states = expected(&new, Some(&disk), disk.len(), granule as usize);
            assert!(found(&path, disk.len()) == states);
            let zeros = states.iter().filter(|s| **s == State::Zeros).count();
            assert_eq!(built.layer.zeroed, (zeros * SECTOR) as u64);
            layers.push(path);
            assert!(unpacked(&layers) == new);
            disk = new;
        }
    }
}

#[test]
fn bases_of_all_kinds_give_the_same_layer() {
    let scratch = Scratch::new();
    let mut random = Random::new(12);
    let old = random.disk(1_500_160);
    let new = changed(&mut random, &old);
    let plan = LayerPlan::default();
    let raw = scratch.file("raw", &old);
    let layer = scratch.path("layer");
    build(&old, &[], &plan, layer.clone()).unwrap();
    let bare = scratch.path("bare");
    build_as(&old, &[], &plan, bare.clone(), None).unwrap();
    let zfile = scratch.path("zfile-of-raw");
    super::support::compress(
        &raw,
        zfile.clone(),
        Some(ZSettings::default()),
        Wrapper::Pax,
    );
    let mut digests = Vec::new();
    for base in [layer, bare] {
        let built = build(&new, &[base], &plan, scratch.path("diff")).unwrap();
        digests.push(built.written.digest);
    }
    for base in [raw, zfile] {
        let disk = open(&scratch.file("new", &new));
        let base = Base::of_raw(&base).unwrap();
        let settings = Some(ZSettings::default());
        let target = target(scratch.path("diff"), settings, Wrapper::None);
        let built = build_layer(&disk, Some(&base), &plan, &target, &Progress::hidden());
        digests.push(built.unwrap().written.digest);
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn disks_grow_and_shrink() {
    let scratch = Scratch::new();
    let mut random = Random::new(13);
    let long = random.disk(3_000_320);
    let short = long[..1_234_432].to_vec();
    for (old, new) in [(&long, &short), (&short, &long)] {
        let base = scratch.path("base");
        let plan = LayerPlan::default();
        build(old, &[], &plan, base.clone()).unwrap();
        let path = scratch.path("layer");
        build(new, from_ref(&base), &plan, path.clone()).unwrap();
        assert!(unpacked(&[base, path.clone()]) == *new);
        // What the smaller disk cuts off needs no zeros.
        if new.len() < old.len() {
            assert!(found(&path, new.len()).iter().all(|s| *s == State::Absent));
        }
    }
}

#[test]
fn a_larger_disk_than_its_image_reads_as_zeros() {
    let scratch = Scratch::new();
    let disk = Random::new(14).text(10_000);
    let plan = LayerPlan {
        virtual_size: Some(5_000_001),
        ..LayerPlan::default()
    };
    let path = scratch.path("layer");
    let built = build(&disk, &[], &plan, path.clone()).unwrap();
    assert_eq!(built.settings.virtual_size, 5_000_192);
    let mut whole = disk.clone();
    whole.resize(5_000_192, 0);
    assert!(unpacked(&[path]) == whole);
}

#[test]
fn holes_and_zeros_are_the_same() {
    let scratch = Scratch::new();
    let sparse = scratch.path("sparse");
    let file = fs::File::create(&sparse).unwrap();
    file.set_len(64 << 20).unwrap();
    let text = Random::new(15).text(5000);
    std::os::unix::fs::FileExt::write_all_at(&file, &text, 33 << 20).unwrap();
    let whole = fs::read(&sparse).unwrap();
    let make = |disk: &PathBuf| {
        let target = target(scratch.path("layer"), None, Wrapper::None);
        let plan = LayerPlan::default();
        build_layer(&open(disk), None, &plan, &target, &Progress::hidden())
            .unwrap()
            .written
            .digest
    };
    let of_sparse = make(&sparse);
    assert_eq!(of_sparse, make(&scratch.file("whole", &whole)));
}

#[test]
fn an_unchanged_disk_is_an_empty_layer() {
    let scratch = Scratch::new();
    let disk = Random::new(16).disk(1_000_448);
    let raw = scratch.file("raw", &disk);
    let path = scratch.path("layer");
    build_as(&disk, &[raw], &LayerPlan::default(), path.clone(), None).unwrap();
    // As the reference writes one: header and trailer.
    assert_eq!(fs::metadata(&path).unwrap().len(), 8192);
    assert!(check(&path).is_ok());
}

#[test]
fn names_go_into_the_header() {
    let scratch = Scratch::new();
    let disk = Random::new(17).disk(100_352);
    let uuid = |digit: char| {
        Uuid::parse(&"11111111-2222-3333-4444-555555555555".replace('1', &digit.to_string()))
    };
    let plan = LayerPlan {
        uuid: uuid('a'),
        tag: b"bottom".to_vec(),
        ..LayerPlan::default()
    };
    let base = scratch.path("base");
    build(&disk, &[], &plan, base.clone()).unwrap();
    let path = scratch.path("layer");
    // The parent follows from the base.
    build(&disk, from_ref(&base), &LayerPlan::default(), path.clone()).unwrap();
    let layer = Blob::open(&path).unwrap().layer().unwrap();
    assert_eq!((layer.uuid(), layer.parent_uuid()), (None, uuid('a')));
    let plan = LayerPlan {
        uuid: uuid('c'),
        parent_uuid: uuid('b'),
        tag: vec![b'x'; 256],
        ..LayerPlan::default()
    };
    build(&disk, from_ref(&base), &plan, path.clone()).unwrap();
    let layer = Blob::open(&path).unwrap().layer().unwrap();
    assert_eq!((layer.uuid(), layer.parent_uuid()), (uuid('c'), uuid('b')));
    assert_eq!(layer.user_tag(), [b'x'; 256]);
    assert_eq!(
        Blob::open(&base).unwrap().layer().unwrap().user_tag(),
        b"bottom"
    );
}

#[test]
fn long_runs_become_entries_that_fit() {
    let scratch = Scratch::new();
    // 40,000 sectors, where an entry holds 16,383.
    let disk = vec![7; 40_000 * SECTOR];
    let path = scratch.path("layer");
    build(&disk, &[], &LayerPlan::default(), path.clone()).unwrap();
    let layer = Blob::open(&path).unwrap().layer().unwrap();
    let lengths: Vec<_> = layer.entries().iter().map(|e| e.len()).collect();
    assert_eq!(lengths, [16383, 16383, 7234]);
    let zeros = scratch.path("zeros");
    let none = vec![0; disk.len()];
    build(&none, from_ref(&path), &LayerPlan::default(), zeros.clone()).unwrap();
    let layer = Blob::open(&zeros).unwrap().layer().unwrap();
    let lengths: Vec<_> = layer.entries().iter().map(|e| e.len()).collect();
    assert_eq!(lengths, [16383, 16383, 7234]);
    assert!(unpacked(&[path, zeros]) == none);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_written() {
    let scratch = Scratch::new();
    let disk = vec![7; 4096];
    let refused =
        |disk: &[u8], plan: LayerPlan| match build(disk, &[], &plan, scratch.path("layer")) {
            Err(Error::Image(ImageError::Argument(sentence))) => sentence,
            other => panic!("{other:?}"),
        };
    let plan = LayerPlan::default;
    let cut = refused(
        &disk,
        LayerPlan {
            virtual_size: Some(4095),
            ..plan()
        },
    );
    assert_eq!(cut, "virtual size 4095 cuts off a disk of 4096 bytes");
    assert!(refused(&[], plan()).starts_with("the disk is empty"));
    let far = refused(
        &disk,
        LayerPlan {
            virtual_size: Some(u64::MAX),
            ..plan()
        },
    );
    assert!(far.contains("can be addressed"), "{far}");
    for granule in [0, 256, 5000, 131_072] {
        assert!(refused(&disk, LayerPlan { granule, ..plan() }).starts_with("granularity"));
    }
    let plan = LayerPlan {
        tag: vec![b'x'; 257],
        ..plan()
    };
    assert!(build(&disk, &[], &plan, scratch.path("layer")).is_err());
    let top = golden("rw/append.data");
    assert!(build(&disk, &[top], &LayerPlan::default(), scratch.path("layer")).is_err());
    assert!(scratch.names().is_empty(), "{:?}", scratch.names());
}
