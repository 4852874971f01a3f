// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Debian's `docker-registry`, and `skopeo` as a client that knows nothing of us.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{assert_store_holds, noise};

/// How long a registry may take to start.
const START: Duration = Duration::from_secs(60);
/// `me` with the password `hunter2`, as bcrypt has it.
const HTPASSWD: &str = "me:$2y$04$ovbdtestsaltsaltsaltsOW998z8PDEKRJyCpiquulz2tGF3aT.BW\n";

/// A registry that is killed in the end.
struct Registry {
    process: Child,
    host: String,
}

impl Registry {
    /// Starts a registry that keeps all it has in `folder`; `more` is appended to its
    /// configuration, behind `http:`.
    fn start(folder: &Path, more: &str) -> Self {
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            // Another process may take the port meanwhile; then the registry ends, and we try again.
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let host = free.local_addr().unwrap().to_string();
            drop(free);
            let config = folder.join("registry.yml");
            let root = folder.join("registry");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\n\
                 {more}\n  addr: {host}\n",
                root.display()
            );
            fs::write(&config, text).unwrap();
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("docker-registry is needed: test-vm/setup installs it");
            while process.try_wait().unwrap().is_none() && Instant::now() < deadline {
                if TcpStream::connect(&host).is_ok() {
                    return Self { process, host };
                }
                thread::sleep(Duration::from_millis(10));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("docker-registry does not start");
    }

    fn image(&self, tag: &str) -> String {
        format!("{}/team/app:{tag}", self.host)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs a command that has to succeed; gives its standard output.
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn ovbd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ovbd"));
    command
        .args(arguments)
        .env("REGISTRY_AUTH_FILE", "/dev/null");
    command
}

fn skopeo(arguments: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.args(arguments);
    command
}

/// Two layers of a disk that is an ext file system as far as its magic number goes.
pub fn layers(folder: &Path) -> [PathBuf; 2] {
    let mut disk = noise(1, 2 << 20);
    disk[1024 + 56..1024 + 58].copy_from_slice(&0xef53u16.to_le_bytes());
    let (raw, base, top) = (
        folder.join("raw"),
        folder.join("base.tar"),
        folder.join("top.tar"),
    );
    fs::write(&raw, &disk).unwrap();
    let build = |more: &[&Path], output: &Path| {
        let mut command = ovbd(&["build", "--tar", "--raw"]);
        run(command.arg(&raw).arg("--output").arg(output).args(more));
    };
    build(&[], &base);
    disk[1 << 20..].copy_from_slice(&noise(2, 1 << 20));
    fs::write(&raw, &disk).unwrap();
    build(&[Path::new("--base"), &base], &top);
    [base, top]
}

fn contents(files: &[PathBuf]) -> Vec<Vec<u8>> {
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

fn push(reference: &str, layers: &[PathBuf], more: &[&str]) -> Value {
    let mut command = ovbd(&["push", "--json", reference]);
    let output = run(command.args(layers).args(more));
    serde_json::from_str(output.lines().last().unwrap()).unwrap()
}

#[test]
fn what_we_push_others_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), "http:");
    let layers = layers(folder.path());
    let done = push(&registry.image("1"), &layers, &[]);
    let sizes: u64 = contents(&layers).iter().map(|l| l.len() as u64).sum();
    assert_eq!(done["transferred"], sizes);
    // The second time everything is there.
    assert_eq!(push(&registry.image("2"), &layers, &[])["transferred"], 0);

    let source = format!("docker://{}", registry.image("1"));
    let raw = run(&mut skopeo(&[
        "inspect",
        "--raw",
        "--tls-verify=false",
        &source,
    ]));
    let manifest: Value = serde_json::from_str(&raw).unwrap();
    for (layer, content) in manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .zip(contents(&layers))
    {
        let annotation = |name: &str| {
            layer["annotations"][format!("containerd.io/snapshot/overlaybd/{name}")].clone()
        };
        assert_eq!(annotation("blob-digest"), layer["digest"]);
        assert_eq!(annotation("blob-size"), content.len().to_string());
        assert_eq!(annotation("blob-fs-type"), "ext4");
        assert_eq!(annotation("version"), "0.1.0");
    }
    // It fetches every blob and compares all digests.
    let copy = folder.path().join("copy");
    let target = format!("dir:{}", copy.display());
    run(&mut skopeo(&[
        "copy",
        "--src-tls-verify=false",
        &source,
        &target,
    ]));
    for (layer, content) in manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .zip(contents(&layers))
    {
        let name = layer["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        assert!(fs::read(copy.join(name)).unwrap() == content);
    }
}

