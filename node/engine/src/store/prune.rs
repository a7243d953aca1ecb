//! Clearing up at the start: files that no manifest names go, as Ollama lets them go at its start.
//!
//! Such files are left by whoever replaced a manifest and left the clearing up to the runtime, as a node does, and by a
//! crash between the files of a model and its manifest. Always holds: nothing goes unless every manifest could be read
//! and there is one at all, since the disk with them may be away; nor while a file that no manifest names was changed
//! within an hour, since another program may be bringing a model here, and may count on files that it found. A file
//! that is still needed after all is fetched again by whoever counts on it. Only what has the name of a blob goes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::PoisonError;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::name::Name;

use super::manifest::Manifest;
use super::{Digest, Store, StoreError, read_bounded};

/// For so long nothing has changed a file that goes. Ollama waits as long.
const REST: Duration = Duration::from_secs(3_600);
/// Folders between that of all manifests and a manifest: host, namespace, model.
const FOLDERS_DEEP: usize = 3;

impl Store {
    /// Removes the blobs that no manifest names, and gives those that went.
    ///
    /// # Errors
    /// When a manifest cannot be read: then nothing was removed; and when the disk refuses.
    pub(crate) fn prune(&self, now: SystemTime) -> Result<Vec<Digest>, StoreError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(named) = self.named()? else { return Ok(Vec::new()) };
        let folder = self.root.join("blobs");
        let mut left = Vec::new();
        for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
            let path = entry.map_err(StoreError::io("list", &folder))?.path();
            let digest = path.file_name().and_then(|name| name.to_str()).and_then(Digest::parse);
            if digest.as_ref().is_some_and(|digest| named.contains(digest)) {
                continue;
            }
            let found = fs::symlink_metadata(&path).map_err(StoreError::io("look at", &path))?;
            if !is_at_rest(&found, now) {
                return Ok(Vec::new());
            }
            left.extend(digest.filter(|digest| found.is_file() && self.blob_path(digest) == path));
        }
        for digest in &left {
            let path = self.blob_path(digest);
            fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
        }
        Ok(left)
    }

    /// The blobs that manifests name; `None` when there is no manifest.
    fn named(&self) -> Result<Option<BTreeSet<Digest>>, StoreError> {
        let (mut named, mut manifests) = (BTreeSet::new(), 0_usize);
        let mut folders = vec![(self.root.join("manifests"), 0)];
        while let Some((folder, depth)) = folders.pop() {
            for entry in fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
                let entry = entry.map_err(StoreError::io("list", &folder))?;
                if !is_part(&entry.file_name(), depth) {
                    continue;
                }
                let path = entry.path();
                // Of a link that leads nowhere nobody knows what it names.
                let found = fs::metadata(&path).map_err(StoreError::io("look at", &path))?;
                if depth < FOLDERS_DEEP && found.is_dir() {
                    folders.push((path, depth + 1));
                } else if depth == FOLDERS_DEEP && found.is_file() {
                    let damaged = |error: serde_json::Error| StoreError::Manifest {
                        path: path.display().to_string(),
                        reason: error.to_string(),
                    };
                    let manifest: Manifest = serde_json::from_slice(&read_bounded(&path)?).map_err(damaged)?;
                    named.extend(manifest.digests());
                    manifests += 1;
                }
            }
        }
        Ok((manifests > 0).then_some(named))
    }
}

/// Whether a model's name can have this part, so many folders deep. What else lies there, as `.DS_Store`, is no model.
fn is_part(part: &OsStr, depth: usize) -> bool {
    let mut parts = ["x"; FOLDERS_DEEP + 1];
    let (Some(place), Some(part)) = (parts.get_mut(depth), part.to_str()) else { return false };
    *place = part;
    Name::from_parts(parts).is_some()
}

