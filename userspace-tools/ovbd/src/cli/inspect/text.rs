// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What `ovbd inspect` says to people.

use std::fmt::{Display, Write};

use ovbd::image::inspect::{
    BlockInfo, FileInfo, ImageInfo, IndexInfo, LsmtInfo, LsmtRecord, ZfileInfo, ZfileRecord,
};
use ovbd::image::size::{percentage, Human};
use ovbd::verity::seal::Sealed;

/// Lines with a word in front of what belongs together.
struct Lines(String);

impl Lines {
    fn line(&mut self, word: &str, text: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "  {word:<8}{text}");
    }
}

/// Several files, with empty lines between them.
pub fn files(infos: &[FileInfo]) -> String {
    let texts: Vec<_> = infos.iter().map(file).collect();
    texts.join("\n")
}

fn file(info: &FileInfo) -> String {
    let kinds = match info.kinds.is_empty() {
        true => "unknown".to_owned(),
        false => info.kinds.join(" › "),
    };
    let mut lines = Lines(format!(
        "{}: {kinds}, {}\n",
        info.path.display(),
        exact(info.size)
    ));
    if let Some(tar) = &info.tar {
        let size = exact(tar.payload_size);
        lines.line(
            "tar",
            format_args!("payload of {size} at byte {}", tar.payload_offset),
        );
    }
    if let Some(zfile) = &info.zfile {
        lines.zfile(zfile);
    }
    if let Some(lsmt) = &info.lsmt {
        lines.lsmt(lsmt);
    }
    if let Some(sealed) = &info.verity {
        lines.verity(sealed);
    }
    if let Some(problem) = &info.problem {
        lines.line("PROBLEM", problem);
    }
    lines.0
}

impl Lines {
    fn zfile(&mut self, zfile: &ZfileInfo) {
        let checksums = if zfile.checksums { "" } else { "out" };
        let level = zfile.trailer.as_ref().map_or(0, |trailer| trailer.level);
        let count = zfile.blocks.as_ref().map_or("blocks".to_owned(), |blocks| {
            format!("{} blocks", blocks.count)
        });
        self.line(
            "zfile",
            format_args!(
                "{}, {count} of {}, with{checksums} checksums, level {level}",
                zfile.algorithm,
                Human(zfile.block_size.into()),
            ),
        );
        self.line(
            "",
            format_args!(
                "{} → {}{}",
                exact(zfile.original_size),
                exact(zfile.size),
                percentage(zfile.size, zfile.original_size)
            ),
        );
        if let Some(blocks) = &zfile.blocks {
            self.blocks(blocks);
        }
        for (name, record) in [("header", &zfile.header), ("trailer", &zfile.trailer)] {
            match record {
                Some(record) => self.zfile_record(name, record),
                None => self.line("", format_args!("{name:<8}broken")),
            }
        }
    }

    fn verity(&mut self, sealed: &Sealed) {
        let (tree, size) = (sealed.tree.display(), exact(sealed.tree_size));
        self.line("verity", format_args!("root hash {}", sealed.root_hash));
        self.line("", format_args!("{tree}, {size}"));
        let shape = &sealed.shape;
        let (blocks, block, salt) = (shape.data_blocks(), shape.data_block(), shape.salt());
        self.line(
            "",
            format_args!("{blocks} blocks of {block} bytes, salt {salt}"),
        );
    }

    fn blocks(&mut self, blocks: &BlockInfo) {
        let Some(mean) = blocks.stored.checked_div(blocks.count).map(Human) else {
            return;
        };
        let (least, most) = (Human(blocks.smallest), Human(blocks.largest));
        let expanded = blocks.expanded;
        self.line(
            "",
            format_args!(
                "blocks stored in {least} to {most}, {mean} on average; {expanded} longer than \
                 they were"
            ),
        );
    }

    fn zfile_record(&mut self, name: &str, record: &ZfileRecord) {
        let index = match record.index_offset {
            0 => "index fields not filled in".to_owned(),
            offset => format!(
                "index of {} at byte {offset}, CRC {:#010x}",
                record.index_size, record.index_crc
            ),
        };
        self.line(
            "",
            format_args!(
                "{name:<8}flags {:#x} ({}), digest {:#010x}, {index}",
                record.flags,
                record.flag_names.join(", "),
                record.digest
            ),
        );
    }

