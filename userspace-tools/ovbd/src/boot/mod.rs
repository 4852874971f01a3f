// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Booting from an image: what runs as `/init` of an initramfs that holds nothing else but kernel
//! modules.
//!
//! The layers are block devices, virtio disks for example. `ovbd.root=` on the kernel's command line
//! names them, bottom first, and says all that has to be said; `ovbd.verity=` names their hash trees
//! and root hashes, if they are to be verified; what other parameters mean for the
//! root file system (`ro`, `rw`, `rootfstype`, `rootflags`, `init`) they mean here.

mod cmdline;
mod disks;
mod modules;
mod switch;

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::MountFlags;

use crate::config::ImageConfig;
use crate::dm::Name;
use crate::error::ExitCode;
use crate::mount::{self, overlay::Upper};
use crate::output::shown;
use crate::plan::{Demand, Plan, Settings};
use crate::step::Watch;
use crate::up::{self, MountAt};
use crate::verity::{InvalidRootHash, RootHash};
use crate::{Error, Result};

pub use cmdline::{Parameters, PARAMETER, VERITY_PARAMETER};

/// The name of the root's device.
const NAME: &str = "root";
/// Where the root is mounted before it becomes the root.
const SYSROOT: &str = "/sysroot";
/// Where the modules are.
const MODULES: &str = "/modules";
/// Where the signatures of root hashes are, HASH.p7s each.
const SIGNATURES: &str = "/signatures";
/// The numbers of file systems that an initramfs is.
const RAMFS: u32 = 0x8584_58f6;
const TMPFS: u32 = 0x0102_1994;
/// What the kernel would try, too.
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];

/// Why the system does not boot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// This is an ordinary process.
    #[error("boots the system from an image, as the first process of an initramfs: not here")]
    NotInit,
    /// The kernel's command line says nothing.
    #[error("no {PARAMETER}=DISK,DISK,… on the kernel's command line says which disks hold the layers, bottom first")]
    NoParameter,
    /// It has a parameter that would be ours.
    #[error(
        "{}: there is no such parameter: {PARAMETER} names the disks with the layers, {VERITY_PARAMETER} \
         those with their hash trees",
        shown::text(.0)
    )]
    Unknown(String),
    /// A disk does not appear.
    #[error("{disk}: no such disk within {seconds} s; there are: {there}")]
    NoDisk {
        /// Its path or serial number.
        disk: String,
        /// How long it was waited for.
        seconds: u64,
        /// Those that did appear.
        there: String,
    },
    /// There is no root hash for a hash tree.
    #[error("{VERITY_PARAMETER}: {disk}: {source}: DISK:HASH,DISK:HASH,… are the disks with the layers' hash trees, and the root hashes")]
    RootHash {
        /// The disk with the tree.
        disk: String,
        /// What is in the place of the hash.
        source: InvalidRootHash,
    },
    /// The image has nothing to run.
    #[error("no program to run in the image: tried {0}")]
    NoProgram(String),
}

impl BootError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::NotInit => ExitCode::Usage,
            Self::NoParameter | Self::Unknown(_) | Self::RootHash { .. } => ExitCode::Invalid,
            Self::NoDisk { .. } | Self::NoProgram(_) => ExitCode::NotFound,
        }
    }
}

/// Makes the image that the kernel's command line names the root, and goes on as its init, to which
/// `arguments` are passed.
///
/// # Errors
/// This process is the first: when it ends, the kernel panics, which is what it would do itself
/// without a root. The reason is on the console above that.
pub fn boot(arguments: &[OsString], watch: Watch<'_>) -> Result<Infallible> {
    if std::process::id() != 1 || !is_initramfs() {
        return Err(BootError::NotInit.into());
    }
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_kernels(kind, Path::new(target))?;
    }
    let path = Path::new("/proc/cmdline");
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let parameters = Parameters::parse(&text)?;
    if parameters.layers.is_empty() {
        return Err(BootError::NoParameter.into());
    }
    modules::load_all(Path::new(MODULES))?;
    let disks = disks::wait_for(&parameters.layers)?;
    let settings = Settings {
        verity: verity(&parameters)?,
        ..Settings::default()
    };
    set_up(&parameters, disks, settings, watch)?;
    switch::to(Path::new(SYSROOT))?;
    let inits = match &parameters.init {
        Some(init) => vec![init.as_str()],
        None => INITS.to_vec(),
    };
    switch::run(&inits, arguments)
}

/// Whether the root is in memory. It will be emptied: that must not happen to another one, in a
/// container for example, where there is a first process, too.
fn is_initramfs() -> bool {
    let root = rustix::fs::statfs("/");
    root.is_ok_and(|root| [RAMFS, TMPFS].contains(&(root.f_type as u32)))
}

/// Mounts a file system of the kernel's own, unless it is there.
fn mount_kernels(kind: &'static str, target: &Path) -> Result<()> {
    let mounted = match fs::create_dir(target) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => rustix::mount::mount(kind, target, kind, MountFlags::empty(), None)
            .map_err(io::Error::from),
    };
    match mounted {
        Err(e) if e.kind() != io::ErrorKind::ResourceBusy => Err(Error::io("mount", target, e)),
        _ => Ok(()),
    }
}

/// What the command line says vouches for the layers.
fn verity(parameters: &Parameters) -> Result<Demand> {
    let hash = |(disk, hash): &(String, String)| {
        hash.parse().map_err(|source| BootError::RootHash {
            disk: disk.clone(),
            source,
        })
    };
    let Some(trees) = &parameters.trees else {
        return Ok(Demand::default());
    };
    let disks: Vec<String> = trees.iter().map(|(disk, _)| disk.clone()).collect();
    let root_hashes: Vec<RootHash> = trees.iter().map(hash).collect::<Result<_, _>>()?;
    Ok(Demand {
        required: true,
        signatures: signatures(Path::new(SIGNATURES), &root_hashes),
        root_hashes,
        hash_trees: disks::wait_for(&disks)?,
    })
}

/// The files with the signatures of `hashes`: one for each, if the initramfs has any.
fn signatures(folder: &Path, hashes: &[RootHash]) -> Vec<PathBuf> {
    let hashes = hashes.iter().filter(|_| folder.is_dir());
    let files = hashes.map(|hash| folder.join(format!("{hash}.p7s")));
    files.collect()
}

fn set_up(
    parameters: &Parameters,
    disks: Vec<PathBuf>,
    settings: Settings,
    watch: Watch<'_>,
) -> Result<()> {
    let target = PathBuf::from(SYSROOT);
    match fs::create_dir(&target) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Error::io("make the folder", target, e));
        }
        _ => {}
    }
    let plan = Plan::new(&ImageConfig::of_files(disks), settings)?;
    let mount_at = MountAt {
        target,
        options: mount::Options {
            fs_type: parameters.fs_type.clone(),
            options: parameters.flags.clone(),
        },
        upper: parameters.writable.then_some(Upper::Memory),
    };
    up::up(&plan, &Name::new(NAME)?, Some(&mount_at), watch)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_root_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let hashes = [1, 2].map(|byte| RootHash::new([byte; 32]));
        let names = hashes.map(|hash| folder.path().join(format!("{hash}.p7s")));
        assert_eq!(signatures(folder.path(), &hashes), names);
        assert_eq!(
            signatures(Path::new("/nowhere"), &hashes),
            [""; 0].map(PathBuf::from)
        );
    }
}
