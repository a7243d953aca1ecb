//! Stores that this node may only read: their runtime fetches from its shelf, whatever breaks off meanwhile.
//!
//! The manifests of such a store lie on another disk than its files, which shuts it to every user, root included.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use ollamax_core::catalog::Replicas;
use ollamax_transfer::mem::FetchFault;
use ollamax_transfer::{Config, PullError, Shelf, Stage};
use ollamax_types::{Clock, ErrorCode};

use crate::world::{LONG, Model, World, ask_for, chunks, result, until, until_verified};

/// A disk that every Linux has beside that of its temporary files.
const OTHER_DISK: &str = "/dev/shm";

/// A world, and what lies of it on another disk.
struct Parted {
    world: World,
    _other: TempDir,
}

// === impl Parted ===

impl Parted {
    /// With this folder of the world on another disk.
    fn at(folder: &str) -> Self {
        let (world, other) = (World::new(), tempfile::tempdir_in(OTHER_DISK).expect("another disk"));
        let place = world.folder.path().join(folder);
        fs::remove_dir(&place).expect("it is empty");
        symlink(other.path(), &place).expect("ours");
        let device = |path: &Path| fs::metadata(path).expect("it is there").dev();
        assert_ne!(device(&place), device(world.folder.path()), "temporary files lie in {OTHER_DISK} too");
        Self { world, _other: other }
    }

