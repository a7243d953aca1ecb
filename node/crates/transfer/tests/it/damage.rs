//! Disks that give back other bytes than they were given: found when a file is read again, and mended from where there
//! is a sound one.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, interval, sleep, timeout};

use ollamax_blobs::{Index, Indexed};
use ollamax_transfer::mem::{Fault, MemCluster, MemOrigin, MemPeers};
use ollamax_transfer::{OriginTrouble, PullError, Sight, VerifyNews, VerifyOrder};
use ollamax_types::{Clock, DAY_MS, NodeId, Timestamp};

use crate::world::{LONG, Model, Node, World, chunks, name};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
/// Longer than what is due takes.
const SOON: Duration = Duration::from_secs(300);
/// The file of weights has three pieces; the last one is short.
const WEIGHTS_BYTES: u64 = chunks(2) + 1_000;
/// Monday, 5 January 1970, noon in UTC.
const MONDAY_NOON: Timestamp = Timestamp((4 * 24 + 12) * 3_600_000);
/// In the second piece.
const AT: u64 = chunks(1) + 77;

/// A node alone, with a model that it has pulled, and that it has ended since.
async fn pulled(world: &World) -> Model {
    let model = world.model("tiny", 7, WEIGHTS_BYTES);
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    node.end().await;
    model
}

/// Turns a bit of the weights as a disk does it: to the system it is the same file. The node has ended.
fn rot(world: &World, model: &Model) {
    let path = world.blob(model.weights.sha256);
    let mut bytes = fs::read(&path).expect("it is there");
    bytes[usize::try_from(AT).expect("small")] ^= 1;
    fs::write(&path, bytes).expect("room");
    let identity = world.store().blob(model.weights).expect("readable").expect("it is there").identity;
    let index = index(world);
    let tree = index.get(model.weights.sha256).expect("readable").expect("it was hashed").tree;
    index.put(model.weights.sha256, &Indexed { identity, tree }).expect("room");
}

/// The weights were read so many days ago.
fn age(world: &World, model: &Model, days: u64) {
    let then = world.clock.now().0 - days * DAY_MS;
    index(world).note_checked(model.weights.sha256, Timestamp(then)).expect("ours");
}

fn index(world: &World) -> Index {
    Index::open(&world.folder.path().join("data/transfer/trees")).expect("it opens")
}

/// What of its damaged pieces lies aside.
fn aside(world: &World) -> Vec<String> {
    let Ok(entries) = fs::read_dir(world.folder.path().join("data/transfer/damaged")) else { return Vec::new() };
    entries.map(|entry| entry.expect("readable").file_name().into_string().expect("text")).collect()
}

/// Whether this process has the file open, removed or not.
fn is_open(path: &Path) -> bool {
    let open = fs::read_dir("/proc/self/fd").expect("the system tells");
    let mut links = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.any(|link| link.to_string_lossy().starts_with(&*path.to_string_lossy()))
}

/// Waits until something is so of which nobody gives news.
async fn until_so(within: Duration, is_so: impl Fn() -> bool) {
    let seen = async {
        let mut looks = interval(Duration::from_millis(100));
        while !is_so() {
            looks.tick().await;
        }
    };
    timeout(within, seen).await.expect("it comes to that");
}

async fn until_metric(node: &Node, metric: &str, value: f64) {
    until_so(LONG, || node.metric(metric) >= value).await;
    assert_eq!(node.metric(metric), value);
}

async fn until_scanned(node: &Node) {
    let mut adopted = node.handle.adopted();
    timeout(LONG, adopted.wait_for(|adopted| adopted.scanned)).await.expect("in time").expect("the node runs");
}

/// The last word on each file, the weights last.
async fn verify(node: &Node, repair: bool) -> Vec<VerifyNews> {
    until_scanned(node).await;
    let order = VerifyOrder { name: Some(name("tiny")), repair };
    let news: Vec<_> = timeout(LONG, node.handle.verify(order).collect()).await.expect("it ends");
    let mut files: Vec<VerifyNews> =
        news.into_iter().map(|news| news.expect("it is read")).filter(|news| news.sight.is_some()).collect();
    files.sort_unstable_by_key(|news| news.blob.size_bytes);
    files
}

