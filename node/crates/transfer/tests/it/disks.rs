//! Disks that are full, damaged, shared with a runtime that removes things, or not ours.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use ollamax_core::catalog::{Replicas, Want};
use ollamax_transfer::{Ask, Config, Listing, PullError, Stage};
use ollamax_types::{Clock, ErrorCode};

use crate::world::{LONG, World, ask_for, chunks, result, until, until_verified};

#[tokio::test(start_paused = true)]
async fn no_room_is_told_in_numbers_before_a_byte() {
    let mut world = World::new();
    // No disk has so much to spare.
    world.config = Config { spare_bytes_min: 1 << 60, ..world.config };
    let model = world.model("tiny", 1, chunks(1));
    let node = world.start();
    let error = node.pull(&model.name).await.expect_err("too little room");
    let told = match &error {
        PullError::NoRoom { model, place, room } => Some((model, place.as_str(), (room.bytes, room.spare_bytes))),
        _ => None,
    };
    let place = world.store().root().display().to_string();
    assert_eq!(told, Some((&model.name, place.as_str(), (model.manifest.size_bytes(), 1 << 60))));
    assert_eq!(error.code(), ErrorCode::DiskFull);
    assert!(error.to_string().starts_with("not enough room for tiny:latest at /"), "{error}");
    assert_eq!(world.origin.asked(), []);
    assert_eq!((world.staged(), world.jobs()), (vec![], vec![]));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_wants_more_of_the_disk_left_than_there_is_fails_before_a_byte() {
    let world = World::new();
    let model = world.model("tiny", 1, chunks(1));
    let node = world.start();
    // No disk has so much to spare, and this node is configured to keep nothing free.
    let want = Want { disk_free_bytes_min: 1 << 60, ..Want::default() };
    let ask = Ask { want: Some(want), ..ask_for(&model.name, Replicas::All) };
    let mut watch = timeout(LONG, node.handle.ask(ask)).await.expect("it answers").expect("it is on record");
    let over = async { while watch.changed().await {} };
    timeout(LONG, over).await.expect("it ends");
    let error = watch.now().error().expect("there is no copy");
    assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
    assert!(error.to_string().contains(&(1_u64 << 60).to_string()), "{error}");
    assert_eq!((world.origin.asked(), world.staged()), (vec![], vec![]));

    // The same wish without that word is met.
    let ask = Ask { want: Some(Want::default()), ..ask_for(&model.name, Replicas::All) };
    let mut watch = timeout(LONG, node.handle.ask(ask)).await.expect("it answers").expect("it is on record");
    let over = async { while watch.changed().await {} };
    timeout(LONG, over).await.expect("it ends");
    assert!(watch.now().is_held(), "{:?}", watch.now());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_on_disk_is_fetched_again() {
    let world = World::new();
    let model = world.model("tiny", 2, chunks(4));
    world.origin.set_limit(chunks(3));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(3)).await;
    node.end().await;
    let part = OpenOptions::new().write(true).open(world.part(model.weights.sha256)).expect("it is there");
    part.write_all_at(&[!model.bytes[5_000_000]], 5_000_000).expect("ours");
    drop(part);
    world.origin.set_limit(u64::MAX);
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it goes on");
    result(&mut watch).await.expect("it comes");
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(5), "one chunk came twice");
    assert_eq!(node.metric("ollamax_transfer_chunks_damaged_total"), 1.0);
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_runtime_removes_meanwhile_is_fetched_too() {
    let world = World::new();
    let old = world.model("old", 3, chunks(2));
    let node = world.start();
    node.pull(&old.name).await.expect("it comes");
    let new = world.model("new", 4, chunks(1));
    // Both have the same configuration, which the store has already.
    let config = new.manifest.config().expect("it has one").sha256;
    let sent = world.origin.sent(config);
    world.origin.set_limit(chunks(2) + 1_000);
    let mut watch = node.ask(&new.name).await.expect("it begins");
    fs::remove_file(world.blob(config)).expect("it is there");
    world.origin.set_limit(u64::MAX);
    result(&mut watch).await.expect("it comes");
    assert_eq!(world.origin.sent(config), 2 * sent);
    assert_eq!(world.origin.sent(new.weights.sha256), chunks(1), "what was sealed is not fetched again");
    world.check_published(&new);
    node.end().await;
}

/// It looked for files without a manifest before this one was there, and removes them when it is.
#[tokio::test(start_paused = true)]
async fn what_a_runtime_that_starts_removes_late_is_put_back() {
    let world = World::new();
    let model = world.model("tiny", 12, chunks(1));
    world.runtime.set_listing(Some(Listing::Down));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    while world.store().manifest(&model.name).expect("readable").is_none() {
        sleep(Duration::from_millis(10)).await;
    }
    fs::remove_file(world.blob(model.weights.sha256)).expect("it is there");
    until(&mut watch, |progress| progress.stage == Stage::Settling).await;
    world.runtime.set_listing(Some(Listing::Listed));
    result(&mut watch).await.expect("it comes");
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(1), "it is not fetched again");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_of_another_size_in_the_store_is_the_runtimes_and_shows_before_a_byte() {
    let world = World::new();
    let model = world.model("tiny", 5, 1_000);
    fs::write(world.blob(model.weights.sha256), b"half").expect("there is room");
    let node = world.start();
    let error = node.pull(&model.name).await.expect_err("it is in the way");
    let text = format!("{} in the store has 4 bytes, and the manifest says 1000", model.weights.sha256);
    assert_eq!((error.to_string(), error.code()), (text, ErrorCode::StorageFailed));
    assert_eq!(world.origin.asked(), []);
    assert_eq!(fs::read(world.blob(model.weights.sha256)).expect("it is there"), b"half");
    node.end().await;
}

/// Root may write everywhere, so for it there is nothing to see.
#[tokio::test(start_paused = true)]
async fn a_store_that_may_not_be_written_says_so_and_what_would_help() {
    let world = World::new();
    let model = world.model("tiny", 6, 1_000);
    let folders = ["blobs", "manifests"].map(|name| world.store().root().join(name));
    let set = |mode| folders.iter().for_each(|it| fs::set_permissions(it, Permissions::from_mode(mode)).expect("ours"));
    set(0o555);
    let probe = folders[0].join("probe");
    let is_free = fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).is_ok();
    let node = world.start();
    let pulled = node.pull(&model.name).await;
    set(0o755);
    if is_free {
        assert!(pulled.is_ok(), "{pulled:?}");
    } else {
        let error = pulled.expect_err("it may not be written");
        assert_eq!(error.code(), ErrorCode::StoreNotWritable, "{error}");
        assert_eq!((world.jobs(), world.origin.asked()), (vec![], vec![]));
        node.pull(&model.name).await.expect("it may now");
    }
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_was_cancelled_gives_back_the_room_of_what_did_not_come() {
    let world = World::new();
    let model = world.model("tiny", 11, chunks(4));
    let shared = world.model("shared", 11, chunks(4));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    let taken = || fs::metadata(world.part(model.weights.sha256)).expect("it is there").blocks() * 512;
    let before = taken();
    let mut other = node.ask(&shared.name).await.expect("it begins");
    assert!(node.handle.cancel(&model.name).await);
    assert_eq!(taken(), before, "somebody else wants it");
    assert_eq!(world.staged().len(), 4, "the configuration too");
    until(&mut other, |progress| progress.stage == Stage::Fetching).await;
    assert!(node.handle.cancel(&shared.name).await);
    // Some of a chunk may come while it is asked.
    assert!(taken() < chunks(2), "{} of {before}", taken());
    assert_eq!(world.staged().len(), 2, "nothing came of the configuration");
    world.origin.set_limit(u64::MAX);
    node.pull(&model.name).await.expect("it comes");
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(4), "what came is used");
    world.check_published(&model);
    node.end().await;
}

