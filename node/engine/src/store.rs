//! The models on disk, in Ollama's layout: `blobs/sha256-<hex>` and `manifests/<host>/<namespace>/<model>/<tag>`.
//!
//! A blob carries the name of its own hash and never changes; it appears by rename after its bytes were checked and
//! synced. A manifest is written last and atomically, so a model that can be listed has all its layers. Removing a
//! model removes the layers that no other manifest names. Changes to manifests happen one at a time. Every method
//! blocks; callers run them where blocking is allowed. Readers take the files as they are: another program may use
//! the same folder.

mod create;
mod manifest;
mod prune;
mod upload;

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::gguf::GgufError;
use crate::limits;
use crate::name::Name;

pub(crate) use self::create::{CreateError, CreateSpec, Source};
pub(crate) use self::manifest::{Details, Model};
pub(crate) use self::upload::{Upload, UploadError};

use self::manifest::Manifest;

/// A SHA-256 digest as 64 lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

/// The folder that holds models.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
    changing: Mutex<()>,
}

/// One line of the list of models.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Its name.
    pub(crate) name: Name,
    /// Hash of the manifest's bytes.
    pub(crate) digest: Digest,
    /// Bytes of all layers and the configuration.
    pub(crate) size: u64,
    /// When the manifest was written.
    pub(crate) modified_at: SystemTime,
    /// Family, size and form of the weights.
    pub(crate) details: Details,
}

/// Why a model cannot be read from disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// There is no such model.
    #[error("model not found")]
    NotFound,
    /// The disk refused.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A manifest that is none.
    #[error("manifest {path} is damaged: {reason}")]
    Manifest {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights' header cannot be read.
    #[error("model weights {path}: {source}")]
    Weights {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: GgufError,
    },
}

impl StoreError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io { action, path, source }
    }

    /// True if the disk is full.
    pub(crate) fn is_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_full(source))
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

// === impl Digest ===

impl Digest {
    /// Reads `sha256:<hex>` or `sha256-<hex>`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("sha256:").or_else(|| text.strip_prefix("sha256-"))?;
        let valid = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
        valid.then(|| Self(hex.to_ascii_lowercase()))
    }

    /// The digest of these bytes.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(bytes)))
    }

    /// The digits alone.
    pub(crate) fn hex(&self) -> &str {
        &self.0
    }

    /// `sha256:<hex>`, as manifests write it.
    pub(crate) fn tagged(&self) -> String {
        format!("sha256:{}", self.0)
    }
}

// === impl Store ===

