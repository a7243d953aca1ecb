//! Makes a model visible: blobs by link, then the manifest by rename; all or nothing.
//!
//! In this order, each durable before the next:
//!
//! 1. each blob that the store lacks gets the owner, rights and time of what a runtime would have written, then its
//!    second name among the blobs; one that lies there with its size is kept as it is;
//! 2. the names of the blobs;
//! 3. the folders of the manifest, in the spelling that the store has;
//! 4. the manifest, which gets its name last of all;
//! 5. a look whether every blob is still there: a runtime that starts removes what no manifest names, which was true of
//!    these until now. What went is linked again, and a manifest whose blobs cannot be kept is taken back;
//! 6. what staging holds of the blobs goes, unless the caller wants to do all of this once more a while later.
//!
//! Killed anywhere, the store shows the model as it was before or as it is now, and the same call does the rest. Layers
//! that only a replaced manifest named stay: a runtime may be fetching a model right now that will name them. Whoever
//! keeps the replaced version takes their names away later ([`Store::withdraw`]).

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;
use sha2::{Digest as _, Sha256};

use ollamax_types::limits::MANIFEST_BYTES_MAX;
use ollamax_types::{Digest, ModelName, Timestamp};

use crate::fault::Fault;
use crate::manifest::Manifest;
use crate::staging::{Part, Staging, disk};

use super::access::{Access, How};
use super::{BlobSpec, Store, entries_like, read_file};

/// How often blobs are put back that somebody removes.
const PRUNED_ROUNDS_MAX: usize = 3;

/// A model that is to become visible.
#[derive(Debug)]
pub struct Publication<'a> {
    /// Under which name.
    pub name: &'a ModelName,
    /// What it consists of.
    pub manifest: &'a Manifest,
    /// What the store lacks of it, sealed. More than it lacks is fine.
    pub parts: &'a [Part],
    /// Where the parts lie; on the disk of the store's blobs.
    pub staging: &'a Staging,
    /// Now: what a runtime believes of the age of the files.
    pub now: Timestamp,
    /// Whether what staging holds of it goes. Where a runtime starts just now, it may remove blobs still.
    pub clears: bool,
}

/// A model that is visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Which version of it.
    pub digest: Digest,
    /// Where its manifest lies.
    pub path: PathBuf,
    /// The version that had the name before, if it was another.
    pub replaced: Option<Digest>,
}

/// Why a model did not become visible.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The disk did not.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// This process may not, or the store's file system cannot.
    #[error("{0}")]
    NotWritable(String),
    /// No file can have a second name there.
    #[error("the store lies on another disk than its blobs: {0}")]
    OtherDisk(String),
    /// Nobody has it, or it is not sealed.
    #[error("{sha256} is missing in the store and in the staging folder")]
    Missing {
        /// The blob.
        sha256: Digest,
    },
    /// The runtime's own file is not what its name says; it is not touched.
    #[error("{sha256} in the store has {found} bytes, and the manifest says {wanted}")]
    Size {
        /// The blob.
        sha256: Digest,
        /// What the manifest says.
        wanted: u64,
        /// What lies there.
        found: u64,
    },
}

/// What has just happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A part looks like a blob of the store.
    Dressed,
    /// It has its second name.
    Linked,
    /// The names of all blobs are durable.
    BlobsDurable,
    /// A folder is made and has no name yet.
    FolderDrafted,
    /// It has its name.
    FolderNamed,
    /// The manifest is written and has no name yet.
    ManifestDrafted,
    /// It has its name: the model is visible.
    ManifestNamed,
    /// Every blob was there.
    Looked,
    /// What staging held of a blob is gone.
    Forgotten,
}

/// Whose the files of a store are, and who may do what to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dress {
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) file_mode: u32,
    folder_mode: u32,
}

/// One way through all steps.
struct Attempt<'a> {
    store: &'a Store,
    publication: &'a Publication<'a>,
    dress: Dress,
    after: &'a mut dyn FnMut(Step),
}

