//! Versions that stay when their name means another: second names of their files, in our own folder.
//!
//! ```text
//! <staging>/keep/<SHA-256 of the manifest>/   0700, of the store's owner where we may
//!   sha256-<hex>                              a file of the version: the store's own file, and no copy of it
//!   names                                     the names that stood for the version, one a line
//!   manifest.json                             written last; its time says since when the version is kept
//! <staging>/keep/<SHA-256>.going/             the same of a version that was let go: its files go when that is safe
//! <staging>/keep/manifests                    the number of the folder of manifests where it has a disk of its own
//! ```
//!
//! A runtime may remove its name of a file at any time; the bytes stay for as long as ours is there. Where it does not,
//! the name goes by [`Store::withdraw`]. Always holds: a folder without a manifest keeps nothing, and is swept. Nothing
//! here is a way to change a file. What cannot be kept is not: another disk, a file system without second names, a file
//! that leads elsewhere; whoever wanted it is told why.

mod withdrawing;

pub use withdrawing::{Clearing, Haste};

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use ollamax_types::limits::{MANIFEST_BYTES_MAX, MODELS_MAX};
use ollamax_types::{Digest, ModelName, Timestamp};

use crate::fault::Fault;
use crate::index::{Index, Indexed};
use crate::manifest::Manifest;
use crate::staging::disk;
use crate::store::access::Access;
use crate::store::publish::{PublishError, refused_link};
use crate::store::remove::{folder_number, is_of_another_disk};
use crate::store::{BlobFile, BlobSpec, Owner, Store, open_blob};

const FOLDER: &str = "keep";
const MANIFEST: &str = "manifest.json";
const NAMES: &str = "names";
/// Before the digest of a file of a version.
const FILE_PREFIX: &str = "sha256-";
/// After the digest of a version that was let go.
const GOING_ENDING: &str = ".going";
/// What is written under this ending is not there yet.
const DRAFT_ENDING: &str = ".draft";
/// Most names for which one version is kept: as many as a cluster may pin. Beyond it the first one is forgotten.
const NAMES_MAX: usize = MODELS_MAX as usize;
/// A name has four parts, none of which is longer than a file's name.
const NAMES_BYTES_MAX: usize = NAMES_MAX * 1_024;

/// The folder of a store's versions. Cheap to clone; makes nothing until something is kept.
#[derive(Debug, Clone)]
pub struct Keep {
    place: PathBuf,
    owner: Owner,
    /// The folder of the store's manifests, and where its number is noted.
    manifests: PathBuf,
    note: PathBuf,
}

/// A version that is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The names that stood for it, the latest last; at least one.
    pub names: Vec<ModelName>,
    /// What it consists of.
    pub manifest: Manifest,
    /// Since when.
    pub kept_at: Timestamp,
    /// Where its files lie.
    pub path: PathBuf,
}

/// Why a version is not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// A file of it is not in the store.
    #[error("{sha256} is missing in the store")]
    Incomplete {
        /// The file.
        sha256: Digest,
    },
    /// A file cannot have a second name there.
    #[error("the store's files lie on another disk than {0}")]
    OtherDisk(String),
    /// The system lets nobody give that file a second name.
    #[error("{path}: a file cannot get a second name here: {reason}")]
    Refused {
        /// Which file.
        path: String,
        /// What the system says.
        reason: String,
    },
    /// The disk did not.
    #[error(transparent)]
    Fault(#[from] Fault),
}

// === impl Keep ===

impl Keep {
    /// The folder for a store into which this process may link; `None` for any other.
    #[must_use]
    pub fn of(store: &Store) -> Option<Self> {
        match store.access() {
            Access::Direct { owner, .. } => Some(Self {
                place: store.staging_place(),
                owner,
                manifests: store.manifests(),
                note: store.manifests_note(),
            }),
            Access::Locked { .. } | Access::Hidden { .. } => None,
        }
    }

