// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is set up on this host, as device-mapper, loop and the list of mounts tell it.

pub mod graph;
mod memory;
mod model;

use std::collections::BTreeMap;

use overlaybd_format::status::{LsmtStatus, ZfileStatus};
use overlaybd_format::table::{LsmtArgs, ZfileArgs};
use overlaybd_format::SECTOR;

use crate::dm::node::mapper_path;
use crate::dm::{DevNo, Dm, Id, Info, Name, Target};
use crate::down::own_devices;
use crate::error::ExitCode;
use crate::identity::Role;
use crate::loopdev;
use crate::mount;
use crate::Result;

pub use model::{Image, ImageCounters, Inner, LayerCounters, Listing, Lower, State, Verity};

/// Why there is nothing to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// There is no such image.
    #[error("{0}: no image of this name is set up; `ovbd ls` lists those that are")]
    NoImage(String),
}

impl ListError {
    /// The exit code for this error.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::NotFound
    }
}

/// Lists all images and layers.
pub fn list() -> Result<Listing> {
    Survey::new()?.listing()
}

/// One image and the layers below it.
///
/// # Errors
/// [`ListError::NoImage`]
pub fn status(name: &Name) -> Result<Listing> {
    let Listing { mut images, layers } = list()?;
    images.retain(|image| image.name == name.as_str());
    let Some(image) = images.first() else {
        return Err(ListError::NoImage(name.to_string()).into());
    };
    let mut below: Vec<&str> = image
        .layers
        .iter()
        .filter_map(|l| l.name.as_deref())
        .collect();
    let mut wanted = Vec::new();
    while let Some(name) = below.pop() {
        wanted.push(name);
        let inner = layers.iter().find(|layer| layer.name == name);
        below.extend(
            inner
                .into_iter()
                .flat_map(|i| &i.lowers)
                .filter_map(|l| l.name.as_deref()),
        );
    }
    let layers = layers
        .iter()
        .filter(|layer| wanted.contains(&layer.name.as_str()));
    let layers = layers.cloned().collect();
    Ok(Listing { images, layers })
}

struct Survey {
    dm: Dm,
    devices: Vec<(Role, Info)>,
    /// What stands on a device, by its number.
    users: BTreeMap<u64, Vec<String>>,
    loops: BTreeMap<u64, loopdev::Bound>,
}

impl Survey {
    fn new() -> Result<Self> {
        let dm = Dm::open()?;
        let mut devices = own_devices(&dm)?;
        devices.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name));
        let mut users: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for (_, info) in &devices {
            for dev in dm.deps(Id::Dev(info.dev))? {
                users.entry(dev).or_default().push(info.name.clone());
            }
        }
        let loops = loopdev::all_bound();
        Ok(Self {
            dm,
            devices,
            users,
            loops,
        })
    }

    fn listing(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for (role, info) in &self.devices {
            match role {
                Role::Image => listing.images.push(self.image(info)?),
                Role::Zfile | Role::Joined | Role::Verity => {
                    listing.layers.push(self.inner(*role, info))
                }
            }
        }
        Ok(listing)
    }

    fn image(&self, info: &Info) -> Result<Image> {
        let table = self.table(info);
        let lowers = table
            .as_ref()
            .map(|line| layer_devices(&line.params))
            .unwrap_or_default();
        let mounts = mount::mounts_of(info.dev)?;
        let status = self.status(info);
        let status = status.and_then(|line| LsmtStatus::parse(&line).ok());
        Ok(Image {
            name: info.name.clone(),
            device: mapper_path(&info.name),
            number: DevNo(info.dev).to_string(),
            uuid: info.uuid.clone(),
            state: State::of(Role::Image, info),
            bytes: table.map_or(0, |line| line.length.saturating_mul(SECTOR)),
            open_count: info.open_count,
            mounts: mounts.into_iter().map(|mount| mount.target).collect(),
            references: Vec::new(),
            layers: lowers.iter().map(|device| self.lower(device)).collect(),
            memory_bytes: status.as_ref().map(memory::image),
            counters: status.as_ref().map(image_counters),
        })
    }

    fn inner(&self, role: Role, info: &Info) -> Inner {
        let table = self.dm.table(Id::Dev(info.dev)).unwrap_or_default();
        let devices = table.iter().flat_map(below);
        let zfile = table.first().filter(|_| role == Role::Zfile);
        let args = zfile.and_then(|line| ZfileArgs::parse(line.params.split_whitespace()).ok());
        let line = self.status(info);
        let verity = table.first().filter(|_| role == Role::Verity);
        let verity = verity.and_then(|table| Verity::parse(&table.params, line.as_deref()?));
        let status = line.and_then(|line| ZfileStatus::parse(&line).ok());
        Inner {
            name: info.name.clone(),
            role: role.word(),
            number: DevNo(info.dev).to_string(),
            uuid: info.uuid.clone(),
            state: State::of(role, info),
            open_count: info.open_count,
            used_by: self.users.get(&info.dev).cloned().unwrap_or_default(),
            lowers: devices.map(|device| self.lower(device)).collect(),
            ignore_crc: args.is_some_and(|args| args.ignore_crc),
            verity,
            memory_bytes: status.as_ref().map(memory::layer),
            counters: status.as_ref().map(layer_counters),
        }
    }

    /// The one line of a device's table. A device that is gone by now has none.
    fn table(&self, info: &Info) -> Option<Target> {
        self.dm.table(Id::Dev(info.dev)).ok()?.into_iter().next()
    }

    fn status(&self, info: &Info) -> Option<String> {
        let lines = self.dm.status(Id::Dev(info.dev)).ok()?;
        lines.into_iter().next().map(|line| line.params)
    }

    /// What is known of the device that a table names.
    fn lower(&self, device: &str) -> Lower {
        let dev = parse_number(device);
        let name = |dev: u64| {
            let mut devices = self.devices.iter();
            devices
                .find(|(_, info)| info.dev == dev)
                .map(|(_, info)| info.name.clone())
        };
        let bound = dev.and_then(|dev| self.loops.get(&dev));
        Lower {
            number: device.to_owned(),
            name: dev.and_then(name),
            file: bound.and_then(|bound| bound.file.clone()),
            direct_io: bound.map(|bound| bound.direct_io),
        }
    }
}