#[test]
fn what_others_copied_we_can_pull() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), "http:");
    let layers = layers(folder.path());
    push(&registry.image("1"), &layers, &[]);
    let [from, to] = ["1", "copied"].map(|tag| format!("docker://{}", registry.image(tag)));
    let plain = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    run(skopeo(&["copy", &from, &to]).args(plain));
    let store = folder.path().join("store");
    run(ovbd(&["pull", &registry.image("copied"), "--store"]).arg(&store));
    assert_store_holds(&store, &contents(&layers));
}

#[test]
fn another_command_fetches_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), "http:");
    let layers = layers(folder.path());
    push(&registry.image("1"), &layers, &[]);
    let store = folder.path().join("store");
    let tables = run(ovbd(&["table", "--json", &registry.image("1"), "--store"]).arg(&store));
    assert_store_holds(&store, &contents(&layers));
    // One document, and nothing of the fetching in front of it.
    let tables: Value = serde_json::from_str(&tables).unwrap();
    assert!(tables["version"].is_number());

    // The same with a configuration that says where each layer is to be had.
    let lowers = layers.each_ref().map(|layer| {
        let content = fs::read(layer).unwrap();
        let digest = ovbd::image::digest::Digest::of_bytes(&content);
        serde_json::json!({"digest": digest.to_string(), "size": content.len()})
    });
    let url = format!("http://{}/v2/team/app/blobs", registry.host);
    let config = folder.path().join("config.v1.json");
    let text = serde_json::json!({"repoBlobUrl": url, "lowers": lowers}).to_string();
    fs::write(&config, text).unwrap();
    let other = folder.path().join("other");
    run(ovbd(&["table"]).arg(&config).arg("--store").arg(&other));
    assert_store_holds(&other, &contents(&layers));
}

#[test]
fn an_ordinary_image_leads_to_its_overlaybd_form() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), "http:");
    let layers = layers(folder.path());
    let store = folder.path().join("store");
    ordinary(folder.path(), &registry.image("plain"));
    let pull = || {
        let mut command = ovbd(&["pull", "--json", &registry.image("plain"), "--store"]);
        command.arg(&store).output().unwrap()
    };
    let refused = String::from_utf8(pull().stderr).unwrap();
    assert!(
        refused.contains("is an ordinary image without an OverlayBD form"),
        "{refused}"
    );

    let subject = registry.image("plain");
    let done = push(&registry.image("native"), &layers, &["--subject", &subject]);
    let output = pull();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let pulled: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(pulled["manifest"], done["manifest"]["digest"]);
    assert_eq!(pulled["subject"], done["subject"]);
    assert_store_holds(&store, &contents(&layers));
    // How to run the image is taken over.
    let source = format!("docker://{}", registry.image("native"));
    let config = run(&mut skopeo(&[
        "inspect",
        "--config",
        "--tls-verify=false",
        &source,
    ]));
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["config"]["Cmd"][0], "/bin/app");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);

    // Another repository cannot be referred to.
    let elsewhere = format!("{}/other:1", registry.host);
    let mut command = ovbd(&["push", &elsewhere, "--subject", &subject]);
    assert_eq!(
        command.args(&layers).output().unwrap().status.code(),
        Some(2)
    );
}

/// Puts an image without layers into a registry.
fn ordinary(folder: &Path, reference: &str) {
    let layout = folder.join("layout");
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let put = |text: &str| {
        let digest = ovbd::image::digest::Digest::of_bytes(text.as_bytes());
        fs::write(layout.join("blobs/sha256").join(digest.hex()), text).unwrap();
        (digest, text.len())
    };
    let (config, length) = put(
        r#"{"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/app"]},
            "rootfs": {"type": "layers", "diff_ids": []}}"#,
    );
    let (manifest, size) = put(&format!(
        r#"{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {{"mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": "{config}", "size": {length}}}, "layers": []}}"#
    ));
    let index = format!(
        r#"{{"schemaVersion": 2, "manifests": [{{"digest": "{manifest}", "size": {size},
            "mediaType": "application/vnd.oci.image.manifest.v1+json"}}]}}"#
    );
    fs::write(layout.join("index.json"), index).unwrap();
    fs::write(
        layout.join("oci-layout"),
        r#"{"imageLayoutVersion": "1.0.0"}"#,
    )
    .unwrap();
    let [from, to] = [
        format!("oci:{}", layout.display()),
        format!("docker://{reference}"),
    ];
    run(&mut skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &from,
        &to,
    ]));
}

