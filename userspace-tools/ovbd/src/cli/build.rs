// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd build`.

use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use ovbd::image::build::{self, Base, BuiltLayer, LayerPlan, Target};
use ovbd::image::mkfs::{self, FsSettings, FsType};
use ovbd::image::recipe::{self, Recipe};
use ovbd::image::size::{self, Human};
use ovbd::image::source::{FileSource, Source};
use ovbd::image::ImageError;
use ovbd::output::Output;
use ovbd::Result;
use overlaybd_format::lsmt::Uuid;
use serde::Serialize;

use super::compress::{written_text, zfile_text, TargetArgs, WrittenReport, ZfileReport};
use super::inspect::{is_configuration, layer_files};

/// Make a layer of a disk image or a folder, or of its difference to a base
///
/// Without --base, the layer holds all of the disk but its zeros. With --base, it holds what
/// differs, so that base and layer together are the disk.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("content").required(true).args(["raw", "from_dir"])))]
pub struct Args {
    /// The disk: a raw image or a block device
    #[arg(long, value_name = "IMAGE")]
    raw: Option<PathBuf>,
    /// The disk: a file system made of this folder
    #[arg(long, value_name = "DIR")]
    from_dir: Option<PathBuf>,
    /// Which file system to make
    #[arg(long, value_enum, default_value_t, conflicts_with = "raw")]
    fs: FsArg,
    /// UUID of the file system [default: one that follows from the folder's content]
    #[arg(long, value_name = "UUID", value_parser = parse_uuid, conflicts_with = "raw")]
    fs_uuid: Option<Uuid>,
    /// Label of the file system
    #[arg(long, value_name = "LABEL", conflicts_with = "raw")]
    fs_label: Option<String>,
    /// Time of making in seconds since 1970; the latest for any file in ext4, that of all files
    /// in EROFS [default: $SOURCE_DATE_EPOCH, or the folder's youngest modification]
    #[arg(
        long,
        value_name = "SECONDS",
        conflicts_with = "raw",
        allow_negative_numbers = true
    )]
    timestamp: Option<i64>,
    /// What the layer is to lie on: the configuration (.json) of an image, or its layers, bottom
    /// first
    #[arg(long, value_name = "FILE", num_args = 1..)]
    base: Vec<PathBuf>,
    /// The same as a raw disk image, compressed or not
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["base", "config"])]
    base_raw: Option<PathBuf>,
    /// Write the configuration of the image that base and layer make. It may be the base itself,
    /// which then grows by the layer
    #[arg(long, value_name = "JSON")]
    config: Option<PathBuf>,
    /// Size of the disk: bytes, or with K, M, G, T [default: that of the image; for a folder what
    /// its content needs and some room]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    virtual_size: Option<u64>,
    /// UUID of the layer [default: none]
    #[arg(long, value_parser = parse_uuid)]
    uuid: Option<Uuid>,
    /// UUID of the layer below [default: that of the base's topmost layer]
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    parent_uuid: Option<Uuid>,
    /// Free text in the layer's header, at most 256 bytes
    #[arg(long, value_name = "TEXT", default_value = "")]
    tag: String,
    /// Bytes in which disks are compared: a power of two, 512 to 64k
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "4k")]
    granularity: u64,
    #[command(flatten)]
    target: TargetArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd build --from-dir rootfs -o base.tar --tar -a zstd --config config.v1.json
  ovbd build --raw changed.img --base config.v1.json -o l1.tar --tar --config config.v1.json
  ovbd build --raw disk.img -o disk.lsmt -a none";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum FsArg {
    /// ext4 without a journal, by mke2fs
    #[default]
    Ext4,
    /// EROFS, by mkfs.erofs
    Erofs,
}

