// SPDX-License-Identifier: GPL-2.0-only OR MIT

use super::*;

const DIGEST: &str = "sha256:e62d9c4d1b6d5b5d7b1ee0e3b31e1b6d1d1b1f6d9d7e3f5c1a2b3c4d5e6f7081";

fn parse(text: &str) -> Result<ImageConfig, ConfigError> {
    ImageConfig::parse(text, Path::new("/images/web/config.v1.json"))
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

/// As a snapshotter writes it for a container that only reads.
#[test]
fn a_snapshotters_configuration() {
    let text = format!(
        r#"{{
        "repoBlobUrl": "https://registry.example/v2/library/redis/blobs",
        "lowers": [
            {{"digest": "{DIGEST}", "size": 43446424, "dir": "/var/lib/snapshots/1"}},
            {{"file": "/opt/overlaybd/baselayers/ext4_64"}},
            {{"file": "", "digest": "", "dir": "snapshots/3"}}
        ],
        "upper": {{"index": "", "data": ""}},
        "resultFile": "/var/lib/snapshots/3/init-debug.log"
        }}"#
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.notes, [""; 0]);
    assert_eq!(
        config.result_file.unwrap(),
        Path::new("/var/lib/snapshots/3/init-debug.log")
    );
    let [first, second, third] = &config.layers[..] else {
        panic!("{:?}", config.layers);
    };
    assert_eq!(
        first.dir.as_deref(),
        Some(Path::new("/var/lib/snapshots/1"))
    );
    assert_eq!(first.digest.unwrap().to_string(), DIGEST);
    let url = format!("https://registry.example/v2/library/redis/blobs/{DIGEST}");
    assert_eq!(first.url.as_deref(), Some(url.as_str()));
    assert_eq!(
        second.file.as_deref(),
        Some(Path::new("/opt/overlaybd/baselayers/ext4_64"))
    );
    // Relative to the configuration; empty texts mean nothing.
    assert_eq!(
        third.dir.as_deref(),
        Some(Path::new("/images/web/snapshots/3"))
    );
    assert_eq!(
        (&third.file, &third.digest, &third.url),
        (&None, &None, &None)
    );
}

#[test]
fn what_changes_nothing_is_named() {
    let config = parse(
        r#"{"lowers": [{"file": "a", "colour": "red"}, {"file": "trace"}], "upper": null,
            "accelerationLayer": true, "recordTracePath": "",
            "download": {"enable": true, "delay": 120, "delayExtra": 30, "maxMBps": 10,
                         "tryCnt": 3, "blockSize": 262144, "maxMbps": 1},
            "resultfile": "typo"}"#,
    )
    .unwrap();
    assert_eq!(config.layers.len(), 1);
    let fields: Vec<&str> = config
        .notes
        .iter()
        .map(|note| note.split_once(": ").unwrap().1.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        fields,
        [
            "resultfile",
            "download.maxMbps",
            "accelerationLayer",
            "lowers[0].colour"
        ]
    );
    let expected = Download {
        max_rate: Some(10),
        tries: Some(3),
    };
    assert_eq!(config.download, expected);
}

