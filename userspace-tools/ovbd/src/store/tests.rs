// SPDX-License-Identifier: GPL-2.0-only OR MIT

mod gc;
mod root_hashes;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use super::*;
use crate::error::ExitCode;
use crate::reference::Reference;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Some(folder.path().join("store")));
    (folder, store)
}

fn partial(store: &Store, content: &[u8]) -> Partial {
    let digest = Digest::of_bytes(content);
    match store.begin(&digest, content.len() as u64).unwrap() {
        Ingest::Partial(partial) => *partial,
        Ingest::There(path) => panic!("{}: is there already", path.display()),
    }
}

fn put(store: &Store, content: &[u8]) -> Descriptor {
    let partial = partial(store, content);
    partial.append(content).unwrap();
    partial.finish().unwrap();
    describe(content)
}

fn describe(content: &[u8]) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar".into(),
        digest: Digest::of_bytes(content),
        size: content.len() as u64,
        annotations: BTreeMap::new(),
    }
}

fn image(reference: &str, layers: &[Descriptor]) -> ImageRecord {
    ImageRecord {
        reference: reference.parse().unwrap(),
        manifest: describe(reference.as_bytes()),
        layers: layers.to_vec(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = entries(folder).unwrap().into_iter();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.collect()
}

#[test]
fn a_blob_appears_when_it_is_complete() {
    let (_folder, store) = store();
    let digest = Digest::of_bytes(b"content");
    assert_eq!(store.blob(&digest), None);
    let partial = partial(&store, b"content");
    assert!(partial.is_empty());
    partial.append(b"con").unwrap();
    partial.append(b"tent").unwrap();
    assert_eq!(store.blob(&digest), None);
    let path = partial.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"content");
    assert_eq!(store.blob(&digest), Some(path.clone()));
    assert_eq!(names(&store.ingest_folder()), [""; 0]);
    match store.begin(&digest, 7).unwrap() {
        Ingest::There(there) => assert_eq!(there, path),
        Ingest::Partial(_) => panic!("it is there"),
    }
}

#[test]
fn an_interrupted_blob_is_resumed() {
    let (_folder, store) = store();
    let first = partial(&store, b"content");
    first.append(b"cont").unwrap();
    drop(first);
    let second = partial(&store, b"content");
    assert_eq!(second.len(), 4);
    second.append(b"ent").unwrap();
    assert_eq!(fs::read(second.finish().unwrap()).unwrap(), b"content");
}

/// What a blob is said to need is not kept by what has not arrived of it.
#[test]
fn room_goes_back_with_a_blob_that_is_given_up() {
    let (_folder, store) = store();
    let content = large(1, 1000);
    let path = store.ingest_folder().join(Digest::of_bytes(&content).hex());
    let taken = || fs::metadata(&path).unwrap().blocks() * 512;
    let first = partial(&store, &content);
    assert!(taken() < 1 << 20);
    first.reserve().unwrap();
    first.append(&content[..5000]).unwrap();
    drop(first);
    assert!(taken() < 1 << 20);
    let second = partial(&store, &content);
    assert_eq!(second.len(), 5000);
    second.reserve().unwrap();
    second.append(&content[5000..]).unwrap();
    assert!(fs::read(second.finish().unwrap()).unwrap() == content);
    // Of another one nothing arrives.
    let none = partial(&store, b"content");
    none.reserve().unwrap();
    assert_eq!(names(&store.ingest_folder()).len(), 1);
    drop(none);
    assert_eq!(names(&store.ingest_folder()), [""; 0]);
}

/// Whoever waits for a blob that another process has can say so, and leave.
#[test]
fn waiting_for_a_blob_is_told_and_ends() {
    let (_folder, store) = store();
    let digest = Digest::of_bytes(b"content");
    let mut held = Some(partial(&store, b"content"));
    let full = || Error::io("wait for", "x", io::Error::other("enough"));
    let error = store.begin_or(&digest, 7, || Err(full())).unwrap_err();
    assert!(error.to_string().contains("enough"), "{error}");
    let ingest = store.begin_or(&digest, 7, || {
        drop(held.take().unwrap());
        Ok(())
    });
    assert!(matches!(ingest.unwrap(), Ingest::Partial(_)));
    assert!(held.is_none());
}

#[test]
fn too_few_bytes_stay_and_too_many_are_refused() {
    let (_folder, store) = store();
    let short = partial(&store, b"content");
    short.append(b"con").unwrap();
    assert!(matches!(
        short.finish(),
        Err(Error::Store(StoreError::Size {
            found: 3,
            expected: 7,
            ..
        }))
    ));
    drop(short);
    let long = partial(&store, b"content");
    assert_eq!(long.len(), 3);
    assert!(long.append(b"tents").is_err());
    assert_eq!(long.len(), 3);
    long.append(b"tent").unwrap();
    long.finish().unwrap();
}

#[test]
fn other_bytes_are_thrown_away() {
    let (_folder, store) = store();
    let wrong = partial(&store, b"content");
    wrong.append(b"contend").unwrap();
    let error = wrong.finish().unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Invalid);
    assert_eq!(store.blob(&Digest::of_bytes(b"content")), None);
    assert!(partial(&store, b"content").is_empty());
}

