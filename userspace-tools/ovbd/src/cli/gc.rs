// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd gc`.

use ovbd::image::size::Human;
use ovbd::output::Output;
use ovbd::store::{Garbage, Removed};
use ovbd::Result;
use serde::Serialize;

use super::StoreArgs;

/// Remove from the store what no image needs
///
/// Removes layers that no image has, and what arrived of a pull that was interrupted. Leaves alone
/// what a running pull waits for, and what a device stands on: the kernel is asked which files loop
/// devices are on.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Only say what would be removed
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
}

const EXAMPLES: &str = "\
Examples:
  ovbd gc
  ovbd gc --dry-run --json";

#[derive(Serialize)]
struct Report {
    dry_run: bool,
    bytes: u64,
    #[serde(flatten)]
    garbage: Garbage,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let garbage = args.store.open().gc(args.dry_run)?;
    let report = Report {
        dry_run: args.dry_run,
        bytes: garbage.bytes(),
        garbage,
    };
    output.answer(&report, || text(&report))
}

fn text(report: &Report) -> String {
    let line = |removed: &Removed| {
        let partial = if removed.partial { ", incomplete" } else { "" };
        format!("{}  {}{partial}\n", removed.digest, Human(removed.bytes))
    };
    let mut text: String = report.garbage.removed.iter().map(line).collect();
    text += &summary(&report.garbage, report.dry_run);
    text.push('\n');
    text
}

/// What was gained, in words.
pub fn summary(garbage: &Garbage, dry_run: bool) -> String {
    let layers = |count: usize| match count {
        0 => "no layer is".to_owned(),
        1 => "1 layer is".to_owned(),
        _ => format!("{count} layers are"),
    };
    let (removed, kept) = (garbage.removed.len(), garbage.in_use.len());
    let verb = if dry_run { "to be removed" } else { "removed" };
    let mut text = match (removed, kept) {
        (0, 0) => "no layer is unused".to_owned(),
        (0, _) => String::new(),
        _ => format!(
            "{} {verb}, {} in all",
            layers(removed),
            Human(garbage.bytes())
        ),
    };
    if kept > 0 {
        let separator = if text.is_empty() { "" } else { "; " };
        text += &format!("{separator}{} kept for devices that are up", layers(kept));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ovbd::image::digest::Digest;

    #[test]
    fn a_collection_reads_well() {
        let blob = |partial| Removed {
            digest: Digest::of_bytes(b""),
            bytes: 4096,
            partial,
        };
        let mut report = Report {
            dry_run: false,
            bytes: 8192,
            garbage: Garbage {
                removed: vec![blob(false), blob(true)],
                in_use: vec![blob(false)],
            },
        };
        let digest = Digest::of_bytes(b"");
        let expected = format!(
            "{digest}  4.00 KiB\n{digest}  4.00 KiB, incomplete\n\
             2 layers are removed, 8.00 KiB in all; 1 layer is kept for devices that are up\n"
        );
        assert_eq!(text(&report), expected);
        report.garbage.removed.clear();
        assert_eq!(text(&report), "1 layer is kept for devices that are up\n");
        report.garbage.in_use.clear();
        assert_eq!(text(&report), "no layer is unused\n");
    }
}