    /// Whose runtime fetches from a shelf.
    fn new() -> (Self, Shelf) {
        let parted = Self::at("models/manifests");
        let shelf = Shelf::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 7)), || Some([7; 8]));
        parted.world.runtime.set_shelf(shelf.clone());
        (parted, shelf)
    }

    fn staging(&self) -> PathBuf {
        self.world.folder.path().join("data/transfer/staging/parts")
    }

    fn staged(&self) -> usize {
        fs::read_dir(self.staging()).map_or(0, Iterator::count)
    }

    /// The model is there, whole, and nothing is left of the way to it.
    fn check_handed(&self, model: &Model) {
        self.world.check_published(model);
        assert_eq!(self.staged(), 0);
        assert_eq!(self.world.store().scan().expect("readable").models.len(), 1, "no other name is left");
        assert!(!self.world.store().staging_place().exists(), "nothing was made in the store");
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_fetches_what_this_node_may_not_put_into_its_store() {
    let (parted, shelf) = Parted::new();
    let world = &parted.world;
    let model = world.model("lab/tiny:1b", 1, chunks(2) + 9);
    let node = world.start();
    let done = node.pull(&model.name).await.expect("it comes");
    assert_eq!(done.digest, Some(model.manifest.digest()));
    parted.check_handed(&model);
    let fetched = world.runtime.fetched();
    let [name] = fetched.as_slice() else { panic!("{fetched:?}") };
    assert_eq!(name.to_string(), "127.0.0.1:7/ollamax-0707070707070707/tiny:1b");
    assert!(Shelf::gave(name) && !shelf.has(name), "it is not offered any more");
    // It is there already.
    node.pull(&model.name).await.expect("it is there");
    assert_eq!((world.runtime.fetched().len(), world.origin.sent(model.weights.sha256)), (1, chunks(2) + 9));
    // A name gets another version.
    let newer = world.model("lab/tiny:1b", 2, chunks(1));
    node.pull(&model.name).await.expect("it comes");
    parted.check_handed(&newer);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_breaks_off_is_asked_again() {
    for fault in [FetchFault::Down, FetchFault::Cut] {
        let (parted, _shelf) = Parted::new();
        let world = &parted.world;
        let model = world.model("tiny", 3, chunks(1));
        [fault, fault].into_iter().for_each(|fault| world.runtime.add_fetch_fault(fault));
        let node = world.start();
        node.pull(&model.name).await.expect("it comes");
        assert_eq!(world.runtime.fetched().len(), 3, "{fault:?}");
        parted.check_handed(&model);
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_does_not_take_it_ends_the_pull_and_what_came_is_used_again() {
    let silent = "the runtime does not fetch the model from this node: nothing new for 300 s; last: pulling";
    let refused = "the runtime does not fetch the model from this node: it refuses";
    let rows = [
        (FetchFault::Refused, ErrorCode::RuntimeFailed, refused),
        (FetchFault::Stuck, ErrorCode::RuntimeFailed, silent),
        (FetchFault::Rewritten, ErrorCode::DigestConflict, "the runtime made "),
    ];
    for (fault, code, text) in rows {
        let (parted, _shelf) = Parted::new();
        let world = &parted.world;
        let model = world.model("tiny", 4, chunks(1));
        world.runtime.add_fetch_fault(fault);
        let (node, begun) = (world.start(), Instant::now());
        let error = node.pull(&model.name).await.expect_err("it is not taken");
        assert!(error.code() == code && error.to_string().starts_with(text), "{fault:?}: {error}");
        assert_eq!(begun.elapsed() >= Duration::from_secs(300), fault == FetchFault::Stuck, "{:?}", begun.elapsed());
        assert_eq!(world.store().scan().expect("readable").models.len(), 0, "{fault:?}");
        assert!(parted.staged() > 0, "{fault:?}");
        node.pull(&model.name).await.expect("it is taken now");
        assert_eq!(world.origin.sent(model.weights.sha256), chunks(1), "{fault:?}");
        parted.check_handed(&model);
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn cancel_and_stop_are_obeyed_while_a_runtime_fetches() {
    let (parted, shelf) = Parted::new();
    let world = &parted.world;
    let model = world.model("tiny", 5, chunks(1));
    [FetchFault::Stuck; 2].into_iter().for_each(|fault| world.runtime.add_fetch_fault(fault));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until(&mut watch, |progress| progress.stage == Stage::Publishing).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(watch.now().verified_bytes(), watch.now().total_bytes(), "all of it is here");
    let name = world.runtime.fetched().pop().expect("it was asked");
    assert!(shelf.has(&name));
    assert!(node.handle.cancel(&model.name).await);
    assert_eq!(result(&mut watch).await, Err(PullError::Cancelled));
    assert!(!shelf.has(&name) && world.jobs().is_empty());

    let mut watch = node.ask(&model.name).await.expect("it begins");
    until(&mut watch, |progress| progress.stage == Stage::Publishing).await;
    sleep(Duration::from_secs(1)).await;
    node.end().await;
    assert_eq!(result(&mut watch).await, Err(PullError::Stopping));
    assert_eq!(world.jobs(), ["tiny:latest"]);
    let node = world.start();
    node.pull(&model.name).await.expect("it goes on");
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(1));
    parted.check_handed(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_somebody_put_there_after_the_wish_stays() {
    let (parted, _shelf) = Parted::new();
    let world = &parted.world;
    let (model, newer) = (world.model("tiny", 12, chunks(2)), world.model("newer", 13, chunks(1)));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let ask = ask_for(&model.name, Replicas::All);
    let mut watch = timeout(LONG, node.handle.ask(ask)).await.expect("it answers").expect("it is on record");
    while world.origin.sent(model.weights.sha256) < chunks(1) {
        sleep(Duration::from_millis(10)).await;
    }
    let root = world.store().root().join("manifests");
    let path = model.name.parts().iter().fold(root, |path, part| path.join(part));
    fs::create_dir_all(path.parent().expect("a folder")).expect("ours");
    fs::write(&path, newer.manifest.bytes()).expect("there is room");
    let written_at = fs::metadata(&path).and_then(|found| found.modified()).expect("it is there");
    let later = written_at + Duration::from_secs(60);
    fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(later)).expect("ours");
    world.origin.set_limit(u64::MAX);
    while timeout(LONG, watch.changed()).await.expect("there are news") {}
    assert_eq!(watch.now().error().map(|error| error.code()), Some(ErrorCode::PullCancelled));
    assert!(world.runtime.fetched().is_empty(), "its runtime was not asked");
    let (_, stored) = world.store().manifest(&model.name).expect("readable").expect("it is there");
    assert_eq!(stored.bytes(), newer.manifest.bytes());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_runtime_will_write_has_no_room_before_it_is_in_the_store() {
    let (parted, _shelf) = Parted::new();
    let world = &parted.world;
    let model = world.model("tiny", 14, chunks(2));
    world.origin.set_limit(chunks(1));
    world.runtime.set_known(false);
    let node = world.start();
    let asked = timeout(LONG, node.handle.ask(ask_for(&model.name, Replicas::All))).await.expect("it answers");
    drop(asked.expect("it is on record"));
    while world.origin.sent(model.weights.sha256) < chunks(1) {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(node.handle.aside_bytes(), 0, "its room is promised, and the disk shows it as free");
    let mut pull = node.handle.watch(&model.name).expect("it is under way");
    world.origin.set_limit(u64::MAX);
    until(&mut pull, |progress| progress.stage == Stage::Settling).await;
    assert_eq!(node.handle.aside_bytes(), model.manifest.size_bytes(), "it is there, and not on record yet");
    world.cluster.hold(world.node, &model.name, model.manifest.digest());
    result(&mut pull).await.expect("it is there");
    assert_eq!(node.handle.aside_bytes(), 0);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_store_loses_before_its_runtime_fetches_comes_too() {
    let (parted, _shelf) = Parted::new();
    let world = &parted.world;
    let old = world.model("old", 6, 1_000);
    let node = world.start();
    node.pull(&old.name).await.expect("it comes");
    // Both have the same configuration, which the store has already.
    let new = world.model("new", 7, chunks(1));
    let config = new.manifest.config().expect("it has one").sha256;
    let sent = world.origin.sent(config);
    world.origin.set_limit(chunks(1) / 2);
    let mut watch = node.ask(&new.name).await.expect("it begins");
    fs::remove_file(world.blob(config)).expect("it is there");
    world.origin.set_limit(u64::MAX);
    result(&mut watch).await.expect("it comes");
    assert_eq!((world.origin.sent(config), world.origin.sent(new.weights.sha256)), (2 * sent, chunks(1)));
    world.check_published(&new);
    assert_eq!(parted.staged(), 0);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_runtime_that_fetches_it_is_refused_before_a_byte() {
    let parted = Parted::at("models/manifests");
    let world = &parted.world;
    let model = world.model("tiny", 8, 1_000);
    let node = world.start();
    let error = node.pull(&model.name).await.expect_err("nobody may write there");
    assert_eq!(error.code(), ErrorCode::StoreNotWritable);
    assert!(error.to_string().contains(", and it fetches nothing; put the manifests and the blobs"), "{error}");
    assert_eq!((world.jobs(), world.origin.asked(), parted.staged()), (vec![], vec![], 0));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn room_is_needed_for_what_is_fetched_and_for_what_the_runtime_writes() {
    let check = |parted: &Parted, model: &Model, error: &PullError, expected: (String, u64)| match error {
        PullError::NoRoom { place, room, .. } => assert_eq!((place.clone(), room.bytes), expected),
        other => panic!("{other}: {:?} {:?}", model.name, parted.staging()),
    };
    let needy = |config: &Config| Config { spare_bytes_min: 1 << 60, ..config.clone() };

    let (mut parted, _shelf) = Parted::new();
    parted.world.config = needy(&parted.world.config);
    let model = parted.world.model("tiny", 9, chunks(1));
    let node = parted.world.start();
    let error = node.pull(&model.name).await.expect_err("no disk has so much to spare");
    let staging = parted.world.folder.path().join("data/transfer/staging");
    let place = format!("{}, where it lies twice while the runtime copies it", staging.display());
    check(&parted, &model, &error, (place, 2 * model.manifest.size_bytes()));
    assert_eq!(parted.world.origin.asked(), []);
    node.end().await;

    // The data directory lies on another disk than the store: each needs it once.
    let (shut, shelf) = Parted::new();
    let mut elsewhere = Parted::at("data");
    elsewhere.world.runtime.set_shelf(shelf);
    let manifests = elsewhere.world.folder.path().join("models/manifests");
    fs::remove_dir(&manifests).expect("it is empty");
    symlink(shut.world.folder.path().join("models/manifests"), &manifests).expect("ours");
    elsewhere.world.config = needy(&elsewhere.world.config);
    let model = elsewhere.world.model("tiny", 9, chunks(1));
    let node = elsewhere.world.start();
    let error = node.pull(&model.name).await.expect_err("no disk has so much to spare");
    let place = elsewhere.world.store().root().display().to_string();
    check(&elsewhere, &model, &error, (place, model.manifest.size_bytes()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_was_cut_off_goes_on_where_it_was_in_the_nodes_own_folder() {
    let (parted, _shelf) = Parted::new();
    let world = &parted.world;
    let model = world.model("tiny", 10, chunks(4));
    world.origin.set_limit(chunks(2));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(2)).await;
    assert!(parted.staged() > 0);
    node.end().await;
    world.check_nothing_published();
    world.origin.set_limit(u64::MAX);
    let sent = world.origin.sent(model.weights.sha256);
    let node = world.start();
    node.pull(&model.name).await.expect("it goes on");
    assert_eq!(world.origin.sent(model.weights.sha256) - sent, chunks(2));
    parted.check_handed(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_grew_in_the_nodes_own_folder_goes_after_a_week_also_when_the_store_was_opened_meanwhile() {
    let (mut parted, _shelf) = Parted::new();
    let model = parted.world.model("tiny", 11, chunks(2));
    parted.world.origin.set_limit(chunks(1));
    let node = parted.world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    assert!(node.handle.cancel(&model.name).await);
    node.end().await;
    let manifests = parted.world.folder.path().join("models/manifests");
    fs::remove_file(&manifests).expect("ours");
    fs::create_dir(&manifests).expect("ours");
    for (days, is_left) in [(6, true), (8, false)] {
        parted.world.clock = Clock::shifted(days * 24 * 3_600_000);
        let node = parted.world.start();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(parted.staged() > 0, is_left, "{days}");
        node.end().await;
    }
}