/// Root may write everywhere, so for it there is nothing to see.
#[tokio::test(start_paused = true)]
async fn a_folder_that_the_runtime_made_for_itself_shows_before_a_byte() {
    let world = World::new();
    let model = world.model("tiny", 10, 1_000);
    let folder = world.store().root().join("manifests/registry.ollama.ai/library/tiny");
    fs::create_dir_all(&folder).expect("there is room");
    let set = |mode| fs::set_permissions(&folder, Permissions::from_mode(mode)).expect("ours");
    set(0o555);
    let probe = folder.join("probe");
    let is_free = fs::write(&probe, b"").and_then(|()| fs::remove_file(&probe)).is_ok();
    let node = world.start();
    let pulled = node.pull(&model.name).await;
    set(0o755);
    if is_free {
        assert!(pulled.is_ok(), "{pulled:?}");
    } else {
        let error = pulled.expect_err("it may not be written");
        let (place, folder) = (world.store().root().display().to_string(), folder.display());
        let text = format!(
            "{place}: {folder} cannot be written by this node, and it fetches nothing; sudo chmod g+w {folder}"
        );
        assert_eq!((error.to_string(), error.code()), (text, ErrorCode::StoreNotWritable));
        assert_eq!((world.jobs(), world.origin.asked(), world.staged()), (vec![], vec![], vec![]));
        node.pull(&model.name).await.expect("it may now");
    }
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_ends_the_pull_and_not_the_node() {
    let world = World::new();
    let model = world.model("tiny", 7, chunks(2));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    fs::remove_dir_all(world.folder.path().join("models")).expect("ours");
    world.origin.set_limit(u64::MAX);
    let error = result(&mut watch).await.expect_err("there is no store");
    assert!(!error.to_string().is_empty());
    fs::create_dir_all(world.folder.path().join("models/blobs")).expect("a folder");
    fs::create_dir_all(world.folder.path().join("models/manifests")).expect("a folder");
    node.pull(&model.name).await.expect("it comes");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_asked_for_any_more_goes_after_a_week() {
    let mut world = World::new();
    let (left, wanted) = (world.model("left", 8, chunks(2)), world.model("wanted", 9, chunks(2)));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let mut watch = node.ask(&left.name).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    assert!(node.handle.cancel(&left.name).await);
    node.ask(&wanted.name).await.expect("it begins");
    node.end().await;
    assert!(world.part(left.weights.sha256).exists() && world.part(wanted.weights.sha256).exists());

    // Six days later all is there, eight days later what a job needs.
    for (days, is_left) in [(6, true), (8, false)] {
        world.clock = Clock::shifted(days * 24 * 3_600_000);
        let node = world.start();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(world.part(left.weights.sha256).exists(), is_left, "{days}");
        assert!(world.part(wanted.weights.sha256).exists(), "{days}");
        assert!(!is_left || node.metric("ollamax_transfer_staged_bytes") > 0.0);
        node.end().await;
    }
}