#[tokio::test(start_paused = true)]
async fn a_flipped_byte_is_found_in_its_time_and_only_its_piece_comes_from_another_node() {
    let (peers, origin, cluster) = (MemPeers::default(), MemOrigin::default(), MemCluster::new([ONE, TWO]));
    let world = |node: NodeId| {
        let (cluster, peers, origin) = (cluster.clone(), peers.clone(), origin.clone());
        World { node, cluster, peers, origin, ..World::new() }
    };
    let (sound, rotten) = (world(ONE), world(TWO));
    let model = pulled(&sound).await;
    pulled(&rotten).await;
    rot(&rotten, &model);
    age(&rotten, &model, 31);
    [ONE, TWO].iter().for_each(|node| cluster.hold(*node, &model.name, model.manifest.digest()));
    let before = fs::metadata(rotten.blob(model.weights.sha256)).expect("it is there");
    let sent = origin.sent(model.weights.sha256);

    let one = sound.start();
    peers.link(ONE, one.handle.clone());
    let two = rotten.start();
    until_metric(&two, "ollamax_blobs_repairs_total", 1.0).await;
    rotten.check_published(&model);
    let after = fs::metadata(rotten.blob(model.weights.sha256)).expect("it is there");
    assert_ne!(after.ino(), before.ino(), "whoever has the old file open keeps it");
    assert_eq!((after.uid(), after.gid(), after.mode()), (before.uid(), before.gid(), before.mode()));
    assert_eq!(peers.sent_bytes(ONE), chunks(1), "the others are good");
    assert_eq!(origin.sent(model.weights.sha256), sent, "nobody asks it");
    assert_eq!(aside(&rotten), [format!("sha256-{}.1", model.weights.sha256)]);
    let mut adopted = two.handle.adopted();
    let seen = adopted.wait_for(|adopted| adopted.suspect.is_empty() && adopted.left_bytes == 0);
    timeout(LONG, seen).await.expect("it is seen").expect("the node runs");
    assert_eq!(two.handle.suspect_files(), 0);
    assert_eq!(verify(&two, false).await[1].sight, Some(Sight::Sound));
    one.end().await;
    two.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_nobody_has_stays_suspect_and_is_asked_for_again_later() {
    let world = World::new();
    let model = pulled(&world).await;
    rot(&world, &model);
    age(&world, &model, 31);
    world.origin.fail([Fault::Instead(OriginTrouble::Absent), Fault::Instead(OriginTrouble::Absent)]);
    let node = world.start();
    until_metric(&node, "ollamax_blobs_repairs_total", 1.0).await;
    let started = Instant::now();
    assert_eq!(node.handle.suspect_files(), 1);
    assert!(fs::read(world.blob(model.weights.sha256)).expect("it stays") != model.bytes);
    assert_eq!(world.staged(), Vec::<String>::new(), "no room is taken meanwhile");
    until_metric(&node, "ollamax_blobs_repairs_total", 3.0).await;
    let took = started.elapsed();
    assert!((Duration::from_secs(1_790)..Duration::from_secs(1_830)).contains(&took), "{took:?}");
    world.check_published(&model);
    assert_eq!(world.origin.sent(model.weights.sha256), WEIGHTS_BYTES + chunks(1), "one piece was missing");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_again_as_soon_as_it_was_mended_waits_before_it_is_mended_again() {
    let world = World::new();
    let model = pulled(&world).await;
    rot(&world, &model);
    age(&world, &model, 31);
    let node = world.start();
    until_metric(&node, "ollamax_blobs_repairs_total", 1.0).await;
    let started = Instant::now();
    rot(&world, &model);
    // Two looks at the store.
    sleep(Duration::from_secs(130)).await;
    assert_eq!(verify(&node, false).await[1].sight, Some(Sight::Damaged { pieces: vec![1] }));
    until_metric(&node, "ollamax_blobs_repairs_total", 2.0).await;
    let took = started.elapsed();
    assert!((Duration::from_secs(590)..Duration::from_secs(660)).contains(&took), "{took:?}");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_limits_let_nothing_come_nothing_is_mended_and_then_it_is() {
    let mut world = World::new();
    world.clock = Clock::manual(MONDAY_NOON);
    let model = pulled(&world).await;
    rot(&world, &model);
    let closed = "mon-fri 08:00-18:00 off".to_owned();
    (world.config.limit_origin, world.config.limit_receive) = (closed.clone(), closed);
    let node = world.start();
    assert_eq!(verify(&node, true).await[1].repaired, Some(false));
    sleep(SOON).await;
    assert_eq!((node.handle.suspect_files(), node.metric("ollamax_blobs_repairs_total")), (1, 1.0));
    assert_eq!(world.staged(), Vec::<String>::new(), "no room is taken meanwhile");
    world.clock.advance_ms(6 * 3_600_000);
    until_metric(&node, "ollamax_blobs_repairs_total", 2.0).await;
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_for_a_file_that_is_a_link() {
    let world = World::new();
    let model = pulled(&world).await;
    let (path, elsewhere) = (world.blob(model.weights.sha256), world.folder.path().join("elsewhere"));
    fs::rename(&path, &elsewhere).expect("the same disk");
    symlink(&elsewhere, &path).expect("room");
    rot(&world, &model);
    let node = world.start();
    let files = verify(&node, true).await;
    assert_eq!(files[1].sight, Some(Sight::Damaged { pieces: vec![1] }));
    assert_eq!(files[1].repaired, Some(false));
    sleep(SOON).await;
    assert_eq!(world.origin.sent(model.weights.sha256), WEIGHTS_BYTES, "nobody asks it");
    assert!(fs::symlink_metadata(&path).expect("it is there").is_symlink());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_forbids_repairs_keeps_the_file_as_it_is() {
    let mut world = World::new();
    world.config.repair = false;
    let model = pulled(&world).await;
    rot(&world, &model);
    let node = world.start();
    let files = verify(&node, true).await;
    let found = (files[1].sight.clone(), files[1].repaired);
    assert_eq!(found, (Some(Sight::Damaged { pieces: vec![1] }), None));
    assert_eq!((files[0].sight.clone(), files[0].repaired), (Some(Sight::Sound), None));
    sleep(SOON).await;
    assert_eq!((node.handle.suspect_files(), node.metric("ollamax_blobs_repairs_total")), (1, 0.0));
    assert!(fs::read(world.blob(model.weights.sha256)).expect("it stays") != model.bytes);
    assert_eq!(world.origin.sent(model.weights.sha256), WEIGHTS_BYTES);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_has_read_again_is_mended_before_it_is_told() {
    let world = World::new();
    let model = pulled(&world).await;
    rot(&world, &model);
    let node = world.start();
    let files = verify(&node, true).await;
    assert_eq!(files[1].sight, Some(Sight::Damaged { pieces: vec![1] }));
    assert_eq!(files[1].repaired, Some(true));
    world.check_published(&model);
    // A file without a tree is hashed instead.
    node.end().await;
    index(&world).remove(model.weights.sha256).expect("ours");
    let node = world.start();
    assert_eq!(verify(&node, true).await[1].sight, Some(Sight::Sound));
    node.end().await;
    assert!(index(&world).get(model.weights.sha256).expect("readable").is_some(), "its tree is on record");
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_of_a_file_is_mended_with_it() {
    let world = World::new();
    let model = pulled(&world).await;
    let digest = model.manifest.digest();
    let node = world.start();
    node.handle.set_pins(BTreeSet::from([digest]));
    until_so(LONG, || !node.handle.kept().is_empty()).await;
    node.end().await;
    rot(&world, &model);
    let kept = world.store().staging_place().join(format!("keep/{digest}/sha256-{}", model.weights.sha256));
    assert!(fs::read(&kept).expect("it is kept") != model.bytes, "it is the same file");
    let node = world.start();
    until_so(LONG, || !node.handle.kept().is_empty()).await;
    assert_eq!(verify(&node, true).await[1].repaired, Some(true));
    assert!(fs::read(&kept).expect("it is kept") == model.bytes, "other bytes");
    // Its name stands for it no more, and it is offered as it was before.
    let (path, _) = world.store().manifest(&model.name).expect("readable").expect("it stands");
    fs::remove_file(path).expect("as a person does");
    fs::remove_file(world.blob(model.weights.sha256)).expect("as a runtime does");
    let (size_bytes, hashes) = node.handle.hashes(model.weights.sha256).await.expect("its tree is there");
    assert_eq!((size_bytes, hashes.len()), (WEIGHTS_BYTES, 3 * 32));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_half_written_damages_no_file_of_a_model() {
    let world = World::new();
    pulled(&world).await;
    let place = world.store().root().join("manifests/registry.ollama.ai/library/stray");
    fs::create_dir_all(&place).expect("there is room");
    fs::write(place.join("latest"), "").expect("as a power cut leaves it");
    let node = world.start();
    until_scanned(&node).await;
    assert_eq!((node.handle.suspect_files(), node.handle.damaged_manifests()), (0, vec![name("stray")]));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn only_the_models_of_this_node_are_read_and_not_for_too_many_at_once() {
    let world = World::new();
    pulled(&world).await;
    let node = world.start();
    until_scanned(&node).await;
    let order = |text: &str| VerifyOrder { name: Some(name(text)), repair: false };
    let first = node.handle.verify(order("absent")).next().await;
    assert_eq!(first, Some(Err(PullError::NotHere { name: name("absent") })));
    let held = [(); 4].map(|()| node.handle.verify(order("tiny")));
    let more = node.handle.verify(order("tiny")).next().await;
    assert_eq!(more, Some(Err(PullError::TooManyChecks(4))));
    drop(held);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_to_listen_ends_the_mending_too() {
    let world = World::new();
    let model = pulled(&world).await;
    rot(&world, &model);
    world.origin.set_limit(0);
    let node = world.start();
    until_scanned(&node).await;
    let order = |repair: bool| VerifyOrder { name: Some(name("tiny")), repair };
    let mending = node.handle.verify(order(true));
    until_so(LONG, || !world.staged().is_empty()).await;
    sleep(Duration::from_secs(1)).await;
    let three = [(); 3].map(|()| node.handle.verify(order(false)));
    let more = node.handle.verify(order(false)).next().await;
    assert_eq!(more, Some(Err(PullError::TooManyChecks(4))), "it is at it");
    drop((three, mending));
    sleep(Duration::from_secs(1)).await;
    for mut news in [(); 4].map(|()| node.handle.verify(order(false))) {
        assert!(matches!(news.next().await, Some(Ok(_))), "its place is free");
    }
    // The node gives up by itself too, and nothing lies there until it tries again.
    until_so(Duration::from_secs(120), || world.staged().is_empty()).await;
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_is_read_again_after_its_days_and_not_twice_over_a_restart() {
    let check = async |days: u32, age_days: u64, read_bytes: u64| {
        let mut world = World::new();
        world.config.scrub_days = days;
        let model = pulled(&world).await;
        age(&world, &model, age_days);
        for bytes in [read_bytes, 0] {
            let node = world.start();
            sleep(SOON).await;
            let found = node.metric("ollamax_blobs_scrubbed_bytes_total");
            assert_eq!(found, bytes as f64, "{days} days, {age_days} days ago");
            assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), 0.0);
            node.end().await;
        }
    };
    check(30, 31, WEIGHTS_BYTES).await;
    check(30, 29, 0).await;
    check(0, 999, 0).await;
}

#[tokio::test(start_paused = true)]
async fn reading_again_keeps_to_its_rate() {
    let mut world = World::new();
    world.config.scrub_bytes_per_second_max = chunks(1) / 30;
    let model = pulled(&world).await;
    age(&world, &model, 31);
    let (started, node) = (Instant::now(), world.start());
    until_metric(&node, "ollamax_blobs_scrubbed_bytes_total", WEIGHTS_BYTES as f64).await;
    let took = started.elapsed();
    // The first piece needs no wait.
    assert!((Duration::from_secs(60)..Duration::from_secs(62)).contains(&took), "{took:?}");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_user_removes_while_it_is_read_again_takes_no_room() {
    let mut world = World::new();
    // Five minutes for each piece.
    world.config.scrub_bytes_per_second_max = chunks(1) / 300;
    let model = pulled(&world).await;
    age(&world, &model, 31);
    let node = world.start();
    until_metric(&node, "ollamax_blobs_scrubbed_bytes_total", chunks(1) as f64).await;
    let path = world.blob(model.weights.sha256);
    assert!(is_open(&path), "it is being read");
    let (manifest, _) = world.store().manifest(&model.name).expect("readable").expect("it is published");
    [&manifest, &path].iter().for_each(|path| fs::remove_file(path).expect("ours"));
    // Two looks at the store.
    sleep(Duration::from_secs(130)).await;
    assert!(!is_open(&path));
    node.end().await;
}
