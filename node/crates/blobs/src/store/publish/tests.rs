//! Publishing into real folders: killed after each step, met by a runtime that writes and deletes meanwhile, refused.

use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use nix::unistd::geteuid;
use tempfile::TempDir;

use crate::staging::samples::{Sample, may_give};
use crate::store::Owner;

use super::*;

const NOW: Timestamp = Timestamp(1_785_578_400_123);

/// A model and the bytes of its files, weights first.
struct Model {
    files: Vec<Sample>,
    manifest: Manifest,
}

// === impl Model ===

impl Model {
    fn new(seed: u64) -> Self {
        let files = vec![Sample::new(seed, 5_000), Sample::of(format!(r#"{{"model_family":"{seed}"}}"#).into_bytes())];
        let layer = |file: &Sample, kind: &str| {
            let BlobSpec { sha256, size_bytes } = file.spec;
            format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"sha256:{sha256}","size":{size_bytes}}}"#)
        };
        let text = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
            layer(&files[1], "docker.container.image.v1+json"),
            layer(&files[0], "ollama.image.model")
        );
        Self { files, manifest: Manifest::read(text.as_bytes()).expect("a manifest") }
    }

    fn digest(&self) -> Digest {
        self.manifest.digest()
    }
}

/// A store, and whatever process comes to it.
struct World(TempDir);

// === impl World ===

impl World {
    fn new() -> Self {
        let world = Self(tempfile::tempdir().expect("temp"));
        fs::create_dir_all(world.0.path().join("models/blobs")).expect("there is room");
        world
    }

    fn store(&self) -> Store {
        Store::open(&self.0.path().join("models")).expect("it is there")
    }

    fn staging(&self) -> Staging {
        let store = self.store();
        let owner = match store.access() {
            Access::Direct { owner, .. } | Access::Locked { owner, .. } => Some(owner),
            Access::Hidden { .. } => None,
        };
        Staging::open(&store.staging_place(), owner).expect("ours")
    }

    /// What a pull does that starts now, whatever an earlier one left. With `after` it may not come to its end.
    fn pull(&self, name: &str, model: &Model, after: &mut dyn FnMut(Step)) -> Result<Published, PublishError> {
        let (store, staging) = (self.store(), self.staging());
        let lacking = model.files.iter().filter(|file| store.blob(file.spec).expect("readable").is_none());
        let parts: Vec<Part> = lacking.map(|file| staged(&staging, file)).collect();
        let name = name.parse().expect("a name");
        let (manifest, now) = (&model.manifest, NOW);
        let publication = Publication { name: &name, manifest, parts: &parts, staging: &staging, now, clears: true };
        store.publish_in_steps(&publication, after)
    }

    fn published(&self, name: &str, model: &Model) -> Published {
        self.pull(name, model, &mut |_| {}).expect("it is published")
    }

    /// The models that a runtime would list, all of them whole.
    fn shown(&self) -> Vec<(String, Digest)> {
        let scan = self.store().scan().expect("readable");
        assert!(scan.skipped.is_empty(), "{:?}", scan.skipped);
        let shown = scan.models.into_iter().map(|scanned| {
            assert!(scanned.complete, "{:?}", scanned.model);
            (scanned.model.name.to_string(), scanned.model.digest)
        });
        shown.collect()
    }

    /// What still lies where files grow.
    fn staged(&self) -> Vec<String> {
        let place = self.store().staging_place();
        ["parts", "manifests"].iter().flat_map(|name| disk::names_in(&place.join(name)).expect("readable")).collect()
    }

    fn blob(&self, file: &Sample) -> PathBuf {
        self.store().blob_path(file.spec.sha256)
    }
}

/// A part that is whole, with what an earlier process left of it.
fn staged(staging: &Staging, file: &Sample) -> Part {
    let part = staging.begin(file.spec).expect("there is room");
    for index in 0..file.chunks() {
        if !part.check(index, &mut Vec::new()).expect("readable") {
            file.write(&part, index);
        }
    }
    part.seal(file.spec.sha256).expect("it is whole");
    part
}

/// Does something and dies after so many steps; `None` when it did.
fn killed_after<T>(steps: usize, act: impl FnOnce(&mut dyn FnMut(Step)) -> T) -> Option<T> {
    let mut left = steps;
    let mut kill = |_: Step| match left.checked_sub(1) {
        Some(fewer) => left = fewer,
        None => resume_unwind(Box::new("killed")),
    };
    catch_unwind(AssertUnwindSafe(|| act(&mut kill))).ok()
}

