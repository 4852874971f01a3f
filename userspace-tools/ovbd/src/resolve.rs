// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! From what names an image to the files of its layers: what lies on this host is used where it is,
//! then the store is asked, and what it does not have is fetched into it.

use std::path::PathBuf;

use crate::config::{ConfigError, Download, ImageConfig, LayerConfig};
use crate::image::digest::Digest;
use crate::reference::Reference;
use crate::store::{Guard, ImageRecord, Store, StoreError};
use crate::{Error, Result};

/// How often something may be removed from the store while it is being fetched.
const ATTEMPTS: u32 = 3;

/// What names an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its layers.
    Config(ImageConfig),
    /// Its reference.
    Image(Reference),
}

/// Fetches what is not in the store.
pub trait Fetch {
    /// Puts an image's layers into the store and records it there.
    fn image(&self, store: &Store, reference: &Reference) -> Result<()>;

    /// Puts one blob, which a configuration names, into the store, as `download` of that
    /// configuration says.
    fn blob(&self, store: &Store, blob: &RemoteBlob<'_>, download: Download) -> Result<()>;
}

/// A blob in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RemoteBlob<'a> {
    /// Where it is: a configuration's `repoBlobUrl`, `/` and the digest.
    pub url: &'a str,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes, if the configuration tells.
    pub size: Option<u64>,
}

/// Where layers come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The store.
    pub store: &'a Store,
    /// Who fetches what is not there; without, that is an error.
    pub fetch: Option<&'a dyn Fetch>,
}

/// Layers that are all on this host, and stay as long as this value lives.
#[derive(Debug)]
pub struct Resolved {
    /// The layers.
    pub config: ImageConfig,
    _guard: Option<Guard>,
}

impl Input {
    /// What the command line gives: a configuration file (its name ends in `.json`), a reference, or
    /// layers. What exists as a file is no reference.
    pub fn from_arguments(arguments: &[PathBuf]) -> Result<Self> {
        let reference = match arguments {
            [one] if !one.exists() => one.to_str().and_then(|text| text.parse().ok()),
            _ => None,
        };
        match reference {
            Some(reference) => Ok(Self::Image(reference)),
            None => ImageConfig::from_arguments(arguments).map(Self::Config),
        }
    }
}

impl Sources<'_> {
    /// Finds, or fetches, the layers of an image.
    pub fn resolve(&self, input: &Input) -> Result<Resolved> {
        match input {
            Input::Config(config) => self.config(config),
            Input::Image(reference) => self.image(reference),
        }
    }

    fn image(&self, reference: &Reference) -> Result<Resolved> {
        let mut attempts = 0..ATTEMPTS;
        loop {
            let found = self.recorded(reference);
            match (found, self.fetch) {
                (Err(Error::Store(error)), Some(fetch))
                    if error.is_absence() && attempts.next().is_some() =>
                {
                    fetch.image(self.store, reference)?;
                }
                (found, _) => return found,
            }
        }
    }

    fn recorded(&self, reference: &Reference) -> Result<Resolved> {
        let unknown = || StoreError::NoImage(reference.to_string());
        // A store that is not there is not made for this.
        self.store.image(reference)?.ok_or_else(unknown)?;
        let guard = self.store.guard()?;
        let image: ImageRecord = self.store.image(reference)?.ok_or_else(unknown)?;
        Ok(Resolved {
            config: self.store.config(&image)?,
            _guard: Some(guard),
        })
    }

    fn config(&self, config: &ImageConfig) -> Result<Resolved> {
        let mut config = config.clone();
        let download = config.download;
        let absent = |layer: &&mut LayerConfig| layer.locate().is_err();
        let mut absent: Vec<&mut LayerConfig> = config.layers.iter_mut().filter(absent).collect();
        if absent.is_empty() {
            return Ok(Resolved {
                config,
                _guard: None,
            });
        }
        let mut attempts = 0..ATTEMPTS;
        let guard = loop {
            let guard = self.find(&mut absent)?;
            absent.retain(|layer| layer.file.is_none());
            if absent.is_empty() {
                break guard;
            }
            drop(guard);
            self.fetch_all(&absent, download, attempts.next().is_some())?;
        };
        Ok(Resolved {
            config,
            _guard: guard,
        })
    }

    /// Looks layers up in the store.
    fn find(&self, layers: &mut [&mut LayerConfig]) -> Result<Option<Guard>> {
        if !self.store.root().exists() {
            return Ok(None);
        }
        let guard = self.store.guard()?;
        for layer in layers {
            layer.file = layer.digest.and_then(|digest| self.store.blob(&digest));
        }
        Ok(Some(guard))
    }

    fn fetch_all(
        &self,
        layers: &[&mut LayerConfig],
        download: Download,
        again: bool,
    ) -> Result<()> {
        let fetch = self.fetch.filter(|_| again);
        let _lease = match fetch {
            Some(_) => Some(self.store.lease(layers.iter().filter_map(|l| l.digest))?),
            None => None,
        };
        for layer in layers {
            match (fetch, layer.remote()) {
                (Some(fetch), Some(blob)) => fetch.blob(self.store, &blob, download)?,
                _ => return Err(absence(layer).into()),
            }
        }
        Ok(())
    }
}