/// What a crash left behind the bytes that had arrived is noticed, whatever it is.
#[test]
fn a_resumed_head_is_hashed_again() {
    let (_folder, store) = store();
    let first = partial(&store, b"content");
    first.append(b"cont").unwrap();
    drop(first);
    let path = store
        .ingest_folder()
        .join(Digest::of_bytes(b"content").hex());
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"\0\0\0\0", 0).unwrap();
    let second = partial(&store, b"content");
    second.append(b"ent").unwrap();
    assert!(matches!(
        second.finish(),
        Err(Error::Store(StoreError::Digest { .. }))
    ));
    fs::write(&path, b"much more than there should be").unwrap();
    assert!(partial(&store, b"content").is_empty());
}

/// A blob of so many whole parts, and some bytes more.
fn large(parts: usize, rest: usize) -> Vec<u8> {
    let length = (parts * (16 << 20)) + rest;
    (0..length).map(|at| (at >> 8) as u8 ^ at as u8).collect()
}

#[test]
fn parts_arrive_in_any_order_and_stay() {
    let (_folder, store) = store();
    let content = large(2, 1000);
    let first = partial(&store, &content);
    let claims: Vec<_> = std::iter::from_fn(|| first.claim()).collect();
    let missing: Vec<_> = claims.iter().map(Claim::missing).collect();
    let (one, two) = (16 << 20, 32 << 20);
    assert_eq!(missing, [0..one, one..two, two..two + 1000]);
    for (mut claim, most) in claims.into_iter().zip([10, 20, 1000]).rev() {
        let range = claim.missing();
        let bytes = &content[range.start as usize..];
        // What belongs to the next part comes back.
        let all = claim.append(&bytes[..most]).unwrap();
        assert_eq!(all.len(), 0);
    }
    assert_eq!(first.len(), 1030);
    drop(first);
    let second = partial(&store, &content);
    assert_eq!(second.len(), 1030);
    assert_eq!(second.claim_from(one).unwrap().missing(), one + 20..two);
    while let Some(mut claim) = second.claim_or_wait() {
        let range = claim.missing();
        let rest = claim.append(&content[range.start as usize..]).unwrap();
        assert_eq!(rest.len() as u64, content.len() as u64 - range.end);
    }
    let path = second.finish().unwrap();
    assert!(fs::read(path).unwrap() == content);
    assert_eq!(names(&store.ingest_folder()), [""; 0]);
}

#[test]
fn a_wrong_part_is_noticed_wherever_it_is() {
    let (_folder, store) = store();
    let content = large(1, 1000);
    let wrong = partial(&store, &content);
    let (mut first, mut second) = (wrong.claim().unwrap(), wrong.claim().unwrap());
    assert!(wrong.claim().is_none());
    second.append(&[7; 1000]).unwrap();
    first.append(&content).unwrap();
    drop((first, second));
    let error = wrong.finish().unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Digest { .. })));
    assert!(partial(&store, &content).is_empty());
}

/// Whoever waits for a part gets it when it is left.
#[test]
fn a_part_that_is_left_is_taken_over() {
    let (_folder, store) = store();
    let content = large(0, 1000);
    let blob = partial(&store, &content);
    let mut claim = blob.claim().unwrap();
    claim.append(&content[..400]).unwrap();
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut claim = blob.claim_or_wait().unwrap();
            claim.append(&content[400..]).map(<[u8]>::len).unwrap()
        });
        drop(claim);
        assert_eq!(other.join().unwrap(), 0);
    });
    assert!(blob.claim_or_wait().is_none());
    blob.finish().unwrap();
}

#[test]
fn a_wrong_size_of_a_blob_that_is_there() {
    let (_folder, store) = store();
    let blob = put(&store, b"content");
    assert!(store.begin(&blob.digest, 8).is_err());
}

/// All want the same blob; one fetches it, and the others find it.
#[test]
fn one_of_many_fetches_a_blob() {
    let (_folder, store) = store();
    let content = vec![7; 100_000];
    let digest = Digest::of_bytes(&content);
    let barrier = Barrier::new(8);
    let fetch = || {
        barrier.wait();
        match store.begin(&digest, content.len() as u64).unwrap() {
            Ingest::There(_) => 0,
            Ingest::Partial(partial) => {
                assert!(partial.is_empty());
                for part in content.chunks(1000) {
                    partial.append(part).unwrap();
                }
                partial.finish().unwrap();
                1
            }
        }
    };
    let fetched: u32 = thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(fetch)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(fetched, 1);
    assert_eq!(names(&store.ingest_folder()), [""; 0]);
    assert_eq!(fs::read(store.blob(&digest).unwrap()).unwrap(), content);
}

