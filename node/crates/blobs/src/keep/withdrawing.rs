//! Takes their names in a store from files that no model there names, while a kept version has them.
//!
//! So does a runtime that clears up when it starts. Not every one does, and until then the room is not free. The bytes
//! stay under our own name, so what was taken in error gets its name back by a link, at once or when a later look finds
//! it missing ([`Store::link_kept`]). Always holds: a name goes only when it is sure what the models of the store name
//! ([`Store::named`]), when it is a name of the very file that is kept, when nobody of this process counts on it, when
//! nothing has changed the file for an hour, and when no other file without a model was changed within an hour: by such
//! a file it shows that a runtime brings a model, which may have found others here and names them at its end. Where no
//! runtime runs, and a model was taken out just now, the file itself need not rest ([`Haste::Alone`]). What remains:
//! one that found all files here names them a moment later, and misses them until then.
//!
//! And tells which files of versions that were let go are to stay for now ([`Store::staying`]). Always holds: a file
//! that the store does not have goes for good only when it is sure that no model names it, and when nobody of this
//! process counts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ollamax_types::{Digest, Timestamp};

use crate::fault::Fault;
use crate::staging::disk;
use crate::store::{FileIdentity, Store};

use super::Kept;

/// For so long nothing has changed a file that is at rest, milliseconds. Ollama waits as long before it clears up.
const REST_MS: u64 = 3_600_000;

/// How long what is to go waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Haste {
    /// Until nothing has changed it for an hour, and no runtime brings a model.
    Calm,
    /// Room is needed: what has lost its name in the store goes, however short a time ago.
    Room,
    /// No runtime runs, and a model was taken out just now: names go as well, however short a time ago they changed.
    /// That no model is left is sure then.
    Alone,
}

/// How a store is cleared up.
#[derive(Clone, Copy)]
pub struct Clearing<'a> {
    /// When.
    pub now: Timestamp,
    /// How fast.
    pub haste: Haste,
    /// Whether somebody of this process counts on a file.
    pub is_wanted: &'a dyn Fn(Digest) -> bool,
    /// Whether a file that no model names has its name in the store for the sake of this process: that it changed shows
    /// nothing of a runtime.
    pub is_kept: &'a dyn Fn(Digest) -> bool,
    /// Hears why it is not sure what models name, while nothing goes for that; `None` when it is sure.
    pub unsure: &'a dyn Fn(Option<String>),
    /// Hears which file shows that a runtime brings a model, while nothing goes for that; `None` when none does.
    pub restless: &'a dyn Fn(Option<&Path>),
}

// === impl Clearing ===

impl fmt::Debug for Clearing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clearing").field("now", &self.now).field("haste", &self.haste).finish_non_exhaustive()
    }
}

impl Clearing<'_> {
    /// Whether a file may lose this name now, as far as the file itself shows.
    fn may_take(&self, path: &Path) -> bool {
        self.haste == Haste::Alone || fs::symlink_metadata(path).is_ok_and(|found| is_at_rest(&found, self.now))
    }
}

// === impl Store ===

impl Store {
    /// Takes their names in the store from those files of versions that no model there names, as far as that is safe.
    /// Gives the files of which it is not, or not yet: they have their names still. While no file may lose its name
    /// anyway those are among them that models name.
    ///
    /// # Errors
    /// When the disk refuses: what has lost its name by then is kept still.
    pub fn withdraw(&self, versions: &[Kept], clearing: &Clearing<'_>) -> Result<BTreeSet<Digest>, Fault> {
        self.withdraw_with(versions, clearing, || {})
    }

    /// As [`Store::withdraw`]; `meanwhile` happens between the two looks at what is named.
    pub(super) fn withdraw_with(
        &self,
        versions: &[Kept],
        clearing: &Clearing<'_>,
        meanwhile: impl FnOnce(),
    ) -> Result<BTreeSet<Digest>, Fault> {
        let mut left = self.also_kept(versions);
        let may_go = |sha256: Digest| !(clearing.is_wanted)(sha256) && clearing.may_take(&self.blob_path(sha256));
        // To find out what models name is much to read.
        if !left.keys().any(|sha256| may_go(*sha256)) {
            return Ok(left.into_keys().collect());
        }
        let Some(named) = self.named_now(clearing)? else { return Ok(left.into_keys().collect()) };
        left.retain(|sha256, _| !named.contains(sha256));
        let is_known =
            |sha256: Digest| named.contains(&sha256) || left.contains_key(&sha256) || (clearing.is_kept)(sha256);
        if left.is_empty() || !self.is_quiet(&is_known, clearing)? {
            return Ok(left.into_keys().collect());
        }
        let (mut taken, mut removed) = (Vec::new(), Ok(()));
        for sha256 in left.keys().copied().filter(|sha256| may_go(*sha256)) {
            removed = disk::remove_file(&self.blob_path(sha256));
            if removed.is_err() {
                break;
            }
            taken.push(sha256);
        }
        if !taken.is_empty() {
            meanwhile();
            self.look_again(&taken, &mut left, clearing)?;
        }
        removed.map(|()| left.into_keys().collect())
    }

