// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The device-mapper tables of an image, as lines for the kernel and as text for people.
//!
//! [`Device`]s come in the order in which they have to be made. Where they stand on something that
//! is not there yet, a text stands for it: `ovbd table` prints, and touches nothing.

use std::fmt::{self, Write};
use std::path::Path;

use overlaybd_format::table::{write_lsmt, LayerArg, ZfileArgs};
use overlaybd_format::{Bytes, Sectors, SECTOR};
use serde::{Serialize, Serializer};

use crate::dm::node::mapper_path;
use crate::dm::{Name, Target};
use crate::identity::{Identity, Role};
use crate::plan::{Form, Layer, Plan, Seal, Storage};
use crate::verity::shape::{HASH_BLOCK, HASH_START};

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            start,
            length,
            kind,
            params,
        } = self;
        write!(f, "{start} {length} {kind} {params}")
    }
}

impl Serialize for Target {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The table of the zfile device of `layer`, which lies on `device`; `original` is the length of
/// what it decompresses to.
pub fn zfile(layer: &Layer, device: &str, original: Bytes, ignore_crc: bool) -> Target {
    let args = ZfileArgs {
        device,
        offset: layer.offset,
        length: layer.length,
        ignore_crc,
    };
    Target {
        start: 0,
        length: original.div_ceil(SECTOR),
        kind: "zfile".to_owned(),
        params: args.to_string(),
    }
}

/// The table of the image: its layers lie on `devices`, in the same order.
pub fn lsmt(plan: &Plan, devices: &[String]) -> Target {
    let layers = plan.layers.iter().zip(devices);
    let arguments: Vec<LayerArg<'_>> = layers
        .map(|(layer, device)| match layer.form {
            Form::Lsmt => LayerArg {
                device,
                offset: layer.offset,
                length: layer.length,
            },
            Form::Zfile { original, .. } => LayerArg {
                device,
                offset: 0,
                length: original,
            },
        })
        .collect();
    let mut params = String::new();
    // Writing to a string cannot fail.
    let _ = write_lsmt(&mut params, arguments.into_iter());
    Target {
        start: 0,
        length: plan.sectors,
        kind: "lsmt".to_owned(),
        params,
    }
}

/// The table of the device that shows what `seal` vouches for: data on `device`, its tree on `tree`.
pub fn verity(seal: &Seal, device: &str, tree: &str) -> Target {
    let (shape, root) = (seal.tree.shape(), seal.tree.root());
    let (block, blocks, salt) = (shape.data_block(), shape.data_blocks(), shape.salt());
    let mut params = format!(
        "1 {device} {tree} {block} {HASH_BLOCK} {blocks} {HASH_START} sha256 {root} {salt}"
    );
    if let Some(key) = seal.key() {
        let _ = write!(params, " 2 root_hash_sig_key_desc {key}");
    }
    Target {
        start: 0,
        length: shape.data_length() / SECTOR,
        kind: "verity".to_owned(),
        params,
    }
}

/// The table that puts `tail`, of `tail_sectors`, behind the first `sectors` of `device`.
pub fn joined(device: &str, sectors: Sectors, tail: &str, tail_sectors: Sectors) -> [Target; 2] {
    let line = |start, length, device: &str| Target {
        start,
        length,
        kind: "linear".to_owned(),
        params: format!("{device} 0"),
    };
    [line(0, sectors, device), line(sectors, tail_sectors, tail)]
}

/// A device that an image needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its table, a text a line. All tables are read-only.
    pub table: Vec<Target>,
}

/// The block devices that a layer lies on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lowers {
    /// Its file.
    pub data: String,
    /// The hash tree of that; means nothing for a layer that is not sealed.
    pub tree: String,
}

/// The devices that `plan` needs under the name `name`, the image itself last. `lowers` are the
/// block devices that its layers lie on.
pub fn devices(plan: &Plan, name: &Name, lowers: &[Lowers]) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    let mut below = Vec::new();
    for (layer, lower) in plan.layers.iter().zip(lowers) {
        let mut device = lower.data.clone();
        if let Some(seal) = &layer.seal {
            let table = verity(seal, &device, &lower.tree);
            device = add(&mut devices, seal.identity(), Role::Verity, table);
        }
        if let Form::Zfile {
            original,
            ignore_crc,
        } = layer.form
        {
            let table = zfile(layer, &device, original, ignore_crc);
            device = add(&mut devices, layer.identity(), Role::Zfile, table);
        }
        below.push(device);
    }
    let table = vec![lsmt(plan, &below)];
    devices.push(Device {
        name: name.to_string(),
        uuid: plan.uuid(name),
        table,
    });
    devices
}