fn number(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").ino()
}

#[test]
fn a_folder_that_somebody_else_makes_meanwhile_is_not_exchanged() {
    let (world, model) = (World::new(), Model::new(1));
    let manifests = world.store().manifests();
    let host = manifests.join("registry.ollama.ai");
    let mut made = Vec::new();
    let mut make = |step: Step| {
        if let (Step::FolderDrafted, Some(path)) = (step, [&manifests, &host].into_iter().find(|path| !path.exists())) {
            fs::create_dir(path).expect("there is room");
            made.push((path.clone(), number(path)));
        }
    };
    world.pull("tiny", &model, &mut make).expect("it is published");
    assert_eq!(made.len(), 2);
    assert!(made.iter().all(|(path, made)| number(path) == *made), "a rename takes the place of an empty folder");
    assert_eq!(world.shown().len(), 1);
    assert_eq!(world.staged(), Vec::<String>::new());
}

#[test]
fn a_model_is_visible_as_a_whole_or_not_at_all() {
    let (old, new) = (Model::new(1), Model::new(2));
    let shown = |model: &Model| vec![("tiny:latest".to_owned(), model.digest())];
    for (replaces, steps_min) in [(false, 16), (true, 9)] {
        let mut steps = 0;
        loop {
            let world = World::new();
            if replaces {
                world.published("tiny", &old);
            }
            let before = world.shown();
            let result = killed_after(steps, |after| world.pull("tiny", &new, after));
            if result.is_none() {
                let now = world.shown();
                assert!(now == before || now == shown(&new), "after {steps} steps: {now:?}");
            }
            // The next start takes it up, or finds that nothing is left to do.
            let published = world.published("tiny", &new);
            assert_eq!(published.digest, new.digest());
            assert_eq!(world.shown(), shown(&new), "after {steps} steps");
            assert_eq!(world.staged(), [""; 0], "after {steps} steps");
            if let Some(result) = result {
                assert_eq!(result.expect("nobody killed it").replaced, replaces.then_some(old.digest()));
                break;
            }
            steps += 1;
        }
        assert!(steps >= steps_min, "{steps} steps");
    }
}

#[test]
fn the_same_again_changes_nothing() {
    let (world, model) = (World::new(), Model::new(3));
    let first = world.published("tiny", &model);
    assert_eq!((first.digest, first.replaced), (model.digest(), None));
    assert!(first.path.ends_with("manifests/registry.ollama.ai/library/tiny/latest"), "{}", first.path.display());
    assert_eq!(fs::read(&first.path).expect("readable"), model.manifest.bytes());
    let numbers = || [number(&first.path), number(&world.blob(&model.files[0]))];
    let before = numbers();
    // A part of what is there already is of no use to anybody.
    drop(staged(&world.staging(), &model.files[0]));
    assert_eq!(world.published("tiny", &model), first);
    assert_eq!((numbers(), world.staged()), (before, vec![]));
}

#[test]
fn what_lies_there_with_the_right_size_is_kept() {
    let (world, model) = (World::new(), Model::new(4));
    let paths = [world.blob(&model.files[0]), world.blob(&model.files[1])];
    fs::write(&paths[0], &model.files[0].bytes).expect("there is room");
    let theirs = number(&paths[0]);
    let mut other = 0;
    let published = world.pull("tiny", &model, &mut |step| {
        // The runtime is quicker with the other one.
        if step == Step::Dressed {
            fs::write(&paths[1], &model.files[1].bytes).expect("there is room");
            other = number(&paths[1]);
        }
    });
    published.expect("it is published");
    assert_eq!([number(&paths[0]), number(&paths[1])], [theirs, other]);
    assert_eq!((world.shown().len(), world.staged()), (1, vec![]));
}

#[test]
fn a_blob_of_another_size_is_not_touched() {
    let (world, model) = (World::new(), Model::new(5));
    let (path, sha256) = (world.blob(&model.files[0]), model.files[0].spec.sha256);
    fs::write(&path, b"theirs").expect("there is room");
    let refused = world.pull("tiny", &model, &mut |_| {}).expect_err("two sizes").to_string();
    assert_eq!(refused, format!("{sha256} in the store has 6 bytes, and the manifest says 5000"));
    assert_eq!((world.shown(), fs::read(&path).expect("readable")), (vec![], b"theirs".to_vec()));
    fs::remove_file(&path).expect("ours");
    fs::create_dir(&path).expect("there is room");
    let refused = world.pull("tiny", &model, &mut |_| {}).expect_err("a folder").to_string();
    assert!(refused.ends_with("something else has this name"), "{refused}");
    assert_eq!(world.shown(), vec![]);
}

