//! Where files grow that nobody may see yet.
//!
//! ```text
//! <root>/                            0700, of the store's owner where we may
//!   parts/sha256-<hex>.part          the bytes: all of their room is set aside at once
//!   parts/sha256-<hex>.state         what is known of them (`slots`)
//!   manifests/                       a manifest, or a folder of manifests, before it gets its name
//! ```
//!
//! The folder lies beside the store's blobs, on the same device, so that publishing is a second name and no copy; or in
//! the data directory, for a store that may not be written. One part is open once in a process, however many ask for
//! it, and once on a machine: of two processes over one store the second is refused. Whatever is killed in the middle
//! leaves files that the next start takes up or makes anew; it never leaves a claim that is believed unread.

pub(crate) mod disk;
mod opening;
mod part;
#[cfg(test)]
pub(crate) mod samples;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use ollamax_types::{Digest, ModelName, Timestamp};

use crate::fault::Fault;
use crate::jobs::stem_of;
use crate::space::Space;
use crate::store::{BlobSpec, Owner};

use self::opening::Place;
use self::part::Inner;

pub use self::part::{Part, PartError, SYNC_BYTES};

const PARTS: &str = "parts";
const DRAFTS: &str = "manifests";
const DATA_ENDING: &str = ".part";
const STATE_ENDING: &str = ".state";
/// What is still a draft after so long was left behind.
const DRAFT_KEPT_MS: u64 = 3_600_000;

/// The folder. Clones are the same folder.
#[derive(Debug, Clone)]
pub struct Staging {
    root: PathBuf,
    owner: Option<Owner>,
    held: Arc<HeldParts>,
    naming: Arc<Mutex<()>>,
}

/// Parts by their file.
type Open = BTreeMap<Digest, Weak<Inner>>;

/// The parts that somebody in this process holds.
#[derive(Debug, Default)]
struct HeldParts {
    open: Mutex<Open>,
    /// A part is held by nobody any more.
    closed: Condvar,
}

// === impl Staging ===

impl Staging {
    /// Opens the folder, and makes what is missing of it. `owner` is the store's, where the folder lies in a store.
    ///
    /// # Errors
    /// When it cannot be made or looked into, or is no folder of its own.
    pub fn open(root: &Path, owner: Option<Owner>) -> Result<Self, Fault> {
        // A store that is not there, such as a disk that is not mounted, is not made.
        if let Some(parent) = root.parent().filter(|_| owner.is_none()) {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(Fault::at("create", parent))?;
        }
        disk::hidden_folder(root, owner)?;
        for folder in [PARTS, DRAFTS] {
            disk::hidden_folder(&root.join(folder), owner)?;
        }
        Ok(Self { root: root.to_owned(), owner, held: Arc::default(), naming: Arc::default() })
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The part of a file: the one that is open, else what lies there, else a new one with room for all of it.
    ///
    /// # Errors
    /// When the disk has too little room or refuses, when another process holds the part, and when it is open with
    /// another size.
    pub fn begin(&self, spec: BlobSpec) -> Result<Part, PartError> {
        self.begin_within(spec, Space::of(&self.root))
    }

    fn begin_within(&self, spec: BlobSpec, space: Option<Space>) -> Result<Part, PartError> {
        let mut open = match self.held.find(spec.sha256) {
            Ok(inner) => return self.same(inner, spec),
            Err(open) => open,
        };
        let folder = self.folder(PARTS);
        let (data_path, state_path) = self.paths(spec.sha256);
        let place = Place { folder: &folder, data_path, state_path, owner: self.owner, space };
        let (files, known) = opening::open(&place, spec)?;
        let part = Part::new(spec, files, known, Arc::clone(&self.held));
        open.insert(spec.sha256, Arc::downgrade(part.inner()));
        Ok(part)
    }

    /// The part that is open, if it is the one that is wanted.
    fn same(&self, inner: Arc<Inner>, spec: BlobSpec) -> Result<Part, PartError> {
        if inner.spec() == spec {
            return Ok(Part::of(inner));
        }
        let (data_path, _) = self.paths(spec.sha256);
        Err(disk::fault("begin", &data_path, ErrorKind::InvalidInput, "it is open with another size").into())
    }

    /// Gives back the room of what did not come of a file; a part of which nothing came goes. What came stays, and the
    /// rest of the room is set aside again when the part is begun again.
    ///
    /// # Errors
    /// When another process holds the part, and when the disk refuses.
    pub fn give_back_room(&self, spec: BlobSpec) -> Result<(), Fault> {
        match self.find(spec)? {
            Some(part) if part.have().ones() == 0 => self.forget(spec.sha256),
            Some(part) => part.give_back_room(),
            None => Ok(()),
        }
    }

    /// The part that is open, else what lies there of this file. Nothing is made, and no room set aside.
    fn find(&self, spec: BlobSpec) -> Result<Option<Part>, Fault> {
        let mut open = match self.held.find(spec.sha256) {
            Ok(inner) => return Ok((inner.spec() == spec).then(|| Part::of(inner))),
            Err(open) => open,
        };
        let folder = self.folder(PARTS);
        let (data_path, state_path) = self.paths(spec.sha256);
        let place = Place { folder: &folder, data_path, state_path, owner: self.owner, space: None };
        let Some((files, known)) = opening::find(&place, spec)? else { return Ok(None) };
        let part = Part::new(spec, files, known, Arc::clone(&self.held));
        open.insert(spec.sha256, Arc::downgrade(part.inner()));
        Ok(Some(part))
    }

    /// Removes a part and its state; that there is none is fine. Whoever holds it keeps bytes without a name.
    ///
    /// # Errors
    /// When another process holds it, and when the disk does not let it go.
    pub fn forget(&self, sha256: Digest) -> Result<(), Fault> {
        let (data_path, state_path) = self.paths(sha256);
        let mut open = self.held.lock();
        let is_ours = open.remove(&sha256).is_some();
        self.held.closed.notify_all();
        // Held until both are gone.
        let state = if is_ours { None } else { disk::open_file(&state_path)? };
        if let Some(state) = &state {
            disk::lock(state, &state_path)?;
        }
        disk::remove_file(&data_path)?;
        disk::remove_file(&state_path)
    }

    /// What lies there, in the order of the digests; damaged parts too, with the size that they have.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn parts(&self) -> Result<Vec<BlobSpec>, Fault> {
        let names = disk::names_in(&self.folder(PARTS))?;
        let digests: BTreeSet<Digest> = names.iter().filter_map(|name| digest_of(name)).collect();
        digests.into_iter().map(|sha256| self.lying(sha256)).collect()
    }

