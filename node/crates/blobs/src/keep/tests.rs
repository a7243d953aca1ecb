//! Keeping in real folders: what a runtime removes stays, what is let go is free, what was cut off is swept; what only
//! a kept version names loses its name in the store, and nothing else does.

use std::cell::RefCell;
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

    fn kept(&self) -> Kept {
        self.keep().get(self.digest()).expect("readable").expect("it is kept")
    }

    /// Lets the version go, and its files with it.
    fn release(&self) -> u64 {
        self.keep().let_go(self.digest()).expect("let go");
        let going = self.keep().going().expect("readable");
        going.iter().map(|kept| self.keep().release(kept, &BTreeSet::new()).expect("released")).sum()
    }

    /// Whether its files have their names in the store.
    fn shown(&self) -> Vec<bool> {
        self.files.iter().map(|file| self.blob(file).exists()).collect()
    }

    /// A model of another name names these files.
    fn name_files(&self, name: &str, files: &[&Sample]) -> PathBuf {
        let layer = |file: &&Sample| {
            let BlobSpec { sha256, size_bytes } = file.spec;
            format!(r#"{{"mediaType":"x","digest":"sha256:{sha256}","size":{size_bytes}}}"#)
        };
        let layers: Vec<String> = files.iter().map(layer).collect();
        let place = self.store().root().join("manifests/registry.ollama.ai/library").join(name);
        fs::create_dir_all(&place).expect("there is room");
        fs::write(place.join("latest"), format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, layers.join(",")))
            .expect("there is room");
        place.join("latest")
    }

    /// Two hours after the last change of the large file.
    fn later(&self) -> Timestamp {
        let found = fs::metadata(self.kept().blob_path(self.files[0].spec.sha256)).expect("it is kept");
        Timestamp(u64::try_from(found.ctime()).expect("after 1970") * 1_000).plus_ms(7_200_000)
    }

    fn withdraw(&self, now: Timestamp) -> BTreeSet<Digest> {
        self.store().withdraw(&[self.kept()], &at(now, Haste::Calm)).expect("looked")
    }
}

/// Nobody of this process counts on a file.
fn at(now: Timestamp, haste: Haste) -> Clearing<'static> {
    Clearing { now, haste, is_wanted: &nobody, is_kept: &nobody, unsure: &drop::<Option<String>>, restless: &|_| {} }
}

fn nobody(_: Digest) -> bool {
    false
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
    let kept = world.kept();
    assert_eq!((&kept.names[..], kept.manifest.bytes()), (&[name()][..], world.manifest.bytes()));
    assert_eq!(kept.kept_at, NOW);
    assert_eq!((held_bytes(&[&kept]), first_that_frees(&[&kept], &nobody)), (0, None), "the store has the files too");
    world.lose_all();
    assert!(held_bytes(&[&kept]) >= 70_300, "{} bytes", held_bytes(&[&kept]));
    let mut read = Vec::new();
    let file = kept.blob(world.files[0].spec).expect("readable").expect("it is kept");
    file.read_chunk(0, &mut read).expect("it is there");
    assert_eq!(read, world.files[0].bytes);
    for _ in 0..2 {
        world.store().link_kept(&kept, &kept.manifest.blobs()).expect("linked");
        let again: Vec<u64> = world.files.iter().map(|file| inode(&world.blob(file))).collect();
        assert_eq!(again, inodes);
    }
}

#[test]
fn what_is_let_go_gives_back_what_nothing_else_holds() {
    let world = World::new();
    world.put(NOW).expect("kept");
    fs::remove_file(world.blob(&world.files[0])).expect("it was there");
    let freed_bytes = world.release();
    assert!((70_000..75_000).contains(&freed_bytes), "the other file is in the store: {freed_bytes}");
    assert!(world.blob(&world.files[1]).exists());
    assert_eq!(world.keep().all().expect("readable").len(), 0);
    assert_eq!(world.release(), 0, "there is nothing to do");
}

