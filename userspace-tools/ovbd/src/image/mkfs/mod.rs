// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A file system made of a folder, with the file system's own tool.
//!
//! The same tree gives the same image, byte for byte: UUID, hash seed and time stamps are fixed
//! (from the tree itself unless told), and what `mke2fs` takes from the host's clock or the
//! tree's access times is put right afterwards by [`ext4`] and [`erofs`].

mod erofs;
mod ext4;
mod tree;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use self::tree::Tree;
use super::atomic::scratch_file;
use super::error::ImageError;
use crate::{Error, Result};

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsType {
    /// ext4 without a journal, made by `mke2fs`.
    Ext4,
    /// EROFS, uncompressed, made by `mkfs.erofs`.
    Erofs,
}

/// How to make a file system.
#[derive(Clone, Debug)]
pub struct FsSettings {
    /// Which one.
    pub kind: FsType,
    /// Bytes of the image. By default what the tree needs, for ext4 with a quarter and 32 MiB of
    /// free space, which costs nothing in a layer.
    pub size: Option<u64>,
    /// UUID of the file system; by default one that follows from the tree.
    pub uuid: Option<String>,
    /// Volume label.
    pub label: Option<String>,
    /// Seconds since 1970: the time of making. In ext4, no file is younger; in EROFS, all files
    /// have this time. By default the tree's youngest modification, and files keep their times.
    pub timestamp: Option<i64>,
}

/// The most lines of a tool's words that are passed on.
const ERROR_LINES: usize = 6;

/// ext4's block, EROFS's too.
const BLOCK: u64 = 4096;

/// Makes an image of the tree below `folder`.
///
/// The image lies in a file without a name, on the file system of `near`.
///
/// # Errors
/// [`Error::Tool`] with the words of the tool that failed or is missing.
pub fn make(folder: &Path, settings: &FsSettings, near: &Path) -> Result<File> {
    // Absolute, so that no tool takes it for an option.
    let folder = fs::canonicalize(folder).map_err(|e| Error::io("find the folder", folder, e))?;
    let tree = Tree::scan(&folder)?;
    let plan = Plan {
        folder: &folder,
        uuid: settings.uuid.clone().unwrap_or_else(|| tree.uuid()),
        label: settings.label.as_deref(),
        // 0 means "now" to both tools.
        time: settings.timestamp.unwrap_or(tree.newest).max(1),
        same_time: settings.timestamp.is_some(),
    };
    let image = scratch_file(near)?;
    match settings.kind {
        FsType::Ext4 => plan.ext4(&tree, &image, settings.size)?,
        FsType::Erofs => plan.erofs(&image, settings.size)?,
    }
    Ok(image)
}

/// What both tools have to know.
struct Plan<'a> {
    folder: &'a Path,
    uuid: String,
    label: Option<&'a str>,
    time: i64,
    /// The time was given: EROFS has it for all files then.
    same_time: bool,
}

impl Plan<'_> {
    fn ext4(&self, tree: &Tree, image: &File, size: Option<u64>) -> Result<()> {
        let size = size.unwrap_or_else(|| tree.ext4_size());
        let inodes = tree.ext4_inodes(size);
        let mut command = tool("mke2fs");
        command
            .args([
                "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0",
            ])
            // Options of the host's mke2fs.conf must not matter.
            .env("MKE2FS_CONFIG", "/dev/null")
            .args(["-O", EXT4_FEATURES])
            .args(["-N", &inodes.to_string()])
            .args(["-U", &self.uuid, "-E"])
            .arg(format!(
                "hash_seed={},lazy_itable_init=1,nodiscard,root_owner=0:0",
                self.uuid
            ))
            .env("E2FSPROGS_FAKE_TIME", self.time.to_string())
            .env("SOURCE_DATE_EPOCH", self.time.to_string());
        if let Some(label) = self.label {
            command.args(["-L", label]);
        }
        command.arg("-d").arg(self.folder).arg(name_of(image));
        command.arg(format!("{}k", size.div_ceil(1024)));
        run(command, "e2fsprogs")?;
        ext4::settle_times(image, self.time).map_err(|e| {
            Error::io(
                "settle the time stamps of the file system of",
                self.folder,
                e,
            )
        })
    }

    fn erofs(&self, image: &File, size: Option<u64>) -> Result<()> {
        let mut command = tool("mkfs.erofs");
        command.args(["-U", &self.uuid]);
        if self.same_time {
            command.arg(format!("-T{}", self.time));
        }
        if let Some(label) = self.label {
            command.args(["-L", label]);
        }
        command.arg(name_of(image)).arg(self.folder);
        run(command, "erofs-utils")?;
        if !self.same_time {
            erofs::set_build_time(image, self.time)
                .map_err(|e| Error::io("settle the file system of", self.folder, e))?;
        }
        self.resize(image, size)
    }

    /// Lengthens the image to whole blocks, or to `size`.
    fn resize(&self, image: &File, size: Option<u64>) -> Result<()> {
        let failed = |e| Error::io("set the size of the file system of", self.folder, e);
        let made = image.metadata().map_err(failed)?.len();
        let size = size.unwrap_or_else(|| made.next_multiple_of(BLOCK));
        if size < made {
            let reason =
                format!("the file system takes {made} bytes, more than the {size} asked for");
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
        }
        image.set_len(size).map_err(failed)
    }
}

/// Everything that the kernel's ext4 of the last years has by default, but for the journal and
/// room to grow: the image is read-only.
const EXT4_FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,\
                             large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

/// A name for an open file that a child process can open, too.
fn name_of(file: &File) -> OsString {
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into()
}

/// `program`, looked for where administrators' tools are, too.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("PATH", search_path(std::env::var_os("PATH")))
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

/// `path` and the folders of administrators' tools. Without any, those of everybody's: an empty one
/// would be the working folder.
fn search_path(path: Option<OsString>) -> OsString {
    let path = path.filter(|path| !path.is_empty());
    let mut path = path.unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/sbin:/sbin");
    path
}

/// Runs `command`, which Debian has in `package`.
fn run(mut command: Command, package: &'static str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |reason: String| {
        Error::from(ImageError::Tool {
            program: program.clone(),
            reason,
        })
    };
    let output = command.output().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => failed(format!("not found; install {package}")),
        _ => failed(e.to_string()),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let words = match output.stderr.trim_ascii() {
        [] => &output.stdout,
        words => words,
    };
    // Some follow their error with a page about their options.
    let words: Vec<_> = words
        .trim_ascii()
        .split(|byte| *byte == b'\n')
        .take(ERROR_LINES)
        .map(String::from_utf8_lossy)
        .collect();
    Err(failed(format!("{}: {}", output.status, words.join("\n"))))
}

/// The time in SOURCE_DATE_EPOCH, if that is set.
///
/// # Errors
/// Anything but a decimal number is refused.
pub fn source_date_epoch(value: Option<&OsStr>) -> Result<Option<i64>> {
    let Some(value) = value else {
        return Ok(None);
    };
    let number = value.to_str().and_then(|text| text.parse().ok());
    match number {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(ImageError::Environment {
            variable: "SOURCE_DATE_EPOCH",
            value: value.to_string_lossy().into_owned(),
            expected: "seconds since 1970 in decimal",
        }
        .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tool_is_looked_for_in_the_working_folder() {
        let elsewhere = "/usr/bin:/bin:/usr/sbin:/sbin";
        for path in [None, Some(OsString::new())] {
            assert_eq!(search_path(path), elsewhere);
        }
        assert_eq!(
            search_path(Some("/opt/bin".into())),
            "/opt/bin:/usr/sbin:/sbin"
        );
    }
}