impl Store {
    /// Opens the folder, makes what is missing, and removes uploads that a crash left unfinished.
    pub(crate) fn open(root: PathBuf) -> Result<Self, StoreError> {
        for folder in ["blobs", "manifests"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).map_err(StoreError::io("create folder", &path))?;
        }
        let store = Self { root, changing: Mutex::new(()) };
        upload::remove_leftovers(&store.root.join("blobs"))?;
        Ok(store)
    }

    /// Where the blob lies or would lie.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(format!("sha256-{}", digest.0))
    }

    /// True if the blob is there.
    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).is_file()
    }

    /// Starts to receive a blob.
    pub(crate) fn upload(&self, digest: Digest) -> Result<Upload, UploadError> {
        Upload::start(&self.root.join("blobs"), self.blob_path(&digest), digest)
    }

    /// When the model's manifest was written.
    pub(crate) fn modified_at(&self, name: &Name) -> Result<SystemTime, StoreError> {
        let path = self.manifest_path(name);
        fs::metadata(&path).and_then(|file| file.modified()).map_err(StoreError::io("read", &path))
    }

    /// Every model that can be read, newest first; a damaged manifest is logged and left out.
    pub(crate) fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let mut listed = Vec::new();
        for name in self.names()? {
            match self.listed(&name) {
                Ok(model) => listed.push(model),
                Err(StoreError::NotFound) => {}
                Err(error) => tracing::warn!(model = %name, %error, "model left out of the list"),
            }
        }
        listed.sort_by(|a, b| b.modified_at.cmp(&a.modified_at).then_with(|| a.name.cmp(&b.name)));
        Ok(listed)
    }

    /// The stored name that means the same as `wanted`.
    pub(crate) fn find(&self, wanted: &Name) -> Result<Name, StoreError> {
        if self.manifest_path(wanted).is_file() {
            return Ok(wanted.clone());
        }
        self.names()?.into_iter().find(|name| name.same(wanted)).ok_or(StoreError::NotFound)
    }

    /// Reads a model: its manifest and its small layers.
    pub(crate) fn open_model(&self, wanted: &Name) -> Result<Model, StoreError> {
        let name = self.find(wanted)?;
        let (manifest, bytes) = self.manifest(&name)?;
        manifest::load(self, name, &manifest, &bytes)
    }

    /// Gives a model a second name. A model that had that name loses it, and the layers that it alone used; gives the
    /// digest of its weights if they went too.
    pub(crate) fn copy(&self, from: &Name, to: &Name) -> Result<Option<Digest>, StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let from = self.find(from)?;
        let to = self.find(to).unwrap_or_else(|_| to.clone());
        let (_, bytes) = self.manifest(&from)?;
        let replaced = self.manifest(&to).map(|(old, _)| old.digests()).unwrap_or_default();
        write_atomically(&self.manifest_path(&to), &bytes)?;
        Ok(self.forget(replaced))
    }

    /// Removes a model and the layers that nobody else uses; gives the digest of its weights if they went too.
    pub(crate) fn delete(&self, wanted: &Name) -> Result<Option<Digest>, StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let name = self.find(wanted)?;
        let layers = self.manifest(&name).map(|(manifest, _)| manifest.digests()).unwrap_or_default();
        let path = self.manifest_path(&name);
        fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        for folder in path.ancestors().skip(1).take(3) {
            if fs::remove_dir(folder).is_err() {
                break;
            }
        }
        Ok(self.forget(layers))
    }

    /// Removes those of a model's layers that nobody else uses; gives the digest of its weights if they went too. The
    /// manifest is gone by then, so what goes wrong with a layer is told in the log and fails nothing.
    fn forget(&self, layers: Vec<Digest>) -> Option<Digest> {
        let weights = layers.first().cloned();
        match self.remove_unused(layers) {
            Ok(removed) => weights.filter(|digest| removed.contains(digest)),
            Err(error) => {
                tracing::warn!(%error, "layers of a removed model stay on disk");
                None
            }
        }
    }

    /// Removes those of the blobs that no manifest names; none at all if a manifest cannot be read.
    fn remove_unused(&self, mut candidates: Vec<Digest>) -> Result<Vec<Digest>, StoreError> {
        for name in self.names()? {
            let (manifest, _) = self.manifest(&name)?;
            let used = manifest.digests();
            candidates.retain(|digest| !used.contains(digest));
        }
        for digest in &candidates {
            let path = self.blob_path(digest);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(StoreError::io("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(candidates)
    }

    fn listed(&self, name: &Name) -> Result<Listed, StoreError> {
        let (manifest, bytes) = self.manifest(name)?;
        Ok(Listed {
            name: name.clone(),
            digest: Digest::of(&bytes),
            size: manifest.size(),
            modified_at: self.modified_at(name)?,
            details: manifest::details(self, &manifest)?,
        })
    }

    fn manifest_path(&self, name: &Name) -> PathBuf {
        self.root.join("manifests").join(name.path())
    }

    fn manifest(&self, name: &Name) -> Result<(Manifest, Vec<u8>), StoreError> {
        let path = self.manifest_path(name);
        let bytes = read_bounded(&path)?;
        let manifest = serde_json::from_slice(&bytes)
            .map_err(|error| StoreError::Manifest { path: path.display().to_string(), reason: error.to_string() })?;
        Ok((manifest, bytes))
    }

    /// Every name that has a manifest; files that are no model names are passed over.
    fn names(&self) -> Result<Vec<Name>, StoreError> {
        let mut names = Vec::new();
        let mut folders = vec![(self.root.join("manifests"), Vec::<String>::new())];
        while let Some((folder, parts)) = folders.pop() {
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result.map_err(StoreError::io("list", &folder))?,
            };
            for entry in entries {
                let entry = entry.map_err(StoreError::io("list", &folder))?;
                let Ok(part) = entry.file_name().into_string() else { continue };
                let mut parts = parts.clone();
                parts.push(part);
                match parts.as_slice() {
                    [host, namespace, model, tag] => {
                        names.extend(Name::from_parts([host, namespace, model, tag]));
                    }
                    _ if entry.path().is_dir() => folders.push((entry.path(), parts)),
                    _ => {}
                }
                if names.len() >= limits::MANIFESTS_MAX {
                    return Ok(names);
                }
            }
        }
        Ok(names)
    }

    /// Keeps bytes under their own hash; gives true if they were new.
    fn put_blob(&self, bytes: &[u8]) -> Result<(Digest, bool), StoreError> {
        let digest = Digest::of(bytes);
        if self.has_blob(&digest) {
            return Ok((digest, false));
        }
        write_atomically(&self.blob_path(&digest), bytes)?;
        Ok((digest, true))
    }
}

/// A whole small file; one that is larger than any manifest is refused.
fn read_bounded(path: &Path) -> Result<Vec<u8>, StoreError> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NotFound),
        result => result.map_err(StoreError::io("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(limits::LAYER_TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    if bytes.len() as u64 > limits::LAYER_TEXT_BYTES_MAX {
        return Err(StoreError::Manifest { path: path.display().to_string(), reason: "it is too large".to_owned() });
    }
    Ok(bytes)
}

/// Writes beside the target, syncs, renames, and syncs the folder.
fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(folder).map_err(StoreError::io("create folder", folder))?;
    let mut file = upload::temporary(folder).map_err(StoreError::io("create a file in", folder))?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(StoreError::io("write", path))?;
    file.persist(path).map_err(|error| StoreError::io("write", path)(error.error))?;
    sync_folder(folder).map_err(StoreError::io("sync", folder))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests;
