// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The layers to push: what they are, and how they are sent.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use overlaybd_format::ReadAt;
use sha2::{Digest as _, Sha256};

use crate::image::blob::Blob;
use crate::image::digest::Digest;
use crate::image::source::Source;
use crate::image::stack::Stack;
use crate::mount::probe::{FileSystem, LENGTH as PROBED};
use crate::registry::manifest::media;
use crate::registry::RegistryError;
use crate::store::Descriptor;
use crate::verity::look::check;
use crate::{Error, Result};

/// What annotations of OverlayBD begin with, and the version that the reference tools write.
const ANNOTATION: &str = "containerd.io/snapshot/overlaybd/";
const VERSION: &str = "0.1.0";
/// How much of a layer is hashed at a time, bytes.
const CHUNK: usize = 256 << 10;

/// Describes the layers, after a look whether they make an image.
/// With their root hashes, if they are `sealed`.
pub(super) fn examine(files: &[PathBuf], sealed: bool) -> Result<Vec<Descriptor>> {
    let mut blobs = Vec::new();
    for file in files {
        let blob = Blob::open(file)?;
        blob.require_known()?;
        if blob.wrapper().is_none() {
            return Err(RegistryError::Option(format!(
                "{}: is not in a tar, as layers in registries have to be; `ovbd build --tar` and \
                 `ovbd compress --tar` make one",
                file.display()
            ))
            .into());
        }
        blobs.push(blob);
    }
    let file_system = file_system(Stack::of(blobs)?)?;
    files
        .iter()
        .map(|file| {
            if !sealed {
                let (digest, size) = hash(file).map_err(|e| Error::io("read", file, e))?;
                return Ok(describe(digest, size, file_system));
            }
            let blob = check(file)?;
            let mut layer = describe(blob.digest, blob.size, file_system);
            layer.set_root_hash(blob.root_hash);
            Ok(layer)
        })
        .collect()
}

fn file_system(stack: Stack) -> Result<Option<&'static str>> {
    let disk = stack.into_disk();
    let mut head = [0; PROBED];
    let length = disk.size().min(PROBED as u64) as usize;
    disk.read_exact_at(0, &mut head[..length])?;
    Ok(FileSystem::recognise(&head).map(FileSystem::name))
}

fn describe(digest: Digest, size: u64, file_system: Option<&str>) -> Descriptor {
    let mut annotations = BTreeMap::new();
    let mut annotate = |name: &str, value: String| {
        annotations.insert(format!("{ANNOTATION}{name}"), value);
    };
    annotate("blob-digest", digest.to_string());
    annotate("blob-size", size.to_string());
    annotate("version", VERSION.to_owned());
    if let Some(name) = file_system {
        annotate("blob-fs-type", name.to_owned());
    }
    Descriptor {
        media_type: media::LAYER.to_owned(),
        digest,
        size,
        annotations,
    }
}

fn hash(file: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(file)?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((Digest::of(hash), size)),
            Ok(read) => {
                hash.update(&chunk[..read]);
                size += read as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