/// Whether nothing has changed a file or its names for an hour. What was changed in the future was changed just now.
fn is_at_rest(found: &fs::Metadata, now: SystemTime) -> bool {
    let changed = u64::try_from(found.mtime().max(found.ctime())).unwrap_or(0);
    now.duration_since(UNIX_EPOCH + Duration::from_secs(changed)).is_ok_and(|age| age >= REST)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};

    use tempfile::TempDir;

    use super::*;

    const NAMED: &[u8] = b"named";
    const LEFT: &[u8] = b"left";

    /// A store with a model of one file, and a file that no model names.
    fn store() -> (TempDir, Store) {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path().to_owned()).expect("store");
        for bytes in [NAMED, LEFT] {
            store.put_blob(bytes).expect("write");
        }
        (folder, store)
    }

    fn write_manifest(store: &Store) -> PathBuf {
        let digest = Digest::of(NAMED).tagged();
        let layer = format!(r#"{{"mediaType":"x","digest":"{digest}","size":5}}"#);
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"x","config":{layer},"layers":[]}}"#);
        let place = store.root.join("manifests/registry.ollama.ai/library/demo");
        fs::create_dir_all(&place).expect("folder");
        fs::write(place.join("latest"), text).expect("write");
        place.join("latest")
    }

    /// So many seconds after the last change of a file.
    fn after(path: &Path, seconds: u64) -> SystemTime {
        let changed = fs::symlink_metadata(path).expect("it is there").ctime();
        UNIX_EPOCH + Duration::from_secs(u64::try_from(changed).expect("after 1970") + seconds)
    }

    fn later(store: &Store) -> SystemTime {
        after(&store.blob_path(&Digest::of(LEFT)), 7_200)
    }

    #[test]
    fn what_no_manifest_names_goes_and_the_rest_stays() {
        let (_folder, store) = store();
        write_manifest(&store);
        assert_eq!(store.prune(later(&store)).expect("pruned"), [Digest::of(LEFT)]);
        assert!(store.has_blob(&Digest::of(NAMED)) && !store.has_blob(&Digest::of(LEFT)));
    }

    #[test]
    fn nothing_goes_without_a_manifest_or_while_something_is_new() {
        let (_folder, store) = store();
        let stays = |now: SystemTime, why: &str| {
            assert_eq!(store.prune(now).expect("looked"), [], "{why}");
            assert!(store.has_blob(&Digest::of(LEFT)), "{why}");
        };
        stays(later(&store), "the disk of manifests may be away");
        write_manifest(&store);
        stays(after(&store.blob_path(&Digest::of(LEFT)), 3_000), "it was changed an hour ago, but for a moment");
        stays(UNIX_EPOCH, "it was changed in the future");
        let partial = store.root.join("blobs/sha256-12-partial");
        fs::write(&partial, "half").expect("write");
        let file = fs::File::options().write(true).open(&partial).expect("open");
        file.set_modified(later(&store)).expect("ours");
        stays(later(&store), "somebody fetches a model");
    }

    #[test]
    fn what_has_a_name_that_no_model_can_have_is_nothing_to_wait_for() {
        let (_folder, store) = store();
        let place = write_manifest(&store);
        fs::write(place.with_file_name(".DS_Store"), "of a desktop").expect("write");
        symlink("nowhere", store.root.join("manifests/.away")).expect("ours");
        assert_eq!(store.prune(later(&store)).expect("pruned"), [Digest::of(LEFT)]);
    }

    #[test]
    fn nothing_goes_while_a_manifest_cannot_be_read() {
        let (_folder, store) = store();
        let place = write_manifest(&store);
        let refused = |why: &str| {
            assert!(store.prune(later(&store)).is_err(), "{why}");
            assert!(store.has_blob(&Digest::of(LEFT)), "{why}");
        };
        let garbled = place.with_file_name("half");
        fs::write(&garbled, r#"{"schemaVersion":2,"lay"#).expect("write");
        refused("half a manifest may name it");
        fs::remove_file(&garbled).expect("ours");
        symlink("nowhere", &garbled).expect("ours");
        refused("a link leads nowhere");
        fs::remove_file(&garbled).expect("ours");
        let away = store.root.join("away");
        fs::rename(store.root.join("manifests"), &away).expect("ours");
        refused("the folder is away");
        symlink(store.root.join("gone"), store.root.join("manifests")).expect("ours");
        refused("the folder leads nowhere");
    }
}