#[test]
fn others_cannot_look_into_the_store() {
    let (_folder, store) = store();
    put(&store, b"content");
    for folder in [store.root(), &store.blobs_folder()] {
        assert_eq!(fs::metadata(folder).unwrap().mode() & 0o077, 0);
    }
}

#[test]
fn images_are_found_by_reference_and_digest() {
    let (_folder, store) = store();
    assert_eq!(store.images().unwrap(), []);
    let layer = put(&store, b"layer");
    let app = image("r.example/app:1", std::slice::from_ref(&layer));
    store.record(&app).unwrap();
    let other = image("r.example/app:2", &[layer]);
    store.record(&other).unwrap();
    assert_eq!(store.images().unwrap(), [app.clone(), other]);
    assert_eq!(store.image(&app.reference).unwrap(), Some(app.clone()));
    let pinned = app.reference.with_digest(app.manifest.digest);
    assert_eq!(store.image(&pinned).unwrap(), Some(app.clone()));
    let elsewhere: Reference = format!("r.example/b@{}", app.manifest.digest)
        .parse()
        .unwrap();
    assert_eq!(store.image(&elsewhere).unwrap(), None);
    let moved = ImageRecord {
        manifest: describe(b"another"),
        ..app.clone()
    };
    store.record(&moved).unwrap();
    assert_eq!(store.image(&app.reference).unwrap(), Some(moved));
}

#[test]
fn an_image_without_its_layers_is_not_recorded() {
    let (_folder, store) = store();
    let app = image("r.example/app:1", &[describe(b"layer")]);
    let error = store.record(&app).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::NotFound);
    assert_eq!(store.images().unwrap(), []);
}

#[test]
fn a_record_that_is_none_is_named() {
    let (_folder, store) = store();
    let app = image("r.example/app:1", &[put(&store, b"layer")]);
    store.record(&app).unwrap();
    let path = store
        .images_folder()
        .join(&names(&store.images_folder())[0]);
    fs::write(&path, b"{").unwrap();
    let error = store.images().unwrap_err();
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_configuration_names_the_files() {
    let (_folder, store) = store();
    let (base, top) = (put(&store, b"base"), put(&store, b"top"));
    let mut trace = describe(b"trace");
    let annotation = |name: &str| format!("containerd.io/snapshot/overlaybd/{name}");
    trace
        .annotations
        .insert(annotation("acceleration-layer"), "yes".into());
    let mut app = image("r.example/app:1", &[base.clone(), top, trace]);
    store.record(&app).unwrap();
    let config = store.config(&app).unwrap();
    assert_eq!(config.layers.len(), 2);
    assert_eq!(config.layers[0].file, store.blob(&base.digest));
    assert_eq!(config.layers[0].digest, Some(base.digest));
    assert!(config.notes[0].contains("trace"), "{:?}", config.notes);
    app.layers[0]
        .annotations
        .insert(annotation("turbo-oci/target-digest"), "sha256:x".into());
    let error = store.config(&app).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Invalid);
}

#[test]
fn usage_counts_shared_blobs_once() {
    let (_folder, store) = store();
    assert_eq!(store.usage().unwrap(), Usage::default());
    let base = put(&store, &[1; 9000]);
    let own = put(&store, &[2; 20_000]);
    put(&store, &[3; 5000]);
    let arriving = partial(&store, &[4; 100]);
    arriving.append(&[4; 50]).unwrap();
    let app = image("r.example/app:1", &[base.clone(), own.clone(), own.clone()]);
    let other = image("r.example/app:2", std::slice::from_ref(&base));
    store.record(&app).unwrap();
    store.record(&other).unwrap();
    let on_disk = |blob: &Descriptor| {
        let path = store.blob(&blob.digest).unwrap();
        fs::metadata(path).unwrap().blocks() * 512
    };
    let usage = store.usage().unwrap();
    assert_eq!(usage.blobs, 3);
    assert_eq!(usage.shared_bytes, on_disk(&base));
    assert_eq!(
        usage.bytes,
        usage.shared_bytes + on_disk(&own) + usage.unused_bytes
    );
    assert!(usage.unused_bytes > 0 && usage.partial_bytes > 0);
    let [first, second] = &usage.images[..] else {
        panic!("{usage:?}");
    };
    assert_eq!(first.unique_bytes, on_disk(&own));
    assert_eq!(first.shared_bytes, on_disk(&base));
    assert_eq!((first.layers, first.complete), (3, true));
    assert_eq!((second.unique_bytes, second.bytes), (0, on_disk(&base)));
    fs::remove_file(store.blob(&own.digest).unwrap()).unwrap();
    assert!(!store.usage().unwrap().images[0].complete);
}
