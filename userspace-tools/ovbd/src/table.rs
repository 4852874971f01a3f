// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The device-mapper tables of an image, as lines for the kernel and as text for people.
//!
//! [`Device`]s come in the order in which they have to be made. Where they stand on something that
//! is not there yet, a text stands for it: `ovbd table` prints, and touches nothing.

use std::fmt::{self, Write};

use overlaybd_format::table::{write_lsmt, LayerArg, ZfileArgs};
use overlaybd_format::{Bytes, Sectors, SECTOR};
use serde::{Serialize, Serializer};

use crate::dm::node::mapper_path;
use crate::dm::{Name, Target};
use crate::identity::Role;
use crate::plan::{Form, Layer, Plan, Storage};

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

/// The devices that `plan` needs under the name `name`, the image itself last. `lowers` are the
/// block devices that its layers lie on.
pub fn devices(plan: &Plan, name: &Name, lowers: &[String]) -> Vec<Device> {
    let mut devices: Vec<Device> = Vec::new();
    let mut below = Vec::new();
    for (layer, lower) in plan.layers.iter().zip(lowers) {
        let Form::Zfile {
            original,
            ignore_crc,
        } = layer.form
        else {
            below.push(lower.clone());
            continue;
        };
        let identity = layer.identity();
        let device = Device {
            name: identity.name(Role::Zfile),
            uuid: identity.uuid(Role::Zfile),
            table: vec![zfile(layer, lower, original, ignore_crc)],
        };
        below.push(mapper_path(&device.name).display().to_string());
        // An image may have the same layer twice.
        if !devices.iter().any(|other| other.uuid == device.uuid) {
            devices.push(device);
        }
    }
    let table = vec![lsmt(plan, &below)];
    devices.push(Device {
        name: name.to_string(),
        uuid: plan.uuid(name),
        table,
    });
    devices
}

/// A text for each layer that stands for its block device: the path of one that is a block device,
/// and `{FILE}` for a file, which needs one first.
pub fn stand_ins(plan: &Plan) -> Vec<String> {
    let stand_in = |layer: &Layer| {
        let path = layer.path.display();
        match layer.storage {
            Storage::Device { .. } => path.to_string(),
            Storage::File { .. } => format!("{{{path}}}"),
        }
    };
    plan.layers.iter().map(stand_in).collect()
}

/// What has to be done with layers that are files before tables can be used: a sentence each.
/// `named` tells whether there are names for their devices.
pub fn needs(plan: &Plan, named: bool) -> Vec<String> {
    let mut needs = Vec::new();
    for layer in &plan.layers {
        let path = layer.path.display();
        let Storage::File { length, .. } = layer.storage else {
            continue;
        };
        if layer.end() > length / SECTOR * SECTOR {
            let padded = length.next_multiple_of(SECTOR);
            needs.push(format!(
                "{path}: has {length} bytes, and a device has whole sectors: pad a copy of it with \
                 zeros to {padded} bytes"
            ));
        }
    }
    let is_file = |layer: &Layer| matches!(layer.storage, Storage::File { .. });
    if !named && plan.layers.iter().any(is_file) {
        needs.push(
            "{FILE} stands for a block device with that file on it: `losetup --read-only \
             --direct-io=on --find --show FILE` makes one; --devices names them"
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
