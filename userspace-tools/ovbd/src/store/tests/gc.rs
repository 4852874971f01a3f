// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is removed, and what stays.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

use super::{image, names, partial, put, store};
use crate::error::ExitCode;
use crate::loopdev::FileId;
use crate::store::gc::InUse;
use crate::store::{make_folder, Descriptor, Garbage, ImageRecord};
use crate::verity::beside;

#[test]
fn blobs_without_an_image_are_removed() {
    let (_folder, store) = store();
    assert_eq!(store.gc(false).unwrap(), Garbage::default());
    assert!(!store.root().exists());
    let kept = put(&store, b"kept");
    let lost = put(&store, b"lost");
    store
        .record(&image("r.example/app:1", std::slice::from_ref(&kept)))
        .unwrap();
    let found = store.gc(true).unwrap();
    assert_eq!(found.removed.len(), 1);
    assert!(store.blob(&lost.digest).is_some());
    let removed = store.gc(false).unwrap();
    assert_eq!(removed, found);
    assert_eq!(removed.removed[0].digest, lost.digest);
    assert!(removed.bytes() > 0);
    assert_eq!(store.blob(&lost.digest), None);
    assert!(store.blob(&kept.digest).is_some());
}

#[test]
fn what_a_loop_device_is_on_stays() {
    let (_folder, store) = store();
    let by_inode = put(&store, b"by inode");
    let by_path = put(&store, b"by path");
    let lost = put(&store, b"lost");
    let path = |blob: &Descriptor| store.blob(&blob.digest).unwrap();
    let file = File::open(path(&by_inode)).unwrap();
    let in_use = InUse {
        files: BTreeSet::from([FileId::of(&file).unwrap()]),
        paths: BTreeSet::from([path(&by_path).canonicalize().unwrap()]),
    };
    let garbage = store.collect(&in_use, false, None).unwrap();
    assert_eq!(garbage.removed.len(), 1);
    assert_eq!(garbage.removed[0].digest, lost.digest);
    let mut stayed: Vec<_> = garbage.in_use.iter().map(|blob| blob.digest).collect();
    stayed.sort();
    let mut expected = [by_inode.digest, by_path.digest];
    expected.sort();
    assert_eq!(stayed, expected);
}

#[test]
fn a_hash_tree_goes_with_its_blob() {
    let (_folder, store) = store();
    let kept = put(&store, b"kept");
    let lost = put(&store, b"lost");
    store
        .record(&image("r.example/app:1", std::slice::from_ref(&kept)))
        .unwrap();
    let tree = |blob: &Descriptor| beside(&store.blob_path(&blob.digest));
    for blob in [&kept, &lost] {
        let without = store.usage().unwrap().bytes;
        fs::write(tree(blob), [0; 10000]).unwrap();
        assert!(store.usage().unwrap().bytes >= without + 10000);
    }
    let part = store.blobs_folder().join(".x.verity.1-0.part");
    fs::write(&part, b"").unwrap();
    assert!(store.gc(true).unwrap().bytes() >= 10000);
    assert!(tree(&lost).exists() && part.exists());
    assert!(store.gc(false).unwrap().bytes() >= 10000);
    assert!(tree(&kept).exists() && !tree(&lost).exists() && !part.exists());
    let reference = "r.example/app:1".parse().unwrap();
    store.remove_image(&reference).unwrap();
    assert_eq!(names(&store.blobs_folder()), [""; 0]);
}

#[test]
fn what_a_running_pull_needs_stays() {
    let (_folder, store) = store();
    let blob = put(&store, b"blob");
    let arriving = partial(&store, b"arriving");
    arriving.append(b"arr").unwrap();
    let digest = *arriving.digest();
    let lease = store.lease([blob.digest, digest]).unwrap();
    let other = store.lease([]).unwrap();
    assert_eq!(names(&store.leases_folder()).len(), 2);
    drop((arriving, other));
    assert_eq!(store.gc(false).unwrap(), Garbage::default());
    drop(lease);
    assert_eq!(names(&store.leases_folder()), [""; 0]);
    let garbage = store.gc(false).unwrap();
    assert_eq!(garbage.removed.len(), 2);
    assert!(garbage.removed[1].partial);
    assert_eq!(names(&store.ingest_folder()), [""; 0]);
}

