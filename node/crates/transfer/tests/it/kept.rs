//! Versions that are kept: back without a byte, offered to other nodes, gone when they are due or in the way; and
//! copies that the cluster removes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{interval, sleep, timeout};

use ollamax_core::catalog::Replicas;
use ollamax_transfer::{Config, PullError, Stage, Watch};
use ollamax_types::{Clock, Digest, ErrorCode, Timestamp};

use crate::world::{self, LONG, Model, Node, World, ask_for, chunks, result, until_verified};

const HOUR_MS: u64 = 3_600_000;

/// A world whose clock stands still: what is changed on its disk is changed now.
fn still_world() -> World {
    World { clock: Clock::manual(Clock::system().now()), ..World::new() }
}

/// Pulls two versions of a name, one after the other.
async fn pulled_twice(world: &World, node: &Node) -> [Model; 2] {
    let old = world.model("tiny", 1, chunks(2) + 9);
    node.pull(&old.name).await.expect("it comes");
    let new = world.model("tiny", 2, chunks(1));
    node.pull(&new.name).await.expect("it comes");
    [old, new]
}

/// As before, and nothing is pinned; two hours later what only the old one named has no name in the store any more.
async fn replaced(world: &World, node: &Node) -> [Model; 2] {
    node.handle.set_pins(BTreeSet::new());
    let models = pulled_twice(world, node).await;
    world.clock.advance_ms(2 * HOUR_MS);
    until("nothing names it", || !world.blob(models[0].weights.sha256).exists()).await;
    models
}

/// The folder of what is kept has so many versions.
fn aside(world: &World) -> usize {
    let entries = fs::read_dir(world.store().staging_place().join("keep"));
    entries.map_or(0, |entries| entries.flatten().filter(|entry| entry.path().is_dir()).count())
}

/// The versions that are kept, in the order of their digests.
fn kept(node: &Node) -> Vec<Digest> {
    let digests: BTreeSet<Digest> = node.handle.kept().iter().map(|kept| kept.digest).collect();
    digests.into_iter().collect()
}

/// This version is pinned, or none is.
fn pinned(is_pinned: bool, digest: Digest) -> BTreeSet<Digest> {
    is_pinned.then_some(digest).into_iter().collect()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        let mut looks = interval(Duration::from_millis(50));
        while !is_so() {
            looks.tick().await;
        }
    };
    assert!(timeout(LONG, waiting).await.is_ok(), "never: {what}");
}

/// Two pulls: one has the only place and gets nothing; behind it waits one of this model, with nothing left to fetch.
async fn held_up(world: &World, node: &Node, model: &Model) -> [Watch; 2] {
    let other = world.model("other", 3, chunks(1));
    world.origin.set_limit(0);
    let mut first = node.ask(&other.name).await.expect("it begins");
    world::until(&mut first, |progress| progress.stage == Stage::Fetching).await;
    let mut second = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut second, model.manifest.size_bytes()).await;
    [first, second]
}

/// Both go on, and come without a byte more of this model, of which so many were sent.
async fn go_on(world: &World, pulls: [Watch; 2], model: &Model, sent: u64) {
    world.origin.set_limit(u64::MAX);
    for mut pull in pulls {
        result(&mut pull).await.expect("it comes");
    }
    assert!(stands_for(world, model));
    assert_eq!(world.origin.sent(model.weights.sha256), sent, "no byte came again");
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").ino()
}

fn stands_for(world: &World, model: &Model) -> bool {
    let stored = world.store().manifest(&model.name).expect("readable");
    stored.is_some_and(|(_, stored)| stored.digest() == model.manifest.digest())
}