    /// Keeps a version that is whole in the store, from `now` on; one that is kept already is kept from now on, and for
    /// these names as well. What is kept of it stays: the store may have got a file anew since, and one that is not
    /// whole has its full size as well ([`Keep::renew`]).
    ///
    /// # Errors
    /// When a file of it is missing or cannot have a second name, and when the disk refuses. Then it is not kept, and
    /// what was made on the way is swept later.
    pub fn put(
        &self,
        store: &Store,
        names: &[ModelName],
        manifest: &Manifest,
        now: Timestamp,
    ) -> Result<(), KeepError> {
        let (blobs, folder, owner) = (manifest.blobs(), self.folder(manifest.digest()), Some(self.owner));
        for blob in &blobs {
            if store.blob(*blob)?.is_none() {
                return Err(KeepError::Incomplete { sha256: blob.sha256 });
            }
        }
        disk::hidden_folder(&self.place, owner)?;
        disk::hidden_folder(&self.place.join(FOLDER), owner)?;
        self.note_manifests()?;
        disk::hidden_folder(&folder, owner)?;
        let before = self.get(manifest.digest())?;
        let is_kept = |blob: &&BlobSpec| before.as_ref().is_some_and(|kept| kept.has(**blob));
        for blob in blobs.iter().filter(|blob| !is_kept(blob)) {
            link(&store.blob_path(blob.sha256), &folder.join(file_name(blob.sha256)), *blob)?;
        }
        disk::sync_folder(&folder)?;
        let latest: BTreeSet<&ModelName> = names.iter().collect();
        let mut all = before.map_or_else(Vec::new, |kept| kept.names);
        all.retain(|known| !latest.contains(known));
        all.extend_from_slice(names);
        self.write_names(&folder, &all[all.len().saturating_sub(NAMES_MAX)..])?;
        self.write(&folder, MANIFEST, manifest.bytes())?;
        let path = folder.join(MANIFEST);
        Ok(disk::stamp(&path, now).map_err(Fault::at("note the time of", &path))?)
    }

    /// A file of the store that was read and is what its name says: the versions that have another one get that one.
    ///
    /// # Errors
    /// As [`Keep::put`]: the versions that have not got it keep the old one.
    pub fn renew(&self, store: &Store, blob: BlobSpec) -> Result<(), KeepError> {
        give(store, blob, self.all()?.into_iter().chain(self.going()?))
    }

    /// A file of the store that nobody has read: the versions that lack it, or have one of another size, get that one.
    ///
    /// # Errors
    /// As [`Keep::renew`].
    pub fn fill(&self, store: &Store, blob: BlobSpec) -> Result<(), KeepError> {
        give(store, blob, self.all()?.into_iter().filter(|kept| !kept.has(blob)))
    }