fn parse_uuid(text: &str) -> Result<Uuid, String> {
    Uuid::parse(text)
        .ok_or_else(|| "expected 8-4-4-4-12 hexadecimal digits, not all of them zero".to_owned())
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let target = args.target.target()?;
    let new = args.new_disk()?;
    let base = args.base(output)?;
    let recipe = args.recipe()?;
    let plan = LayerPlan {
        virtual_size: args.virtual_size,
        uuid: args.uuid,
        parent_uuid: args.parent_uuid,
        tag: args.tag.clone().into_bytes(),
        granule: args.granularity,
    };
    let progress = output.progress(args.virtual_size.unwrap_or(new.size()), "build");
    let result = build::build_layer(&*new, base.as_ref(), &plan, &target, &progress);
    progress.finish();
    let built = result?;
    if let Some(recipe) = recipe {
        recipe.finish(&built.written)?;
    }
    output.answer(&Report::new(&built, &target), || text(&built, &target))
}

impl Args {
    /// What the layer lies on. It must not be the output: that would be gone in the end.
    fn base(&self, output: &Output) -> Result<Option<Base>> {
        let out = &self.target.file.output;
        let files = match (&self.base[..], &self.base_raw) {
            ([], None) => return Ok(None),
            ([], Some(raw)) => vec![raw.clone()],
            (files, _) => layer_files(files, output)?,
        };
        if let Some(file) = files.iter().find(|file| recipe::is_same_file(file, out)) {
            return Err(ImageError::Argument(format!(
                "{}: is part of the base, and cannot be the output, too",
                file.display()
            ))
            .into());
        }
        match &self.base_raw {
            Some(raw) => Base::of_raw(raw),
            None => Base::of_layers(&files),
        }
        .map(Some)
    }

    /// The configuration to write. Looked into before the work, so that it does not fail after it.
    fn recipe(&self) -> Result<Option<Recipe>> {
        let Some(config) = &self.config else {
            return Ok(None);
        };
        let force = self.target.file.force;
        match &self.base[..] {
            [one] if is_configuration(&self.base) => Recipe::of_config(config, one, force),
            layers => Recipe::of_layers(config, layers, force),
        }
        .map(Some)
    }

    fn new_disk(&self) -> Result<Arc<FileSource>> {
        let source = match (&self.raw, &self.from_dir) {
            (Some(image), _) => FileSource::open(image)?,
            (None, Some(folder)) => {
                let near = &self.target.file.output;
                let image = mkfs::make(folder, &self.fs_settings()?, near)?;
                FileSource::new(image, folder.clone())?
            }
            // The argument parser demands one of them.
            (None, None) => {
                return Err(ImageError::Argument("neither --raw nor --from-dir".to_owned()).into())
            }
        };
        Ok(Arc::new(source))
    }

    fn fs_settings(&self) -> Result<FsSettings> {
        let epoch = mkfs::source_date_epoch(std::env::var_os("SOURCE_DATE_EPOCH").as_deref())?;
        Ok(FsSettings {
            kind: match self.fs {
                FsArg::Ext4 => FsType::Ext4,
                FsArg::Erofs => FsType::Erofs,
            },
            size: self.virtual_size,
            uuid: self.fs_uuid.map(|uuid| uuid.to_string()),
            label: self.fs_label.clone(),
            timestamp: self.timestamp.or(epoch),
        })
    }
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    written: WrittenReport<'a>,
    virtual_size: u64,
    uuid: Option<String>,
    parent_uuid: Option<String>,
    extents: u64,
    data: u64,
    zeroed: u64,
    zfile: Option<ZfileReport>,
}

impl<'a> Report<'a> {
    fn new(built: &'a BuiltLayer, target: &Target) -> Self {
        Self {
            written: WrittenReport::new(&built.written, target),
            virtual_size: built.settings.virtual_size,
            uuid: built.settings.uuid.map(|uuid| uuid.to_string()),
            parent_uuid: built.settings.parent_uuid.map(|uuid| uuid.to_string()),
            extents: built.layer.extents,
            data: built.layer.data,
            zeroed: built.layer.zeroed,
            zfile: ZfileReport::new(target, built.zfile),
        }
    }
}

fn text(built: &BuiltLayer, target: &Target) -> String {
    let zeroed = match built.layer.zeroed {
        0 => String::new(),
        bytes => format!(", {} zeroed", Human(bytes)),
    };
    format!(
        "{}  layer   {} of a {} disk in {} extents{zeroed}\n{}",
        written_text(&built.written, target),
        Human(built.layer.data),
        Human(built.settings.virtual_size),
        built.layer.extents,
        zfile_text(target, built.zfile)
    )
}