fn absence(layer: &LayerConfig) -> ConfigError {
    match layer.locate() {
        Err(error) => error,
        // It has just been put there.
        Ok(path) => ConfigError::NotLocal {
            layer: "a layer".to_owned(),
            place: format!("{} was missing a moment ago", path.display()),
            remedy: "; try again".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::error::ExitCode;
    use crate::store::{Descriptor, Ingest};

    const LAYER: &[u8] = b"layer";

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(Some(folder.path().join("store")));
        (folder, store)
    }

    fn put(store: &Store) {
        let digest = Digest::of_bytes(LAYER);
        if let Ingest::Partial(partial) = store.begin(&digest, LAYER.len() as u64).unwrap() {
            partial.append(LAYER).unwrap();
            partial.finish().unwrap();
        }
    }

    /// "Fetches" by putting the one layer there is into the store; counts how often.
    #[derive(Default)]
    struct Source {
        fetched: Cell<u32>,
        /// Another process removes all that is fetched.
        loses: bool,
    }

    impl Source {
        fn put(&self, store: &Store) {
            self.fetched.set(self.fetched.get() + 1);
            if !self.loses {
                put(store);
            }
        }
    }

    impl Fetch for Source {
        fn image(&self, store: &Store, reference: &Reference) -> Result<()> {
            self.put(store);
            let layer = Descriptor {
                media_type: String::new(),
                digest: Digest::of_bytes(LAYER),
                size: LAYER.len() as u64,
                annotations: BTreeMap::new(),
            };
            if self.loses {
                return Ok(());
            }
            store.record(&ImageRecord {
                reference: reference.clone(),
                manifest: layer.clone(),
                layers: vec![layer],
            })
        }

        fn blob(&self, store: &Store, blob: &RemoteBlob<'_>, download: Download) -> Result<()> {
            assert_eq!(download.tries, Some(7));
            assert_eq!(blob.url, format!("https://r.example/blobs/{}", blob.digest));
            assert_eq!(blob.size, Some(5));
            self.put(store);
            Ok(())
        }
    }

    fn config(folder: &Path) -> Input {
        let digest = Digest::of_bytes(LAYER);
        let text = format!(
            r#"{{"repoBlobUrl": "https://r.example/blobs", "download": {{"tryCnt": 7}}, "lowers": [
                {{"file": "base"}},
                {{"digest": "{digest}", "size": 5, "dir": "layers"}}
            ]}}"#
        );
        let path = folder.join("config.v1.json");
        fs::write(folder.join("base"), b"base").unwrap();
        fs::write(&path, text).unwrap();
        Input::from_arguments(&[path]).unwrap()
    }

    #[test]
    fn arguments_are_files_before_they_are_references() {
        let parse = |text: &str| Input::from_arguments(&[PathBuf::from(text)]).unwrap();
        assert!(matches!(parse("r.example/app:1"), Input::Image(_)));
        assert!(matches!(parse("layer.tar"), Input::Config(_)));
        assert!(matches!(parse("/dir.d/layer"), Input::Config(_)));
        // The tests run in the package's folder.
        assert!(matches!(parse("src/lib.rs"), Input::Config(_)));
        let two = ["r.example/app:1", "layer"].map(PathBuf::from);
        assert!(matches!(
            Input::from_arguments(&two).unwrap(),
            Input::Config(_)
        ));
    }

    #[test]
    fn an_image_is_fetched_once() {
        let (_folder, store) = store();
        let input = Input::Image("r.example/app:1".parse().unwrap());
        let local = Sources {
            store: &store,
            fetch: None,
        };
        let error = local.resolve(&input).unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::NotFound);
        assert!(!store.root().exists());
        let source = Source::default();
        let sources = Sources {
            fetch: Some(&source),
            ..local
        };
        for _ in 0..2 {
            let resolved = sources.resolve(&input).unwrap();
            let file = resolved.config.layers[0].file.clone();
            assert_eq!(file, store.blob(&Digest::of_bytes(LAYER)));
        }
        assert_eq!(source.fetched.get(), 1);
        // A layer that went missing is fetched again.
        fs::remove_file(store.blob(&Digest::of_bytes(LAYER)).unwrap()).unwrap();
        assert!(local.resolve(&input).is_err());
        sources.resolve(&input).unwrap();
        assert_eq!(source.fetched.get(), 2);
    }

    #[test]
    fn layers_of_a_configuration_come_from_folder_store_and_registry() {
        let (folder, store) = store();
        let input = config(folder.path());
        let digest = Digest::of_bytes(LAYER);
        let local = Sources {
            store: &store,
            fetch: None,
        };
        let error = local.resolve(&input).unwrap_err().to_string();
        assert!(error.contains("is not on this host"), "{error}");
        let source = Source::default();
        let sources = Sources {
            fetch: Some(&source),
            ..local
        };
        let resolved = sources.resolve(&input).unwrap();
        assert_eq!(resolved.config.layers[1].file, store.blob(&digest));
        drop(resolved);
        local.resolve(&input).unwrap();
        assert_eq!(source.fetched.get(), 1);
        // The folder comes first.
        let dir = folder.path().join("layers");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("overlaybd.commit"), LAYER).unwrap();
        let resolved = local.resolve(&input).unwrap();
        assert_eq!(resolved.config.layers[1].file, None);
        let located = resolved.config.layers[1].locate().unwrap();
        assert_eq!(located, dir.join("overlaybd.commit"));
    }

    #[test]
    fn what_keeps_vanishing_is_not_fetched_for_ever() {
        let (folder, store) = store();
        let source = Source {
            loses: true,
            ..Source::default()
        };
        let sources = Sources {
            store: &store,
            fetch: Some(&source),
        };
        assert!(sources.resolve(&config(folder.path())).is_err());
        assert_eq!(source.fetched.replace(0), ATTEMPTS);
        let image = Input::Image("r.example/app:1".parse().unwrap());
        assert!(sources.resolve(&image).is_err());
        assert_eq!(source.fetched.get(), ATTEMPTS);
    }

    /// Nothing is removed while an image is being set up.
    #[test]
    fn what_was_found_stays() {
        let (_folder, store) = store();
        let source = Source::default();
        let sources = Sources {
            store: &store,
            fetch: Some(&source),
        };
        let input = Input::Image("r.example/app:1".parse().unwrap());
        let resolved = sources.resolve(&input).unwrap();
        let lock = fs::File::open(store.root().join("lock")).unwrap();
        let exclusive = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        assert!(rustix::fs::flock(&lock, exclusive).is_err());
        drop(resolved);
        rustix::fs::flock(&lock, exclusive).unwrap();
    }
}