/// The devices in a line of an inner device's table.
fn below(line: &Target) -> Vec<&str> {
    let words = line.params.split_whitespace();
    match line.kind.as_str() {
        // Version, data, hash tree.
        "verity" => words.skip(1).take(2).collect(),
        _ => words.take(1).collect(),
    }
}

fn parse_number(device: &str) -> Option<u64> {
    let (major, minor) = device.split_once(':')?;
    Some(rustix::fs::makedev(
        major.parse().ok()?,
        minor.parse().ok()?,
    ))
}

/// The devices in the arguments of lsmt.
fn layer_devices(params: &str) -> Vec<String> {
    let mut devices = Vec::new();
    if let Ok(mut args) = LsmtArgs::parse(params.split_whitespace()) {
        while let Ok(Some(layer)) = args.next_layer() {
            devices.push(layer.device.to_owned());
        }
    }
    devices
}

fn image_counters(status: &LsmtStatus) -> ImageCounters {
    ImageCounters {
        extents: status.extents,
        reads: status.reads,
        zero_sectors: status.zero_sectors,
        tail_sectors: status.tail_sectors,
        io_errors: status.io_errors,
    }
}

fn layer_counters(status: &ZfileStatus) -> LayerCounters {
    LayerCounters {
        algorithm: status.algorithm.name(),
        block_size: status.block_size,
        blocks: status.blocks,
        bytes: status.size,
        read_sectors: status.read_sectors,
        decompressed_bytes: status.decompressed_bytes,
        cache_hits: status.cache_hits,
        reserve_waits: status.reserve_waits,
        crc_errors: status.crc_errors,
        decompress_errors: status.decompress_errors,
        io_errors: status.io_errors,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_images_layers_are_read_from_its_table() {
        let devices = layer_devices("3 253:0 0 4096 7:1 1 8192 253:2 0 100");
        assert_eq!(devices, ["253:0", "7:1", "253:2"]);
        assert_eq!(layer_devices("x"), [""; 0]);
    }

    #[test]
    fn a_verity_device_stands_on_data_and_tree() {
        let root = "0123456789abcdef".repeat(4);
        let line = |kind: &str, params: String| Target {
            start: 0,
            length: 8,
            kind: kind.to_owned(),
            params,
        };
        let table = format!("1 7:0 7:1 4096 4096 1 1 sha256 {root} -");
        assert_eq!(below(&line("verity", table.clone())), ["7:0", "7:1"]);
        assert_eq!(below(&line("linear", "7:2 0".to_owned())), ["7:2"]);
        let expected = Verity {
            root_hash: root.parse().unwrap(),
            signed: false,
            corrupted: false,
        };
        assert_eq!(Verity::parse(&table, "V -"), Some(expected));
        let signed = format!("{table} 2 root_hash_sig_key_desc x");
        let expected = Verity {
            signed: true,
            corrupted: true,
            ..expected
        };
        assert_eq!(Verity::parse(&signed, "C -"), Some(expected));
        assert_eq!(Verity::parse("", ""), None);
    }

    #[test]
    fn counters_are_read_from_status_lines() {
        let line = "zstd block_size 4096 blocks 3 size 9000 read_sectors 8 decompressed_bytes \
                    12288 cache_hits 1 reserve_waits 0 crc_errors 2 decompress_errors 0 io_errors 5";
        let counters = layer_counters(&ZfileStatus::parse(line).unwrap());
        assert_eq!(
            (counters.algorithm, counters.blocks, counters.crc_errors),
            ("zstd", 3, 2)
        );
        assert_eq!(counters.io_errors, 5);
        let line = "layers 2 extents 7 size 16 reads 4 zero_sectors 1 tail_sectors 0 io_errors 2";
        let expected = ImageCounters {
            extents: 7,
            reads: 4,
            zero_sectors: 1,
            tail_sectors: 0,
            io_errors: 2,
        };
        assert_eq!(image_counters(&LsmtStatus::parse(line).unwrap()), expected);
    }
}
