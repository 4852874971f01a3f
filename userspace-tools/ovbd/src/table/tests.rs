// SPDX-License-Identifier: GPL-2.0-only OR MIT

use std::path::Path;

use super::*;
use crate::image::output::Wrapper;
use crate::plan::tests::{
    compressed as wrapped, lsmt as lsmt_bytes, plain, plan, sealed_plan, zfile as zfile_file,
    LSMT_LENGTH,
};

fn name() -> Name {
    Name::new("web").unwrap()
}

/// A layer's device, and one for its hash tree.
fn lowers(data: &str) -> Lowers {
    Lowers {
        data: data.to_owned(),
        tree: format!("{data}-tree"),
    }
}

#[test]
fn sealed_layers_have_verity_devices() {
    let folder = tempfile::tempdir().unwrap();
    let bare = plain(folder.path(), "bare", &lsmt_bytes(64, 1));
    let compressed = zfile_file(folder.path(), "compressed", &lsmt_bytes(64, 2));
    let plan = sealed_plan(&[&bare, &compressed]).unwrap();
    let length = std::fs::metadata(&compressed).unwrap().len();
    let root = |at: usize| plan.layers[at].seal.as_ref().unwrap().tree.root();
    let devices = devices(&plan, &name(), &["/dev/vdb", "/dev/vdc"].map(lowers));
    let [first, second, zfile, image] = &devices[..] else {
        panic!("{devices:?}");
    };
    assert_eq!(
        first.table[0].to_string(),
        format!(
            "0 25 verity 1 /dev/vdb /dev/vdb-tree 512 4096 25 1 sha256 {} -",
            root(0)
        )
    );
    let blocks = length.div_ceil(4096);
    assert_eq!(
        second.table[0].to_string(),
        format!(
            "0 {} verity 1 /dev/vdc /dev/vdc-tree 4096 4096 {blocks} 1 sha256 {} -",
            blocks * 8,
            root(1)
        )
    );
    assert_eq!(
        zfile.table[0].to_string(),
        format!("0 25 zfile /dev/mapper/{} 0 {length}", second.name)
    );
    assert_eq!(
        image.table[0].to_string(),
        format!(
            "0 64 lsmt 2 /dev/mapper/{} 0 12800 /dev/mapper/{} 0 12800",
            first.name, zfile.name
        )
    );
    // Its last block is not a whole one of 4096 bytes.
    let needs = needs(&plan, true);
    assert_eq!(needs.len(), 1);
    assert!(
        needs[0].contains(&format!("to {} bytes", blocks * 4096)),
        "{needs:?}"
    );
    let stand_in = &stand_ins(&plan)[0];
    assert_eq!(stand_in.tree, format!("{{{}.verity}}", bare.display()));
}

#[test]
fn tables_are_as_written_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let bare = plain(folder.path(), "bare", &lsmt_bytes(64, 1));
    let compressed = zfile_file(folder.path(), "compressed", &lsmt_bytes(64, 2));
    let length = std::fs::metadata(&compressed).unwrap().len();
    let wrapped = wrapped(folder.path(), "wrapped", &lsmt_bytes(64, 2), Wrapper::Ustar);
    let plan = plan(&[&bare, &compressed, &wrapped]).unwrap();
    let devices = devices(
        &plan,
        &name(),
        &["/dev/vdb", "/dev/vdc", "/dev/vdd"].map(lowers),
    );
    let [second, third, image] = &devices[..] else {
        panic!("{devices:?}");
    };
    assert_eq!(LSMT_LENGTH, 12800);
    assert_eq!(
        second.table[0].to_string(),
        format!("0 25 zfile /dev/vdc 0 {length}")
    );
    assert_eq!(
        third.table[0].to_string(),
        format!("0 25 zfile /dev/vdd 1 {length}")
    );
    let expected = format!(
        "0 64 lsmt 3 /dev/vdb 0 12800 /dev/mapper/{} 0 12800 /dev/mapper/{} 0 12800",
        second.name, third.name
    );
    assert_eq!(image.table[0].to_string(), expected);
    assert_eq!(
        (image.name.as_str(), &image.uuid),
        ("web", &plan.uuid(&name()))
    );
    let text = lines(&devices);
    assert_eq!(text.lines().count(), 3);
    assert!(text.ends_with(&format!("\nweb: {expected}\n")), "{text}");
}

#[test]
fn a_layer_that_is_there_twice_has_one_device() {
    let folder = tempfile::tempdir().unwrap();
    let layer = zfile_file(folder.path(), "a", &lsmt_bytes(64, 1));
    let plan = plan(&[&layer, &layer]).unwrap();
    assert_eq!(devices(&plan, &name(), &["a", "a"].map(lowers)).len(), 2);
}

#[test]
fn settings_are_options() {
    let folder = tempfile::tempdir().unwrap();
    let layer = zfile_file(folder.path(), "a", &lsmt_bytes(64, 1));
    let plan = plan(&[&layer]).unwrap();
    let line = zfile(&plan.layers[0], "7:0", 513, true);
    let length = plan.layers[0].length;
    assert_eq!(
        line.to_string(),
        format!("0 2 zfile 7:0 0 {length} 1 ignore_crc")
    );
}

#[test]
fn a_tail_is_behind_the_rest() {
    let [whole, tail] = joined("7:0", 25, "7:1", 1);
    assert_eq!(whole.to_string(), "0 25 linear 7:0 0");
    assert_eq!(tail.to_string(), "25 1 linear 7:1 0");
}

#[test]
fn concise_lines_are_escaped() {
    let table = |params: &str| Target {
        start: 0,
        length: 8,
        kind: "x".into(),
        params: params.into(),
    };
    let device = |name: &str, table| Device {
        name: name.into(),
        uuid: "U-1".into(),
        table,
    };
    let devices = [
        device("a", vec![table("{/l,1} 0"), table(r"\ b;")]),
        device("b", vec![table("c")]),
    ];
    let expected = concat!(
        r"a,U-1,,ro,0 8 x {/l\,1} 0,0 8 x \\ b\;",
        ";",
        "b,U-1,,ro,0 8 x c\n"
    );
    assert_eq!(concise(&devices), expected);
}

#[test]
fn what_files_need_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let content = lsmt_bytes(64, 1);
    let even = plain(folder.path(), "even", &content);
    let plan_of = |file: &Path| plan(&[file]).unwrap();
    assert_eq!(
        stand_ins(&plan_of(&even))[0].data,
        format!("{{{}}}", even.display())
    );
    assert_eq!(needs(&plan_of(&even), false).len(), 1);
    assert_eq!(needs(&plan_of(&even), true), [""; 0]);

    let odd = zfile_file(folder.path(), "odd", &content);
    let length = std::fs::metadata(&odd).unwrap().len();
    assert_ne!(length % 512, 0);
    let need = needs(&plan_of(&odd), true);
    assert!(
        need[0].contains(&format!("to {} bytes", length.next_multiple_of(512))),
        "{need:?}"
    );
    // Padding of a tar is not part of the layer.
    let wrapped = wrapped(folder.path(), "wrapped", &content, Wrapper::Pax);
    assert_eq!(needs(&plan_of(&wrapped), true), [""; 0]);
}
