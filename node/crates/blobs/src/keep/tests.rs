//! Keeping in real folders: what a runtime removes stays, what is let go is free, what was cut off is swept.

use std::os::unix::fs::{MetadataExt as _, symlink};

use tempfile::TempDir;

use crate::staging::samples::Sample;
use crate::tree::Tree;

use super::*;

const NOW: Timestamp = Timestamp(1_785_578_400_123);

/// A store with one model of two files under a name.
struct World {
    folder: TempDir,
    files: Vec<Sample>,
    manifest: Manifest,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        fs::create_dir_all(folder.path().join("models/blobs")).expect("there is room");
        let files = vec![Sample::new(1, 70_000), Sample::new(2, 300)];
        let layer = |file: &Sample| {
            let BlobSpec { sha256, size_bytes } = file.spec;
            format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":{size_bytes}}}"#)
        };
        let layers: Vec<String> = files.iter().map(layer).collect();
        let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
        let manifest = Manifest::read(text.as_bytes()).expect("a manifest");
        let world = Self { folder, files, manifest };
        for file in &world.files {
            fs::write(world.blob(file), &file.bytes).expect("there is room");
        }
        world
    }

    fn store(&self) -> Store {
        Store::open(&self.folder.path().join("models")).expect("it is there")
    }

    fn keep(&self) -> Keep {
        Keep::of(&self.store()).expect("this process's own")
    }

    fn blob(&self, file: &Sample) -> PathBuf {
        self.store().blob_path(file.spec.sha256)
    }

    fn put(&self, now: Timestamp) -> Result<(), KeepError> {
        self.keep().put(&self.store(), &[name()], &self.manifest, now)
    }

    fn lose_all(&self) {
        self.files.iter().for_each(|file| fs::remove_file(self.blob(file)).expect("it was there"));
    }

    fn digest(&self) -> Digest {
        self.manifest.digest()
    }
}

fn name() -> ModelName {
    "llama3.2".parse().expect("a name")
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").ino()
}

#[test]
fn what_a_runtime_removes_stays_and_gets_its_names_back_without_a_copy() {
    let world = World::new();
    let inodes: Vec<u64> = world.files.iter().map(|file| inode(&world.blob(file))).collect();
    world.put(NOW).expect("kept");
    let kept = world.keep().get(world.digest()).expect("readable").expect("it is kept");
    assert_eq!((&kept.names[..], kept.manifest.bytes()), (&[name()][..], world.manifest.bytes()));
    assert_eq!(kept.kept_at, NOW);
    assert_eq!(kept.own_bytes(), 0, "the store has the files too");
    world.lose_all();
    assert!(kept.own_bytes() >= 70_300, "{} bytes", kept.own_bytes());
    let mut read = Vec::new();
    let file = kept.blob(world.files[0].spec).expect("readable").expect("it is kept");
    file.read_chunk(0, &mut read).expect("it is there");
    assert_eq!(read, world.files[0].bytes);
    for _ in 0..2 {
        world.store().link_kept(&kept).expect("linked");
        let again: Vec<u64> = world.files.iter().map(|file| inode(&world.blob(file))).collect();
        assert_eq!(again, inodes);
    }
}

#[test]
fn what_is_let_go_gives_back_what_nothing_else_holds() {
    let world = World::new();
    world.put(NOW).expect("kept");
    fs::remove_file(world.blob(&world.files[0])).expect("it was there");
    let freed_bytes = world.keep().release(world.digest()).expect("let go");
    assert!((70_000..75_000).contains(&freed_bytes), "the other file is in the store: {freed_bytes}");
    assert!(world.blob(&world.files[1]).exists());
    assert_eq!(world.keep().all().expect("readable").len(), 0);
    assert_eq!(world.keep().release(world.digest()).expect("nothing to do"), 0);
}

#[test]
fn the_one_that_is_kept_for_the_longest_time_comes_first_and_again_is_from_now_on() {
    let (world, later) = (World::new(), Timestamp(NOW.0 + 1_000));
    world.put(NOW).expect("kept");
    let other = format!(" {}", String::from_utf8(world.manifest.bytes().to_vec()).expect("text"));
    let other = Manifest::read(other.as_bytes()).expect("a manifest");
    world.keep().put(&world.store(), &[name()], &other, later).expect("kept");
    let order =
        || -> Vec<Digest> { world.keep().all().expect("readable").iter().map(|kept| kept.manifest.digest()).collect() };
    assert_eq!(order(), [world.digest(), other.digest()]);
    world.put(Timestamp(later.0 + 1_000)).expect("kept anew");
    assert_eq!(order(), [other.digest(), world.digest()]);
}