#[test]
fn what_changes_the_device_is_refused() {
    let upper = refusal(r#"{"lowers": [{"file": "a"}], "upper": {"data": "/d", "index": "/i"}}"#);
    assert!(upper.contains("upper.data is not supported"), "{upper}");
    for field in ["targetFile", "targetDigest", "gzipIndex"] {
        let text = format!(r#"{{"lowers": [{{"file": "a"}}, {{"file": "b", "{field}": "/t"}}]}}"#);
        let reason = refusal(&text);
        assert!(
            reason.contains(&format!("lowers[1].{field} is not supported")),
            "{reason}"
        );
    }
    let trace = refusal(r#"{"lowers": [{"file": "a"}], "recordTracePath": "/t"}"#);
    assert!(
        trace.contains("recordTracePath is not supported"),
        "{trace}"
    );
}

#[test]
fn nonsense_is_refused() {
    for (text, part) in [
        ("{", "EOF"),
        (r#"{"lowers": 3}"#, "line 1"),
        (r#"{"lowers": []}"#, "lowers: there is no layer"),
        (r#"{}"#, "lowers: there is no layer"),
        (
            r#"{"accelerationLayer": true, "lowers": [{"file": "a"}]}"#,
            "there is no layer",
        ),
        (r#"{"lowers": [{}]}"#, "lowers[0]: has none of"),
        (
            r#"{"lowers": [{"file": "a"}], "download": {"maxMBps": "10"}}"#,
            "download: invalid type",
        ),
        (
            r#"{"lowers": [{"file": "a", "digest": "sha256:12"}]}"#,
            "lowers[0].digest: `sha256:12`",
        ),
        (r#"{"lowers": [{"file": "a", "file": "b"}]}"#, "duplicate"),
    ] {
        let reason = refusal(text);
        assert!(
            reason.starts_with("/images/web/config.v1.json: "),
            "{reason}"
        );
        assert!(reason.contains(part), "{text}: {reason}");
    }
}

#[test]
fn a_layer_is_found_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    let mut layer = LayerConfig {
        dir: Some(dir.to_owned()),
        digest: DIGEST.parse().ok(),
        url: Some("https://registry.example/blob".into()),
        ..LayerConfig::default()
    };
    let missing = layer.locate().unwrap_err();
    assert_eq!(missing.exit_code(), ExitCode::NotFound);
    assert_eq!(
        missing.to_string(),
        format!(
            "layer {DIGEST} is not on this host: {0} has no overlaybd.commit; \
             download https://registry.example/blob to {0}/overlaybd.commit",
            dir.display()
        )
    );
    // Each is preferred to those before it.
    for name in ["overlaybd.sealed", ".commit", "overlaybd.commit"] {
        fs::write(dir.join(name), "").unwrap();
        assert_eq!(layer.locate().unwrap(), dir.join(name));
    }
    layer.file = Some("/elsewhere".into());
    assert_eq!(layer.locate().unwrap(), Path::new("/elsewhere"));
}

#[test]
fn arguments_are_a_configuration_or_layers() {
    let layers = ["a.zfile".into(), "b.lsmt".into()];
    let config = ImageConfig::from_arguments(&layers).unwrap();
    assert_eq!(config, ImageConfig::of_files(layers));
    let missing = ImageConfig::from_arguments(&["/nowhere/config.v1.json".into()]).unwrap_err();
    assert_eq!(missing.exit_code(), ExitCode::NotFound);
}

#[test]
fn results_are_in_the_reference_s_words() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result");
    fs::write(&file, "an older and longer text").unwrap();
    write_result(&file, None).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "success");
    let failure = Error::io("open", "/l", std::io::ErrorKind::NotFound.into());
    write_result(&file, Some(&failure)).unwrap();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "failed:/l: cannot open: entity not found"
    );
}

/// In one step: who looks again and again never sees half a result.
#[test]
fn a_result_is_there_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("result");
    fs::write(&file, "an older text").unwrap();
    let before = fs::File::open(&file).unwrap();
    write_result(&file, None).unwrap();
    assert_eq!(std::io::read_to_string(before).unwrap(), "an older text");
    // But what a link leads to is written.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let failure = Error::io("open", "/l", std::io::ErrorKind::NotFound.into());
    write_result(&link, Some(&failure)).unwrap();
    assert!(fs::read_to_string(&file).unwrap().starts_with("failed:"));
}

#[test]
fn an_address_is_named_without_its_secrets() {
    let text = format!(
        r#"{{"repoBlobUrl": "https://me:hunter2@r.example/v2/a/blobs", "lowers": [{{"digest": "{DIGEST}"}}]}}"#
    );
    let config = parse(&text).unwrap();
    let missing = config.layers[0].locate().unwrap_err().to_string();
    assert!(
        missing.contains("download https://r.example/v2/a/blobs/sha256:"),
        "{missing}"
    );
    assert!(!missing.contains("hunter2"), "{missing}");
}

#[test]
fn root_hashes_are_read() {
    let root = "0123456789abcdef".repeat(4);
    let text = format!(
        r#"{{"lowers": [
            {{"file": "a", "verityRootHash": "{root}"}},
            {{"file": "b", "verityRootHash": "{root}", "verityTree": "trees/b", "verityRootHashSig": "b.p7s"}},
            {{"file": "c", "verityRootHash": ""}}
        ]}}"#
    );
    let config = parse(&text).unwrap();
    assert_eq!(config.notes, [""; 0]);
    let roots: Vec<_> = config.layers.iter().map(|layer| layer.root_hash).collect();
    let expected = Some(root.parse().unwrap());
    assert_eq!(roots, [expected, expected, None]);
    let tree = config.layers[1].hash_tree.as_deref();
    assert_eq!(tree, Some(Path::new("/images/web/trees/b")));
    let signature = config.layers[1].signature.as_deref();
    assert_eq!(signature, Some(Path::new("/images/web/b.p7s")));
    let wrong = refusal(r#"{"lowers": [{"file": "a", "verityRootHash": "00"}]}"#);
    assert!(
        wrong.contains("lowers[0].verityRootHash: `00` is no root hash"),
        "{wrong}"
    );
    for field in ["verityTree", "verityRootHashSig"] {
        let alone = refusal(&format!(
            r#"{{"lowers": [{{"file": "a", "{field}": "t"}}]}}"#
        ));
        assert!(
            alone.contains(&format!("lowers[0].{field}: without")),
            "{alone}"
        );
    }
}