#[test]
fn a_blob_that_was_pruned_meanwhile_is_linked_again() {
    let (world, model) = (World::new(), Model::new(6));
    let paths = [world.blob(&model.files[0]), world.blob(&model.files[1])];
    let published = world.pull("tiny", &model, &mut |step| {
        if step == Step::ManifestDrafted {
            paths.iter().for_each(|path| fs::remove_file(path).expect("ours"));
        }
    });
    published.expect("it is published");
    assert_eq!(world.shown(), [("tiny:latest".to_owned(), model.digest())]);
    assert_eq!(fs::read(&paths[0]).expect("readable"), model.files[0].bytes);
}

#[test]
fn what_is_kept_in_staging_for_a_while_mends_what_is_pruned_later() {
    let (world, model) = (World::new(), Model::new(16));
    let (store, staging) = (world.store(), world.staging());
    let parts: Vec<Part> = model.files.iter().map(|file| staged(&staging, file)).collect();
    let name: ModelName = "tiny".parse().expect("a name");
    let publish = |clears: bool| {
        let (manifest, parts, staging) = (&model.manifest, &parts[..], &staging);
        store
            .publish(&Publication { name: &name, manifest, parts, staging, now: NOW, clears })
            .expect("it is published")
    };
    let first = publish(false);
    assert_eq!(world.staged().len(), 4);
    model.files.iter().for_each(|file| fs::remove_file(world.blob(file)).expect("it is there"));
    assert_eq!(publish(true), first);
    assert_eq!(world.shown(), [("tiny:latest".to_owned(), model.digest())]);
    assert_eq!(
        (fs::read(world.blob(&model.files[0])).expect("readable"), world.staged()),
        (model.files[0].bytes.clone(), vec![])
    );
}

#[test]
fn a_model_that_cannot_be_kept_whole_is_taken_back() {
    let (old, new) = (Model::new(7), Model::new(8));
    for replaces in [false, true] {
        let world = World::new();
        if replaces {
            world.published("tiny", &old);
        }
        let before = world.shown();
        let path = world.blob(&new.files[0]);
        let mut is_visible = false;
        let pruned = world.pull("tiny", &new, &mut |step| {
            is_visible |= step == Step::ManifestNamed;
            if is_visible && [Step::ManifestNamed, Step::Linked].contains(&step) {
                disk::remove_file(&path).expect("ours");
            }
        });
        let wanted = new.files[0].spec.sha256;
        assert!(matches!(pruned, Err(PublishError::Missing { sha256 }) if sha256 == wanted), "{pruned:?}");
        assert!(is_visible);
        assert_eq!(world.shown(), before, "{replaces}");
        world.published("tiny", &new);
        assert_eq!(world.shown(), [("tiny:latest".to_owned(), new.digest())]);
    }
}

#[test]
fn a_name_that_others_gave_away_meanwhile_stays_theirs() {
    let (world, model) = (World::new(), Model::new(9));
    fs::write(world.blob(&model.files[0]), &model.files[0].bytes).expect("there is room");
    let manifest = world.store().root().join("manifests/registry.ollama.ai/library/tiny/latest");
    let result = world.pull("tiny", &model, &mut |step| {
        if step == Step::ManifestNamed {
            fs::remove_file(world.blob(&model.files[0])).expect("ours");
            fs::write(&manifest, b"theirs").expect("ours");
        }
    });
    assert!(matches!(result, Err(PublishError::Missing { .. })), "{result:?}");
    assert_eq!(fs::read(&manifest).expect("readable"), b"theirs");
}

