// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd inspect`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::ValueEnum;
use ovbd::config::ImageConfig;
use ovbd::image::atomic;
use ovbd::image::inspect::{self, FileInfo, ImageInfo};
use ovbd::image::picture::{self, Picture, Style};
use ovbd::image::stack::Stack;
use ovbd::output::Output;
use ovbd::Result;
use serde::Serialize;

mod text;

/// Show what files are: tar, ZFile, LSMT layer, and every field of their headers
///
/// With the configuration of an image, or with --map or --svg, also the disk that the layers make
/// together: the files are then taken as its layers, bottom first.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The files, or the configuration (.json) of an image
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Draw where each layer's data lie on the disk, and which layer serves what
    #[arg(long)]
    map: bool,
    /// Write that picture to a file, as SVG
    #[arg(long, value_name = "OUTPUT")]
    svg: Option<PathBuf>,
    /// Replace the SVG file if it exists
    #[arg(short, long, requires = "svg")]
    force: bool,
    /// When to use colours. `auto` is for terminals, and respects NO_COLOR
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    color: Color,
}

const EXAMPLES: &str = "\
Examples:
  ovbd inspect layer.tar
  ovbd inspect --map config.v1.json
  ovbd inspect --svg image.svg layer0.tar layer1.tar
  ovbd --json inspect layer.tar";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Serialize)]
struct Report<'a> {
    files: &'a [FileInfo],
    image: Option<&'a ImageInfo>,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let files = layer_files(&args.files, output)?;
    let infos = files
        .iter()
        .map(|file| inspect::inspect(file))
        .collect::<Result<Vec<_>>>()?;
    let is_image = args.map || args.svg.is_some() || is_configuration(&args.files);
    let stack = is_image.then(|| Stack::open(&files)).transpose()?;
    let image = stack.as_ref().map(ImageInfo::new);
    if let (Some(path), Some(stack)) = (&args.svg, &stack) {
        let picture = picture::svg(&Picture::new(stack));
        atomic::write(path, args.force, picture.as_bytes())?;
    }
    let report = Report {
        files: &infos,
        image: image.as_ref(),
    };
    output.answer(&report, || {
        let mut text = text::files(&infos);
        if let Some(image) = &image {
            text += &text::image(image);
        }
        if let (true, Some(stack)) = (args.map, &stack) {
            text.push('\n');
            text += &picture::terminal(&Picture::new(stack), args.style());
        }
        text
    })
}

impl Args {
    fn style(&self) -> Style {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let terminal = io::stdout().is_terminal();
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Style {
            width: terminal_width(),
            colour: match self.color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => terminal && !dumb && !set("NO_COLOR"),
            },
        }
    }
}

/// Width of the terminal; of a page where there is none.
fn terminal_width() -> usize {
    const PAGE: usize = 100;
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    let size = || rustix::termios::tcgetwinsize(io::stdout()).ok();
    columns
        .or_else(|| size().map(|size| size.ws_col.into()))
        .filter(|width| *width > 0)
        .unwrap_or(PAGE)
}

/// Whether the argument is the configuration of an image.
pub fn is_configuration(arguments: &[PathBuf]) -> bool {
    matches!(arguments, [one] if one.extension().is_some_and(|e| e == "json"))
}

/// The files in `arguments`, bottom first; those that a configuration names, if it is one.
pub fn layer_files(arguments: &[PathBuf], output: &Output) -> Result<Vec<PathBuf>> {
    let config = ImageConfig::from_arguments(arguments)?;
    for note in &config.notes {
        output.remark(note);
    }
    let files = config.layers.iter().map(|layer| layer.locate());
    Ok(files.collect::<Result<Vec<_>, _>>()?)
}
