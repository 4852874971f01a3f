// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The devices that are compared.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{bail, Context, Result};
use ovbd::dm::udev::Udev;
use ovbd::dm::{node, DevNo, Dm, Id, Target};
use ovbd::image::source::{FileSource, Part, Std};
use overlaybd_format::lsmt::Layer;
use overlaybd_format::map::{self, Map};
use overlaybd_format::table::{write_lsmt, LayerArg, ZfileArgs};
use overlaybd_format::zfile::ZFile;
use overlaybd_format::{Bytes, Sectors, SECTOR};

use crate::pack::{Item, List};

/// A disk with the content on it.
pub struct Bottom<'a> {
    path: PathBuf,
    source: Arc<FileSource>,
    list: &'a List,
}

impl<'a> Bottom<'a> {
    /// The disk `path`, which has what `list` says.
    pub fn new(path: &Path, list: &'a List) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            source: Arc::new(FileSource::open(path)?),
            list,
        })
    }

    fn part(&self, item: &Item) -> Part {
        let source = Arc::clone(&self.source);
        Part::new(source, self.path.clone(), item.offset, item.length)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// The length of what the ZFile `item` decompresses to.
    fn original_size(&self, item: &Item) -> Result<Bytes> {
        let zfile = ZFile::<Std>::open(&self.part(item), item.length)
            .with_context(|| format!("{} is no ZFile", item.name))?;
        Ok(zfile.original_size())
    }

    fn layers(&self, names: &[String]) -> Result<Vec<Layer<Std>>> {
        names
            .iter()
            .map(|name| {
                let item = self.list.item(name)?;
                Layer::open(&self.part(item), item.length)
                    .with_context(|| format!("{name} is no layer"))
            })
            .collect()
    }
}

