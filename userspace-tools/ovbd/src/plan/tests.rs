// SPDX-License-Identifier: GPL-2.0-only OR MIT

use std::fs;
use std::io::Write;

use overlaybd_format::zfile::Algorithm;

use super::*;
use crate::image::digest::Digest;
use crate::image::layer::{LayerSettings, LayerWriter};
use crate::image::output::{BlobWriter, OutputSettings, Wrapper};
use crate::image::zwriter::{ZSettings, ZWriter};
use crate::output::Progress;
use crate::verity::seal::{seal, Known, Options, Sealed};
use crate::verity::{RootHash, VerityError};

/// Bytes of the layer that [`lsmt`] writes: header, a sector, index, trailer.
pub(crate) const LSMT_LENGTH: usize = 4096 + 512 + 4096 + 4096;

/// A layer of a disk of `sectors`, with `fill` in its first sector.
pub(crate) fn lsmt(sectors: u64, fill: u8) -> Vec<u8> {
    let settings = LayerSettings {
        virtual_size: sectors * SECTOR,
        ..LayerSettings::default()
    };
    let mut writer = LayerWriter::new(Vec::new(), settings).unwrap();
    writer.data(0, &[fill; 512]).unwrap();
    writer.finish().unwrap().0
}

/// The same, compressed.
pub(crate) fn compressed(folder: &Path, name: &str, content: &[u8], wrapper: Wrapper) -> PathBuf {
    let path = folder.join(name);
    let settings = ZSettings {
        algorithm: Algorithm::Lz4,
        block_size: 4096,
        checksums: true,
        overwrite_header: false,
    };
    let output = OutputSettings {
        path: path.clone(),
        replace: true,
        wrapper,
    };
    let mut writer = ZWriter::new(BlobWriter::create(&output).unwrap(), settings).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap().0.finish().unwrap();
    path
}

pub(crate) fn zfile(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    compressed(folder, name, content, Wrapper::None)
}

pub(crate) fn plain(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path
}

pub(crate) fn plan(files: &[&Path]) -> Result<Plan> {
    let config = ImageConfig::of_files(files.iter().map(|&file| file.to_owned()));
    Plan::new(&config, Settings::default())
}

/// The same, sealed.
pub(crate) fn sealed_plan(files: &[&Path]) -> Result<Plan> {
    let mut config = ImageConfig::of_files(files.iter().map(|&file| file.to_owned()));
    for layer in &mut config.layers {
        layer.root_hash = Some(seal_layer(layer.file.as_ref().unwrap()).root_hash);
    }
    Plan::new(&config, Settings::default())
}

fn seal_layer(file: &Path) -> Sealed {
    let (options, known) = (Options::default(), Known::default());
    seal(file, &options, known, &Progress::hidden()).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

#[test]
fn the_topmost_size_counts() {
    let folder = tempfile::tempdir().unwrap();
    let lower = plain(folder.path(), "a", &lsmt(64, 1));
    let upper = zfile(folder.path(), "b", &lsmt(16, 2));
    let plan = plan(&[&lower, &upper]).unwrap();
    assert_eq!(plan.sectors, 16);
    assert_eq!(plan.notes, [""; 0]);
    let [lower, upper] = &plan.layers[..] else {
        panic!("{:?}", plan.layers);
    };
    assert_eq!((lower.form, lower.offset), (Form::Lsmt, 0));
    assert_eq!(lower.length, LSMT_LENGTH as u64);
    let original = LSMT_LENGTH as u64;
    assert_eq!(
        upper.form,
        Form::Zfile {
            original,
            ignore_crc: false
        }
    );
    assert_eq!(upper.end(), fs::metadata(&upper.path).unwrap().len());
    assert_eq!(plan.targets(), ["zfile", "lsmt"]);
}

#[test]
fn a_file_is_a_layer_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = |content: &[u8]| plain(folder.path(), "x", content);
    let mut cut = lsmt(16, 1);
    cut.truncate(LSMT_LENGTH - 1);
    for content in [&b""[..], b"text", &cut] {
        let error = plan(&[&file(content)]).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::Invalid, "{error}");
        assert!(
            error
                .to_string()
                .starts_with(&*folder.path().to_string_lossy()),
            "{error}"
        );
    }
    // A ZFile of something else.
    let text = zfile(folder.path(), "t", &[b'x'; 10000]);
    assert_eq!(plan(&[&text]).unwrap_err().exit_code(), ExitCode::Invalid);
    let missing = plan(&[&folder.path().join("none")]).unwrap_err();
    assert_eq!(missing.exit_code(), ExitCode::NotFound);
    // No layer says how large the disk is.
    assert_eq!(
        plan(&[&file(&lsmt(0, 1))]).unwrap_err().exit_code(),
        ExitCode::Invalid
    );
}

#[test]
fn layers_are_1_to_255() {
    let folder = tempfile::tempdir().unwrap();
    let file = plain(folder.path(), "a", &lsmt(16, 1));
    assert_eq!(plan(&vec![&*file; 255]).unwrap().layers.len(), 255);
    for count in [0, 256] {
        let error = plan(&vec![&*file; count]).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("{count} layers")),
            "{error}"
        );
    }
}