#[test]
fn a_version_is_kept_for_each_of_its_names_and_not_for_too_many() {
    let world = World::new();
    let named = |number: usize| format!("name-{number}").parse::<ModelName>().expect("a name");
    let put_all = |names: &[ModelName]| world.keep().put(&world.store(), names, &world.manifest, NOW).expect("kept");
    let put = |name: &ModelName| put_all(std::slice::from_ref(name));
    let kept = || world.keep().get(world.digest()).expect("readable").expect("it is kept");
    for number in [1, 2, 3, 1] {
        put(&named(number));
    }
    assert_eq!(kept().names, [2, 3, 1].map(named), "each once, the latest last");
    for (forgotten, left) in [(3, vec![2, 1]), (7, vec![2, 1]), (2, vec![1]), (1, vec![1])] {
        world.keep().forget_name(&kept(), &named(forgotten)).expect("written");
        assert_eq!(kept().names, left.into_iter().map(named).collect::<Vec<_>>(), "without {forgotten}");
        assert_eq!(kept().kept_at, NOW);
    }
    put_all(&[3, 1].map(named));
    assert_eq!(kept().names, [3, 1].map(named), "several at once");
    let many: Vec<ModelName> = (100..100 + NAMES_MAX).map(named).collect();
    put_all(&many);
    assert!(kept().names == many, "as many as can be pinned");
    put(&named(9));
    assert!(kept().names.len() == NAMES_MAX && !kept().names.contains(&named(100)), "the first is forgotten");

    // What is let go is not remembered.
    world.keep().release(world.digest()).expect("let go");
    put(&named(5));
    assert_eq!(kept().names, [named(5)]);
}

#[test]
fn what_was_cut_off_before_its_manifest_is_swept_and_what_is_whole_stays() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let folder = world.keep().folder(world.digest());
    world.keep().sweep().expect("swept");
    assert!(world.keep().get(world.digest()).expect("readable").is_some());
    fs::remove_file(folder.join(MANIFEST)).expect("it was there");
    assert!(world.keep().get(world.digest()).expect("readable").is_none());
    world.keep().sweep().expect("swept");
    assert!(!folder.exists());
    world.put(NOW).expect("kept anew");
}

#[test]
fn what_cannot_be_kept_says_why() {
    let world = World::new();
    let path = world.blob(&world.files[1]);
    let elsewhere = world.folder.path().join("elsewhere");
    fs::rename(&path, &elsewhere).expect("ours");
    let refused = world.put(NOW).expect_err("it is not there");
    assert!(matches!(refused, KeepError::Incomplete { sha256 } if sha256 == world.files[1].spec.sha256), "{refused}");
    symlink(&elsewhere, &path).expect("ours");
    let refused = world.put(NOW).expect_err("it is a link");
    assert!(matches!(refused, KeepError::Refused { .. }), "{refused}");
    assert!(world.keep().get(world.digest()).expect("readable").is_none());
}

#[test]
fn a_second_name_makes_no_other_file_of_one_that_was_hashed() {
    let world = World::new();
    let (sample, index) = (&world.files[0], Index::open(&world.folder.path().join("trees")).expect("ours"));
    let spec = sample.spec;
    let blob = || world.store().blob(spec).expect("readable").expect("it is there");
    let hashes = (0..sample.chunks()).map(|index| sample.hash(index)).collect();
    let tree = Tree::of(spec.size_bytes, hashes).expect("a hash for each chunk");
    index.put(spec.sha256, &Indexed { identity: blob().identity, tree }).expect("there is room");
    index.note_checked(spec.sha256, NOW).expect("it is there");
    let is_known = || index.get(spec.sha256).expect("readable").is_some_and(|known| known.identity == blob().identity);
    assert!(is_known());
    across(&index, &world.store(), &world.manifest.blobs(), || world.put(NOW)).expect("kept");
    assert!(is_known());
    let freed = across(&index, &world.store(), &world.manifest.blobs(), || world.keep().release(world.digest()));
    assert_eq!(freed.expect("let go"), 0);
    assert!(is_known());
    assert_eq!(index.checked_at(spec.sha256).expect("readable"), Some(NOW), "nobody has read it");

    // Other bytes under the same name stay unknown.
    across(&index, &world.store(), &world.manifest.blobs(), || {
        fs::remove_file(world.blob(sample)).expect("it was there");
        fs::write(world.blob(sample), vec![7; 70_000]).expect("there is room");
    });
    assert!(!is_known());
}