#[test]
fn a_version_that_was_let_go_has_its_files_until_they_are_released_or_it_is_kept_again() {
    let world = World::new();
    let going = || world.keep().going().expect("readable").len();
    world.put(NOW).expect("kept");
    world.lose_all();
    let before = inode(&world.kept().blob_path(world.files[0].spec.sha256));
    world.keep().let_go(world.digest()).expect("let go");
    world.keep().sweep().expect("swept");
    assert_eq!((world.keep().all().expect("readable").len(), going()), (0, 1));
    let kept = world.keep().going().expect("readable").remove(0);
    assert!(held_bytes(&[&kept]) >= 70_300);
    world.store().link_kept(&kept, &world.manifest.blobs()).expect("linked");
    assert_eq!(inode(&world.blob(&world.files[0])), before);

    world.put(NOW).expect("kept anew");
    world.keep().sweep().expect("swept");
    assert_eq!(going(), 0);
    assert_eq!(world.kept().names, [name()]);
}

#[test]
fn what_two_versions_share_is_counted_once_and_only_when_both_go() {
    let world = World::new();
    let other = format!(" {}", String::from_utf8(world.manifest.bytes().to_vec()).expect("text"));
    let other = Manifest::read(other.as_bytes()).expect("a manifest");
    world.put(NOW).expect("kept");
    world.keep().put(&world.store(), &[name()], &other, NOW).expect("kept");
    world.lose_all();
    let other = world.keep().get(other.digest()).expect("readable").expect("it is kept");
    let kept = world.kept();
    assert_eq!((held_bytes(&[&kept]), first_that_frees(&[&kept], &nobody)), (0, None));
    let together = held_bytes(&[&kept, &other]);
    assert!((70_300..80_000).contains(&together), "{together}");
    assert_eq!(first_that_frees(&[&kept, &other], &nobody), Some(0));
    assert_eq!(world.release(), 0);
    assert_eq!(held_bytes(&[&other]), together);
    let stays = |sha256: Digest| sha256 == world.files[0].spec.sha256;
    let rest = held_bytes_but(&[&other], &stays);
    assert!((300..70_000).contains(&rest), "{rest}");
}

#[test]
fn what_no_model_names_loses_its_name_in_the_store_and_gets_it_back() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let [large, small] = [&world.files[0], &world.files[1]];
    world.name_files("phi", &[small]);
    assert_eq!(world.withdraw(world.later()), BTreeSet::new());
    assert_eq!(world.shown(), [false, true]);
    assert!((70_000..75_000).contains(&held_bytes(&[&world.kept()])));
    world.store().link_kept(&world.kept(), &[large.spec]).expect("linked");
    assert_eq!(world.shown(), [true, true]);
}

#[test]
fn something_else_that_has_the_name_of_one_file_keeps_no_other_from_its_name() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let specs: Vec<BlobSpec> = world.files.iter().map(|file| file.spec).collect();
    for [spoilt, other] in [[0, 1], [1, 0]].map(|order| order.map(|at: usize| world.blob(&world.files[at]))) {
        for path in [&spoilt, &other] {
            fs::remove_file(path).expect("it was there");
        }
        fs::write(&spoilt, "of another size").expect("there is room");
        world.store().link_kept(&world.kept(), &specs).expect_err("something else is there");
        assert!(other.exists());
        fs::remove_file(&spoilt).expect("ours");
        world.store().link_kept(&world.kept(), &specs).expect("linked");
    }
}

#[test]
fn nothing_loses_its_name_before_it_is_safe() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let [large, small] = [0, 1].map(|file: usize| world.files[file].spec.sha256);
    let stays = |why: &str, left: &[Digest], now: Timestamp| {
        let left: BTreeSet<Digest> = left.iter().copied().collect();
        assert_eq!(world.withdraw(now), left, "{why}");
        assert_eq!(world.shown(), [true, true], "{why}");
    };
    stays("there is no manifest", &[large, small], world.later());
    let place = world.name_files("phi", &[&world.files[1]]);
    stays("they were changed an hour ago, but for a moment", &[large, small], Timestamp(world.later().0 - 3_600_001));
    stays("they were changed in the future", &[large, small], Timestamp(0));

    let folder = world.store().root().join("manifests/registry.ollama.ai/library");
    symlink("nowhere", folder.join("away")).expect("ours");
    stays("a link leads nowhere", &[large, small], world.later());
    fs::remove_file(folder.join("away")).expect("ours");
    let garbled = place.with_file_name("garbled");
    fs::write(&garbled, r#"{"schemaVersion":2,"lay"#).expect("there is room");
    stays("a manifest cannot be read", &[large, small], world.later());
    fs::remove_file(garbled).expect("ours");

    // A runtime fetches: its file grows, or it is there and has no model yet.
    let brought = Sample::new(9, 50);
    for name in [format!("sha256-{}-partial", brought.spec.sha256), format!("sha256-{}", brought.spec.sha256)] {
        let path = world.store().root().join("blobs").join(name);
        fs::write(&path, &brought.bytes).expect("there is room");
        disk::stamp(&path, world.later()).expect("ours");
        stays("a runtime brings a model", &[large], world.later());
        fs::remove_file(path).expect("ours");
    }

    let is_wanted = |sha256: Digest| sha256 == large;
    let clearing = Clearing { is_wanted: &is_wanted, ..at(world.later(), Haste::Calm) };
    let left = world.store().withdraw(&[world.kept()], &clearing).expect("looked");
    assert_eq!((left, world.shown()), (BTreeSet::from([large]), vec![true, true]), "a pull counts on it");
    // Somebody brought it anew: that one is not ours.
    fs::remove_file(world.blob(&world.files[0])).expect("ours");
    fs::write(world.blob(&world.files[0]), &world.files[0].bytes).expect("there is room");
    stays("it is another file", &[], world.later());
}