#[tokio::test(start_paused = true)]
async fn what_a_pull_replaced_can_be_rolled_back_to_without_a_byte() {
    let world = World::new();
    let node = world.start();
    node.handle.set_pins(BTreeSet::new());
    let old = world.model("tiny", 1, chunks(2) + 9);
    node.pull(&old.name).await.expect("it comes");
    let before = inode(&world.blob(old.weights.sha256));
    let new = world.model("tiny", 2, chunks(1));
    let watch = node.handle.ask(ask_for(&new.name, Replicas::Count(1))).await.expect("it is on record");
    until("the new version stands", || stands_for(&world, &new)).await;
    drop(watch);
    fs::remove_file(world.blob(old.weights.sha256)).expect("nothing names it");
    assert_eq!(kept(&node), [old.manifest.digest()]);

    let (asked, sent) = (world.origin.manifests_asked(), world.origin.asked().len());
    world.cluster.fix(&old.name, old.manifest.digest(), old.manifest.size_bytes());
    until("the old version stands again", || stands_for(&world, &old)).await;
    assert_eq!(inode(&world.blob(old.weights.sha256)), before, "it is the very file");
    assert_eq!((world.origin.manifests_asked(), world.origin.asked().len()), (asked, sent));
    // And forward again, in the same way.
    until("only the other one is kept", || kept(&node) == [new.manifest.digest()]).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_nobody_keeps_is_asked_for_by_its_digest_and_else_said_so() {
    let world = World::new();
    let node = world.start();
    let [gone, new] = [world.model("tiny", 1, chunks(1)), world.model("tiny", 2, chunks(1))];
    drop(node.handle.ask(ask_for(&new.name, Replicas::Count(1))).await.expect("it is on record"));
    until("the new version stands", || stands_for(&world, &new)).await;
    world.cluster.fix(&gone.name, gone.manifest.digest(), gone.manifest.size_bytes());
    let failure = || world.cluster.wish(&gone.name).and_then(|wish| wish.failures.values().next().cloned());
    until("it is told", || failure().is_some()).await;
    let failure = failure().expect("it is told");
    let text = format!("nobody keeps version {} of tiny:latest", gone.manifest.digest().short());
    assert_eq!(failure.code, ErrorCode::ModelNotFound);
    assert!(failure.text.contains(&text), "{}", failure.text);
    assert!(stands_for(&world, &new), "nothing was changed");

    world.origin.put_version(gone.manifest.digest(), gone.manifest.bytes().to_vec());
    world.cluster.fix(&gone.name, gone.manifest.digest(), gone.manifest.size_bytes());
    until("it comes from the registry", || stands_for(&world, &gone)).await;
    node.end().await;
}

/// What `POST /api/create` and then `POST /api/copy` ask for, one right after the other.
#[tokio::test(start_paused = true)]
async fn a_version_that_was_made_here_a_moment_ago_gets_another_name_without_a_registry() {
    let world = World::new();
    let node = world.start();
    let other = world.model("other", 1, chunks(1));
    drop(node.handle.ask(ask_for(&other.name, Replicas::Count(1))).await.expect("it is on record"));
    until("the other model is there", || stands_for(&world, &other)).await;
    // Somebody makes a model with the runtime, which tells it before the store is looked at again.
    let made = world.model("made", 2, chunks(2));
    fs::write(world.blob(made.weights.sha256), &made.bytes).expect("the other files are there");
    let folder = world.store().root().join("manifests/registry.ollama.ai/library/made");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("latest"), made.manifest.bytes()).expect("a manifest");
    let asked = world.origin.manifests_asked();
    world.cluster.fix(&other.name, made.manifest.digest(), made.manifest.size_bytes());
    let made = Model { name: other.name, ..made };
    until("it has that name as well", || stands_for(&world, &made)).await;
    assert_eq!(world.origin.manifests_asked(), asked, "nobody else was asked");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_kept_version_is_offered_like_one_of_the_store() {
    let world = still_world();
    let node = world.start();
    let [old, _] = replaced(&world, &node).await;
    let manifest = node.handle.manifest(old.manifest.digest()).await.expect("it is kept");
    assert_eq!(manifest, old.manifest.bytes());
    let (size_bytes, hashes) = node.handle.hashes(old.weights.sha256).await.expect("it was hashed");
    assert_eq!((size_bytes, hashes.len()), (old.weights.size_bytes, 3 * 32));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn kept_files_stay_where_all_of_them_are_too_little_room_and_pinned_ones_make_no_way() {
    for is_pinned in [false, true] {
        let mut world = still_world();
        let node = world.start();
        let [old, _] = replaced(&world, &node).await;
        node.end().await;
        // No disk has so much to spare.
        world.config = Config { spare_bytes_min: 1 << 60, ..world.config };
        let node = world.start();
        node.handle.set_pins(pinned(is_pinned, old.manifest.digest()));
        until("it is known what is kept", || kept(&node) == [old.manifest.digest()]).await;
        let spare = || node.handle.spare_bytes() >= chunks(2);
        until("it is known what makes way", || spare() != is_pinned).await;
        let other = world.model("other", 3, chunks(1));
        let error = node.pull(&other.name).await.expect_err("there is too little room");
        assert!(matches!(error, PullError::NoRoom { .. }), "{error}");
        assert_eq!(kept(&node), [old.manifest.digest()], "pinned: {is_pinned}; it would be in vain");
        assert!(node.metric("ollamax_models_kept_bytes") > 0.0);
        assert_eq!(spare(), !is_pinned);
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_with_which_no_byte_becomes_free_stays_when_room_is_needed() {
    let mut world = still_world();
    let node = world.start();
    let [old, _] = pulled_twice(&world, &node).await;
    node.end().await;
    // No disk has so much to spare.
    world.config = Config { spare_bytes_min: 1 << 60, ..world.config };
    let node = world.start();
    node.handle.set_pins(BTreeSet::new());
    until("it is known what is kept", || kept(&node) == [old.manifest.digest()]).await;
    let other = world.model("other", 3, chunks(1));
    let error = node.pull(&other.name).await.expect_err("there is too little room");
    assert!(matches!(error, PullError::NoRoom { .. }), "{error}");
    assert_eq!((kept(&node), node.handle.spare_bytes()), (vec![old.manifest.digest()], 0));
    assert!(world.blob(old.weights.sha256).exists(), "it was changed just now");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_is_kept_for_its_time_or_while_it_is_pinned_and_nothing_goes_before_that_is_known() {
    let check = async |pins: Option<bool>, hours: u64, stays: bool| {
        let world = still_world();
        let (node, start) = (world.start(), world.clock.now());
        let [old, _] = replaced(&world, &node).await;
        node.end().await;
        let node = world.start();
        let digest = old.manifest.digest();
        if let Some(is_pinned) = pins {
            node.handle.set_pins(pinned(is_pinned, digest));
        }
        world.clock.advance_ms((hours - 2) * HOUR_MS);
        sleep(Duration::from_secs(3_600)).await;
        assert_eq!(kept(&node) == [digest], stays, "{pins:?} after {hours} h");
        let until = node.handle.kept().first().and_then(|kept| kept.until);
        let expected = (stays && pins != Some(true)).then_some(start.plus_ms(168 * HOUR_MS));
        assert_eq!(until, expected, "{pins:?} after {hours} h");
        node.end().await;
    };
    check(Some(false), 167, true).await;
    check(Some(false), 169, false).await;
    check(Some(true), 169, true).await;
    check(None, 169, true).await;
}

#[tokio::test(start_paused = true)]
async fn without_hours_to_keep_it_what_was_replaced_goes_from_the_disk_when_that_is_safe_whoever_starts_meanwhile() {
    for is_pinned in [false, true] {
        let mut world = still_world();
        world.config = Config { keep_previous_hours: 0, ..world.config };
        let node = world.start();
        let [old, new] = pulled_twice(&world, &node).await;
        let (digest, weights) = (old.manifest.digest(), world.blob(old.weights.sha256));
        node.handle.set_pins(pinned(is_pinned, digest));
        sleep(Duration::from_secs(3_600)).await;
        assert_eq!(kept(&node) == [digest], is_pinned);
        assert!(weights.exists(), "it was changed just now");
        node.end().await;

        world.clock.advance_ms(2 * HOUR_MS);
        let node = world.start();
        node.handle.set_pins(pinned(is_pinned, digest));
        until("it is kept or gone", || aside(&world) == usize::from(is_pinned)).await;
        sleep(Duration::from_secs(3_600)).await;
        // What is pinned takes no more room for having its name in the store as well.
        assert_eq!(weights.exists(), is_pinned);
        assert_eq!(kept(&node) == [digest], is_pinned);
        assert!(world.blob(new.weights.sha256).exists(), "its name stands for it");
        assert!(world.blob(new.manifest.config().expect("it has one").sha256).exists(), "both have it");
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_runtime_took_the_name_of_just_now_waits_an_hour_when_its_version_goes() {
    let mut world = still_world();
    world.config = Config { keep_previous_hours: 0, ..world.config };
    let node = world.start();
    let [old, _] = pulled_twice(&world, &node).await;
    fs::remove_file(world.blob(old.weights.sha256)).expect("as one does that clears up");
    node.handle.set_pins(BTreeSet::new());
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!((kept(&node), aside(&world)), (vec![], 1), "it may have found the file before");
    world.clock.advance_ms(2 * HOUR_MS);
    until("it is gone", || aside(&world) == 0).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_on_which_a_pull_counts_keeps_its_name_until_that_is_over() {
    let mut world = still_world();
    world.config = Config { pulls_max: 1, ..world.config };
    let node = world.start();
    let [old, _] = replaced(&world, &node).await;
    let [witness, newer] = [5, 6].map(|seed| world.model("phi", seed, chunks(1)));
    for model in [&witness, &newer] {
        world.origin.put_manifest(model.name.clone(), model.manifest.bytes().to_vec());
        node.pull(&model.name).await.expect("it comes");
    }
    let sent = world.origin.sent(old.weights.sha256);
    let alias = world.model("alias", 1, chunks(2) + 9);
    let pulls = held_up(&world, &node, &alias).await;
    assert!(world.blob(old.weights.sha256).exists(), "it was brought back");
    world.clock.advance_ms(2 * HOUR_MS);
    // Now it looks, and no look is under way when that was answered.
    node.handle.set_pins(BTreeSet::from([Digest([7; 32])]));
    until("the other one has lost its name", || !world.blob(witness.weights.sha256).exists()).await;
    assert_eq!(node.handle.sweep(true).await.expect("there is a store"), []);
    assert!(world.blob(old.weights.sha256).exists(), "a pull waits with it");
    go_on(&world, pulls, &alias, sent).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_runtime_names_after_it_lost_its_name_gets_it_back_while_it_is_kept() {
    let world = still_world();
    let node = world.start();
    let [old, _] = replaced(&world, &node).await;
    let folder = world.store().staging_place().join("keep").join(old.manifest.digest().to_string());
    let before = inode(&folder.join(format!("sha256-{}", old.weights.sha256)));
    // It had found all files when it began.
    let place = world.store().root().join("manifests/registry.ollama.ai/library/other");
    fs::create_dir_all(&place).expect("ours");
    fs::write(place.join("latest"), old.manifest.bytes()).expect("there is room");
    node.handle.look_again();
    until("it is there again", || world.blob(old.weights.sha256).exists()).await;
    assert_eq!(inode(&world.blob(old.weights.sha256)), before, "it is the very file");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pinned_version_is_kept_for_all_of_very_many_names_and_no_look_keeps_it_anew() {
    const NAMES: usize = 100;
    let clock = Clock::manual(Timestamp(1_785_578_400_123));
    let world = World { clock: clock.clone(), ..World::new() };
    let node = world.start();
    let model = world.model("tiny", 1, chunks(1));
    node.pull(&model.name).await.expect("it comes");
    let (path, _) = world.store().manifest(&model.name).expect("readable").expect("it stands");
    let library = path.parent().and_then(Path::parent).expect("it has one");
    for number in 1..NAMES {
        let folder = library.join(format!("alias-{number}"));
        fs::create_dir(&folder).expect("ours");
        fs::copy(&path, folder.join("latest")).expect("there is room");
    }
    node.handle.look_again();
    node.handle.set_pins(pinned(true, model.manifest.digest()));
    let names = || node.handle.kept().iter().map(|kept| kept.name.to_string()).collect::<BTreeSet<_>>();
    until("it is kept for each of them", || names().len() == NAMES).await;
    let since = node.handle.kept().first().map(|kept| kept.kept_at);
    clock.advance_ms(HOUR_MS);
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!((names().len(), node.handle.kept().first().map(|kept| kept.kept_at)), (NAMES, since));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_shown_before_it_goes_and_a_name_that_is_gone_keeps_nothing() {
    let world = still_world();
    let node = world.start();
    let [old, new] = replaced(&world, &node).await;
    let other = world.model("other", 3, chunks(1));
    node.pull(&other.name).await.expect("it comes");
    node.end().await;
    let node = world.start();
    let swept = async |dry_run: bool| {
        let swept = node.handle.sweep(dry_run).await.expect("there is a store");
        swept.into_iter().map(|kept| kept.digest).collect::<Vec<_>>()
    };
    assert_eq!(swept(false).await, [], "it is not known what is pinned");
    node.handle.set_pins(BTreeSet::new());
    assert_eq!(swept(true).await, [], "it is kept still");
    // The looks that the pulls asked for are over then, and the next one is far away.
    sleep(Duration::from_secs(5)).await;
    let (path, _) = world.store().manifest(&new.name).expect("readable").expect("it stands");
    fs::remove_file(path).expect("as a person does");
    assert_eq!(swept(true).await, [old.manifest.digest()]);
    assert_eq!(kept(&node), [old.manifest.digest()], "it was only shown");
    assert_eq!(swept(false).await, [old.manifest.digest()]);
    assert_eq!(kept(&node), []);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn where_the_manifests_are_away_nothing_that_is_kept_goes() {
    let world = still_world();
    let node = world.start();
    let [old, _] = replaced(&world, &node).await;
    // The looks that all this asked for are over then: one just now would see that there is no such folder at all.
    sleep(Duration::from_secs(5)).await;
    let manifests = world.store().root().join("manifests");
    // As it is noted where they have a disk of their own.
    let note = world.store().staging_place().join("keep/manifests");
    fs::write(note, inode(&manifests).to_string()).expect("ours");
    fs::rename(&manifests, world.folder.path().join("away")).expect("ours");
    // As a place where a disk belongs.
    fs::create_dir(&manifests).expect("ours");
    node.handle.look_again();
    sleep(Duration::from_secs(3_600)).await;
    world.clock.advance_ms(2 * HOUR_MS);
    let stays = async || {
        assert_eq!(node.handle.sweep(false).await.expect("there is a store"), []);
        assert_eq!((kept(&node), node.handle.spare_bytes()), (vec![old.manifest.digest()], 0));
    };
    stays().await;
    let other = world.model("other", 3, chunks(1));
    node.pull(&other.name).await.expect("it comes");
    world.clock.advance_ms(2 * HOUR_MS);
    // There is a model, and it is none of those that were there.
    stays().await;
    let folder = world.store().staging_place().join("keep").join(old.manifest.digest().to_string());
    assert!(folder.join(format!("sha256-{}", old.weights.sha256)).exists(), "nobody else has it");
    fs::remove_dir_all(&manifests).expect("ours");
    fs::rename(world.folder.path().join("away"), &manifests).expect("ours");
    assert_eq!(node.handle.sweep(false).await.expect("there is a store"), []);
    assert!(node.handle.spare_bytes() >= chunks(2), "it is sure again");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_local_rm_frees_the_space_at_once_and_with_the_last_model_all_of_it() {
    for is_last in [false, true] {
        let world = still_world();
        let node = world.start();
        let [old, new] = replaced(&world, &node).await;
        if !is_last {
            let other = world.model("other", 3, chunks(1));
            node.pull(&other.name).await.expect("it comes");
        }
        // The looks that all this asked for are over then: one that saw the name gone would free what is counted here.
        sleep(Duration::from_secs(5)).await;
        let blocks = |path: &Path| fs::metadata(path).map_or(0, |found| found.blocks() * 512);
        // All models here have one configuration.
        let config = world.blob(new.manifest.config().expect("it has one").sha256);
        let of_store = blocks(&world.blob(new.weights.sha256)) + if is_last { blocks(&config) } else { 0 };
        let folder = world.store().staging_place().join("keep").join(old.manifest.digest().to_string());
        let of_kept = blocks(&folder.join(format!("sha256-{}", old.weights.sha256)));
        assert!(of_store >= chunks(1) && of_kept >= chunks(2), "{of_store} {of_kept}");

        // Another version than the one that lies there is not meant.
        assert_eq!(node.handle.remove(&new.name, Digest([7; 32])).await.expect("nothing to do"), 0);
        assert!(stands_for(&world, &new) && folder.exists());
        // The runtime does not run: the manifest is taken out by hand.
        world.runtime.set_down(true);
        assert_eq!(node.handle.remove(&new.name, new.manifest.digest()).await.expect("removed"), of_store + of_kept);
        assert!(!node.handle.is_gone(&new.name, new.manifest.digest()).await, "nobody says so");
        assert!(!stands_for(&world, &new) && !world.blob(new.weights.sha256).exists() && aside(&world) == 0);
        assert_eq!(config.exists(), !is_last);
        if is_last {
            world.check_nothing_published();
        }
        assert_eq!(node.handle.remove(&new.name, new.manifest.digest()).await.expect("nothing to do"), 0);
        node.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn where_a_runtime_is_only_slow_the_files_of_a_removed_model_wait_until_it_is_safe() {
    let world = still_world();
    let node = world.start();
    node.handle.set_pins(BTreeSet::new());
    let [gone, other] = [("gone", 1), ("other", 2)].map(|(name, seed)| world.model(name, seed, chunks(1)));
    for model in [&gone, &other] {
        node.pull(&model.name).await.expect("it comes");
    }
    world.runtime.set_mute(true);
    assert_eq!(node.handle.remove(&gone.name, gone.manifest.digest()).await.expect("removed"), 0);
    assert!(!stands_for(&world, &gone) && world.blob(gone.weights.sha256).exists());
    // It found the file before, and names it now.
    let place = world.store().root().join("manifests/registry.ollama.ai/library/found");
    fs::create_dir_all(&place).expect("ours");
    fs::write(place.join("latest"), gone.manifest.bytes()).expect("there is room");
    world.clock.advance_ms(2 * HOUR_MS);
    assert_eq!(node.handle.sweep(false).await.expect("there is a store"), []);
    assert!(world.blob(gone.weights.sha256).exists(), "a model names it");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_on_which_a_pull_counts_stays_when_its_model_is_removed_by_hand() {
    let mut world = still_world();
    world.config = Config { pulls_max: 1, ..world.config };
    let node = world.start();
    node.handle.set_pins(BTreeSet::new());
    let gone = world.model("gone", 1, chunks(2));
    node.pull(&gone.name).await.expect("it comes");
    let sent = world.origin.sent(gone.weights.sha256);
    let alias = world.model("alias", 1, chunks(2));
    let pulls = held_up(&world, &node, &alias).await;
    world.runtime.set_down(true);
    node.handle.remove(&gone.name, gone.manifest.digest()).await.expect("removed");
    assert!(!stands_for(&world, &gone) && world.blob(gone.weights.sha256).exists(), "a pull waits with it");
    go_on(&world, pulls, &alias, sent).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_runs_removes_its_copy_itself() {
    let world = still_world();
    let node = world.start();
    let [old, new] = replaced(&world, &node).await;
    let is_gone = |digest| node.handle.is_gone(&new.name, digest);
    assert!(is_gone(old.manifest.digest()).await && !is_gone(new.manifest.digest()).await);
    node.handle.remove(&new.name, new.manifest.digest()).await.expect("removed");
    assert!(is_gone(new.manifest.digest()).await);
    assert!(world.store().manifest(&new.name).expect("readable").is_none());
    assert!(world.blob(new.weights.sha256).exists(), "the files are the runtime's to remove");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_comes_while_its_name_is_removed_publishes_behind_that() {
    let world = World::new();
    let node = world.start();
    let old = world.model("tiny", 1, chunks(1));
    node.pull(&old.name).await.expect("it comes");
    world.runtime.set_deleting(false);
    let handle = node.handle.clone();
    let mut removing = pin!(handle.remove(&old.name, old.manifest.digest()));
    assert!(timeout(Duration::from_secs(60), &mut removing).await.is_err(), "the runtime was asked and takes its time");

    let new = world.model("tiny", 2, chunks(1));
    let mut pulling = node.ask(&new.name).await.expect("it begins");
    world::until(&mut pulling, |progress| progress.stage == Stage::Publishing).await;
    sleep(Duration::from_secs(60)).await;
    assert!(stands_for(&world, &old), "what is about to be deleted is what was looked at");
    world.runtime.set_deleting(true);
    removing.await.expect("removed");
    result(&mut pulling).await.expect("it comes");
    assert!(stands_for(&world, &new), "nobody meant this one");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_cancels_a_pull_that_waits_for_a_removal_sees_nothing_published() {
    let world = World::new();
    let node = world.start();
    let old = world.model("tiny", 1, chunks(1));
    node.pull(&old.name).await.expect("it comes");
    world.runtime.set_deleting(false);
    let handle = node.handle.clone();
    let mut removing = pin!(handle.remove(&old.name, old.manifest.digest()));
    assert!(timeout(Duration::from_secs(60), &mut removing).await.is_err(), "the runtime was asked and takes its time");
    let new = world.model("tiny", 2, chunks(1));
    let mut pulling = node.ask(&new.name).await.expect("it begins");
    world::until(&mut pulling, |progress| progress.stage == Stage::Publishing).await;
    assert!(node.handle.cancel(&new.name).await, "it is under way");
    world.runtime.set_deleting(true);
    removing.await.expect("removed");
    assert_eq!(result(&mut pulling).await.expect_err("it was cancelled"), PullError::Cancelled);
    assert!(world.store().manifest(&new.name).expect("readable").is_none());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_a_runtime_that_deletes_later_than_it_answers() {
    let world = World::new();
    let node = world.start();
    let old = world.model("tiny", 1, chunks(1));
    node.pull(&old.name).await.expect("it comes");
    world.runtime.set_late(true);
    let handle = node.handle.clone();
    let mut removing = pin!(handle.remove(&old.name, old.manifest.digest()));
    assert!(timeout(Duration::from_secs(7), &mut removing).await.is_err(), "it was asked, and has not done it");
    let (path, _) = world.store().manifest(&old.name).expect("readable").expect("it stands");
    fs::remove_file(path).expect("as the runtime does at last");
    removing.await.expect("removed");

    node.pull(&old.name).await.expect("it comes");
    let mut removing = pin!(handle.remove(&old.name, old.manifest.digest()));
    assert!(timeout(Duration::from_secs(1), &mut removing).await.is_err(), "it was asked");
    // From now on it does not even say in time what it has.
    world.runtime.set_mute(true);
    let ended = timeout(Duration::from_secs(45), &mut removing).await.expect("half a minute is enough");
    let error = ended.expect_err("it never does");
    assert!(matches!(error, PullError::NotRemoved { .. }), "{error}");
    assert!(stands_for(&world, &old));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_for_another_name_stays_when_a_copy_of_the_same_version_goes() {
    let world = still_world();
    let node = world.start();
    let [old, _] = replaced(&world, &node).await;
    let digest = old.manifest.digest();
    let alias = world.model("alias", 1, chunks(2) + 9);
    assert_eq!(alias.manifest.digest(), digest);
    node.pull(&alias.name).await.expect("it comes");
    node.handle.set_pins(BTreeSet::from([digest]));
    node.handle.remove(&alias.name, digest).await.expect("removed");
    assert!(world.store().manifest(&alias.name).expect("readable").is_none());
    assert_eq!(kept(&node), [digest], "it is the way back of a pinned name");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_two_names_stood_for_stays_for_the_one_when_the_other_is_removed() {
    for is_pinned in [false, true] {
        let world = World::new();
        let node = world.start();
        let old = ["alias", "tiny"].map(|name| world.model(name, 1, chunks(2) + 9));
        let digest = old[0].manifest.digest();
        node.handle.set_pins(pinned(is_pinned, digest));
        for model in &old {
            node.pull(&model.name).await.expect("it comes");
        }
        let new = [("alias", 2), ("tiny", 3)].map(|(name, seed)| world.model(name, seed, chunks(1)));
        for model in &new {
            node.pull(&model.name).await.expect("it comes");
        }
        let names = || node.handle.kept().iter().map(|kept| kept.name.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(names(), BTreeSet::from(["alias:latest", "tiny:latest"].map(str::to_owned)));
        // What is pinned stays for both of them.
        node.handle.remove(&new[1].name, new[1].manifest.digest()).await.expect("removed");
        assert_eq!(kept(&node), [digest], "pinned: {is_pinned}");
        assert_eq!(names().contains("tiny:latest"), is_pinned);
        assert!(names().contains("alias:latest"), "it is the way back of that name");
        node.end().await;
    }
}
