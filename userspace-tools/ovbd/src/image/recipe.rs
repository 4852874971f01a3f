// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Writing image configurations (`config.v1.json`): the base's layers, and a new one on top.
//!
//! Layers in the configuration's own folder, or below it, are named relative to it, so that the
//! folder can be moved; others with their absolute path.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{json, Map, Value};

use super::atomic;
use super::error::ImageError;
use super::output::Written;
use crate::verity::RootHash;
use crate::{Error, Result};

/// Fields with paths in the description of a layer.
const PATHS: [&str; 4] = ["file", "dir", "verityTree", "verityRootHashSig"];

/// A configuration that waits for its topmost layer.
#[derive(Debug)]
pub struct Recipe {
    path: PathBuf,
    replace: bool,
    fields: Map<String, Value>,
    layers: Vec<Value>,
}

impl Recipe {
    /// A configuration `path` of an image whose lower layers are those in the files `layers`.
    ///
    /// # Errors
    /// A `path` that exists is refused unless `replace` is set.
    pub fn of_layers(path: &Path, layers: &[PathBuf], replace: bool) -> Result<Self> {
        if !replace && path.symlink_metadata().is_ok() {
            return Err(ImageError::Exists(path.to_owned()).into());
        }
        let folder = folder_of(path)?;
        let layers = layers
            .iter()
            .map(|layer| Ok(json!({ "file": name_in(&folder, layer)? })))
            .collect::<Result<_>>()?;
        Ok(Self {
            path: path.to_owned(),
            replace,
            fields: Map::new(),
            layers,
        })
    }

    /// A configuration `path` of an image whose lower layers are those of the configuration
    /// `base`.
    ///
    /// If they are the same file, it is kept but for the new layer. If not, only what describes
    /// the layers is taken over.
    ///
    /// # Errors
    /// As [`of_layers`](Self::of_layers), but `base` itself may be replaced.
    pub fn of_config(path: &Path, base: &Path, replace: bool) -> Result<Self> {
        let mut fields = read(base)?;
        let layers = match fields.remove("lowers") {
            Some(Value::Array(layers)) => layers,
            _ => return Err(not_config(base, "an array `lowers`")),
        };
        let mut recipe = if is_same_file(path, base) {
            Self::of_layers(path, &[], true)?
        } else {
            fields.retain(|name, _| name == "repoBlobUrl");
            Self::of_layers(path, &[], replace)?
        };
        let (from, to) = (folder_of(base)?, folder_of(path)?);
        recipe.layers = layers
            .into_iter()
            .map(|layer| move_paths(layer, &from, &to))
            .collect::<Result<_>>()?;
        recipe.fields = fields;
        Ok(recipe)
    }

    /// Puts `layer` on top and writes the file.
    pub fn finish(mut self, layer: &Written) -> Result<()> {
        let folder = folder_of(&self.path)?;
        self.layers.push(json!({
            "file": name_in(&folder, &layer.path)?,
            "digest": layer.digest,
            "size": layer.size,
        }));
        self.write()
    }

    /// Notes the root hashes of the layers, bottom first, and writes the file.
    pub fn seal(mut self, hashes: &[RootHash]) -> Result<()> {
        for (layer, hash) in self.layers.iter_mut().zip(hashes) {
            if let Value::Object(fields) = layer {
                fields.insert("verityRootHash".to_owned(), json!(hash));
            }
        }
        self.write()
    }

    fn write(mut self) -> Result<()> {
        // Other readers insist on this field.
        self.fields
            .entry("repoBlobUrl")
            .or_insert_with(|| "".into());
        self.fields.insert("lowers".to_owned(), self.layers.into());
        let text = serde_json::to_string_pretty(&self.fields)
            .map_err(|e| Error::io("write", &self.path, e.into()))?;
        atomic::write(&self.path, self.replace, format!("{text}\n").as_bytes())
    }
}

fn read(path: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(not_config(path, "a JSON object")),
    }
}

fn not_config(path: &Path, expected: &'static str) -> Error {
    ImageError::Kind {
        path: path.to_owned(),
        found: "no image configuration".to_owned(),
        expected,
    }
    .into()
}

