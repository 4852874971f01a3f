// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What vouches for an image's layers, and how long it is known.

use std::sync::Barrier;
use std::thread;

use super::{describe, image, put, store};
use crate::error::ExitCode;
use crate::store::ImageRecord;
use crate::verity::RootHash;

#[test]
fn root_hashes_are_those_of_their_layers() {
    let (_folder, store) = store();
    let (base, top) = (put(&store, b"base"), put(&store, b"top"));
    let app = image("r.example/app:1", &[base.clone(), top.clone()]);
    store.record(&app).unwrap();
    let hashes = [(base.digest, 1), (top.digest, 2)];
    let hashes = hashes.map(|(digest, byte)| (digest, RootHash::new([byte; 32])));
    store.record_root_hashes(&app.reference, &hashes).unwrap();
    let sealed = store.image(&app.reference).unwrap().unwrap();
    let found = sealed.layers.iter().map(|layer| layer.root_hash().unwrap());
    let expected = hashes.map(|(_, hash)| Some(hash));
    assert_eq!(found.collect::<Vec<_>>(), expected);
    // While layers were hashed, the image was pulled again, and is another one.
    for layers in [vec![top.clone(), base.clone()], vec![base], vec![top]] {
        let moved = image("r.example/app:1", &layers);
        store.record(&moved).unwrap();
        let error = store.record_root_hashes(&app.reference, &hashes);
        assert_eq!(error.unwrap_err().exit_code(), ExitCode::Busy);
        assert_eq!(store.image(&app.reference).unwrap(), Some(moved));
    }
}

/// An image that is verified stays one when it is pulled again, until it is another one.
#[test]
fn root_hashes_outlive_a_pull_of_the_same_image() {
    let (_folder, store) = store();
    let layer = put(&store, b"layer");
    let app = image("r.example/app:1", std::slice::from_ref(&layer));
    store.record(&app).unwrap();
    let hash = RootHash::new([1; 32]);
    let noted = [(layer.digest, hash)];
    store.record_root_hashes(&app.reference, &noted).unwrap();
    let recorded = |image: &ImageRecord| {
        store.record(image).unwrap();
        let found = store.image(&app.reference).unwrap().unwrap();
        found.layers[0].root_hash().unwrap()
    };
    assert_eq!(recorded(&app), Some(hash));
    // What the manifest itself says counts.
    let mut says = app.clone();
    says.layers[0].set_root_hash(RootHash::new([2; 32]));
    assert_eq!(recorded(&says), Some(RootHash::new([2; 32])));
    let mut moved = app.clone();
    moved.manifest = describe(b"another manifest");
    assert_eq!(recorded(&moved), None);
}

/// Whoever notes root hashes does not bring an image back that was replaced.
#[test]
fn a_new_record_is_not_lost() {
    let (_folder, store) = store();
    let (old, new) = (put(&store, b"old"), put(&store, b"new"));
    let before = image("r.example/app:1", std::slice::from_ref(&old));
    let after = image("r.example/app:1", &[new]);
    let hashes = [(old.digest, RootHash::new([1; 32]))];
    for _ in 0..50 {
        store.record(&before).unwrap();
        let barrier = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                barrier.wait();
                // Too late, or not.
                let _ = store.record_root_hashes(&before.reference, &hashes);
            });
            barrier.wait();
            store.record(&after).unwrap();
        });
        assert_eq!(
            store.image(&after.reference).unwrap().as_ref(),
            Some(&after)
        );
    }
}