#[test]
fn why_nothing_goes_is_told() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let heard = RefCell::new(Vec::new());
    let unsure = |why: Option<String>| heard.borrow_mut().extend(why);
    let restless = |path: Option<&Path>| heard.borrow_mut().extend(path.map(|path| path.display().to_string()));
    let withdraw = || {
        let clearing = Clearing { unsure: &unsure, restless: &restless, ..at(world.later(), Haste::Calm) };
        world.store().withdraw(&[world.kept()], &clearing).expect("looked");
        heard.take()
    };
    let manifests = world.store().root().join("manifests");
    assert_eq!(withdraw(), [format!("{}: there is no model", manifests.display())]);
    let place = world.name_files("phi", &[&world.files[1]]);
    let link = place.with_file_name("away");
    symlink("nowhere", &link).expect("ours");
    assert_eq!(withdraw(), [format!("{}: the link leads nowhere", link.display())]);
    fs::remove_file(link).expect("ours");
    let brought = world.store().root().join("blobs/sha256-half-partial");
    fs::write(&brought, "half").expect("there is room");
    disk::stamp(&brought, world.later()).expect("ours");
    assert_eq!(withdraw(), [world.store().blobs_folder().join("sha256-half-partial").display().to_string()]);
    fs::remove_file(brought).expect("ours");
    assert_eq!((withdraw(), world.shown()), (vec![], vec![false, true]));
}

#[test]
fn a_file_that_is_kept_for_another_version_shows_nothing_of_a_runtime() {
    let world = World::new();
    world.put(NOW).expect("kept");
    world.name_files("phi", &[&world.files[1]]);
    let other = Sample::new(9, 50);
    fs::write(world.blob(&other), &other.bytes).expect("there is room");
    let now = world.later();
    disk::stamp(&world.blob(&other), now).expect("ours");
    let is_other = |sha256: Digest| sha256 == other.spec.sha256;
    let withdraw = |is_kept: &dyn Fn(Digest) -> bool| {
        world.store().withdraw(&[world.kept()], &Clearing { is_kept, ..at(now, Haste::Calm) }).expect("looked");
        world.shown()
    };
    assert_eq!(withdraw(&nobody), [true, true]);
    assert_eq!(withdraw(&is_other), [false, true]);
    let later = Timestamp(now.0 + 1);
    let staying = |is_kept: &dyn Fn(Digest) -> bool| {
        let clearing = Clearing { is_kept, ..at(later, Haste::Calm) };
        world.store().staying(&[world.kept()], BTreeSet::new(), &clearing).expect("looked").len()
    };
    assert_eq!((staying(&nobody), staying(&is_other)), (1, 0));
}

