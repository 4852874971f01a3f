// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Setting an image up: loop devices, a verity device a sealed layer, a zfile device a compressed one,
//! lsmt on top, a mount.
//!
//! # Nothing is left behind
//!
//! The kernel counts references; this code only has to hold one at every moment. A loop device is
//! bound with AUTOCLEAR and held open. An inner device is opened as soon as it can be, which is when
//! its table is loaded, and at once marked for removal when it is closed for the last time. Then the
//! device above takes over. If the tool dies, the kernel closes what it held, and everything that
//! nothing stands on goes away. In the same way, removing the last image on a layer removes the
//! layer, even if it is done with `dmsetup`.
//!
//! Two things can remain of a tool that dies: an inner device that is not marked yet, and the image's
//! own device, which has nobody to hold it; both without a live table. The next `up` of that image
//! goes on with them, and any `down` removes such an inner device, the image's own `down` the image.
//!
//! # Nothing is made twice
//!
//! An inner device's UUID is what it shows ([`crate::identity`]). To use one, it is opened, and only
//! then asked whether it still has that UUID: an open device stays. Creating one fails if another
//! process was faster, and then that one is used. If it has no live table yet, its creator died or
//! is about to load the same table as we do; loading it twice does no harm.

mod builder;
mod image;
mod mounting;
mod storage;

use std::collections::BTreeSet;
use std::path::PathBuf;

use overlaybd_format::SECTOR;
use serde::Serialize;

use crate::config::{write_result, ImageConfig};
use crate::dm::udev::Udev;
use crate::dm::{node, DevNo, Dm, Id, Name};
use crate::down;
use crate::error::ExitCode;
use crate::lock::HostLock;
use crate::mount::{self, overlay::Upper};
use crate::output::paths;
use crate::plan::{Plan, Settings};
use crate::resolve::{Input, Sources};
use crate::step::Watch;
use crate::verity::RootHash;
use crate::{table, Result};
use builder::Builder;
use image::{Found, Image};
use mounting::mount_image;

/// Why an image cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpError {
    /// The name belongs to another device.
    #[error("{name}: the name is taken by {owner}")]
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is, and what to do.
        owner: &'static str,
    },
    /// The kernel refuses a layer.
    #[error("{path}: the kernel refuses the layer: {source}", path = path.display())]
    Layer {
        /// The layer's file.
        path: PathBuf,
        /// Its words.
        source: crate::dm::Error,
    },
    /// What others use of a sealed layer is not what was sealed.
    #[error(
        "{path}: {device}, which is set up for it, has read something else than was sealed: \
         `ovbd down` what uses it ({images}) and see to the file and its tree, then try again",
        path = path.display()
    )]
    Corrupted {
        /// The layer's file.
        path: PathBuf,
        /// The device that checks it.
        device: String,
        /// The images on it.
        images: String,
    },
    /// The image was taken down, and is still in use.
    #[error(
        "{name}: was taken down with --force and is leaving: all of its reads fail, and it goes with its \
         last user ({users}); end that, or use another name"
    )]
    Leaving {
        /// The image's name.
        name: String,
        /// By whom.
        users: String,
    },
    /// Somebody gave the image's device another name.
    #[error("{0}: the image is set up, and was renamed to {1}: `ovbd down {1}` removes it")]
    Renamed(String, String),
    /// Other processes keep making and removing the same device.
    #[error("{0}: other programs kept changing the device; try again")]
    Contended(String),
}

impl UpError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NameTaken { .. }
            | Self::Leaving { .. }
            | Self::Renamed(..)
            | Self::Contended(_) => ExitCode::Busy,
            Self::Corrupted { .. } => ExitCode::Invalid,
            Self::Layer { source, .. } => source.exit_code(),
        }
    }
}

/// Where to mount, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountAt {
    /// The folder.
    pub target: PathBuf,
    /// Type and options.
    pub options: mount::Options,
    /// Where changes go; without, there can be none.
    pub upper: Option<Upper>,
}

/// What was set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The image's name.
    pub name: String,
    /// The path of its device.
    #[serde(serialize_with = "paths::one")]
    pub device: PathBuf,
    /// The device's number, `major:minor`.
    pub number: String,
    /// Size of the disk in bytes.
    pub bytes: u64,
    /// It was set up before.
    pub already: bool,
    /// It was to be removed with its last user, and is not any more.
    pub kept: bool,
    /// Its layers, bottom first; empty if it was set up before.
    pub layers: Vec<LayerReport>,
    /// How it is mounted.
    pub mount: Option<MountReport>,
    /// What the user should know: a sentence each.
    pub notes: Vec<String>,
}

/// How a layer was set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayerReport {
    /// The layer's file.
    #[serde(serialize_with = "paths::one")]
    pub path: PathBuf,
    /// The number of the device that lsmt reads, `major:minor`.
    pub number: String,
    /// The layer is a ZFile.
    pub compressed: bool,
    /// What vouches for it: the kernel checks every read.
    pub root_hash: Option<RootHash>,
    /// Its zfile device was there already.
    pub shared: bool,
    /// Whether reads of its file go past the page cache; unknown if it is shared, or no file.
    pub direct_io: Option<bool>,
}