impl Store {
    /// Makes a model visible to the runtime, which lists it from then on. The same again does what is left to do.
    ///
    /// # Errors
    /// When the store may not be written, when a blob is nowhere or has another size there, when the disk refuses: then
    /// the name stands for what it stood for before.
    pub fn publish(&self, publication: &Publication<'_>) -> Result<Published, PublishError> {
        self.publish_in_steps(publication, &mut |_| {})
    }

    fn publish_in_steps(
        &self,
        publication: &Publication<'_>,
        after: &mut dyn FnMut(Step),
    ) -> Result<Published, PublishError> {
        let (manifest, digest) = (publication.manifest, publication.manifest.digest());
        let blobs = manifest.blobs();
        let mut attempt = Attempt { store: self, publication, dress: Dress::of(self.access())?, after };
        attempt.show_all(&blobs)?;
        let path = attempt.place_of_manifest()?;
        let before = bytes_of_manifest(&path)?;
        let is_new = before.as_deref() != Some(manifest.bytes());
        if is_new {
            attempt.name_manifest(&path, manifest.bytes())?;
        }
        if let Err(error) = attempt.keep_whole(&blobs) {
            if is_new {
                attempt.take_back(&path, before.as_deref());
            }
            return Err(error);
        }
        if publication.clears {
            attempt.clear(&blobs);
        }
        let before = before.map(|bytes| Digest(Sha256::digest(bytes).into()));
        Ok(Published { digest, path, replaced: before.filter(|before| *before != digest) })
    }

    /// Whether a blob lies there as it should.
    pub(crate) fn shows(&self, blob: BlobSpec) -> Result<bool, PublishError> {
        let path = self.blob_path(blob.sha256);
        let found = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            found => found.map_err(Fault::at("look at", &path))?,
        };
        if !found.is_file() {
            return Err(disk::fault("link", &path, ErrorKind::AlreadyExists, "something else has this name").into());
        }
        let (sha256, wanted, found) = (blob.sha256, blob.size_bytes, found.len());
        if found == wanted { Ok(true) } else { Err(PublishError::Size { sha256, wanted, found }) }
    }

    /// Gives the bytes of a part the name of a blob, which they have beside the other from then on.
    fn link(&self, part: &Part) -> Result<(), PublishError> {
        let (blob, path) = (part.spec(), self.blob_path(part.spec().sha256));
        let Err(error) = fs::hard_link(part.data_path(), &path) else { return Ok(()) };
        if error.kind() == ErrorKind::AlreadyExists && self.shows(blob)? {
            return Ok(());
        }
        Err(refused_link(error, &path, blob.sha256))
    }
}

// === impl Attempt ===