/// Adds an inner device, unless it is there: an image may have the same layer twice. Returns its path.
fn add(devices: &mut Vec<Device>, identity: Identity, role: Role, table: Target) -> String {
    let device = Device {
        name: identity.name(role),
        uuid: identity.uuid(role),
        table: vec![table],
    };
    let path = mapper_path(&device.name).display().to_string();
    if !devices.iter().any(|other| other.uuid == device.uuid) {
        devices.push(device);
    }
    path
}

/// Texts for each layer that stand for its block devices: the path of one that is a block device,
/// and `{FILE}` for a file, which needs one first.
pub fn stand_ins(plan: &Plan) -> Vec<Lowers> {
    let layers = plan.layers.iter();
    let lowers = layers.map(|layer| Lowers {
        data: stand_in(&layer.path, layer.storage),
        tree: layer
            .seal
            .as_ref()
            .map(|seal| stand_in(seal.tree.path(), seal.storage))
            .unwrap_or_default(),
    });
    lowers.collect()
}

fn stand_in(path: &Path, storage: Storage) -> String {
    let path = path.display();
    match storage {
        Storage::Device { .. } => path.to_string(),
        Storage::File { .. } => format!("{{{path}}}"),
    }
}

/// What has to be done with layers that are files before tables can be used: a sentence each.
/// `named` tells whether there are names for their devices.
pub fn needs(plan: &Plan, named: bool) -> Vec<String> {
    let mut needs = Vec::new();
    for layer in &plan.layers {
        let (path, length) = (layer.path.display(), layer.storage.length());
        let block = u64::from(layer.block());
        if layer.needed() > length / block * block {
            let padded = length.next_multiple_of(block);
            needs.push(format!(
                "{path}: has {length} bytes, and is read in blocks of {block}: pad a copy of it with \
                 zeros to {padded} bytes"
            ));
        }
    }
    for seal in plan.layers.iter().filter_map(|layer| layer.seal.as_ref()) {
        if let (Some(key), Some(signature)) = (seal.key(), &seal.signature) {
            needs.push(format!(
                "{}: has to be a key while tables are loaded: `keyctl padd user {key} @s <FILE`",
                signature.path.display()
            ));
        }
    }
    let is_file = |storage: Storage| matches!(storage, Storage::File { .. });
    let files = |layer: &Layer| {
        let tree = layer.seal.as_ref().map(|seal| seal.storage);
        is_file(layer.storage) || tree.is_some_and(is_file)
    };
    if !named && plan.layers.iter().any(files) {
        needs.push(
            "{FILE} stands for a block device with that file on it: `losetup --read-only \
             --direct-io=on --find --show FILE` makes one; --devices and --tree-devices name them"
                .to_owned(),
        );
    }
    needs
}

/// `NAME: TABLE` a line, as `dmsetup table` prints it.
pub fn lines(devices: &[Device]) -> String {
    let lines = devices.iter().flat_map(|device| {
        device
            .table
            .iter()
            .map(move |line| format!("{}: {line}\n", device.name))
    });
    lines.collect()
}

/// One line for `dmsetup create --concise`:
/// `NAME,UUID,MINOR,FLAGS,TABLE[,TABLE]…[;NAME,…]…`, the minor number left to the kernel.
pub fn concise(devices: &[Device]) -> String {
    let mut text = String::new();
    for (i, device) in devices.iter().enumerate() {
        let separator = if i == 0 { "" } else { ";" };
        let _ = write!(
            text,
            "{separator}{},{},,ro",
            escape(&device.name),
            device.uuid
        );
        for line in &device.table {
            let _ = write!(text, ",{}", escape(&line.to_string()));
        }
    }
    text.push('\n');
    text
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ',' | ';' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests;
