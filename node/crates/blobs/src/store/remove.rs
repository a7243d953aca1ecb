//! Takes a model out of a store whose runtime is not there to do it, and tells which files models name.
//!
//! Only the manifest goes. The files are for whoever keeps them, and takes their names away when that is safe
//! ([`Store::withdraw`]); where nobody does, a runtime removes them when it starts.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ollamax_types::{Digest, ModelName};

use crate::fault::Fault;
use crate::staging::disk;

use super::publish::sync_parent;
use super::{BlobSpec, ReadError, Store};

/// A number in digits is shorter.
const NOTE_BYTES_MAX: usize = 64;

impl Store {
    /// Removes the manifest of this version of a model. False where the name stands for another version, or for none:
    /// then nothing is done.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn remove(&self, name: &ModelName, digest: Digest) -> Result<bool, Fault> {
        let found = match self.manifest(name) {
            Ok(found) => found,
            Err(ReadError::Fault(fault)) => return Err(fault),
            // What lies there is no version.
            Err(ReadError::Manifest { .. }) => None,
        };
        let Some((path, _)) = found.filter(|(_, manifest)| manifest.digest() == digest) else { return Ok(false) };
        disk::remove_file(&path)?;
        sync_parent(&path)?;
        Ok(true)
    }

    /// The files that the models of the store name. While that is not sure, why: a manifest cannot be read, a link
    /// leads nowhere, there is no model at all, as where the disk of manifests is away, or the folder of manifests, on
    /// a disk of its own, is another one than when versions were kept.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn named(&self) -> Result<Result<BTreeSet<Digest>, String>, Fault> {
        self.named_with(false)
    }

    /// As [`Store::named`]; `may_be_none`: a model was taken out just now, so that there is none
    /// is sure as well while the folders of models are there.
    pub(crate) fn named_with(&self, may_be_none: bool) -> Result<Result<BTreeSet<Digest>, String>, Fault> {
        if let Some(other) = self.other_manifests()? {
            return Ok(Err(other));
        }
        let scan = self.scan()?;
        if let Some(unread) = scan.unread() {
            return Ok(Err(unread));
        }
        let is_there = || fs::read_dir(self.manifests()).is_ok_and(|mut folders| folders.next().is_some());
        if scan.models.is_empty() && !(may_be_none && is_there()) {
            return Ok(Err(format!("{}: there is no model", self.manifests().display())));
        }
        Ok(Ok(scan.models.iter().flat_map(|model| model.blobs.iter().map(|blob| blob.sha256)).collect()))
    }

    /// Where the number of the folder of manifests is noted while versions are kept.
    pub(crate) fn manifests_note(&self) -> PathBuf {
        self.staging_place().join("keep").join("manifests")
    }

    /// That the folder of manifests is not the one that was noted, as where a disk belongs that is away. Its device is
    /// no sign: the number of that changes when the machine starts.
    fn other_manifests(&self) -> Result<Option<String>, Fault> {
        let (folder, note) = (self.manifests(), self.manifests_note());
        let Some(noted) = disk::read_small(&note, NOTE_BYTES_MAX)? else { return Ok(None) };
        let is_other = folder_number(&folder).is_some_and(|number| number.into_bytes() != noted);
        let (folder, note) = (folder.display(), note.display());
        let told = || format!("{folder} is not the folder that it was; if it is the right one, remove the file {note}");
        Ok(is_other.then(told))
    }

    /// The bytes that a file gives back when its name goes: none where it has another.
    #[must_use]
    pub fn frees_bytes(&self, blob: BlobSpec) -> u64 {
        disk::frees_bytes(&self.blob_path(blob.sha256))
    }
}

/// What tells a folder from others of its disk; `None` where there is none.
pub(crate) fn folder_number(folder: &Path) -> Option<String> {
    fs::metadata(folder).ok().map(|found| found.ino().to_string())
}

/// Whether a folder lies on another disk than the one above it.
pub(crate) fn is_of_another_disk(folder: &Path) -> bool {
    let disk = |folder: &Path| fs::metadata(folder).ok().map(|found| found.dev());
    folder.parent().is_some_and(|above| disk(above) != disk(folder))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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

    #[test]
    fn the_manifest_of_this_version_goes_and_no_file_does() {
        let (world, old, new) = (World::new(), Sample::new(1, 100), Sample::new(2, 100));
        let (before, one) = (world.put("one", &[&old]), "one".parse().expect("a name"));
        let after = world.put("one", &[&new]);
        let is_there = || world.store().manifest(&one).expect("readable").is_some();
        assert!(!world.store().remove(&one, before).expect("nothing to do") && is_there(), "it is another version");
        assert!(world.store().remove(&one, after).expect("removed") && !is_there());
        assert!(!world.store().remove(&one, after).expect("nothing to do"));
        assert!(world.has(&old) && world.has(&new));
    }

    #[test]
    fn what_models_name_is_told_only_when_all_of_them_were_read() {
        let (world, file) = (World::new(), Sample::new(1, 100));
        let named = || world.store().named().expect("readable").ok();
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
}