/// A device in terms of the files that it shows, by name.
pub enum Image {
    /// A file as it is, through dm-linear.
    Linear(&'static str),
    /// A ZFile; true to ignore its checksums.
    Zfile(&'static str, bool),
    /// Layers, bottom first, those whose names end in `.zfile` through a zfile device that
    /// ignores checksums.
    Lsmt(Vec<String>),
    /// The extents of layers as a table of dm-linear.
    Extents(Vec<String>),
    /// The same, each layer on a dm-linear device of its own.
    Stacked(Vec<String>),
}

/// The devices that exist. Those that layers lie on have names that end in the layer's.
pub struct Devices {
    dm: Dm,
    names: Vec<String>,
}

impl Devices {
    /// None yet.
    pub fn open() -> Result<Self> {
        let dm = Dm::open()?;
        dm.require_target("zfile")?;
        dm.require_target("lsmt")?;
        Ok(Self {
            dm,
            names: Vec::new(),
        })
    }

    /// Makes `image` of what is on `bottom`.
    pub fn make(&mut self, name: &str, bottom: &Bottom<'_>, image: &Image) -> Result<PathBuf> {
        let table = self.table(name, bottom, image)?;
        self.create(name, &table)
    }

    /// The table for `image` of what is on `bottom`; makes the devices that it stands on.
    pub fn table(&mut self, name: &str, bottom: &Bottom<'_>, image: &Image) -> Result<Vec<Target>> {
        Ok(match image {
            Image::Linear(file) => vec![linear(bottom, bottom.list.item(file)?)],
            Image::Zfile(file, ignore_crc) => {
                vec![zfile(bottom, bottom.list.item(file)?, *ignore_crc)?]
            }
            Image::Lsmt(layers) => vec![self.lsmt(name, bottom, layers)?],
            Image::Extents(layers) => extents(bottom, layers, |layer| {
                let item = bottom.list.item(layer)?;
                Ok((bottom.name(), item.offset / SECTOR))
            })?,
            Image::Stacked(layers) => {
                for layer in layers {
                    let table = linear(bottom, bottom.list.item(layer)?);
                    self.create(&below(name, layer), &[table])?;
                }
                extents(bottom, layers, |layer| {
                    let path = node::mapper_path(&below(name, layer));
                    Ok((path.display().to_string(), 0))
                })?
            }
        })
    }

    fn lsmt(&mut self, name: &str, bottom: &Bottom<'_>, layers: &[String]) -> Result<Target> {
        let mut args = Vec::new();
        let mut sizes = Vec::new();
        for layer in layers {
            let item = bottom.list.item(layer)?;
            if !layer.ends_with(".zfile") {
                args.push((bottom.name(), item.offset / SECTOR, item.length));
                sizes.push(Layer::<Std>::open(&bottom.part(item), item.length)?.virtual_size());
                continue;
            }
            let table = zfile(bottom, item, true)?;
            let path = self.create(&below(name, layer), &[table])?;
            let length = bottom.original_size(item)?;
            let source = FileSource::open(&path)?;
            let part = Part::new(Arc::new(source), path.clone(), 0, length);
            sizes.push(Layer::<Std>::open(&part, length)?.virtual_size());
            args.push((path.display().to_string(), 0, length));
        }
        let mut params = String::new();
        let args = args.iter().map(|(device, offset, length)| LayerArg {
            device,
            offset: *offset,
            length: *length,
        });
        write_lsmt(&mut params, args.collect::<Vec<_>>().into_iter())?;
        let length = map::virtual_size(sizes.into_iter())?;
        Ok(line(0, length, "lsmt", params))
    }

    /// The status line of the device `name`.
    pub fn status(&self, name: &str) -> Result<String> {
        let lines = self.dm.status(Id::Name(name))?;
        let line = lines.first();
        Ok(line
            .with_context(|| format!("{name} has no table"))?
            .params
            .clone())
    }

    /// Makes a device of a table.
    pub fn create(&mut self, name: &str, table: &[Target]) -> Result<PathBuf> {
        let udev = Udev::begin();
        self.dm.create(name, "")?;
        self.names.push(name.to_owned());
        self.dm.load(Id::Name(name), table)?;
        let info = self.dm.resume(Id::Name(name), &udev)?;
        node::ensure(name, info.dev)
            .with_context(|| format!("cannot make a node for {name} ({})", DevNo(info.dev)))
    }

    /// Removes all devices, the last one first.
    pub fn remove_all(&mut self) -> Result<()> {
        while let Some(name) = self.names.pop() {
            self.dm.remove(Id::Name(&name), &Udev::begin())?;
            node::forget(&name);
        }
        Ok(())
    }
}

/// A line of a table.
pub fn line(start: Sectors, length: Sectors, kind: &str, params: String) -> Target {
    Target {
        start,
        length,
        kind: kind.to_owned(),
        params,
    }
}

fn linear(bottom: &Bottom<'_>, item: &Item) -> Target {
    let params = format!("{} {}", bottom.name(), item.offset / SECTOR);
    line(0, item.length / SECTOR, "linear", params)
}

fn zfile(bottom: &Bottom<'_>, item: &Item, ignore_crc: bool) -> Result<Target> {
    let device = bottom.name();
    let args = ZfileArgs {
        device: &device,
        offset: item.offset / SECTOR,
        length: item.length,
        ignore_crc,
    };
    let sectors = bottom.original_size(item)?.div_ceil(SECTOR);
    Ok(line(0, sectors, "zfile", args.to_string()))
}

/// The device for a layer of the device `name`.
fn below(name: &str, layer: &str) -> String {
    format!("{name}.{layer}")
}

/// What the lsmt target would do with layers, as lines of dm-linear; `place` tells a layer's
/// device and first sector.
fn extents(
    bottom: &Bottom<'_>,
    names: &[String],
    place: impl Fn(&str) -> Result<(String, Sectors)>,
) -> Result<Vec<Target>> {
    let layers = bottom.layers(names)?;
    let map = Map::<Std>::build(
        &layers,
        map::virtual_size(layers.iter().map(Layer::virtual_size))?,
    )?;
    let mut table = Vec::new();
    for extent in map.iter() {
        let map::Target::Data { layer, sector } = extent.target else {
            bail!("the layers leave sector {} empty", extent.start);
        };
        let name = names
            .get(usize::from(layer))
            .context("a layer that is not there")?;
        let (device, first) = place(name)?;
        let params = format!("{device} {}", first + sector);
        table.push(line(extent.start, extent.len, "linear", params));
    }
    Ok(table)
}
