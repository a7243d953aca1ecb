//! Takes a model out of a store whose runtime is not there to do it, and tells which files models name.
//!
//! As a runtime does it: the manifest goes first, so that nothing is visible that is not whole; then the files that no
//! other manifest names, found by a new look at all of them. Always holds: a file goes only when every manifest of the
//! store could be read. Killed in between, files stay that nobody names; a runtime removes those when it starts.

use std::collections::BTreeSet;

use ollamax_types::{Digest, ModelName};

use crate::fault::Fault;
use crate::staging::disk;

use super::publish::sync_parent;
use super::{BlobSpec, ReadError, Store};

impl Store {
    /// Removes this version of a model, and gives the bytes that became free. Where the name stands for another
    /// version, or for none, nothing is done.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, name: &ModelName, digest: Digest) -> Result<u64, Fault> {
        let found = match self.manifest(name) {
            Ok(found) => found,
            Err(ReadError::Fault(fault)) => return Err(fault),
            // What lies there is no version.
            Err(ReadError::Manifest { .. }) => None,
        };
        let Some((path, manifest)) = found.filter(|(_, manifest)| manifest.digest() == digest) else { return Ok(0) };
        disk::remove_file(&path)?;
        sync_parent(&path)?;
        let scan = self.scan()?;
        if !scan.is_whole() {
            tracing::warn!(model = %name, "files of a removed model stay: not every manifest of the store can be read");
            return Ok(0);
        }
        let named: BTreeSet<Digest> =
            scan.models.iter().flat_map(|model| model.blobs.iter().map(|blob| blob.sha256)).collect();
        let left = manifest.blobs().into_iter().filter(|blob| !named.contains(&blob.sha256));
        left.map(|blob| self.remove_blob(blob)).try_fold(0, |sum: u64, freed| Ok(sum.saturating_add(freed?)))
    }

    /// The files that the models of the store name. `None` while that is not sure: a manifest cannot be read, a link
    /// leads nowhere, or there is no model at all, as where the disk of manifests is away.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn named(&self) -> Result<Option<BTreeSet<Digest>>, Fault> {
        let scan = self.scan()?;
        if !scan.is_whole() || scan.models.is_empty() {
            return Ok(None);
        }
        let blobs = scan.models.iter().flat_map(|model| model.blobs.iter().map(|blob| blob.sha256));
        Ok(Some(blobs.collect()))
    }

    /// The bytes that a file gives back when its name goes: none where it has another.
    #[must_use]
    pub fn frees_bytes(&self, blob: BlobSpec) -> u64 {
        disk::frees_bytes(&self.blob_path(blob.sha256))
    }

    fn remove_blob(&self, blob: BlobSpec) -> Result<u64, Fault> {
        let freed_bytes = self.frees_bytes(blob);
        disk::remove_file(&self.blob_path(blob.sha256))?;
        Ok(freed_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use tempfile::TempDir;

    use crate::manifest::Manifest;
    use crate::staging::samples::Sample;

    use super::*;

    struct World(TempDir);

    // === impl World ===

    impl World {
        fn new() -> Self {
            let world = Self(tempfile::tempdir().expect("temp"));
            fs::create_dir_all(world.0.path().join("blobs")).expect("there is room");
            world
        }

        fn store(&self) -> Store {
            Store::open(self.0.path()).expect("it is there")
        }

        fn put(&self, name: &str, files: &[&Sample]) -> Digest {
            let layer = |file: &&Sample| {
                let BlobSpec { sha256, size_bytes } = file.spec;
                fs::write(self.store().blob_path(sha256), &file.bytes).expect("there is room");
                format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":{size_bytes}}}"#)
            };
            let layers: Vec<String> = files.iter().map(layer).collect();
            let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
            let name: ModelName = name.parse().expect("a name");
            let path = name.parts().iter().fold(self.0.path().join("manifests"), |path, part| path.join(part));
            fs::create_dir_all(path.parent().expect("a folder")).expect("there is room");
            fs::write(path, &text).expect("there is room");
            Manifest::read(text.as_bytes()).expect("a manifest").digest()
        }

        fn has(&self, file: &Sample) -> bool {
            self.store().blob_path(file.spec.sha256).exists()
        }
    }

    fn allocated(path: &Path) -> u64 {
        disk::allocated_bytes(&fs::metadata(path).expect("it is there"))
    }

    #[test]
    fn what_another_model_names_stays_and_the_rest_is_free() {
        let (world, shared, own) = (World::new(), Sample::new(1, 9_000), Sample::new(2, 70_000));
        let digest = world.put("one", &[&shared, &own]);
        world.put("two", &[&shared]);
        let (store, one) = (world.store(), "one".parse().expect("a name"));
        let expected = allocated(&store.blob_path(own.spec.sha256));
        assert!(expected >= 70_000);
        assert_eq!(store.remove(&one, digest).expect("removed"), expected);
        assert_eq!((world.has(&shared), world.has(&own)), (true, false));
        assert!(store.manifest(&one).expect("readable").is_none());
        assert_eq!(store.remove(&one, digest).expect("nothing to do"), 0);
    }

    #[test]
    fn what_models_name_is_told_only_when_all_of_them_were_read() {
        let (world, file) = (World::new(), Sample::new(1, 100));
        let named = || world.store().named().expect("readable");
        let manifests = world.0.path().join("manifests");
        assert_eq!(named(), None, "no folder of manifests");
        fs::create_dir(&manifests).expect("there is room");
        assert_eq!(named(), None, "no manifest: the disk with them may be away");
        world.put("one", &[&file]);
        assert_eq!(named(), Some(BTreeSet::from([file.spec.sha256])));
        for place in ["elsewhere", "registry.ollama.ai/library/two", "registry.ollama.ai/library/one/other"] {
            let link = manifests.join(place);
            symlink("nowhere", &link).expect("ours");
            assert_eq!(named(), None, "{place} leads nowhere");
            fs::remove_file(link).expect("ours");
        }
        let garbled = manifests.join("registry.ollama.ai/library/one/other");
        fs::write(&garbled, r#"{"schemaVersion":2,"lay"#).expect("there is room");
        assert_eq!(named(), None, "it may name any file");
        fs::remove_file(garbled).expect("ours");
        fs::write(manifests.join("registry.ollama.ai/library/one/.DS_Store"), "x").expect("there is room");
        assert!(named().is_some(), "no runtime takes that for a model");
        fs::rename(&manifests, world.0.path().join("away")).expect("ours");
        symlink(world.0.path().join("gone"), &manifests).expect("ours");
        assert_eq!(named(), None, "the folder itself leads nowhere");
    }

    #[test]
    fn another_version_is_not_meant() {
        let (world, old, new) = (World::new(), Sample::new(1, 100), Sample::new(2, 100));
        let before = world.put("one", &[&old]);
        world.put("one", &[&new]);
        assert_eq!(world.store().remove(&"one".parse().expect("a name"), before).expect("nothing to do"), 0);
        assert!(world.store().manifest(&"one".parse().expect("a name")).expect("readable").is_some());
        assert!(world.has(&new));
    }

    #[test]
    fn no_file_goes_while_a_manifest_cannot_be_read() {
        let (world, file) = (World::new(), Sample::new(1, 100));
        let digest = world.put("one", &[&file]);
        let garbled = world.0.path().join("manifests/registry.ollama.ai/library/two/latest");
        fs::create_dir_all(garbled.parent().expect("a folder")).expect("there is room");
        fs::write(&garbled, r#"{"schemaVersion":2,"lay"#).expect("there is room");
        let one: ModelName = "one".parse().expect("a name");
        assert_eq!(world.store().remove(&one, digest).expect("the manifest goes"), 0);
        assert!(world.store().manifest(&one).expect("readable").is_none());
        assert!(world.has(&file), "the garbled one may name it");
    }
}
