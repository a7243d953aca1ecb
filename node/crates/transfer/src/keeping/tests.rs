//! Room that versions make, and give back, in a real folder.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use ollamax_blobs::{Tree, chunk_hash};

use crate::adopt::Adopted;
use crate::library::samples::bytes;

use super::*;

/// A store with a model, and what is kept beside it. Nobody looks but who is asked to.
struct World {
    keeping: Keeping,
    store: Store,
    clock: Clock,
    folder: TempDir,
}

// === impl World ===

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("temp");
        fs::create_dir_all(folder.path().join("models/blobs")).expect("a folder");
        let store = Store::open(&folder.path().join("models")).expect("a folder");
        let (adopted, clock) = (watch::Sender::new(Arc::new(Adopted::default())), Clock::manual(Clock::system().now()));
        let library = Library::new(Trees::new(folder.path().join("trees")), adopted.subscribe());
        let ties = Ties::new(&clock, &library, &Metrics::default(), folder.path().join("kept"));
        let keeping = Keeping::start(&Config::default(), ties, &TaskTracker::new(), &CancellationToken::new());
        keeping.set_pins(BTreeSet::new());
        let world = Self { keeping, store, clock, folder };
        let manifest = world.manifest(1, 100);
        let place = world.folder.path().join("models/manifests/registry.ollama.ai/library/phi");
        fs::create_dir_all(&place).expect("there is room");
        fs::write(place.join("latest"), manifest.bytes()).expect("there is room");
        world
    }

    /// The manifest of a version of one file, which is in the store.
    fn manifest(&self, seed: u64, size_bytes: u64) -> Manifest {
        let bytes = bytes(seed, size_bytes);
        let sha256 = Digest(Sha256::digest(&bytes).into());
        fs::write(self.store.blob_path(sha256), bytes).expect("there is room");
        let layer = format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":{size_bytes}}}"#);
        Manifest::read(format!(r#"{{"schemaVersion":2,"layers":[{layer}]}}"#).as_bytes()).expect("a manifest")
    }

    /// A version of so many bytes that is kept, and that a runtime has cleared away just now.
    fn kept(&self, name: &str, seed: u64, size_bytes: u64) -> Digest {
        let manifest = self.manifest(seed, size_bytes);
        // It is kept for a shorter time than those before.
        self.clock.advance_ms(1);
        let name: ModelName = name.parse().expect("a name");
        self.keep().put(&self.store, &[name], &manifest, self.clock.now()).expect("kept");
        for blob in manifest.blobs() {
            fs::remove_file(self.store.blob_path(blob.sha256)).expect("it was there");
        }
        manifest.digest()
    }

    /// This name stands for a version.
    fn stand(&self, name: &str, manifest: &Manifest) {
        let place = self.folder.path().join("models/manifests/registry.ollama.ai/library").join(name);
        fs::create_dir_all(&place).expect("there is room");
        fs::write(place.join("latest"), manifest.bytes()).expect("there is room");
    }

    /// A file of the store, of one piece, was read and is what its name says.
    fn hash(&self, blob: BlobSpec) {
        let file = self.store.blob(blob).expect("readable").expect("it is there");
        let bytes = fs::read(self.store.blob_path(blob.sha256)).expect("readable");
        let tree = Tree::of(blob.size_bytes, vec![chunk_hash(blob.size_bytes, 0, &bytes)]).expect("one piece");
        let trees = self.keeping.0.ties.trees.open().expect("ours");
        trees.put(blob.sha256, &Indexed { identity: file.identity, tree }).expect("there is room");
    }

    fn keep(&self) -> Keep {
        Keep::of(&self.store).expect("this process's own")
    }

    fn all(&self) -> Vec<Digest> {
        self.keep().all().expect("readable").iter().map(|kept| kept.manifest.digest()).collect()
    }

    fn room(&self, bytes: u64, wanted: Digest) -> u64 {
        self.keeping.make_room(&self.store, bytes, wanted).expect("looked")
    }
}

#[tokio::test]
async fn versions_make_way_when_that_is_enough_the_oldest_first_and_at_once() {
    let (world, nobody) = (World::new(), Digest([0; 32]));
    let [old, new] = [(2, 100_000), (3, 200_000)].map(|(seed, size_bytes)| world.kept("tiny", seed, size_bytes));
    assert_eq!((world.room(1 << 40, nobody), world.all()), (0, vec![old, new]), "it would be in vain");
    world.keeping.set_pins(BTreeSet::from([old, new]));
    assert_eq!((world.room(1, nobody), world.all()), (0, vec![old, new]), "they are pinned");
    world.keeping.set_pins(BTreeSet::new());
    assert_eq!((world.room(150_000, new), world.all()), (0, vec![old, new]), "one of them is wanted");
    let freed_bytes = world.room(50_000, nobody);
    assert!((100_000..150_000).contains(&freed_bytes), "{freed_bytes}");
    assert_eq!(world.all(), [new]);
    assert!(world.keep().going().expect("readable").is_empty(), "it waits for nothing");
}

#[tokio::test]
async fn what_a_pull_brings_does_not_make_way_for_another_one_whether_it_is_kept_or_waits_to_go() {
    let (world, nobody) = (World::new(), Digest([0; 32]));
    let [old, _] = [(2, 100_000), (3, 200_000)].map(|(seed, size_bytes)| world.kept("tiny", seed, size_bytes));
    let kept = world.keep().get(old).expect("readable").expect("it is kept");
    let counted = world.keeping.count_on(&kept.manifest);
    let freed_bytes = world.room(50_000, nobody);
    assert!((200_000..250_000).contains(&freed_bytes), "{freed_bytes}");
    assert_eq!(world.all(), [old]);
    world.keep().let_go(old).expect("let go");
    world.clock.advance_ms(2 * HOUR_MS);
    assert_eq!(world.room(50_000, nobody), 0);
    let going = world.keep().going().expect("readable");
    assert!(going[0].blob_path(kept.manifest.blobs()[0].sha256).exists(), "it may be brought back");
    drop(counted);
    let freed_bytes = world.room(50_000, nobody);
    assert!((100_000..150_000).contains(&freed_bytes), "{freed_bytes}");
}

#[tokio::test]
async fn a_file_on_which_a_pull_counts_makes_no_room_although_its_version_has_others() {
    let (world, nobody) = (World::new(), Digest([0; 32]));
    let (weights, template) = (world.manifest(4, 100_000), world.manifest(5, 300));
    let layers: Vec<String> = [&weights, &template]
        .into_iter()
        .flat_map(Manifest::blobs)
        .map(|blob| format!(r#"{{"mediaType":"x","digest":"sha256:{}","size":{}}}"#, blob.sha256, blob.size_bytes))
        .collect();
    let both = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(","));
    let both = Manifest::read(both.as_bytes()).expect("a manifest");
    let names = ["tiny".parse().expect("a name")];
    world.keep().put(&world.store, &names, &both, world.clock.now()).expect("kept");
    for blob in both.blobs() {
        fs::remove_file(world.store.blob_path(blob.sha256)).expect("it was there");
    }
    let other = world.kept("other", 2, 50_000);
    let counted = world.keeping.count_on(&weights);
    assert_eq!((world.room(80_000, nobody), world.all()), (0, vec![both.digest(), other]), "it would be in vain");
    drop(counted);
    let freed_bytes = world.room(80_000, nobody);
    assert!((100_000..150_000).contains(&freed_bytes), "{freed_bytes}");
    assert_eq!(world.all(), [other]);
}

#[tokio::test]
async fn while_it_is_not_sure_what_models_name_nothing_makes_way() {
    let (world, nobody) = (World::new(), Digest([0; 32]));
    let [old, new] = [(2, 100_000), (3, 200_000)].map(|(seed, size_bytes)| world.kept("tiny", seed, size_bytes));
    let link = world.folder.path().join("models/manifests/registry.ollama.ai/library/phi/away");
    symlink("nowhere", &link).expect("ours");
    assert_eq!((world.room(50_000, nobody), world.all()), (0, vec![old, new]));
    assert_eq!(world.keeping.spare_bytes(), 0);
    assert!(world.keeping.told().unsure.is_some(), "the log says why");
    fs::remove_file(link).expect("ours");
    let freed_bytes = world.room(50_000, nobody);
    assert!((100_000..150_000).contains(&freed_bytes), "{freed_bytes}");
    assert!(world.keeping.spare_bytes() >= 200_000);
    assert_eq!((world.all(), world.keeping.told().unsure.clone()), (vec![new], None), "it is told when it comes again");
}

#[tokio::test]
async fn a_version_of_which_a_model_lacks_a_file_does_not_make_way() {
    let (world, nobody) = (World::new(), Digest([0; 32]));
    let old = world.kept("tiny", 2, 100_000);
    let kept = world.keep().get(old).expect("readable").expect("it is kept");
    let place = world.folder.path().join("models/manifests/registry.ollama.ai/library/phi");
    fs::write(place.join("other"), kept.manifest.bytes()).expect("there is room");
    assert_eq!((world.room(50_000, nobody), world.all()), (0, vec![old]));
}

#[tokio::test]
async fn a_file_of_a_pinned_version_keeps_its_name_whatever_else_has_it() {
    let world = World::new();
    let one = world.manifest(2, 100_000);
    let text = String::from_utf8(one.bytes().to_vec()).expect("text").replace(r#""x""#, r#""y""#);
    let other = Manifest::read(text.as_bytes()).expect("a manifest");
    for (name, manifest) in [("one", &one), ("other", &other)] {
        let names = [name.parse().expect("a name")];
        world.keep().put(&world.store, &names, manifest, world.clock.now()).expect("kept");
    }
    world.keeping.set_pins(BTreeSet::from([one.digest()]));
    world.clock.advance_ms(2 * HOUR_MS);
    let is_there = || {
        world.keeping.look(world.store.root(), &[]);
        world.store.blob_path(one.blobs()[0].sha256).exists()
    };
    assert!(is_there());
    assert_eq!(world.all(), [one.digest()], "nothing stands for the other one");
    assert!(world.keep().going().expect("readable").is_empty(), "it waits for nothing");
    // That it was changed just now shows nothing of a runtime.
    let now = UNIX_EPOCH + Duration::from_millis(world.clock.now().0);
    let file = File::open(world.store.blob_path(one.blobs()[0].sha256)).expect("it is there");
    file.set_modified(now).expect("ours");
    let third = world.kept("third", 3, 50_000);
    world.keep().let_go(third).expect("let go");
    assert!(is_there());
    assert!(world.keep().going().expect("readable").is_empty(), "nothing keeps it");
    world.clock.advance_ms(2 * HOUR_MS);
    world.keeping.set_pins(BTreeSet::new());
    assert!(!is_there());
}

#[tokio::test]
async fn why_nothing_goes_is_told_once_until_that_is_over() {
    let world = World::new();
    let told = || {
        let told = world.keeping.told();
        (told.unsure.clone(), told.restless.clone())
    };
    let [first, second] = ["first", "second"].map(PathBuf::from);
    world.keeping.note_restless(Some(&first));
    world.keeping.note_restless(Some(&second));
    world.keeping.note_unsure(Some("a link".to_owned()));
    assert_eq!(told(), (Some("a link".to_owned()), Some(first)), "another file of the same pull is no news");
    let old = world.kept("tiny", 2, 100_000);
    world.keep().let_go(old).expect("let go");
    world.clock.advance_ms(2 * HOUR_MS);
    world.room(1, Digest([0; 32]));
    assert_eq!(told(), (None, None), "it was looked, and nothing stood in the way");
}

#[tokio::test]
async fn what_models_name_is_read_at_a_look_and_not_each_time_that_something_is_shown() {
    let world = World::new();
    world.stand("tiny", &world.manifest(1, 100));
    let old = world.kept("tiny", 2, 100_000);
    let look = || {
        let models = world.store.scan().expect("readable").models;
        world.keeping.look(world.store.root(), &models);
        world.keeping.spare_bytes() > 0
    };
    assert!(look() && world.all() == [old], "it may make way");
    let link = world.folder.path().join("models/manifests/registry.ollama.ai/library/phi/away");
    symlink("nowhere", &link).expect("ours");
    world.keeping.tell(&world.store, &world.keep());
    assert!(world.keeping.spare_bytes() > 0, "nothing was read");
    assert!(!look() && world.keeping.told().unsure.is_some(), "the log says why");
    // A pinned version does not wait for it, so the next time that it is so is news.
    world.keeping.set_pins(BTreeSet::from([old]));
    assert!(!look() && world.keeping.told().unsure.is_none());
}

#[tokio::test]
async fn what_a_runtime_brought_anew_for_another_name_is_held_once_when_that_is_taken_out() {
    let world = World::new();
    let digest = world.kept("old", 2, 100_000);
    let manifest = world.manifest(2, 100_000);
    let blob = manifest.blobs()[0];
    world.stand("new", &manifest);
    world.hash(blob);
    let inode = |path: &Path| fs::metadata(path).expect("it is there").ino();
    let here = inode(&world.store.blob_path(blob.sha256));
    let name = "new".parse().expect("a name");
    assert!(world.keeping.take_out(&world.store, &name, digest).expect("taken out"));
    let kept = world.keep().get(digest).expect("readable").expect("it is kept");
    assert_eq!(inode(&kept.blob_path(blob.sha256)), here);
    world.keeping.give_up(&world.store, &name, digest, Haste::Alone).expect("given up");
    assert!(!world.store.blob_path(blob.sha256).exists(), "its room is free when the version goes");
    assert_eq!(world.all(), [digest], "the other name may go back to it");
}

#[tokio::test]
async fn what_nobody_has_read_takes_the_place_of_no_kept_file_though_it_has_its_size() {
    let world = World::new();
    let digest = world.kept("old", 2, 100_000);
    let manifest = world.manifest(2, 100_000);
    let blob = manifest.blobs()[0];
    let path = world.keep().get(digest).expect("readable").expect("it is kept").blob_path(blob.sha256);
    fs::write(world.store.blob_path(blob.sha256), vec![0; 100_000]).expect("as after a power cut");
    let name: ModelName = "new".parse().expect("a name");
    let is_sound = || fs::read(&path).is_ok_and(|kept| kept == bytes(2, 100_000));
    world.stand("new", &manifest);
    assert!(world.keeping.take_out(&world.store, &name, digest).expect("taken out"));
    assert!(is_sound(), "it is the only one");
    // Nor where the version is kept for one more name.
    world.keeping.keep_for(&world.store, &world.keep(), slice::from_ref(&name), &manifest);
    assert_eq!(world.keep().get(digest).expect("readable").expect("it is kept").names.len(), 2);
    assert!(is_sound());
    // For a version that lacks the file it is better than none.
    fs::remove_file(&path).expect("it was there");
    world.stand("new", &manifest);
    assert!(world.keeping.take_out(&world.store, &name, digest).expect("taken out"));
    assert!(path.exists() && !is_sound());
}

#[tokio::test]
async fn what_is_kept_for_another_name_is_kept_no_longer_for_a_removal_by_hand() {
    let world = World::new();
    let old = world.kept("tiny", 2, 100_000);
    let manifest = world.manifest(2, 100_000);
    let place = world.folder.path().join("models/manifests/registry.ollama.ai/library/alias");
    fs::create_dir_all(&place).expect("there is room");
    fs::write(place.join("latest"), manifest.bytes()).expect("there is room");
    let kept = || world.keep().get(old).expect("readable").map(|kept| (kept.kept_at, kept.names));
    let before = kept();
    world.clock.advance_ms(HOUR_MS);
    let alias = "alias".parse().expect("a name");
    assert!(world.keeping.take_out(&world.store, &alias, old).expect("taken out"));
    world.keeping.give_up(&world.store, &alias, old, Haste::Calm).expect("given up");
    assert!(before.is_some());
    assert_eq!(kept(), before);
}

#[tokio::test]
async fn a_removal_tells_the_bytes_of_the_versions_that_it_let_go() {
    let world = World::new();
    let [meant, other] =
        [("tiny", 2, 100_000), ("other", 3, 200_000)].map(|(name, seed, bytes)| world.kept(name, seed, bytes));
    world.keep().let_go(other).expect("let go");
    world.clock.advance_ms(2 * HOUR_MS);
    let name = "tiny".parse().expect("a name");
    let freed_bytes = world.keeping.give_up(&world.store, &name, meant, Haste::Calm).expect("given up");
    assert!((100_000..150_000).contains(&freed_bytes), "{freed_bytes}");
    assert!(world.all().is_empty() && world.keep().going().expect("readable").is_empty(), "the other one went as well");
}

#[tokio::test]
async fn the_hash_trees_of_what_waits_to_go_are_there_for_as_long_as_its_files() {
    let world = World::new();
    let digest = world.kept("tiny", 2, 100_000);
    let kept = world.keep().get(digest).expect("readable").expect("it is kept");
    let blob = kept.manifest.blobs()[0];
    let tree = Tree::of(blob.size_bytes, vec![chunk_hash(blob.size_bytes, 0, &bytes(2, 100_000))]);
    let identity = kept.blob(blob).expect("readable").expect("it is there").identity;
    let trees = world.keeping.0.ties.kept_trees.open().expect("ours");
    let is_there = || trees.get(blob.sha256).expect("readable").is_some();
    trees.put(blob.sha256, &Indexed { identity, tree: tree.expect("one piece") }).expect("there is room");
    world.keep().let_go(digest).expect("let go");
    world.keeping.tell(&world.store, &world.keep());
    assert!(is_there(), "it may be brought back");
    world.room(1, Digest([0; 32]));
    assert!(!is_there());
}
