// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd table`.

use ovbd::dm::Name;
use ovbd::output::Output;
use ovbd::plan::{Plan, PlanError};
use ovbd::table::{self, Device};
use ovbd::Result;
use serde::Serialize;

use super::up::ImageArgs;

/// Print the device-mapper tables of an image, touching nothing
///
/// Prints the devices in the order in which they have to be made, the image last. Where a layer is a
/// file, {FILE} stands for the block device that it will be on; --devices names those instead, for
/// example the virtio disks of the guest that the tables are meant for. All tables are read-only.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    image: ImageArgs,
    /// The name of the image's device
    #[arg(short, long, default_value = "image")]
    name: Name,
    /// Print one line for `dmsetup create --concise`
    #[arg(long)]
    concise: bool,
    /// The block devices that the layers are on, bottom first, separated by commas: for a path that
    /// has one, name a link to it
    #[arg(short, long, value_name = "DEVICE,…", value_delimiter = ',')]
    devices: Vec<String>,
    /// The block devices that their hash trees are on, if they are sealed; in the same way
    #[arg(
        long,
        value_name = "DEVICE,…",
        value_delimiter = ',',
        requires = "devices"
    )]
    tree_devices: Vec<String>,
}

const EXAMPLES: &str = "\
Examples:
  ovbd table config.v1.json
  ovbd table registry.example/app:1 --devices /dev/vda,/dev/vdb,/dev/vdc
  ovbd table layer0.tar layer1.tar --devices /dev/vdb,/dev/vdc
  ovbd table app.json --devices /dev/vda,/dev/vdb --tree-devices /dev/vdc,/dev/vdd
  ovbd table /dev/vdb /dev/vdc --name root --concise > tables
  dmsetup create --concise \"$(cat tables)\"";

#[derive(Serialize)]
struct Report {
    devices: Vec<Device>,
    /// What has to be done before they can be used.
    needs: Vec<String>,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let plan = args.image.with_sources(output, |input, sources| {
        let resolved = sources.resolve(input)?;
        Plan::new(&resolved.config, args.image.settings())
    })?;
    let mut lowers = table::stand_ins(&plan);
    check(&args.devices, lowers.len())?;
    check(&args.tree_devices, lowers.len())?;
    for (lower, device) in lowers.iter_mut().zip(&args.devices) {
        lower.data.clone_from(device);
    }
    for (lower, device) in lowers.iter_mut().zip(&args.tree_devices) {
        lower.tree.clone_from(device);
    }
    let sealed = plan.layers.iter().any(|layer| layer.seal.is_some());
    let trees_are_named = !sealed || !args.tree_devices.is_empty();
    let named = !args.devices.is_empty() && trees_are_named;
    for note in &plan.notes {
        output.remark(note);
    }
    let report = Report {
        devices: table::devices(&plan, &args.name, &lowers),
        needs: table::needs(&plan, named),
    };
    for need in &report.needs {
        output.remark(need);
    }
    let form = if args.concise {
        table::concise
    } else {
        table::lines
    };
    output.answer(&report, || form(&report.devices))
}

/// There is a device for each layer, or none at all.
fn check(devices: &[String], layers: usize) -> Result<(), PlanError> {
    match devices.len() {
        0 => Ok(()),
        count if count == layers => Ok(()),
        count => Err(PlanError::Devices(count, layers)),
    }
}