/// How an image is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MountReport {
    /// Where.
    #[serde(serialize_with = "paths::one")]
    pub target: PathBuf,
    /// The file system's type.
    pub fs_type: String,
    /// The options.
    pub options: String,
    /// An overlay on top takes changes.
    pub writable: bool,
    /// It was mounted there before.
    pub already: bool,
}

/// Finds the layers of an image, sets it up with [`up`], and writes the result to the `resultFile`
/// of its configuration, if it has one. That this cannot be written is a note if the image is up.
pub fn configured(
    input: &Input,
    sources: Sources<'_>,
    settings: Settings,
    name: &Name,
    mount_at: Option<&MountAt>,
    watch: Watch<'_>,
) -> Result<Report> {
    // Before anything is fetched.
    let resolved = check(mount_at).and_then(|()| sources.resolve(input));
    let mut result = resolved.and_then(|resolved| {
        let plan = Plan::new(&resolved.config, settings)?;
        up(&plan, name, mount_at, watch)
    });
    let written = match input {
        Input::Config(ImageConfig {
            result_file: Some(file),
            ..
        }) => write_result(file, result.as_ref().err()),
        _ => Ok(()),
    };
    // If both failed, the user has to know why there is no image.
    if let (Ok(report), Err(error)) = (&mut result, written) {
        report.notes.push(error.to_string());
    }
    result
}

/// Sets an image up as device `name`, and mounts it if `mount_at` says where. If that image has that
/// name already, it stays as it is. `watch` learns of every step.
///
/// # Errors
/// What this call made goes away again, unless others use it by then.
pub fn up(
    plan: &Plan,
    name: &Name,
    mount_at: Option<&MountAt>,
    watch: Watch<'_>,
) -> Result<Report> {
    check(mount_at)?;
    let dm = Dm::open()?;
    for target in plan.targets() {
        dm.require_target(target)?;
    }
    let mut loops = BTreeSet::new();
    let composed = compose(&dm, plan, name, watch, &mut loops);
    if composed.is_err() {
        // The kernel is at it already; this waits until it is done.
        let _ = down::clean(&dm, loops, watch);
    }
    let mut report = composed?;
    if let Some(at) = mount_at {
        let uuid = plan.uuid(name);
        if let Err(error) = mount_image(&dm, &uuid, &mut report, at, watch) {
            // The error that counts is the mount's.
            if !report.already {
                let _ = down::withdraw(&dm, &uuid, watch);
            } else if report.kept {
                leave(&dm, &uuid);
            }
            return Err(error);
        }
    }
    Ok(report)
}

/// Whether an image can be mounted as `mount_at` says, as far as that is known before there is one.
fn check(mount_at: Option<&MountAt>) -> Result<()> {
    mount_at.map_or(Ok(()), |at| Ok(mount::check(&at.target, &at.options)?))
}

/// Has the kernel remove the image with its last user. If that fails, it is one that stays.
pub(crate) fn leave(dm: &Dm, uuid: &str) {
    let udev = Udev::begin();
    let _ = dm.remove_deferred(Id::Uuid(uuid), &udev);
    udev.settle();
}

/// Sets everything up but the mount. The loop devices in use for it are added to `loops`.
fn compose(
    dm: &Dm,
    plan: &Plan,
    name: &Name,
    watch: Watch<'_>,
    loops: &mut BTreeSet<u64>,
) -> Result<Report> {
    let _lock = HostLock::shared();
    let udev = Udev::begin();
    let mut builder = Builder::new(dm, &udev, watch);
    let built = build(&mut builder, plan, name);
    loops.append(&mut builder.loop_numbers);
    // Not before something stands on what it holds, or nothing ever will.
    drop(builder);
    let settled = udev.settle();
    let Built { image, layers } = built?;

    let mut notes = plan.notes.clone();
    notes.extend(settled.note("handle the new devices"));
    let (already, kept) = match &image {
        Image::Made(_) => (false, false),
        Image::Found(found) => (true, found.kept),
    };
    let (Image::Made(info) | Image::Found(Found { info, .. })) = image;
    if kept {
        notes.push(format!(
            "{name} was to go with its last user, and stays now"
        ));
    }
    let device = node::ensure(name.as_str(), info.dev).inspect_err(|_| {
        if !already || kept {
            // Nobody could use it. The error that counts is the node's.
            leave(dm, &info.uuid);
        }
    })?;
    Ok(Report {
        name: name.to_string(),
        device,
        number: DevNo(info.dev).to_string(),
        bytes: plan.sectors.saturating_mul(SECTOR),
        already,
        kept,
        layers,
        mount: None,
        notes,
    })
}

struct Built {
    image: Image,
    layers: Vec<LayerReport>,
}

fn build(builder: &mut Builder<'_>, plan: &Plan, name: &Name) -> Result<Built> {
    let uuid = plan.uuid(name);
    if let Some(found) = builder.live_image(name, &uuid)? {
        return Ok(Built {
            image: Image::Found(found),
            layers: Vec::new(),
        });
    }
    let mut layers = Vec::with_capacity(plan.layers.len());
    for layer in &plan.layers {
        layers.push(builder.layer(layer)?);
    }
    let devices: Vec<String> = layers.iter().map(|layer| layer.number.clone()).collect();
    let table = table::lsmt(plan, &devices);
    let image = builder.image(name, &uuid, table)?;
    Ok(Built { image, layers })
}