impl Attempt<'_> {
    fn show_all(&mut self, blobs: &[BlobSpec]) -> Result<(), PublishError> {
        let store = self.store;
        self.make_folder(&store.blobs)?;
        for blob in blobs {
            self.show(*blob)?;
        }
        disk::sync_folder(&store.blobs)?;
        (self.after)(Step::BlobsDurable);
        Ok(())
    }

    /// Makes one blob visible, if it is not.
    fn show(&mut self, blob: BlobSpec) -> Result<(), PublishError> {
        if self.store.shows(blob)? {
            return Ok(());
        }
        let missing = PublishError::Missing { sha256: blob.sha256 };
        let sealed = self.publication.parts.iter().find(|part| part.spec() == blob && part.is_sealed());
        // What has the part's name now need not be what was sealed: it may have been forgotten and begun anew.
        let Some(part) = sealed.filter(|part| disk::is_at(part.data(), part.data_path())) else { return Err(missing) };
        let dressed = self.dress.put_on(part.data(), self.publication.now);
        dressed.map_err(Fault::at("give the rights of the store to", part.data_path()))?;
        (self.after)(Step::Dressed);
        self.store.link(part)?;
        (self.after)(Step::Linked);
        Ok(())
    }

    /// Where the manifest lies or will lie; the folders to there are made.
    fn place_of_manifest(&mut self) -> Result<PathBuf, PublishError> {
        let (store, name) = (self.store, self.publication.name);
        if let Some(path) = store.stored_manifest(name)? {
            return Ok(path);
        }
        let mut place = store.manifests();
        self.make_folder(&place)?;
        let [host, namespace, model, tag] = name.parts();
        for part in [host, namespace, model] {
            let exact = place.join(part);
            let other =
                if exact.is_dir() { None } else { entries_like(&place, part)?.into_iter().find(|it| it.is_dir()) };
            place = other.unwrap_or(exact);
            self.make_folder(&place)?;
        }
        Ok(place.join(tag))
    }

    /// Makes a folder where there is none. It has its owner and rights before it has its name, since nobody comes back
    /// to mend those of one that is there.
    fn make_folder(&mut self, path: &Path) -> Result<(), PublishError> {
        if path.is_dir() {
            return Ok(());
        }
        let draft = self.fresh_draft()?;
        fs::create_dir(&draft).map_err(Fault::at("create", &draft))?;
        let dressed = self.dress.put_on_folder(&draft);
        dressed.map_err(Fault::at("give the rights of the store to", &draft))?;
        (self.after)(Step::FolderDrafted);
        self.name_folder(&draft, path)?;
        sync_parent(path)?;
        (self.after)(Step::FolderNamed);
        Ok(())
    }

    /// Gives a folder its name, unless somebody else was quicker.
    fn name_folder(&self, draft: &Path, path: &Path) -> Result<(), PublishError> {
        let _naming = self.publication.staging.naming();
        if path.is_dir() {
            return Ok(disk::remove(draft)?);
        }
        match fs::rename(draft, path) {
            Err(_) if path.is_dir() => Ok(disk::remove(draft)?),
            renamed => named(renamed, path),
        }
    }

    /// Lets a name stand for these bytes, in one moment.
    fn name_manifest(&mut self, path: &Path, bytes: &[u8]) -> Result<(), PublishError> {
        let draft = self.fresh_draft()?;
        let mut file = disk::create_file(&draft, None)?;
        file.write_all(bytes).map_err(Fault::at("write", &draft))?;
        let dressed = self.dress.put_on(&file, self.publication.now);
        dressed.map_err(Fault::at("give the rights of the store to", &draft))?;
        (self.after)(Step::ManifestDrafted);
        named(fs::rename(&draft, path), path)?;
        sync_parent(path)?;
        (self.after)(Step::ManifestNamed);
        Ok(())
    }

    /// Puts back what was removed meanwhile, until all of it is there.
    fn keep_whole(&mut self, blobs: &[BlobSpec]) -> Result<(), PublishError> {
        let store = self.store;
        for round in 0..=PRUNED_ROUNDS_MAX {
            let mut gone = Vec::new();
            for blob in blobs {
                if !store.shows(*blob)? {
                    gone.push(*blob);
                }
            }
            let Some(first) = gone.first() else { break };
            if round == PRUNED_ROUNDS_MAX {
                return Err(PublishError::Missing { sha256: first.sha256 });
            }
            let (model, blobs) = (self.publication.name, gone.len());
            tracing::warn!(%model, blobs, "blobs were removed while their model was published");
            for blob in gone {
                self.show(blob)?;
            }
            disk::sync_folder(&store.blobs)?;
        }
        (self.after)(Step::Looked);
        Ok(())
    }

    /// Lets the name stand for what it stood for before, if nobody changed it meanwhile.
    fn take_back(&mut self, path: &Path, before: Option<&[u8]>) {
        let ours = self.publication.manifest.bytes();
        if !bytes_of_manifest(path).is_ok_and(|bytes| bytes.as_deref() == Some(ours)) {
            return;
        }
        let taken = match before {
            Some(bytes) => self.name_manifest(path, bytes),
            None => disk::remove_file(path).and_then(|()| sync_parent(path)).map_err(PublishError::from),
        };
        if let Err(error) = taken {
            tracing::warn!(path = %path.display(), %error, "take back the manifest of a model that is not whole");
        }
    }

    /// Removes what staging holds of these blobs. The model is visible, whatever comes of this.
    fn clear(&mut self, blobs: &[BlobSpec]) {
        let staging = self.publication.staging;
        for blob in blobs {
            if let Err(fault) = staging.forget(blob.sha256) {
                tracing::warn!(error = %fault, "remove what was staged of a published file");
            }
            (self.after)(Step::Forgotten);
        }
        if let Err(fault) = staging.clear_drafts(self.publication.now) {
            tracing::warn!(error = %fault, "remove drafts that were left behind");
        }
    }

    /// A place for something without a name, with nothing in it.
    fn fresh_draft(&self) -> Result<PathBuf, Fault> {
        let draft = self.publication.staging.draft_path(self.publication.name);
        disk::remove(&draft)?;
        Ok(draft)
    }
}