/// Whether both names are of one file that exists.
pub fn is_same_file(a: &Path, b: &Path) -> bool {
    match (fs::canonicalize(a), fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

/// The folder that `path` is in, absolute and without links.
fn folder_of(path: &Path) -> Result<PathBuf> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    fs::canonicalize(folder).map_err(|e| Error::io("resolve", folder, e))
}

/// How a configuration in `folder` names `file`.
fn name_in(folder: &Path, file: &Path) -> Result<String> {
    let absolute = fs::canonicalize(file).map_err(|e| Error::io("resolve", file, e))?;
    let name = absolute.strip_prefix(folder).unwrap_or(&absolute);
    match name.to_str() {
        Some(name) => Ok(name.to_owned()),
        None => Err(ImageError::Argument(format!(
            "{}: JSON cannot hold a name that is not UTF-8",
            file.display()
        ))
        .into()),
    }
}

/// The description of a layer in a configuration in `from`, for one in `to`.
fn move_paths(mut layer: Value, from: &Path, to: &Path) -> Result<Value> {
    for field in PATHS {
        let Some(Value::String(path)) = layer.get_mut(field) else {
            continue;
        };
        let place = from.join(&*path);
        // What is not there yet, to be fetched later, cannot be resolved, only joined.
        if place.exists() {
            *path = name_in(to, &place)?;
        } else if from != to && !path.is_empty() {
            *path = place.to_string_lossy().into_owned();
        }
    }
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::super::digest::Digest;
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            for name in ["a", "b", "c"] {
                fs::write(folder.path().join(name), "").unwrap();
            }
            fs::create_dir(folder.path().join("sub")).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn written(&self, name: &str) -> Written {
            Written {
                path: self.path(name),
                size: 7,
                digest: Digest::of(Default::default()),
            }
        }

        fn read(&self, name: &str) -> Value {
            Value::Object(read(&self.path(name)).unwrap())
        }
    }

    #[test]
    fn layers_are_named_bottom_first_and_relative() {
        let folder = Folder::new();
        let config = folder.path("config.v1.json");
        let base = [folder.path("a"), folder.path("b")];
        let recipe = Recipe::of_layers(&config, &base, false).unwrap();
        recipe.finish(&folder.written("c")).unwrap();
        let digest = Digest::of(Default::default()).to_string();
        assert_eq!(
            folder.read("config.v1.json"),
            json!({
                "repoBlobUrl": "",
                "lowers": [
                    { "file": "a" },
                    { "file": "b" },
                    { "file": "c", "digest": digest, "size": 7 }
                ]
            })
        );
        assert!(matches!(
            Recipe::of_layers(&config, &base, false),
            Err(Error::Image(ImageError::Exists(_)))
        ));
    }

    #[test]
    fn a_configuration_grows_and_keeps_its_fields() {
        let folder = Folder::new();
        let config = folder.path("config.v1.json");
        let text = r#"{"resultFile":"r","lowers":[{"file":"a","x":1}],"repoBlobUrl":"u"}"#;
        fs::write(&config, text).unwrap();
        let recipe = Recipe::of_config(&config, &config, false).unwrap();
        recipe.finish(&folder.written("b")).unwrap();
        let grown = folder.read("config.v1.json");
        assert_eq!(grown["resultFile"], "r");
        assert_eq!(grown["repoBlobUrl"], "u");
        assert_eq!(grown["lowers"][0], json!({ "file": "a", "x": 1 }));
        assert_eq!(grown["lowers"][1]["file"], "b");
    }

    #[test]
    fn paths_survive_a_move_to_another_folder() {
        let folder = Folder::new();
        let base = folder.path("config.v1.json");
        let text = r#"{"resultFile":"r","lowers":[{"file":"a"},{"dir":"later","digest":"d"}]}"#;
        fs::write(&base, text).unwrap();
        let config = folder.path("sub/config.v1.json");
        let recipe = Recipe::of_config(&config, &base, false).unwrap();
        recipe.finish(&folder.written("b")).unwrap();
        let moved = folder.read("sub/config.v1.json");
        assert_eq!(moved.get("resultFile"), None);
        let root = fs::canonicalize(folder.0.path()).unwrap();
        for (layer, field, name) in [(0, "file", "a"), (1, "dir", "later"), (2, "file", "b")] {
            assert_eq!(
                moved["lowers"][layer][field],
                root.join(name).to_str().unwrap()
            );
        }
    }

    #[test]
    fn root_hashes_are_noted() {
        let folder = Folder::new();
        let config = folder.path("config.v1.json");
        let text = r#"{"lowers":[{"file":"a","x":1},{"file":"b"},{"file":"c"}],"download":{}}"#;
        fs::write(&config, text).unwrap();
        let hashes = [1, 2].map(|byte| RootHash::new([byte; 32]));
        let recipe = Recipe::of_config(&config, &config, true).unwrap();
        recipe.seal(&hashes).unwrap();
        let sealed = folder.read("config.v1.json");
        assert_eq!(sealed["lowers"][0]["verityRootHash"], "01".repeat(32));
        assert_eq!(sealed["lowers"][0]["x"], 1);
        assert_eq!(sealed["lowers"][1]["verityRootHash"], "02".repeat(32));
        // A trace of reads, which is no layer.
        assert_eq!(sealed["lowers"][2], json!({ "file": "c" }));
        assert!(sealed["download"].is_object());
    }

    #[test]
    fn other_json_is_refused() {
        let folder = Folder::new();
        let base = folder.path("base.json");
        for text in ["[]", "{}", r#"{"lowers":{}}"#, "no"] {
            fs::write(&base, text).unwrap();
            let config = folder.path("config.v1.json");
            assert!(matches!(
                Recipe::of_config(&config, &base, false),
                Err(Error::Image(ImageError::Kind { .. }))
            ));
        }
    }
}
