// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What becomes of each field of a host's configuration.

use serde::Serialize;
use serde_json::{Map, Value};

/// What became of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The field, `download.maxMBps` for example.
    pub field: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, or what is in its place.
    pub note: &'static str,
}

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It holds here, too.
    Used,
    /// It was for the daemon; what it asked for is the case, or something else is in its place.
    Replaced,
    /// What it asks for is not to be had.
    Missing,
    /// It means nothing to the daemon, either, as far as is known.
    Unknown,
}

impl Verdict {
    /// A word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Replaced => "replaced",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// When a field asks for what is missing.
#[derive(Clone, Copy)]
enum Rule {
    Is(Verdict),
    /// It asks for something only if it is `true`.
    MissingIfTrue,
}

const USED: Rule = Rule::Is(Verdict::Used);
const REPLACED: Rule = Rule::Is(Verdict::Replaced);

/// Every field there is: a name that ends in a dot stands for all fields below it. The first that
/// fits counts.
const FIELDS: [(&str, Rule, &str); 28] = [
    (
        "download.maxMBps",
        USED,
        "the rate at which a pull fetches at most",
    ),
    (
        "download.tryCnt",
        USED,
        "how often a pull tries before it gives up",
    ),
    (
        "download.enable",
        REPLACED,
        "layers are always fetched completely before a device uses them, and never with --no-pull",
    ),
    ("download.delay", REPLACED, BACKGROUND),
    ("download.delayExtra", REPLACED, BACKGROUND),
    (
        "download.blockSize",
        REPLACED,
        "layers come in one request, or in parts of 16 MiB, and go on at any byte",
    ),
    ("p2pConfig.", USED, "blobs are fetched through this proxy"),
    ("credentialConfig.", USED, "where logins come from"),
    ("credentialFilePath", USED, "where logins come from"),
    ("certConfig.", USED, "shown to registries"),
    ("userAgent", USED, "sent to registries"),
    ("logConfig.", REPLACED, LOG),
    ("logLevel", REPLACED, LOG),
    ("logPath", REPLACED, LOG),
    (
        "ioEngine",
        REPLACED,
        "the kernel reads the layers' files itself, past the page cache",
    ),
    ("cacheConfig.", REPLACED, CACHE),
    ("cacheType", REPLACED, CACHE),
    ("registryCacheDir", REPLACED, CACHE),
    ("registryCacheSizeGB", REPLACED, CACHE),
    (
        "gzipCacheConfig.enable",
        Rule::MissingIfTrue,
        "layers that point into a gzip file are not supported",
    ),
    (
        "gzipCacheConfig.",
        REPLACED,
        "layers that point into a gzip file are not supported",
    ),
    (
        "registryFsVersion",
        REPLACED,
        "there is one client for registries",
    ),
    (
        "prefetchConfig.",
        REPLACED,
        "layers are fetched completely: nothing is left to prefetch",
    ),
    (
        "exporterConfig.",
        REPLACED,
        "`ovbd ls --json` and `ovbd status --json` have the counters, for any exporter",
    ),
    ("enableAudit", USED, AUDIT),
    ("auditPath", USED, AUDIT),
    (
        "serviceConfig.enable",
        Rule::MissingIfTrue,
        "there is no service that takes snapshots of running devices",
    ),
    (
        "serviceConfig.",
        REPLACED,
        "there is no service that takes snapshots of running devices",
    ),
];

const LOG: &str = "there is no daemon that logs: commands say on standard error what is wrong, \
                   --verbose says more, and what the kernel finds is in its log";
const CACHE: &str = "layers are kept in the store, complete: `ovbd df` says how much they take, \
                     `ovbd gc` and `ovbd rmi` remove them, OVBD_STORE says where they are";
const AUDIT: &str = "a line for each request to a registry; reads do not leave the kernel: `ovbd \
                     status` counts them, and tracing of block devices (blktrace) lists them";
const BACKGROUND: &str = "nothing is fetched in the background, so nothing has to wait";

/// What becomes of all fields of a configuration.
pub(super) fn findings(fields: &Map<String, Value>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) => {
                let inner = inner.iter();
                findings
                    .extend(inner.map(|(field, value)| finding(format!("{name}.{field}"), value)));
            }
            value => findings.push(finding(name.clone(), value)),
        }
    }
    findings
}

fn finding(field: String, value: &Value) -> Finding {
    let fits = |name: &str| match name.strip_suffix('.') {
        Some(_) => field.starts_with(name),
        None => field == name,
    };
    let known = FIELDS.iter().find(|(name, ..)| fits(name));
    let (verdict, note) = match known {
        None => (Verdict::Unknown, "is not a known field and was ignored"),
        Some((_, Rule::Is(verdict), note)) => (*verdict, *note),
        Some((_, Rule::MissingIfTrue, note)) if *value == Value::Bool(true) => {
            (Verdict::Missing, *note)
        }
        Some((_, Rule::MissingIfTrue, note)) => (Verdict::Replaced, *note),
    };
    Finding {
        field,
        verdict,
        note,
    }
}