#[test]
fn what_a_dead_pull_left_goes() {
    let (_folder, store) = store();
    let blob = put(&store, b"blob");
    make_folder(&store.leases_folder()).unwrap();
    let lease = store.leases_folder().join("1-0.json");
    fs::write(&lease, format!("[\"{}\"]", blob.digest)).unwrap();
    fs::set_permissions(&lease, fs::Permissions::from_mode(0o600)).unwrap();
    make_folder(&store.images_folder()).unwrap();
    let record = store.images_folder().join(".0.json.1-0.part");
    fs::write(&record, "{").unwrap();
    assert_eq!(store.images().unwrap(), []);
    assert_eq!(store.gc(true).unwrap().removed.len(), 1);
    assert!(record.exists());
    assert_eq!(store.gc(false).unwrap().removed.len(), 1);
    assert!(!record.exists());
    assert_eq!(names(&store.leases_folder()), [""; 0]);
}

/// Not only a collection removes it: whatever takes the lock does, when nobody else has it.
#[test]
fn a_dead_pulls_lease_goes_with_the_next_guard() {
    let (_folder, store) = store();
    make_folder(&store.leases_folder()).unwrap();
    let dead = store.leases_folder().join("1-0.json");
    fs::write(&dead, "[]").unwrap();
    let held = store.guard().unwrap();
    assert!(!dead.exists());
    fs::write(&dead, "[]").unwrap();
    let lease = store.lease([]).unwrap();
    assert!(dead.exists(), "removed, while others have the lock");
    drop(held);
    drop(store.guard().unwrap());
    assert!(!dead.exists());
    assert_eq!(names(&store.leases_folder()).len(), 1);
    drop(lease);
}

#[test]
fn what_is_being_written_stays_even_without_a_lease() {
    let (_folder, store) = store();
    let arriving = partial(&store, b"arriving");
    arriving.append(b"arr").unwrap();
    assert_eq!(store.gc(false).unwrap().removed, []);
    arriving.append(b"iving").unwrap();
    arriving.finish().unwrap();
}

#[test]
fn an_image_goes_with_what_only_it_has() {
    let (_folder, store) = store();
    let shared = put(&store, b"shared");
    let own = put(&store, b"own");
    let unrelated = put(&store, b"unrelated");
    let app = image("r.example/app:1", &[shared.clone(), own.clone()]);
    let other = image("r.example/app:2", std::slice::from_ref(&shared));
    store.record(&app).unwrap();
    store.record(&other).unwrap();
    let garbage = store.remove_image(&app.reference).unwrap();
    assert_eq!(garbage.removed.len(), 1);
    assert_eq!(garbage.removed[0].digest, own.digest);
    assert!(store.blob(&shared.digest).is_some());
    assert!(store.blob(&unrelated.digest).is_some());
    assert_eq!(store.images().unwrap(), [other]);
    let error = store.remove_image(&app.reference).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::NotFound);
}

/// A digest names no record that was fetched by a tag, and may stand for several.
#[test]
fn what_is_removed_is_what_was_named() {
    let (_folder, store) = store();
    let layer = put(&store, b"layer");
    let first = image("r.example/app:1", std::slice::from_ref(&layer));
    let second = ImageRecord {
        reference: "r.example/app:2".parse().unwrap(),
        ..first.clone()
    };
    store.record(&first).unwrap();
    store.record(&second).unwrap();
    let pinned = first.reference.with_digest(first.manifest.digest);
    let error = store.remove_image(&pinned).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::NotFound);
    assert!(
        error
            .to_string()
            .contains("as r.example/app:1, r.example/app:2;"),
        "{error}"
    );
    assert_eq!(store.images().unwrap(), [first.clone(), second.clone()]);
    // It goes if it is recorded itself.
    let by_digest = ImageRecord {
        reference: pinned.clone(),
        ..first.clone()
    };
    store.record(&by_digest).unwrap();
    store.remove_image(&pinned).unwrap();
    assert_eq!(store.images().unwrap(), [first, second]);
}