    /// Keeps a version for this name no longer. For the last of its names it is kept still: it is to be let go then.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn forget_name(&self, kept: &Kept, name: &ModelName) -> Result<(), Fault> {
        let names: Vec<ModelName> = kept.names.iter().filter(|known| *known != name).cloned().collect();
        if names.is_empty() { Ok(()) } else { self.write_names(&kept.path, &names) }
    }

    /// A version, if it is kept.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn get(&self, digest: Digest) -> Result<Option<Kept>, Fault> {
        version_in(self.folder(digest), digest)
    }

    /// All versions that are kept, the one that is kept for the longest time first.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn all(&self) -> Result<Vec<Kept>, Fault> {
        let mut all = Vec::new();
        for digest in self.folders()? {
            all.extend(self.get(digest)?);
        }
        all.sort_by_key(|kept| (kept.kept_at, kept.manifest.digest()));
        Ok(all)
    }

    /// Lets a version go: it is kept no longer. Its files are there until [`Keep::release`], whoever starts meanwhile.
    /// That it is not kept is fine.
    ///
    /// # Errors
    /// When the disk refuses: then it is kept still.
    pub fn let_go(&self, digest: Digest) -> Result<(), Fault> {
        let (from, to) = (self.folder(digest), self.going_folder(digest));
        // What waits there from before waits on.
        if fs::symlink_metadata(&from).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            return Ok(());
        }
        clear(&to)?;
        fs::rename(&from, &to).map_err(Fault::at("name", &to))?;
        disk::sync_folder(&self.place.join(FOLDER))
    }

    /// The versions that were let go and whose files are there still.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn going(&self) -> Result<Vec<Kept>, Fault> {
        let mut going = Vec::new();
        for digest in self.going_folders()? {
            going.extend(version_in(self.going_folder(digest), digest)?);
        }
        Ok(going)
    }

    /// Removes the files of a version that was let go, but for those that are to stay for a while. Gives the bytes that
    /// became free, which are those of files that had no other name.
    ///
    /// # Errors
    /// When the disk refuses: what is left of it goes later.
    pub fn release(&self, going: &Kept, stay: &BTreeSet<Digest>) -> Result<u64, Fault> {
        let mut blobs = going.manifest.blobs();
        blobs.retain(|blob| !stay.contains(&blob.sha256));
        if blobs.len() == going.manifest.blobs().len() {
            return clear(&going.path);
        }
        let mut freed_bytes: u64 = 0;
        for blob in blobs {
            let path = going.blob_path(blob.sha256);
            let bytes = disk::frees_bytes(&path);
            disk::remove_file(&path)?;
            freed_bytes = freed_bytes.saturating_add(bytes);
        }
        Ok(freed_bytes)
    }

    /// Removes what is left of versions that were never kept as a whole, or were released, and of those that were let
    /// go and are kept again.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sweep(&self) -> Result<(), Fault> {
        for digest in self.folders()? {
            if self.get(digest)?.is_none() {
                clear(&self.folder(digest))?;
            }
        }
        for digest in self.going_folders()? {
            let folder = self.going_folder(digest);
            if self.get(digest)?.is_some() || version_in(folder.clone(), digest)?.is_none() {
                clear(&folder)?;
            }
        }
        let is_empty = self.folders()?.is_empty() && self.going_folders()?.is_empty();
        // Of a disk that is away the place is there.
        let is_gone = || fs::symlink_metadata(&self.manifests).is_err_and(|error| error.kind() == ErrorKind::NotFound);
        if is_empty || is_gone() { disk::remove_file(&self.note) } else { Ok(()) }
    }

    /// Notes in which folder the manifests lie where that is on a disk of its own, unless that was noted before. A
    /// runtime makes a folder on the disk of the store anew as it likes.
    fn note_manifests(&self) -> Result<(), Fault> {
        match folder_number(&self.manifests) {
            Some(number) if !self.note.exists() && is_of_another_disk(&self.manifests) => {
                disk::write_whole(&self.note, &self.note.with_extension("draft"), number.as_bytes(), Some(self.owner))
            }
            _ => Ok(()),
        }
    }

    fn write_names(&self, folder: &Path, names: &[ModelName]) -> Result<(), Fault> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.write(folder, NAMES, names.join("\n").as_bytes())
    }

    fn write(&self, folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Fault> {
        let draft = folder.join(format!("{name}{DRAFT_ENDING}"));
        disk::write_whole(&folder.join(name), &draft, bytes, Some(self.owner))
    }

    fn folders(&self) -> Result<Vec<Digest>, Fault> {
        let names = disk::names_in(&self.place.join(FOLDER))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    fn going_folders(&self) -> Result<Vec<Digest>, Fault> {
        let names = disk::names_in(&self.place.join(FOLDER))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(GOING_ENDING)?.parse().ok()).collect())
    }

    fn going_folder(&self, digest: Digest) -> PathBuf {
        self.place.join(FOLDER).join(format!("{digest}{GOING_ENDING}"))
    }

    fn folder(&self, digest: Digest) -> PathBuf {
        self.place.join(FOLDER).join(digest.to_string())
    }
}

// === impl Kept ===

impl Kept {
    /// Where a file of it lies.
    #[must_use]
    pub fn blob_path(&self, sha256: Digest) -> PathBuf {
        self.path.join(file_name(sha256))
    }

    /// Opens a file of it; `None` when it is absent, no plain file, or of another size.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn blob(&self, spec: BlobSpec) -> Result<Option<BlobFile>, Fault> {
        blob_at(&self.blob_path(spec.sha256), spec)
    }

    /// Whether a file of this size is kept; one that the disk does not give is not.
    fn has(&self, spec: BlobSpec) -> bool {
        matches!(self.blob(spec), Ok(Some(_)))
    }

    /// Its files, and what the system says of each.
    fn files(&self) -> impl Iterator<Item = (Digest, Metadata)> {
        let paths = self.manifest.blobs().into_iter().map(move |blob| (blob.sha256, self.blob_path(blob.sha256)));
        let found = paths.filter_map(|(sha256, path)| Some((sha256, fs::symlink_metadata(path).ok()?)));
        found.filter(|(_, found)| found.is_file())
    }
}