// === impl Dress ===

impl Dress {
    /// What the store's owner needs to replace and delete what this process publishes.
    pub(super) fn of(access: Access) -> Result<Self, PublishError> {
        let plain = Self { uid: None, gid: None, file_mode: 0o644, folder_mode: 0o755 };
        match access {
            Access::Direct { how: How::Owner, .. } => Ok(plain),
            Access::Direct { owner, how: How::Root } => {
                Ok(Self { uid: Some(owner.uid), gid: Some(owner.gid), ..plain })
            }
            Access::Direct { owner, how: How::Group } => {
                Ok(Self { uid: None, gid: Some(owner.gid), file_mode: 0o664, folder_mode: 0o775 })
            }
            Access::Locked { reason, remedy, .. } | Access::Hidden { reason, remedy } => {
                Err(PublishError::NotWritable(format!("{reason}; {remedy}")))
            }
        }
    }

    /// Durable on return, so that a file has all this before it has its name.
    pub(super) fn put_on(&self, file: &File, now: Timestamp) -> io::Result<()> {
        if self.uid.is_some() || self.gid.is_some() {
            fchown(file, self.uid, self.gid)?;
        }
        file.set_permissions(Permissions::from_mode(self.file_mode))?;
        file.set_modified(UNIX_EPOCH + Duration::from_millis(now.0))?;
        file.sync_all()
    }

    fn put_on_folder(&self, path: &Path) -> io::Result<()> {
        let folder = disk::open_folder(path)?;
        if self.uid.is_some() || self.gid.is_some() {
            fchown(&folder, self.uid, self.gid)?;
        }
        folder.set_permissions(Permissions::from_mode(self.folder_mode))
    }
}

/// Why bytes did not get a second name.
pub(crate) fn refused_link(error: io::Error, path: &Path, sha256: Digest) -> PublishError {
    let is_refusal = [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS].into_iter().any(|errno| disk::is(&error, errno));
    match error.kind() {
        ErrorKind::NotFound => PublishError::Missing { sha256 },
        ErrorKind::CrossesDevices => PublishError::OtherDisk(path.display().to_string()),
        _ if is_refusal => {
            PublishError::NotWritable(format!("{}: a file cannot get a second name here: {error}", path.display()))
        }
        _ => Fault::at("link", path)(error).into(),
    }
}

/// The bytes for which a name stands; `None` when it stands for nothing, or for something longer than any manifest.
fn bytes_of_manifest(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    let read = read_file("read the manifest", path, MANIFEST_BYTES_MAX)?;
    Ok(read.map(|(bytes, _)| bytes).filter(|bytes| bytes.len() <= MANIFEST_BYTES_MAX))
}

/// What came of giving something its name.
pub(super) fn named(renamed: io::Result<()>, path: &Path) -> Result<(), PublishError> {
    renamed.map_err(|error| match error.kind() {
        ErrorKind::CrossesDevices => PublishError::OtherDisk(path.display().to_string()),
        _ => Fault::at("name", path)(error).into(),
    })
}

pub(super) fn sync_parent(path: &Path) -> Result<(), Fault> {
    path.parent().map_or(Ok(()), disk::sync_folder)
}

#[cfg(test)]
mod tests;