#[test]
fn where_the_manifests_had_a_disk_of_their_own_and_lie_in_another_folder_nothing_goes() {
    let world = World::new();
    let is_sure = || world.store().named().expect("readable").is_ok();
    world.name_files("phi", &[&world.files[1]]);
    world.put(NOW).expect("kept");
    let (note, [manifests, away]) =
        (world.store().manifests_note(), ["models/manifests", "away"].map(|name| world.folder.path().join(name)));
    assert!(is_sure() && !note.exists(), "on the disk of the store it may be made anew");
    fs::write(&note, inode(&manifests).to_string()).expect("ours");
    assert!(is_sure());
    fs::rename(&manifests, &away).expect("ours");
    world.name_files("other", &[&world.files[1]]);
    assert_eq!((world.withdraw(world.later()).len(), world.shown()), (2, vec![true, true]));
    world.put(NOW).expect("kept");
    world.keep().sweep().expect("swept");
    assert!(!is_sure(), "the disk with them may be away");
    fs::remove_dir_all(&manifests).expect("ours");
    fs::rename(&away, &manifests).expect("ours");
    assert!(is_sure());

    // No disk and no place for one: nothing is remembered of them.
    fs::rename(&manifests, &away).expect("ours");
    world.keep().sweep().expect("swept");
    assert!(!note.exists());
    world.name_files("other", &[&world.files[1]]);
    assert!(is_sure());
    fs::write(&note, inode(&manifests).to_string()).expect("ours");
    world.release();
    world.keep().sweep().expect("swept");
    assert!(!note.exists(), "nothing is kept");
}

#[test]
fn what_a_model_names_in_between_gets_its_name_back_at_once() {
    for is_garbled in [false, true] {
        let world = World::new();
        world.put(NOW).expect("kept");
        world.name_files("phi", &[&world.files[1]]);
        let before = inode(&world.blob(&world.files[0]));
        let meanwhile = || {
            assert_eq!(world.shown(), [false, true]);
            let place = world.name_files("llama", &[&world.files[0]]);
            if is_garbled {
                fs::write(place, "{").expect("ours");
            }
        };
        let kept = [world.kept()];
        world.store().withdraw_with(&kept, &at(world.later(), Haste::Calm), meanwhile).expect("looked");
        assert_eq!((world.shown(), inode(&world.blob(&world.files[0]))), (vec![true, true], before));
    }
}

#[test]
fn where_no_runtime_runs_and_a_model_was_taken_out_names_go_at_once() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let place = world.name_files("phi", &[&world.files[1]]);
    let withdraw = |haste: Haste| world.store().withdraw(&[world.kept()], &at(Timestamp(0), haste)).expect("looked");
    let all: BTreeSet<Digest> = world.files.iter().map(|file| file.spec.sha256).collect();
    for haste in [Haste::Calm, Haste::Room] {
        assert_eq!((withdraw(haste), world.shown()), (all.clone(), vec![true, true]), "{haste:?}");
    }
    assert_eq!((withdraw(Haste::Alone), world.shown()), (BTreeSet::new(), vec![false, true]));
    let manifests = world.store().root().join("manifests");
    fs::rename(&manifests, world.folder.path().join("away")).expect("ours");
    fs::create_dir(&manifests).expect("ours");
    withdraw(Haste::Alone);
    assert_eq!(world.shown(), [false, true], "the disk with them is away");
    fs::remove_dir(&manifests).expect("ours");
    fs::rename(world.folder.path().join("away"), &manifests).expect("ours");
    fs::remove_file(place).expect("ours");
    assert_eq!((withdraw(Haste::Alone), world.shown()), (BTreeSet::new(), vec![false, false]), "it was the last");
}

#[test]
fn a_file_that_lost_its_name_within_an_hour_is_restless_and_goes_later_than_the_others() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let large = world.files[0].spec.sha256;
    world.name_files("phi", &[&world.files[1]]);
    let staying = |kept: Kept, now: Timestamp, haste: Haste| {
        world.store().staying(&[kept], BTreeSet::new(), &at(now, haste)).expect("looked")
    };
    assert_eq!(staying(world.kept(), Timestamp(0), Haste::Calm), BTreeSet::new(), "all of it is in the store still");
    fs::remove_file(world.blob(&world.files[0])).expect("it was there");
    assert_eq!(staying(world.kept(), world.later(), Haste::Calm), BTreeSet::new());
    let early = Timestamp(world.later().0 - 3_600_001);
    assert_eq!(staying(world.kept(), early, Haste::Room), BTreeSet::new(), "room is needed");
    let restless = staying(world.kept(), early, Haste::Calm);
    assert_eq!(restless, BTreeSet::from([large]));

    world.keep().let_go(world.digest()).expect("let go");
    let going = || world.keep().going().expect("readable");
    assert_eq!(world.keep().release(&going()[0], &restless).expect("released"), 0);
    assert!(going()[0].blob_path(large).exists() && !going()[0].blob_path(world.files[1].spec.sha256).exists());
    world.keep().let_go(world.digest()).expect("it is not kept");
    assert!(going()[0].blob_path(large).exists(), "it waits still");
    let freed_bytes = world.keep().release(&going()[0], &BTreeSet::new()).expect("released");
    assert!((70_000..75_000).contains(&freed_bytes), "{freed_bytes}");
    assert!(going().is_empty());
}