    fn lying(&self, sha256: Digest) -> Result<BlobSpec, Fault> {
        let (data_path, state_path) = self.paths(sha256);
        let header = match disk::open_file(&state_path)? {
            Some(state) => {
                disk::read_up_to(&state, 0, slots::HEADER_BYTES as u64).map_err(Fault::at("read", &state_path))?
            }
            None => Vec::new(),
        };
        let stated = slots::decode_header(&header).filter(|stated| stated.sha256 == sha256);
        let size_on_disk = || fs::symlink_metadata(&data_path).map_or(0, |found| found.len());
        Ok(stated.unwrap_or_else(|| BlobSpec { sha256, size_bytes: size_on_disk() }))
    }

    /// When something was last written to a part, by the file system's clock; `None` when there is no such part.
    ///
    /// # Errors
    /// When the disk cannot be asked.
    pub fn written_at(&self, sha256: Digest) -> Result<Option<Timestamp>, Fault> {
        let (data_path, state_path) = self.paths(sha256);
        let mut latest: Option<Timestamp> = None;
        for path in [data_path, state_path] {
            match fs::symlink_metadata(&path).and_then(|found| found.modified()) {
                Ok(written) => latest = latest.max(Some(disk::moment(written))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Fault::at("look at", &path)(error)),
            }
        }
        Ok(latest)
    }

    /// What a part of this file takes of the disk already; 0 when there is none, or one of another size.
    #[must_use]
    pub fn allocated_bytes(&self, spec: BlobSpec) -> u64 {
        let (data_path, _) = self.paths(spec.sha256);
        let found = fs::symlink_metadata(data_path).ok().filter(|found| found.len() == spec.size_bytes);
        found.map_or(0, |found| disk::allocated_bytes(&found).min(spec.size_bytes))
    }

    /// The right to give a folder its name: a rename puts a folder in the place of an empty one, and whoever was about
    /// to work in that one would work in none.
    pub(crate) fn naming(&self) -> MutexGuard<'_, ()> {
        self.naming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a manifest of this name is written before it gets its name. Two processes over one store have two.
    pub(crate) fn draft_path(&self, name: &ModelName) -> PathBuf {
        let stem = stem_of(&name.key());
        self.folder(DRAFTS).join(format!("{stem}.{}", std::process::id()))
    }

    /// Removes drafts that a process left behind when it was killed.
    pub(crate) fn clear_drafts(&self, now: Timestamp) -> Result<(), Fault> {
        let folder = self.folder(DRAFTS);
        for name in disk::names_in(&folder)? {
            let path = folder.join(name);
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if found.modified().is_ok_and(|made| now.ms_since(disk::moment(made)) > DRAFT_KEPT_MS) {
                disk::remove(&path)?;
            }
        }
        Ok(())
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the bytes of a part lie, and where what is known of them.
    fn paths(&self, sha256: Digest) -> (PathBuf, PathBuf) {
        let (folder, stem) = (self.folder(PARTS), file_stem(sha256));
        (folder.join(format!("{stem}{DATA_ENDING}")), folder.join(format!("{stem}{STATE_ENDING}")))
    }
}

// === impl HeldParts ===

impl HeldParts {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part that somebody holds, else the right to open it.
    fn find(&self, sha256: Digest) -> Result<Arc<Inner>, MutexGuard<'_, Open>> {
        let mut open = self.lock();
        loop {
            let found = open.get(&sha256).map(Weak::upgrade);
            match found {
                None => return Err(open),
                // Nobody holds it any more, and its files are being closed.
                Some(None) => open = self.wait(open),
                // The lock is free before the handle can go: whoever drops the last one takes it.
                Some(Some(inner)) => return Ok(inner),
            }
        }
    }

    /// Waits until a part is held by nobody any more.
    fn wait<'a>(&self, open: MutexGuard<'a, Open>) -> MutexGuard<'a, Open> {
        self.closed.wait(open).unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody holds this part any more. Another of the same file may have taken its place.
    fn remove(&self, sha256: Digest, inner: &Inner) {
        let mut open = self.lock();
        if open.get(&sha256).is_some_and(|entry| std::ptr::eq(entry.as_ptr(), inner)) {
            open.remove(&sha256);
        }
        self.closed.notify_all();
    }
}

fn file_stem(sha256: Digest) -> String {
    format!("sha256-{sha256}")
}

/// Of which file this is a part, or the state of a part.
fn digest_of(name: &str) -> Option<Digest> {
    let stem = name.strip_suffix(DATA_ENDING).or_else(|| name.strip_suffix(STATE_ENDING))?;
    let sha256 = stem.strip_prefix("sha256-")?.parse::<Digest>().ok()?;
    (file_stem(sha256) == stem).then_some(sha256)
}

#[cfg(test)]
mod tests;