// === impl Store ===

impl Store {
    /// Gives those of these files that a kept version has their names in the store again, where the store lacks them.
    /// No byte is copied. Visible is only what is published.
    ///
    /// # Errors
    /// When something else has the name of a file, or the disk refuses: the others have theirs all the same. A file
    /// that is not kept is missing still.
    pub fn link_kept(&self, kept: &Kept, blobs: &[BlobSpec]) -> Result<(), PublishError> {
        let mut linked = Ok(());
        for blob in kept.manifest.blobs().into_iter().filter(|blob| blobs.contains(blob)) {
            linked = linked.and(self.link_one(kept, blob));
        }
        linked
    }

    fn link_one(&self, kept: &Kept, blob: BlobSpec) -> Result<(), PublishError> {
        let (from, to) = (kept.blob_path(blob.sha256), self.blob_path(blob.sha256));
        if self.shows(blob)? || kept.blob(blob)?.is_none() {
            return Ok(());
        }
        match fs::hard_link(&from, &to) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && self.shows(blob)? => Ok(()),
            Err(error) => Err(refused_link(error, &to, blob.sha256)),
            Ok(()) => Ok(()),
        }
    }
}

/// Bytes on the disk that nothing but these versions holds, each counted once.
#[must_use]
pub fn held_bytes(versions: &[&Kept]) -> u64 {
    held_bytes_but(versions, &|_| false)
}

/// The same without the files that stay although their versions go.
#[must_use]
pub fn held_bytes_but(versions: &[&Kept], stays: &dyn Fn(Digest) -> bool) -> u64 {
    held(versions, stays).values().map(disk::allocated_bytes).fold(0, u64::saturating_add)
}

/// The first of these versions without which bytes become free, if all of them go but for the files that stay.
#[must_use]
pub fn first_that_frees(versions: &[&Kept], stays: &dyn Fn(Digest) -> bool) -> Option<usize> {
    let held = held(versions, stays);
    versions.iter().position(|kept| kept.files().any(|(_, found)| held.contains_key(&number_of(&found))))
}

/// The files that have no other names than those that these versions give them, but for those that stay.
fn held(versions: &[&Kept], stays: &dyn Fn(Digest) -> bool) -> BTreeMap<(u64, u64), Metadata> {
    let mut all: BTreeMap<(u64, u64), (u64, Metadata)> = BTreeMap::new();
    let files = versions.iter().flat_map(|kept| kept.files());
    for (_, found) in files.filter(|(sha256, _)| !stays(*sha256)) {
        all.entry(number_of(&found)).or_insert((0, found)).0 += 1;
    }
    let held = all.into_iter().filter(|(_, (names, found))| found.nlink() <= *names);
    held.map(|(number, (_, found))| (number, found)).collect()
}