#[test]
fn only_what_was_sealed_is_published() {
    let (world, model) = (World::new(), Model::new(10));
    let (store, staging) = (world.store(), world.staging());
    let name: ModelName = "tiny".parse().expect("a name");
    let refused = |parts: &[Part]| {
        let (manifest, staging) = (&model.manifest, &staging);
        let publication = Publication { name: &name, manifest, parts, staging, now: NOW, clears: true };
        match store.publish(&publication).expect_err("it is not whole") {
            PublishError::Missing { sha256 } => sha256,
            other => panic!("{other}"),
        }
    };
    let [weights, config] = [0, 1].map(|file: usize| model.files[file].spec.sha256);
    assert_eq!(refused(&[]), weights);
    let part = staging.begin(model.files[0].spec).expect("there is room");
    model.files[0].write(&part, 0);
    assert_eq!(refused(std::slice::from_ref(&part)), weights, "it is not sealed");
    part.seal(weights).expect("it is whole");
    assert_eq!(refused(std::slice::from_ref(&part)), config);
    assert!(world.blob(&model.files[0]).is_file(), "of what is there one half waits for the other");
    fs::remove_file(world.blob(&model.files[0])).expect("ours");
    // Its name now stands for zeros that nobody has sealed.
    staging.forget(weights).expect("ours");
    let anew = staging.begin(model.files[0].spec).expect("there is room");
    assert_eq!(refused(&[part, anew]), weights);
    assert!(!world.blob(&model.files[0]).exists());
    assert_eq!(world.shown(), vec![]);
}

#[test]
fn the_spelling_of_an_existing_folder_is_kept() {
    let world = World::new();
    let host = world.store().root().join("manifests/registry.ollama.ai");
    fs::create_dir_all(host.join("LIBRARY")).expect("there is room");
    fs::create_dir_all(host.join("Library/TINY")).expect("there is room");
    fs::write(host.join("Library/tiny"), b"a file is no folder").expect("there is room");
    let first = world.published("tiny:1B", &Model::new(11)).path;
    assert_eq!(first, host.join("LIBRARY/tiny/1B"), "the first of several");
    fs::remove_dir_all(host.join("LIBRARY")).expect("ours");
    let second = world.published("tiny:1B", &Model::new(11)).path;
    assert_eq!(second, host.join("Library/TINY/1B"));
    let replaced = world.published("Tiny:1b", &Model::new(12));
    assert_eq!((replaced.path, replaced.replaced), (second, Some(Model::new(11).digest())));
}

/// What a file or folder looks like to others.
fn look(path: &Path) -> (u32, u32, u32) {
    let found = fs::metadata(path).expect("it is there");
    (found.uid(), found.gid(), found.mode() & 0o777)
}

/// Root publishes into a store of another user, whose files these become; everybody else into a store of their own.
#[test]
fn published_files_have_the_owner_and_the_modes_of_the_store() {
    let (world, model) = (World::new(), Model::new(13));
    let models = world.store().root().to_owned();
    fs::create_dir(models.join("manifests")).expect("there is room");
    if may_give(world.0.path()) {
        for folder in ["", "blobs", "manifests"] {
            chown(models.join(folder), Some(65_534), Some(65_534)).expect("root may");
        }
    }
    let (uid, gid, _) = look(&models);
    let published = world.published("127.0.0.1:5000/me/tiny", &model);
    let paths = [published.path.clone(), world.blob(&model.files[0]), world.blob(&model.files[1])];
    for path in &paths {
        assert_eq!(look(path), (uid, gid, 0o644), "{}", path.display());
        let written = fs::metadata(path).and_then(|found| found.modified()).expect("it is there");
        assert_eq!(written, UNIX_EPOCH + Duration::from_millis(NOW.0), "{}", path.display());
    }
    for folder in published.path.ancestors().skip(1).take(3) {
        assert_eq!(look(folder), (uid, gid, 0o755), "{}", folder.display());
    }
    assert_eq!(look(&models.join(".ollamax")), (uid, gid, 0o700));
}

#[test]
fn a_store_without_folders_gets_them() {
    let (world, model) = (World::new(), Model::new(14));
    fs::remove_dir(world.0.path().join("models/blobs")).expect("ours");
    world.published("tiny", &model);
    assert_eq!(world.shown().len(), 1);
    for folder in ["blobs", "manifests"] {
        assert_eq!(look(&world.store().root().join(folder)).2, 0o755, "{folder}");
    }
}

/// The system refuses root nothing; everybody else is told what would help.
#[test]
fn a_store_that_may_not_be_written_says_so() {
    let (world, model) = (World::new(), Model::new(15));
    let blobs = world.0.path().join("models/blobs");
    drop(world.staging());
    fs::set_permissions(&blobs, Permissions::from_mode(0o555)).expect("ours");
    let result = world.pull("tiny", &model, &mut |_| {});
    fs::set_permissions(&blobs, Permissions::from_mode(0o755)).expect("ours");
    if geteuid().is_root() {
        result.expect("root may");
    } else {
        assert!(matches!(&result, Err(PublishError::NotWritable(_))), "{result:?}");
        assert_eq!(world.shown(), vec![]);
    }
}

