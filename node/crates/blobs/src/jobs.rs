//! Pulls that somebody asked for: one file each, so that they go on after a restart.
//!
//! `<sha256 of the model's key>.json`, version 1, UTF-8 JSON of [`JobFile`]. Written as a whole when a pull is taken
//! on, removed when it is over, never changed in between. A file that cannot be understood is set aside as `.damaged`,
//! told once, and stands in nobody's way. The folder is one node's own: several nodes may share a store, and none of
//! them takes up what another was asked for.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use ollamax_types::ModelName;
use ollamax_types::limits::MANIFEST_BYTES_MAX;

use crate::fault::Fault;
use crate::staging::disk;

/// Version of the form.
pub const JOB_VERSION: u32 = 1;

/// Longest file: the manifest in hexadecimal digits, and some words.
const JOB_BYTES_MAX: usize = 2 * MANIFEST_BYTES_MAX + (64 << 10);
/// Most files that are read.
const JOBS_MAX: usize = 4_096;
/// Ending of a job.
const ENDING: &str = ".json";
/// Ending of what was a job once.
const DAMAGED_ENDING: &str = "damaged";
/// Ending of a job that is being written.
const DRAFT_ENDING: &str = "draft";

/// One pull that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobFile {
    /// [`JOB_VERSION`].
    pub version: u32,
    /// The model, as [`ModelName`] shows it.
    pub name: String,
    /// Plain HTTP is allowed.
    pub insecure: bool,
    /// The bytes of the manifest that was chosen when the pull was taken on.
    pub manifest_hex: String,
    /// Who asked, for people.
    pub asked_by: String,
    /// When, in milliseconds since 1970.
    pub asked_at_ms: u64,
}

/// The folder of jobs. Clones are the same folder.
#[derive(Debug, Clone)]
pub struct Jobs {
    root: PathBuf,
    /// Held by whoever writes: two of one name would share their draft.
    writing: Arc<Mutex<()>>,
}

// === impl Jobs ===

impl Jobs {
    /// Opens the folder, and makes it where it is missing.
    ///
    /// # Errors
    /// When it cannot be made, or is no folder of its own.
    pub fn open(root: &Path) -> Result<Self, Fault> {
        if let Some(parent) = root.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(Fault::at("create", parent))?;
        }
        disk::hidden_folder(root, None)?;
        Ok(Self { root: root.to_owned(), writing: Arc::default() })
    }

    /// Keeps a job: it is there after a power cut when this returns.
    ///
    /// # Errors
    /// When it is no job of this version, and when the disk does not take it.
    pub fn write(&self, job: &JobFile) -> Result<(), Fault> {
        let refused =
            |reason: &'static str| disk::fault("write a job into", &self.root, ErrorKind::InvalidInput, reason);
        let stem = stem_of(&job.key().map_err(refused)?);
        let path = self.path(&stem);
        let text = serde_json::to_vec(job).map_err(|error| Fault::at("write", &path)(error.into()))?;
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        disk::write_whole(&path, &path.with_extension(DRAFT_ENDING), &text, None)
    }

    /// The jobs that are kept, in the order in which they were asked for.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn all(&self) -> Result<Vec<JobFile>, Fault> {
        let mut jobs = Vec::new();
        let names = disk::names_in(&self.root)?;
        for stem in names.iter().filter_map(|name| name.strip_suffix(ENDING)).take(JOBS_MAX) {
            match read_job(&self.path(stem), stem)? {
                Some(Ok(job)) => jobs.push(job),
                Some(Err(reason)) => set_aside(&self.path(stem), reason),
                None => {}
            }
        }
        jobs.sort_by(|a, b| (a.asked_at_ms, &a.name).cmp(&(b.asked_at_ms, &b.name)));
        Ok(jobs)
    }

    /// A pull is over. `key` is the key of the model's name; that there is no such job is fine.
    ///
    /// # Errors
    /// When the disk does not let it go.
    pub fn remove(&self, key: &str) -> Result<(), Fault> {
        disk::remove_file(&self.path(&stem_of(key)))?;
        disk::sync_folder(&self.root)
    }

    fn path(&self, stem: &str) -> PathBuf {
        self.root.join(format!("{stem}{ENDING}"))
    }
}

// === impl JobFile ===

impl JobFile {
    /// The key of its model, if it is a job that can be taken up.
    fn key(&self) -> Result<String, &'static str> {
        if self.version != JOB_VERSION {
            return Err("its version is another");
        }
        let name: ModelName = self.name.parse().map_err(|_| "it names no model")?;
        let is_hex =
            self.manifest_hex.len().is_multiple_of(2) && self.manifest_hex.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_hex || self.manifest_hex.len() > 2 * MANIFEST_BYTES_MAX {
            return Err("its manifest is none");
        }
        Ok(name.key())
    }
}

/// A name for what belongs to a model, whatever characters the model's name has.
pub(crate) fn stem_of(key: &str) -> String {
    hex::encode(Sha256::digest(key))
}

/// A job, or why this file is none; `None` when it went meanwhile.
fn read_job(path: &Path, stem: &str) -> Result<Option<Result<JobFile, &'static str>>, Fault> {
    let bytes = match disk::read_small(path, JOB_BYTES_MAX) {
        Err(fault) if fault.source.kind() == ErrorKind::InvalidData => return Ok(Some(Err("it is too long"))),
        read => read?,
    };
    let Some(bytes) = bytes else { return Ok(None) };
    let Ok(job) = serde_json::from_slice::<JobFile>(&bytes) else { return Ok(Some(Err("it has another form"))) };
    let judged = match job.key() {
        Ok(key) if stem_of(&key) == stem => Ok(job),
        Ok(_) => Err("it is another model's"),
        Err(reason) => Err(reason),
    };
    Ok(Some(judged))
}

/// Takes a file out of the way that is no job.
fn set_aside(path: &Path, reason: &'static str) {
    match fs::rename(path, path.with_extension(DAMAGED_ENDING)) {
        Ok(()) => tracing::warn!(path = %path.display(), reason, "a job is damaged and was set aside"),
        Err(error) => tracing::warn!(path = %path.display(), reason, %error, "set a damaged job aside"),
    }
}

#[cfg(test)]
mod tests;