/// Device, and number on it.
fn number_of(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// The version whose folder this is, if it is whole.
fn version_in(path: PathBuf, digest: Digest) -> Result<Option<Kept>, Fault> {
    let read = |name: &str, bytes_max: usize| disk::read_small(&path.join(name), bytes_max);
    let Some(bytes) = read(MANIFEST, MANIFEST_BYTES_MAX)? else { return Ok(None) };
    let Some(names) = read(NAMES, NAMES_BYTES_MAX)? else { return Ok(None) };
    let names = String::from_utf8(names).unwrap_or_default();
    let names: Vec<ModelName> = names.lines().filter_map(|name| name.parse().ok()).collect();
    let manifest = Manifest::read(&bytes).ok().filter(|manifest| manifest.digest() == digest);
    let Some(manifest) = manifest.filter(|_| !names.is_empty()) else { return Ok(None) };
    let at = path.join(MANIFEST);
    let kept_at = fs::metadata(&at).and_then(|found| found.modified()).map_err(Fault::at("look at", &at))?;
    Ok(Some(Kept { names, manifest, kept_at: disk::moment(kept_at), path }))
}

/// Removes the folder of a version, its manifest first, and gives the bytes that became free.
fn clear(folder: &Path) -> Result<u64, Fault> {
    disk::remove_file(&folder.join(MANIFEST))?;
    let mut freed_bytes: u64 = 0;
    for name in disk::names_in(folder)? {
        let path = folder.join(&name);
        let bytes = if name.starts_with(FILE_PREFIX) { disk::frees_bytes(&path) } else { 0 };
        disk::remove_file(&path)?;
        freed_bytes = freed_bytes.saturating_add(bytes);
    }
    disk::remove(folder)?;
    Ok(freed_bytes)
}

/// Opens a file as one of a store is opened.
///
/// # Errors
/// When the disk refuses.
pub fn blob_at(path: &Path, spec: BlobSpec) -> Result<Option<BlobFile>, Fault> {
    open_blob("open the kept file", path, spec)
}

/// Does something by which files of a store get or lose a second name. That changes how the system tells them, and not
/// their bytes: what was hashed of them stays on record.
pub fn across<T>(index: &Index, store: &Store, blobs: &[BlobSpec], change: impl FnOnce() -> T) -> T {
    let hashed = |blob: &BlobSpec| {
        let (indexed, file) = (index.get(blob.sha256).ok().flatten()?, store.blob(*blob).ok().flatten()?);
        (file.identity == indexed.identity).then_some((*blob, indexed))
    };
    let before: Vec<(BlobSpec, Indexed)> = blobs.iter().filter_map(hashed).collect();
    let done = change();
    for (blob, indexed) in before {
        let Ok(Some(file)) = store.blob(blob) else { continue };
        let is_same = file.identity.has_bytes_of(&indexed.identity);
        if is_same && let Err(error) = put_again(index, blob.sha256, &Indexed { identity: file.identity, ..indexed }) {
            tracing::warn!(%error, sha256 = %blob.sha256, "keep the hash tree of a file that got another name");
        }
    }
    done
}

/// Puts a tree on record without saying that the file was read.
fn put_again(index: &Index, sha256: Digest, indexed: &Indexed) -> Result<(), Fault> {
    let checked_at = index.checked_at(sha256)?;
    index.put(sha256, indexed)?;
    checked_at.map_or(Ok(()), |at| index.note_checked(sha256, at))
}

/// Gives a file of the store to those of these versions that consist of it.
fn give(store: &Store, blob: BlobSpec, versions: impl Iterator<Item = Kept>) -> Result<(), KeepError> {
    let mut given = Ok(());
    for kept in versions.filter(|kept| kept.manifest.blobs().contains(&blob)) {
        // One that refuses keeps no other from it.
        given = given.and(link(&store.blob_path(blob.sha256), &kept.blob_path(blob.sha256), blob));
    }
    given
}

fn link(from: &Path, to: &Path, blob: BlobSpec) -> Result<(), KeepError> {
    // A second name of a link would be one more link.
    if fs::symlink_metadata(from).is_ok_and(|found| found.is_symlink()) {
        let path = from.display().to_string();
        return Err(KeepError::Refused { path, reason: "it leads elsewhere".to_owned() });
    }
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && !disk::is_same(from, to) => link_anew(from, to, blob),
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(unlinked(error, from, to, blob)),
        _ => Ok(()),
    }
}

/// The store has got the file anew since. What is kept stays until the new one has taken its place.
fn link_anew(from: &Path, to: &Path, blob: BlobSpec) -> Result<(), KeepError> {
    let draft = to.with_file_name(format!("{}{DRAFT_ENDING}", file_name(blob.sha256)));
    disk::remove_file(&draft)?;
    let linked = fs::hard_link(from, &draft).and_then(|()| fs::rename(&draft, to));
    if let Err(error) = linked {
        disk::remove_file(&draft)?;
        return Err(unlinked(error, from, to, blob));
    }
    Ok(())
}

/// Why a file got no second name.
fn unlinked(error: io::Error, from: &Path, to: &Path, blob: BlobSpec) -> KeepError {
    let is_refusal = [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS, Errno::EMLINK];
    match error.kind() {
        ErrorKind::NotFound => KeepError::Incomplete { sha256: blob.sha256 },
        ErrorKind::CrossesDevices => KeepError::OtherDisk(to.display().to_string()),
        _ if is_refusal.iter().any(|errno| disk::is(&error, *errno)) => {
            KeepError::Refused { path: from.display().to_string(), reason: error.to_string() }
        }
        _ => Fault::at("link", to)(error).into(),
    }
}

fn file_name(sha256: Digest) -> String {
    format!("{FILE_PREFIX}{sha256}")
}

#[cfg(test)]
mod tests;