#[test]
fn nothing_goes_for_good_that_a_model_may_name_by_now() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let large = world.files[0].spec.sha256;
    fs::remove_file(world.blob(&world.files[0])).expect("it was there");
    let later = world.later();
    let stays = |why: &str, expected: [bool; 3]| {
        let check = |haste: Haste| {
            let stay = world.store().staying(&[world.kept()], BTreeSet::new(), &at(later, haste)).expect("looked");
            assert!(stay.iter().all(|sha256| *sha256 == large), "{why}: the store has the other one");
            !stay.is_empty()
        };
        assert_eq!([Haste::Calm, Haste::Room, Haste::Alone].map(check), expected, "{why}");
    };
    stays("there is no manifest", [true; 3]);
    let place = world.name_files("phi", &[&world.files[1]]);
    stays("no model names it", [false; 3]);
    fs::write(&place, "{").expect("ours");
    stays("a manifest cannot be read", [true; 3]);
    let place = world.name_files("phi", &[&world.files[0], &world.files[1]]);
    stays("a model names it", [true; 3]);
    fs::remove_file(place).expect("ours");
    stays("there is no manifest any more", [true, true, false]);
    world.name_files("phi", &[&world.files[1]]);
    let partial = world.store().root().join(format!("blobs/sha256-{}-partial", Sample::new(9, 50).spec.sha256));
    fs::write(&partial, "x").expect("there is room");
    disk::stamp(&partial, later).expect("ours");
    stays("a runtime brings a model", [true, false, false]);
    let is_wanted = |sha256: Digest| sha256 == large;
    let clearing = Clearing { is_wanted: &is_wanted, ..at(later, Haste::Room) };
    let stay = world.store().staying(&[world.kept()], BTreeSet::new(), &clearing).expect("looked");
    assert_eq!(stay, BTreeSet::from([large]), "a pull counts on it");
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
    world.release();
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
fn what_the_store_got_anew_takes_the_place_of_what_is_kept_only_when_it_is_sound_and_can() {
    let world = World::new();
    world.put(NOW).expect("kept");
    let (sample, folder) = (&world.files[0], world.kept().path);
    let path = world.kept().blob_path(sample.spec.sha256);
    // Nobody may give this one a second name.
    let anew = world.folder.path().join("anew");
    fs::create_dir(&anew).expect("ours");
    let refused = link(&anew, &path, sample.spec).expect_err("it gets none");
    assert!(matches!(refused, KeepError::Refused { .. }), "{refused}");
    assert!(fs::read(&path).expect("it is kept") == sample.bytes, "other bytes");

    fs::remove_file(world.blob(sample)).expect("it was there");
    fs::write(world.blob(sample), &sample.bytes).expect("there is room");
    let before = inode(&path);
    assert_ne!(before, inode(&world.blob(sample)));
    world.put(NOW).expect("kept still");
    world.keep().fill(&world.store(), sample.spec).expect("looked");
    assert_eq!(inode(&path), before, "nobody has read the other one");
    world.keep().renew(&world.store(), sample.spec).expect("renewed");
    assert_eq!(inode(&path), inode(&world.blob(sample)));
    for lost in [true, false] {
        fs::remove_file(&path).expect("it is kept");
        if !lost {
            fs::write(&path, "cut").expect("there is room");
        }
        world.keep().fill(&world.store(), sample.spec).expect("filled");
        assert_eq!(inode(&path), inode(&world.blob(sample)), "better than none");
    }
    assert_eq!(disk::names_in(&folder).expect("readable").len(), 4, "two files, the names, the manifest");
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
    assert_eq!(across(&index, &world.store(), &world.manifest.blobs(), || world.release()), 0);
    assert!(is_known());
    assert_eq!(index.checked_at(spec.sha256).expect("readable"), Some(NOW), "nobody has read it");

    // Other bytes under the same name stay unknown.
    across(&index, &world.store(), &world.manifest.blobs(), || {
        fs::remove_file(world.blob(sample)).expect("it was there");
        fs::write(world.blob(sample), vec![7; 70_000]).expect("there is room");
    });
    assert!(!is_known());
}