#[test]
fn files_are_dressed_as_the_access_allows() {
    let owner = Owner { uid: 998, gid: 997 };
    let check = |how: How, uid: Option<u32>, gid: Option<u32>, file_mode: u32, folder_mode: u32| {
        let dress = Dress::of(Access::Direct { owner, how }).expect("it may be written");
        assert_eq!(dress, Dress { uid, gid, file_mode, folder_mode }, "{how:?}");
    };
    check(How::Owner, None, None, 0o644, 0o755);
    check(How::Root, Some(998), Some(997), 0o644, 0o755);
    check(How::Group, None, Some(997), 0o664, 0o775);
    let (reason, remedy) = (String::from("it belongs to ollama"), String::from("ask ollama"));
    for access in
        [Access::Locked { owner, reason: reason.clone(), remedy: remedy.clone() }, Access::Hidden { reason, remedy }]
    {
        let refused = Dress::of(access).expect_err("it may not be written").to_string();
        assert_eq!(refused, "it belongs to ollama; ask ollama");
    }
}

/// As a member of the store's group: the group of the files and folders is given, and may change them.
#[test]
fn a_group_may_change_what_is_published_through_it() {
    let folder = tempfile::tempdir().expect("temp");
    let path = folder.path().join("file");
    let gid = if may_give(folder.path()) { 65_534 } else { nix::unistd::getegid().as_raw() };
    let owner = Owner { uid: 65_534, gid };
    let dress = Dress::of(Access::Direct { owner, how: How::Group }).expect("it may be written");
    let file = disk::create_file(&path, None).expect("there is room");
    dress.put_on(&file, NOW).expect("ours");
    assert_eq!(look(&path), (geteuid().as_raw(), gid, 0o664));
    fs::create_dir(folder.path().join("folder")).expect("there is room");
    dress.put_on_folder(&folder.path().join("folder")).expect("ours");
    assert_eq!(look(&folder.path().join("folder")), (geteuid().as_raw(), gid, 0o775));
}

/// The owner of a store may put a link where a folder was made a moment before.
#[test]
fn rights_are_not_given_to_what_a_link_leads_to() {
    let folder = tempfile::tempdir().expect("temp");
    let (target, link) = (folder.path().join("target"), folder.path().join("link"));
    fs::create_dir(&target).expect("there is room");
    fs::set_permissions(&target, Permissions::from_mode(0o711)).expect("ours");
    symlink(&target, &link).expect("there is room");
    let before = look(&target);
    for how in [How::Owner, How::Root, How::Group] {
        let owner = Owner { uid: geteuid().as_raw(), gid: nix::unistd::getegid().as_raw() };
        let dress = Dress::of(Access::Direct { owner, how }).expect("it may be written");
        dress.put_on_folder(&link).expect_err("a link");
        assert_eq!(look(&target), before, "{how:?}");
    }
    let refused = disk::hidden_folder(&link, None).expect_err("a link");
    assert_eq!((refused.source.kind(), look(&target)), (ErrorKind::NotADirectory, before));
}

#[test]
fn what_a_file_system_cannot_do_is_told_apart() {
    let sha256 = Digest([7; 32]);
    let refused = |errno: Errno| refused_link(errno.into(), Path::new("/m/blobs/x"), sha256);
    assert!(matches!(refused(Errno::EXDEV), PublishError::OtherDisk(path) if path == "/m/blobs/x"));
    assert!(matches!(refused(Errno::ENOENT), PublishError::Missing { sha256: missing } if missing == sha256));
    for errno in [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS] {
        assert!(matches!(refused(errno), PublishError::NotWritable(_)), "{errno}");
    }
    assert!(matches!(refused(Errno::ENOSPC), PublishError::Fault(fault) if fault.is_full()));
    assert!(matches!(refused(Errno::EACCES), PublishError::Fault(fault) if fault.is_denied()));
    let unnamed = |errno: Errno| named(Err(errno.into()), Path::new("/m/x")).expect_err("refused");
    assert!(matches!(unnamed(Errno::EXDEV), PublishError::OtherDisk(_)));
    assert_eq!(unnamed(Errno::EROFS).to_string(), "name /m/x: Read-only file system (os error 30)");
}
