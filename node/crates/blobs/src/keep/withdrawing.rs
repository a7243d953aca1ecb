//! Takes their names in a store from files that no model there names, while a kept version has them.
//!
//! So does a runtime that clears up when it starts. Not every one does, and until then the room is not free. The bytes
//! stay under our own name, so what was taken in error gets its name back by a link, at once or when a later look finds
//! it missing ([`Store::link_kept`]). Always holds: a name goes only when it is sure what the models of the store name
//! ([`Store::named`]), when it is a name of the very file that is kept, when nobody of this process counts on it, when
//! nothing has changed the file for an hour, and when no other file without a model was changed within an hour: by such
//! a file it shows that a runtime brings a model, which may have found others here and names them at its end. What
//! remains: one that found all files here names them a moment later, and misses them until then.

use std::collections::{BTreeMap, BTreeSet};
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

impl Store {
    /// Takes their names in the store from those files of kept versions that no model there names, as far as that is
    /// safe. Gives the files of which it is not, or not yet: they have their names still, and no model may name them.
    ///
    /// # Errors
    /// When the disk refuses: what has lost its name by then is kept still.
    pub fn withdraw(
        &self,
        versions: &[Kept],
        now: Timestamp,
        is_wanted: &dyn Fn(Digest) -> bool,
    ) -> Result<BTreeSet<Digest>, Fault> {
        self.withdraw_with(versions, now, is_wanted, || {})
    }

    /// As [`Store::withdraw`]; `meanwhile` happens between the two looks at what is named.
    pub(super) fn withdraw_with(
        &self,
        versions: &[Kept],
        now: Timestamp,
        is_wanted: &dyn Fn(Digest) -> bool,
        meanwhile: impl FnOnce(),
    ) -> Result<BTreeSet<Digest>, Fault> {
        let mut left = self.also_kept(versions);
        if left.is_empty() {
            return Ok(BTreeSet::new());
        }
        let Some(named) = self.named()? else { return Ok(left.into_keys().collect()) };
        left.retain(|sha256, _| !named.contains(sha256));
        if left.is_empty() || !self.is_quiet(&named, &left, now)? {
            return Ok(left.into_keys().collect());
        }
        let (mut taken, mut removed) = (Vec::new(), Ok(()));
        for sha256 in left.keys().copied().filter(|sha256| !is_wanted(*sha256)) {
            let path = self.blob_path(sha256);
            if fs::symlink_metadata(&path).is_ok_and(|found| is_at_rest(&found, now)) {
                removed = disk::remove_file(&path);
                if removed.is_err() {
                    break;
                }
                taken.push(sha256);
            }
        }
        if !taken.is_empty() {
            meanwhile();
            self.look_again(&taken, &mut left)?;
        }
        removed.map(|()| left.into_keys().collect())
    }

    /// Puts back what is named by now, or may be; the others of these files are left no more.
    fn look_again(&self, taken: &[Digest], left: &mut BTreeMap<Digest, PathBuf>) -> Result<(), Fault> {
        let named = self.named();
        for sha256 in taken {
            let Some(kept) = left.get(sha256) else { continue };
            if matches!(&named, Ok(Some(named)) if !named.contains(sha256)) {
                left.remove(sha256);
            } else {
                put_back(kept, &self.blob_path(*sha256))?;
            }
        }
        disk::sync_folder(self.blobs_folder())?;
        named.map(drop)
    }

    /// The files of these versions whose names in the store are names of the same files, and where they are kept.
    fn also_kept(&self, versions: &[Kept]) -> BTreeMap<Digest, PathBuf> {
        let blobs = versions.iter().flat_map(|kept| kept.manifest.blobs().into_iter().map(move |blob| (kept, blob)));
        let paths = blobs.map(|(kept, blob)| (blob.sha256, kept.blob_path(blob.sha256)));
        paths.filter(|(sha256, path)| disk::is_same(path, &self.blob_path(*sha256))).collect()
    }

    /// Whether nothing in the store shows that a runtime brings a model just now.
    fn is_quiet(
        &self,
        named: &BTreeSet<Digest>,
        left: &BTreeMap<Digest, PathBuf>,
        now: Timestamp,
    ) -> Result<bool, Fault> {
        let folder = self.blobs_folder();
        for entry in fs::read_dir(folder).map_err(Fault::at("list", folder))? {
            let path = entry.map_err(Fault::at("list", folder))?.path();
            let sha256 = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Digest>().ok());
            let is_known = sha256.is_some_and(|sha256| named.contains(&sha256) || left.contains_key(&sha256));
            if !is_known && !fs::symlink_metadata(&path).is_ok_and(|found| is_at_rest(&found, now)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether nothing has changed a file or its names for an hour. What was changed in the future was changed just now.
pub(super) fn is_at_rest(found: &Metadata, now: Timestamp) -> bool {
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