    /// Which files of versions that were let go stay for now: those that are `left` their names in the store, and of
    /// the others, which the store does not have any more, those on which somebody counts, and those that a model may
    /// name by now.
    ///
    /// # Errors
    /// When the disk refuses: then all of them are to stay.
    pub fn staying(
        &self,
        going: &[Kept],
        left: BTreeSet<Digest>,
        clearing: &Clearing<'_>,
    ) -> Result<BTreeSet<Digest>, Fault> {
        let (mut stay, is_calm) = (left, clearing.haste == Haste::Calm);
        let mut last = BTreeSet::new();
        let files = going.iter().flat_map(|kept| kept.files());
        for (sha256, found) in files.filter(|(sha256, _)| fs::symlink_metadata(self.blob_path(*sha256)).is_err()) {
            // A runtime may have found it just before it lost its name, and name it now.
            if (clearing.is_wanted)(sha256) || is_calm && !is_at_rest(&found, clearing.now) {
                stay.insert(sha256);
            } else {
                last.insert(sha256);
            }
        }
        last.retain(|sha256| !stay.contains(sha256));
        if last.is_empty() {
            return Ok(stay);
        }
        let Some(named) = self.named_now(clearing)? else {
            stay.append(&mut last);
            return Ok(stay);
        };
        let is_known = |sha256: Digest| named.contains(&sha256) || stay.contains(&sha256) || (clearing.is_kept)(sha256);
        let waits = is_calm && !self.is_quiet(&is_known, clearing)?;
        stay.extend(last.into_iter().filter(|sha256| waits || named.contains(sha256)));
        Ok(stay)
    }

    /// Puts back what is named by now, or may be; the others of these files are left no more.
    fn look_again(
        &self,
        taken: &[Digest],
        left: &mut BTreeMap<Digest, PathBuf>,
        clearing: &Clearing<'_>,
    ) -> Result<(), Fault> {
        let (named, mut put) = (self.named_now(clearing), Ok(()));
        for sha256 in taken {
            let Some(kept) = left.get(sha256) else { continue };
            if matches!(&named, Ok(Some(named)) if !named.contains(sha256)) {
                left.remove(sha256);
            } else {
                // One that cannot be put back keeps no other from it.
                put = put.and(put_back(kept, &self.blob_path(*sha256)));
            }
        }
        disk::sync_folder(self.blobs_folder())?;
        put.and(named.map(drop))
    }

    fn named_now(&self, clearing: &Clearing<'_>) -> Result<Option<BTreeSet<Digest>>, Fault> {
        match self.named_with(clearing.haste == Haste::Alone)? {
            Ok(named) => {
                (clearing.unsure)(None);
                Ok(Some(named))
            }
            Err(why) => {
                (clearing.unsure)(Some(why));
                Ok(None)
            }
        }
    }

    /// The files of these versions whose names in the store are names of the same files, and where they are kept.
    fn also_kept(&self, versions: &[Kept]) -> BTreeMap<Digest, PathBuf> {
        let blobs = versions.iter().flat_map(|kept| kept.manifest.blobs().into_iter().map(move |blob| (kept, blob)));
        let paths = blobs.map(|(kept, blob)| (blob.sha256, kept.blob_path(blob.sha256)));
        paths.filter(|(sha256, path)| disk::is_same(path, &self.blob_path(*sha256))).collect()
    }

    /// Whether no other file in the store than these shows that a runtime brings a model just now.
    fn is_quiet(&self, is_known: &dyn Fn(Digest) -> bool, clearing: &Clearing<'_>) -> Result<bool, Fault> {
        let folder = self.blobs_folder();
        for entry in fs::read_dir(folder).map_err(Fault::at("list", folder))? {
            let path = entry.map_err(Fault::at("list", folder))?.path();
            let sha256 = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Digest>().ok());
            let is_known = sha256.is_some_and(is_known);
            if !is_known && !fs::symlink_metadata(&path).is_ok_and(|found| is_at_rest(&found, clearing.now)) {
                (clearing.restless)(Some(&path));
                return Ok(false);
            }
        }
        (clearing.restless)(None);
        Ok(true)
    }
}

/// Whether nothing has changed a file or its names for an hour. What was changed in the future was changed just now.
fn is_at_rest(found: &Metadata, now: Timestamp) -> bool {
    let FileIdentity { mtime_ns, ctime_ns, .. } = FileIdentity::of(found);
    let changed_ms = mtime_ns.max(ctime_ns).div_euclid(1_000_000);
    now.ms_since(Timestamp(u64::try_from(changed_ms).unwrap_or(0))) >= REST_MS
}

/// That somebody else has brought it is fine.
fn put_back(kept: &Path, path: &Path) -> Result<(), Fault> {
    match fs::hard_link(kept, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Fault::at("link", path)(error)),
        _ => Ok(()),
    }
}
