// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Images in a store, as a user meets them.

use std::collections::BTreeMap;
use std::fs;

use ovbd::image::digest::Digest;
use ovbd::store::{Descriptor, ImageRecord, Ingest, Store};

use super::cli::{answer, failure, json, str};
use super::support::golden;

const REFERENCE: &str = "registry.example/app:1";

/// A store with an image of three golden layers.
fn stocked() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(Some(folder.path().to_owned()));
    let layers = [0, 1, 2].map(|n| {
        let content = fs::read(golden(&format!("lsmt/stack{n}.lsmt"))).unwrap();
        put(&store, &content)
    });
    let image = ImageRecord {
        reference: REFERENCE.parse().unwrap(),
        manifest: put(&store, b"{}"),
        layers: layers.to_vec(),
    };
    store.record(&image).unwrap();
    (folder, store)
}

fn put(store: &Store, content: &[u8]) -> Descriptor {
    let blob = Descriptor {
        media_type: String::new(),
        digest: Digest::of_bytes(content),
        size: content.len() as u64,
        annotations: BTreeMap::new(),
    };
    if let Ingest::Partial(partial) = store.begin(&blob.digest, blob.size).unwrap() {
        partial.append(content).unwrap();
        partial.finish().unwrap();
    }
    blob
}

#[test]
fn images_come_and_go() {
    let (folder, store) = stocked();
    let root = str(folder.path());
    let images = json(&["images", "--json", "--store", root]);
    assert_eq!(images["images"][0]["reference"], REFERENCE);
    assert_eq!(images["images"][0]["layers"], 3);
    let usage = json(&["df", "--json", "--store", root]);
    assert_eq!(usage["blobs"], 4);
    assert_eq!(usage["bytes"], usage["images"][0]["unique_bytes"]);
    put(&store, b"nobody's");
    let collected = json(&["gc", "-n", "--json", "--store", root]);
    assert_eq!(collected["removed"].as_array().unwrap().len(), 1);
    assert_eq!(json(&["df", "--json", "--store", root])["blobs"], 5);
    assert!(answer(&["gc", "--store", root]).contains("1 layer is removed"));
    let removed = answer(&["rmi", REFERENCE, "--store", root]);
    assert!(removed.contains("4 layers are removed"), "{removed}");
    assert_eq!(answer(&["df", "--store", root]), "0 blobs, 0 B\n");
    let (code, said) = failure(&["rmi", REFERENCE, "--store", root]);
    assert_eq!((code, said.contains("no such image")), (6, true), "{said}");
}

#[test]
fn a_reference_has_a_table() {
    let (folder, store) = stocked();
    let root = str(folder.path());
    let devices = ["--devices", "/dev/vda,/dev/vdb,/dev/vdc", "--name", "root"];
    let by_reference = [&["table", REFERENCE, "--store", root][..], &devices].concat();
    let files = [0, 1, 2].map(|n| golden(&format!("lsmt/stack{n}.lsmt")));
    let by_files = [&["table"][..], &devices, &files.each_ref().map(|f| str(f))].concat();
    assert_eq!(answer(&by_reference), answer(&by_files));
    let (code, said) = failure(&[
        "table",
        "registry.example/other",
        "--no-pull",
        "--store",
        root,
    ]);
    assert_eq!(code, 6, "{said}");
    assert!(
        said.contains("registry.example/other:latest: no such image"),
        "{said}"
    );
    assert_eq!(store.images().unwrap().len(), 1);
}

#[test]
fn a_hosts_configuration_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("overlaybd.json");
    fs::write(
        &path,
        r#"{"ioEngine": 0, "userAgent": "x", "serviceConfig": {"enable": true}}"#,
    )
    .unwrap();
    let report = json(&["config", "--json", str(&path)]);
    let verdicts: Vec<&str> = report["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|field| field["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["replaced", "missing", "used"]);
    fs::write(&path, "[]").unwrap();
    assert_eq!(failure(&["config", str(&path)]).0, 3);
}

#[test]
fn only_an_initramfs_boots() {
    let (code, said) = failure(&["init"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("not here"), "{said}");
}

#[test]
fn an_image_is_sealed_in_its_store() {
    let (folder, store) = stocked();
    let root = str(folder.path());
    let sealed = json(&["seal", REFERENCE, "--json", "--store", root]);
    let hash = sealed["layers"][0]["root_hash"].as_str().unwrap();
    let image = store.image(&REFERENCE.parse().unwrap()).unwrap().unwrap();
    let config = store.config(&image).unwrap();
    assert_eq!(config.layers[0].root_hash.unwrap().to_string(), hash);
    let blob = store.blob(&image.layers[0].digest).unwrap();
    let tree = ovbd::verity::beside(&blob);
    assert!(tree.exists());
    // Once more is no harm; and what is another layer now is not sealed as that one.
    assert_eq!(
        json(&["seal", REFERENCE, "--json", "--store", root]),
        sealed
    );
    let mut content = fs::read(&blob).unwrap();
    content[5000] ^= 1;
    fs::write(&blob, content).unwrap();
    let (code, error) = failure(&["seal", REFERENCE, "--force", "--store", root]);
    assert_eq!(code, 3);
    let digest = image.layers[0].digest;
    assert!(error.contains(&format!("expected {digest}")), "{error}");
    fs::remove_file(&blob).unwrap();
    json(&["gc", "--json", "--store", root]);
    assert!(!tree.exists());
}
