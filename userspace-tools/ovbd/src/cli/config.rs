// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! `ovbd config`.

use std::path::PathBuf;

use ovbd::config::global::{Finding, Global, PATH};
use ovbd::output::columns::Columns;
use ovbd::output::Output;
use ovbd::Result;
use serde::Serialize;

/// Say what becomes of the configuration of a host (overlaybd.json)
///
/// Lists every field with what it means here: used as it is; replaced, because it was for the
/// userspace daemon; or missing, because what it asks for is not to be had. Credentials are not
/// shown.
#[derive(clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// The configuration
    #[arg(default_value = PATH)]
    file: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  ovbd config
  ovbd config --json | jq '.fields[] | select(.verdict == \"missing\")'";

#[derive(Serialize)]
struct Report {
    fields: Vec<Finding>,
}

pub fn run(args: &Args, output: &Output) -> Result<()> {
    let fields = Global::load(Some(&args.file))?.findings;
    let report = Report { fields };
    output.answer(&report, || text(&report.fields))
}

fn text(fields: &[Finding]) -> String {
    let mut columns = Columns::new(["FIELD", "IS", ""]);
    for finding in fields {
        columns.row([
            finding.field.clone(),
            finding.verdict.word().to_owned(),
            finding.note.to_owned(),
        ]);
    }
    columns.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn findings_read_well() {
        let text = r#"{"userAgent": "x", "enableAudit": false, "odd": 1}"#;
        let global = Global::parse(text, Path::new("/x")).unwrap();
        let lines = super::text(&global.findings);
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("FIELD        IS"), "{lines:?}");
        assert!(lines[2].starts_with("odd          unknown"), "{lines:?}");
        assert_eq!(lines[3], "userAgent    used     sent to registries");
    }
}
