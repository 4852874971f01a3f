// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Paths in JSON, which knows only Unicode: a byte that is none becomes U+FFFD. An answer with such
//! a path is better than none.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// A path.
pub fn one<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// A path, or null.
pub fn perhaps<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    let text = path.as_ref().map(|path| path.display().to_string());
    text.serialize(serializer)
}

/// A list of paths.
pub fn many<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[derive(Serialize)]
    struct Paths {
        #[serde(serialize_with = "one")]
        one: PathBuf,
        #[serde(serialize_with = "perhaps")]
        perhaps: Option<PathBuf>,
        #[serde(serialize_with = "many")]
        many: Vec<PathBuf>,
    }

    #[test]
    fn what_is_no_unicode_is_replaced() {
        let odd = PathBuf::from(OsString::from_vec(b"a\xff".to_vec()));
        let paths = Paths {
            one: odd.clone(),
            perhaps: None,
            many: vec![odd],
        };
        let text = serde_json::to_string(&paths).unwrap();
        assert_eq!(
            text,
            "{\"one\":\"a\u{fffd}\",\"perhaps\":null,\"many\":[\"a\u{fffd}\"]}"
        );
    }
}