    fn lsmt(&mut self, lsmt: &LsmtInfo) {
        let record = lsmt.trailer.as_ref().unwrap_or(&lsmt.header);
        self.line(
            "lsmt",
            format_args!(
                "{}, for a disk of {}",
                lsmt.state,
                exact(record.virtual_size)
            ),
        );
        if let Some(index) = &lsmt.index {
            self.index(index);
        }
        let none = || "none".to_owned();
        self.line(
            "",
            format_args!(
                "uuid {}, parent {}, version {}.{}",
                record.uuid.clone().unwrap_or_else(none),
                record.parent_uuid.clone().unwrap_or_else(none),
                record.version.0,
                record.version.1
            ),
        );
        self.tag(&record.user_tag);
        self.lsmt_record("header", &lsmt.header);
        if let Some(trailer) = &lsmt.trailer {
            self.lsmt_record("trailer", trailer);
            self.differences(&lsmt.header, trailer);
        }
    }

    /// Somebody else's text: control characters in it must not reach the terminal.
    fn tag(&mut self, tag: &str) {
        if !tag.is_empty() {
            self.line("", format_args!("tag \"{}\"", tag.escape_debug()));
        }
    }

    fn index(&mut self, index: &IndexInfo) {
        let zeroed = match index.zeroed_extents {
            0 => String::new(),
            count => format!("; {} zeroed in {count} of them", Human(index.zeroed)),
        };
        self.line(
            "",
            format_args!(
                "{} of data in {} extents{zeroed}",
                exact(index.data),
                index.extents
            ),
        );
        let mean = (index.data + index.zeroed).checked_div(index.extents);
        if let Some(mean) = mean.map(Human) {
            self.line(
                "",
                format_args!(
                    "extents of {} to {}, {} on average",
                    Human(index.shortest),
                    Human(index.longest),
                    mean
                ),
            );
        }
        if index.beyond > 0 {
            let beyond = index.beyond;
            self.line("", format_args!("{beyond} extents begin beyond the disk"));
        }
        if let Some(bytes) = index.partial_tail {
            self.line("", format_args!("{bytes} bytes of data in the last sector"));
        }
    }

    fn lsmt_record(&mut self, name: &str, record: &LsmtRecord) {
        let index = match record.index_offset {
            0 => "index fields not filled in".to_owned(),
            offset => format!("index of {} at byte {offset}", record.index_size),
        };
        self.line(
            "",
            format_args!(
                "{name:<8}flags {:#x} ({}), {index}",
                record.flags,
                record.flag_names.join(", "),
            ),
        );
    }

    /// Where header and trailer say different things, beyond what is usual.
    fn differences(&mut self, header: &LsmtRecord, trailer: &LsmtRecord) {
        if header.virtual_size != trailer.virtual_size {
            let size = exact(header.virtual_size);
            self.line("", format_args!("the header has another disk size: {size}"));
        }
        if (&header.uuid, &header.parent_uuid) != (&trailer.uuid, &trailer.parent_uuid) {
            self.line("", "the header has other UUIDs");
        }
        if header.user_tag != trailer.user_tag {
            let tag = header.user_tag.escape_debug();
            self.line("", format_args!("the header has another tag: \"{tag}\""));
        }
    }
}

/// The disk that the layers make.
pub fn image(image: &ImageInfo) -> String {
    let layers = image.layers.len();
    let mut lines = Lines(format!(
        "\nimage: {} in {layers} layer{}, {} extents\n",
        exact(image.size),
        if layers == 1 { "" } else { "s" },
        image.extents
    ));
    for (number, layer) in image.layers.iter().enumerate().rev() {
        let zeroed = match layer.zeroed {
            0 => String::new(),
            bytes => format!(", {} set to zero", Human(bytes)),
        };
        lines.line(
            &number.to_string(),
            format_args!(
                "{} of data, {} seen{zeroed}  {}",
                Human(layer.data),
                Human(layer.seen),
                layer.path.display()
            ),
        );
    }
    lines.line(
        "index",
        format_args!("{} of kernel memory", Human(image.index_memory)),
    );
    for warning in &image.warnings {
        lines.line("warning", warning);
    }
    lines.0
}

/// `1.50 MiB (1572864 bytes)`.
fn exact(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    format!("{} ({bytes} bytes)", Human(bytes))
}