#[test]
fn layers_that_were_not_made_for_each_other_are_noted() {
    let folder = tempfile::tempdir().unwrap();
    let uuid = |text| Uuid::parse(text);
    let file = |name, uuid, parent_uuid| {
        let settings = LayerSettings {
            virtual_size: 8192,
            uuid,
            parent_uuid,
            tag: Vec::new(),
        };
        let layer = LayerWriter::new(Vec::new(), settings)
            .unwrap()
            .finish()
            .unwrap()
            .0;
        plain(folder.path(), name, &layer)
    };
    let one = uuid("6F1B2C3D-0000-4000-8000-000000000001");
    let two = uuid("6F1B2C3D-0000-4000-8000-000000000002");
    let lower = file("lower", one, None);
    let right = file("right", two, one);
    let wrong = file("wrong", two, two);
    assert_eq!(plan(&[&lower, &right]).unwrap().notes, [""; 0]);
    let notes = plan(&[&lower, &wrong]).unwrap().notes;
    let expected = format!(
        "{}: was made for another layer than the one below it",
        wrong.display()
    );
    assert_eq!(notes, [expected]);
}

#[test]
fn an_image_is_its_name_layers_and_settings() {
    let folder = tempfile::tempdir().unwrap();
    let a = zfile(folder.path(), "a", &lsmt(16, 1));
    let b = zfile(folder.path(), "b", &lsmt(16, 2));
    let uuid = plan(&[&a, &b]).unwrap().uuid(&name("web"));
    assert!(uuid.starts_with("OVBD-I-"));
    assert_eq!(plan(&[&a, &b]).unwrap().uuid(&name("web")), uuid);
    assert_ne!(plan(&[&a, &b]).unwrap().uuid(&name("api")), uuid);
    assert_ne!(plan(&[&b, &a]).unwrap().uuid(&name("web")), uuid);
    assert_ne!(plan(&[&a]).unwrap().uuid(&name("web")), uuid);
    let config = ImageConfig::of_files([a, b]);
    let unchecked = Plan::new(
        &config,
        Settings {
            ignore_crc: true,
            ..Settings::default()
        },
    )
    .unwrap();
    assert_ne!(unchecked.uuid(&name("web")), uuid);
    for (layer, checked) in unchecked.layers.iter().zip(plan_layers(&config)) {
        assert_ne!(layer.identity(), checked.identity());
    }
}

fn plan_layers(config: &ImageConfig) -> Vec<Layer> {
    Plan::new(config, Settings::default()).unwrap().layers
}

#[test]
fn a_layer_is_its_file_whatever_digest_it_claims() {
    let folder = tempfile::tempdir().unwrap();
    let content = lsmt(16, 1);
    let one = zfile(folder.path(), "one", &content);
    let copy = zfile(folder.path(), "copy", &content);
    let link = folder.path().join("link");
    fs::hard_link(&one, &link).unwrap();
    let digest = Digest::of_bytes(&fs::read(&one).unwrap());
    let identity = |path: &Path, digest: Option<Digest>| {
        let mut config = ImageConfig::of_files([path.to_owned()]);
        config.layers[0].digest = digest;
        plan_layers(&config)[0].identity()
    };
    assert_eq!(identity(&one, None), identity(&link, Some(digest)));
    assert_ne!(identity(&one, None), identity(&copy, None));
    // Both say so; whether it is true was not looked at.
    assert_ne!(identity(&one, Some(digest)), identity(&copy, Some(digest)));
}

#[test]
fn a_file_that_is_rewritten_in_place_is_another_layer() {
    let folder = tempfile::tempdir().unwrap();
    let file = zfile(folder.path(), "a", &lsmt(16, 1));
    let before = plan(&[&file]).unwrap();
    let inode = fs::metadata(&file).unwrap().ino();
    let other = zfile(folder.path(), "other", &lsmt(16, 2));
    fs::write(&file, fs::read(other).unwrap()).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
    let after = plan(&[&file]).unwrap();
    assert_eq!(before.layers[0].length, after.layers[0].length);
    assert_ne!(before.layers[0].identity(), after.layers[0].identity());
    assert_ne!(
        before.layers[0].joined_identity(512),
        after.layers[0].joined_identity(512)
    );
}

#[test]
fn a_joined_device_knows_its_block() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(&[&zfile(folder.path(), "a", &lsmt(16, 1))]).unwrap();
    let layer = &plan.layers[0];
    assert_ne!(layer.joined_identity(512), layer.joined_identity(4096));
}