#[test]
fn a_layer_without_a_tar_is_not_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, layer) = (folder.path().join("raw"), folder.path().join("layer"));
    fs::write(&raw, noise(1, 1 << 20)).unwrap();
    run(ovbd(&["build", "--raw"]).arg(&raw).arg("-o").arg(&layer));
    let mut command = ovbd(&["push", "127.0.0.1:1/app:1"]);
    let output = command.arg(&layer).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("`ovbd build --tar`"), "{message}");
}

#[test]
fn a_password_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let passwords = folder.path().join("htpasswd");
    fs::write(&passwords, HTPASSWD).unwrap();
    let auth = format!(
        "auth: {{htpasswd: {{realm: test, path: {}}}}}\nhttp:",
        passwords.display()
    );
    let registry = Registry::start(folder.path(), &auth);
    let layers = layers(folder.path());
    let with_password = |arguments: &[&str], password: &str| {
        let given = folder.path().join("password");
        fs::write(&given, password).unwrap();
        let mut command = ovbd(arguments);
        command.args(["--username", "me", "--password-stdin"]);
        command
            .stdin(fs::File::open(given).unwrap())
            .output()
            .unwrap()
    };
    let [base, top] = layers.each_ref().map(|layer| layer.to_str().unwrap());
    let image = registry.image("1");
    let pushed = with_password(&["push", &image, base, top], "hunter2\n");
    assert!(
        pushed.status.success(),
        "{}",
        String::from_utf8_lossy(&pushed.stderr)
    );
    let store = folder.path().join("store");
    let pull = ["pull", &image, "--store", store.to_str().unwrap()];
    let refused = ovbd(&pull).output().unwrap();
    assert_eq!(refused.status.code(), Some(5));
    let message = String::from_utf8(refused.stderr).unwrap();
    assert!(
        message.contains("access denied without credentials"),
        "{message}"
    );
    assert_eq!(with_password(&pull, "wrong").status.code(), Some(5));
    assert!(with_password(&pull, "hunter2").status.success());
    assert_store_holds(&store, &contents(&layers));
}

/// An authority, and certificates of it for the registry and for us.
fn certificates(folder: &Path) {
    let script = "set -e
        new() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \"$@\"; }
        new -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.pem
        for name in server client; do
            new -subj /CN=$name -keyout $name.key -out $name.csr
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile names -out $name.pem
        done";
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    run(Command::new("sh").args(["-c", script]).current_dir(folder));
}

#[test]
fn certificates_of_both_sides_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    certificates(folder.path());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let tls = format!(
        "http:\n  tls:\n    certificate: {}\n    key: {}\n    clientcas: [{}]",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let registry = Registry::start(folder.path(), &tls);
    let layers = layers(folder.path());
    let ca = ["--ca", &file("ca.pem")];
    let ours = ["--cert", &file("client.pem"), "--key", &file("client.key")];
    push(
        &registry.image("1"),
        &layers,
        &[ca, [ours[0], ours[1]], [ours[2], ours[3]]].concat(),
    );
    let store = file("store");
    let image = registry.image("1");
    let pull = |more: &[&str]| {
        let mut command = ovbd(&["pull", &image, "--store", &store]);
        let output = command.args(more).output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (_, message) = pull(&ours);
    assert!(
        message.contains("its certificate is not trusted"),
        "{message}"
    );
    assert!(message.contains("--ca"), "{message}");
    let (success, message) = pull(&ca);
    assert!(!success && message.contains("TLS: "), "{message}");
    let swapped = ["--cert", &file("client.pem"), "--key", &file("server.key")];
    let (_, message) = pull(&swapped);
    assert!(message.contains("its key does not fit"), "{message}");
    let (success, message) = pull(&[&ca[..], &ours].concat());
    assert!(success, "{message}");
    assert_store_holds(Path::new(&store), &contents(&layers));
}

#[test]
fn memory_does_not_grow_with_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::start(folder.path(), "http:");
    let raw = folder.path().join("raw");
    fs::write(&raw, vec![7; 80 << 20]).unwrap();
    let layer = folder.path().join("layer.tar");
    run(ovbd(&["build", "--tar", "-a", "none", "--raw"])
        .arg(&raw)
        .arg("-o")
        .arg(&layer));
    push(&registry.image("1"), &[layer], &[]);
    let store = folder.path().join("store");
    // All that a process may have of its own: heap, stacks, buffers.
    let mut limited = Command::new("prlimit");
    limited.args([
        "--data=67108864",
        env!("CARGO_BIN_EXE_ovbd"),
        "pull",
        "--connections",
        "8",
    ]);
    run(limited.arg(registry.image("1")).arg("--store").arg(&store));
}