#[test]
fn a_sealed_layer_is_its_root_hash() {
    let folder = tempfile::tempdir().unwrap();
    let layer = zfile(folder.path(), "a", &lsmt(16, 1));
    let copy = zfile(folder.path(), "copy", &lsmt(16, 1));
    let other = zfile(folder.path(), "other", &lsmt(16, 2));
    let identity = |plan: Plan| plan.layers[0].identity();
    let sealed = |path: &Path| identity(sealed_plan(&[path]).unwrap());
    assert_eq!(sealed(&layer), sealed(&copy));
    assert_ne!(sealed(&layer), sealed(&other));
    // What is verified is not shared with what is not.
    assert_ne!(sealed(&layer), identity(plan(&[&layer]).unwrap()));
    let targets = sealed_plan(&[&layer]).unwrap().targets();
    assert_eq!(targets, ["verity", "zfile", "lsmt"]);
}

#[test]
fn what_is_demanded_has_to_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let layer = plain(folder.path(), "a", &lsmt(16, 1));
    let root_hash = seal_layer(&layer).root_hash;
    let tree = crate::verity::beside(&layer);
    let planned = |root_hashes: &[RootHash], hash_trees: &[&Path], required| {
        let verity = Demand {
            required,
            root_hashes: root_hashes.to_vec(),
            hash_trees: hash_trees.iter().map(|&tree| tree.to_owned()).collect(),
            signatures: Vec::new(),
        };
        let settings = Settings {
            verity,
            ..Settings::default()
        };
        let config = ImageConfig::of_files([layer.clone()]);
        Plan::new(&config, settings).map(|plan| plan.layers[0].seal.is_some())
    };
    assert!(!planned(&[], &[], false).unwrap());
    assert!(planned(&[root_hash], &[], false).unwrap());
    assert!(planned(&[root_hash], &[&tree], true).unwrap());
    for (root_hashes, trees, required, code) in [
        (&[][..], &[][..], true, ExitCode::Invalid),
        // A tree without a root hash vouches for nothing.
        (&[], &[&*tree], false, ExitCode::Invalid),
        (&[root_hash; 2], &[], false, ExitCode::Usage),
        (&[root_hash], &[&*tree; 2], false, ExitCode::Usage),
    ] {
        let error = planned(root_hashes, trees, required).unwrap_err();
        assert_eq!(error.exit_code(), code, "{error}");
    }
    let error = planned(&[RootHash::new([1; 32])], &[], false).unwrap_err();
    assert!(
        matches!(error, Error::Verity(VerityError::Root { .. })),
        "{error}"
    );
}

/// A configuration that knows the length of a blob is not taken in by a tree of another one. The file
/// may have been unwrapped from its tar.
#[test]
fn a_known_size_counts() {
    let folder = tempfile::tempdir().unwrap();
    let tar = compressed(folder.path(), "tar", &lsmt(16, 1), Wrapper::Pax);
    let bare = plain(folder.path(), "bare", &lsmt(16, 1));
    for (layer, change, fits) in [
        (&tar, 0, true),
        (&tar, 4096, false),
        (&tar, -4096, false),
        (&bare, 0, true),
        (&bare, 1536, true),
        (&bare, 10240, true),
        (&bare, -512, false),
    ] {
        let length = fs::metadata(layer).unwrap().len();
        let size = length.checked_add_signed(change).unwrap();
        let mut config = ImageConfig::of_files([layer.clone()]);
        config.layers[0].root_hash = Some(seal_layer(layer).root_hash);
        config.layers[0].size = Some(size);
        match Plan::new(&config, Settings::default()) {
            Ok(_) => assert!(fits, "{}: {size}", layer.display()),
            Err(error) => {
                assert!(!fits, "{error}");
                for words in [format!("has {length} bytes"), format!("blob has {size}:")] {
                    assert!(error.to_string().contains(&words), "{error}");
                }
            }
        }
    }
}

/// Only what was sealed is parsed.
#[test]
fn a_changed_layer_is_not_parsed() {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("bare", lsmt(16, 1)), ("zfile", Vec::new())] {
        let layer = match content.is_empty() {
            true => zfile(folder.path(), name, &lsmt(16, 1)),
            false => plain(folder.path(), name, &content),
        };
        let good = fs::read(&layer).unwrap();
        let root_hash = seal_layer(&layer).root_hash;
        for at in [9, good.len() - 500] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&layer, bad).unwrap();
            let mut config = ImageConfig::of_files([layer.clone()]);
            config.layers[0].root_hash = Some(root_hash);
            let error = Plan::new(&config, Settings::default()).unwrap_err();
            assert!(
                error.to_string().contains("are not those that were sealed"),
                "{error}"
            );
            assert_eq!(error.exit_code(), ExitCode::Invalid);
        }
    }
}

/// Data are for the kernel to check, when they are read: what is wrong there does not keep the rest of an
/// image from being used.
#[test]
fn data_are_not_read_beforehand() {
    let folder = tempfile::tempdir().unwrap();
    let layer = plain(folder.path(), "a", &lsmt(16, 1));
    let mut config = ImageConfig::of_files([layer.clone()]);
    config.layers[0].root_hash = Some(seal_layer(&layer).root_hash);
    let mut content = fs::read(&layer).unwrap();
    content[4100] ^= 1;
    fs::write(&layer, content).unwrap();
    Plan::new(&config, Settings::default()).unwrap();
}
