//! What a node gives to machines that are no members: whole files, files on their way, and what it makes its own first.

use std::fs::OpenOptions;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use futures::future::join_all;
use futures::{StreamExt as _, poll};
use tokio::time::{sleep, timeout};

use ollamax_core::catalog::Replicas;
use ollamax_transfer::lab::{Asked, Offered, Pieces};
use ollamax_transfer::mem::MemCluster;
use ollamax_transfer::{Ask, Ledger as _, OriginTrouble, PullError, Stage};
use ollamax_types::limits::PULL_WATCHERS_MAX;
use ollamax_types::{Digest, ErrorCode, NodeId};

use crate::world::{LONG, Model, Node, World, ask_for, chunks, name, result, until_verified};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);
/// So many readers of a file on its way hold a chunk.
const CHUNKS_HELD_MAX: usize = 32;
/// So many wishes stand because machines asked.
const LENT_MAX: usize = 256;
/// Longer than a reader waits for a chunk that is damaged.
const MINUTE: Duration = Duration::from_secs(60);

/// What a machine asks for that the cluster does not have.
fn asked(model: &Model, fetch: bool) -> Asked {
    let (served, holders, asked_by) = (None, Vec::new(), "registry/10.0.0.9".to_owned());
    Asked { name: model.name.clone(), served, holders, fetch, asked_by }
}

/// What a machine asks for that these nodes have.
fn asked_of(model: &Model, holders: &[NodeId]) -> Asked {
    Asked { served: Some(model.manifest.digest()), holders: holders.to_vec(), ..asked(model, true) }
}

async fn manifest(node: &Node, asked: Asked) -> Result<Offered, PullError> {
    timeout(LONG, node.handle.lab().manifest(asked)).await.expect("it answers")
}

async fn given(node: &Node, asked: Asked) -> Digest {
    let offered = manifest(node, asked).await.expect("it is given");
    assert_eq!(ollamax_blobs::Manifest::read(&offered.manifest).expect("one").digest(), offered.digest);
    offered.digest
}

async fn open(node: &Node, model: &Model, range: Range<u64>) -> Pieces {
    node.handle.lab().read(model.weights.sha256, range).await.expect("it is here")
}

/// So many bytes, or what came before it broke off.
async fn take(pieces: &mut Pieces, bytes: usize) -> Result<Vec<u8>, Vec<u8>> {
    let mut taken = Vec::new();
    while taken.len() < bytes {
        match timeout(LONG, pieces.next()).await.expect("it goes on") {
            Some(Ok(piece)) => taken.extend_from_slice(&piece),
            Some(Err(_)) | None => return Err(taken),
        }
    }
    Ok(taken)
}

/// The weights, all of them.
async fn read(node: &Node, model: &Model) -> Vec<u8> {
    let mut pieces = open(node, model, 0..u64::MAX).await;
    let taken = take(&mut pieces, model.bytes.len()).await.expect("whole");
    assert!(timeout(LONG, pieces.next()).await.expect("it ends").is_none());
    taken
}

#[tokio::test(start_paused = true)]
async fn a_file_of_the_store_comes_in_pieces() {
    let world = World::new();
    let model = world.model("tiny", 1, chunks(2) + 9);
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    assert_eq!(given(&node, asked_of(&model, &[ONE])).await, model.manifest.digest());
    assert_eq!(node.handle.lab().size(model.weights.sha256).await, Some(model.weights.size_bytes));
    let size_bytes = model.weights.size_bytes;
    for range in [0..1, 0..size_bytes, 5..700_000, chunks(1) - 1..chunks(1) + 1, size_bytes - 1..size_bytes] {
        let [from, until] = [range.start, range.end].map(|at| usize::try_from(at).expect("small"));
        let taken = take(&mut open(&node, &model, range.clone()).await, until - from).await.expect("whole");
        assert!(taken == model.bytes[from..until], "{range:?}");
    }
    let nothing = Digest([9; 32]);
    assert_eq!(node.handle.lab().size(nothing).await, None);
    assert!(node.handle.lab().read(nothing, 0..1).await.is_none());
    std::fs::remove_file(world.blob(model.weights.sha256)).expect("it is there");
    assert_eq!(node.handle.lab().size(model.weights.sha256).await, None, "somebody removed it");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_comes_as_it_comes() {
    let world = World::new();
    let model = world.model("tiny", 2, chunks(4) + 5);
    world.origin.set_limit(chunks(2));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    assert_eq!(given(&node, asked(&model, false)).await, model.manifest.digest());
    let mut pieces = open(&node, &model, 10..u64::MAX).await;
    let mut last = open(&node, &model, chunks(4)..u64::MAX).await;
    let there = usize::try_from(chunks(2)).expect("small");
    let first = take(&mut pieces, there - 10).await.expect("it is there");
    assert!(first == model.bytes[10..there]);
    timeout(MINUTE, pieces.next()).await.expect_err("nothing more is there");
    timeout(MINUTE, last.next()).await.expect_err("not even the end");
    assert!(node.metric("ollamax_transfer_lab_streams") > 1.0);
    world.origin.set_limit(u64::MAX);
    let rest = take(&mut pieces, model.bytes.len() - there).await.expect("it goes on");
    assert!(rest == model.bytes[there..]);
    assert!(take(&mut last, 5).await.expect("it came") == model.bytes[model.bytes.len() - 5..]);
    drop((pieces, last));
    result(&mut watch).await.expect("it is published");
    assert!(read(&node, &model).await == model.bytes);
    assert!(node.metric("ollamax_transfer_lab_streams") < 1.0);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn ten_who_ask_cost_the_origin_one_file() {
    let world = World::new();
    let model = world.model("tiny", 3, chunks(3));
    let node = world.start();
    let machine = async || {
        given(&node, asked(&model, true)).await;
        read(&node, &model).await
    };
    for taken in join_all((0..10).map(|_| machine())).await {
        assert!(taken == model.bytes);
    }
    assert_eq!((world.origin.sent(model.weights.sha256), world.origin.manifests_asked()), (chunks(3), 1));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_another_node_has_costs_the_origin_nothing() {
    let first = World::new();
    let (peers, origin, cluster) = (first.peers.clone(), first.origin.clone(), first.cluster.clone());
    let second = World { node: TWO, peers, origin, cluster, ..World::new() };
    let model = first.model("tiny", 4, chunks(3) + 1);
    let nodes = [first.start(), second.start()];
    first.peers.link(ONE, nodes[0].handle.clone());
    first.peers.link(TWO, nodes[1].handle.clone());
    nodes[1].pull(&model.name).await.expect("it comes");
    // Nobody wished for it, so no hash of it is on record.
    assert_eq!(given(&nodes[0], asked_of(&model, &[ONE, TWO])).await, model.manifest.digest());
    assert!(read(&nodes[0], &model).await == model.bytes);
    assert_eq!((first.origin.sent(model.weights.sha256), first.origin.manifests_asked()), (chunks(3) + 1, 1));
    assert_eq!(first.cluster.wish(&model.name), None);
    let ended = async {
        let mut watch = nodes[0].handle.watch(&model.name).expect("there was one");
        result(&mut watch).await
    };
    ended.await.expect("it is published");
    first.check_published(&model);
    for node in nodes {
        node.end().await;
    }
}

/// A machine once waited without end for a node that was off.
#[tokio::test(start_paused = true)]
async fn what_only_a_node_has_that_is_off_is_fetched_anew() {
    let cluster = MemCluster::new([ONE, TWO]);
    let first = World { cluster: cluster.clone(), ..World::new() };
    let (peers, origin) = (first.peers.clone(), first.origin.clone());
    let second = World { node: TWO, peers, origin, cluster: cluster.clone(), ..World::new() };
    let model = first.model("tiny", 13, chunks(1));
    let (one, two) = (first.start(), second.start());
    first.peers.link(ONE, one.handle.clone());
    first.peers.link(TWO, two.handle.clone());
    let ask = ask_for(&model.name, Replicas::Nodes(vec![TWO]));
    let mut wish = two.handle.ask(ask).await.expect("it is on record");
    while timeout(LONG, wish.changed()).await.expect("it goes on") {}
    assert!(wish.now().is_held(), "{:?}", wish.now());
    cluster.hold(TWO, &model.name, model.manifest.digest());
    two.end().await;
    first.peers.unlink(TWO);
    assert_eq!(given(&one, asked_of(&model, &[])).await, model.manifest.digest());
    assert!(read(&one, &model).await == model.bytes);
    assert_eq!(first.origin.manifests_asked(), 2);
    let wanted = cluster.wish(&model.name).map(|wish| wish.replicas);
    assert_eq!(wanted, Some(Replicas::Nodes(vec![TWO])), "it is wanted where somebody said");
    one.end().await;
}

/// A machine that asked in vain once took away what a person wanted on nodes that were off.
#[tokio::test(start_paused = true)]
async fn what_people_want_on_other_nodes_stays_whatever_a_machine_asks_for() {
    let cluster = MemCluster::new([ONE, TWO]);
    let world = World { cluster: cluster.clone(), ..World::new() };
    let absent = Model { name: name("absent"), ..world.model("tiny", 20, chunks(1)) };
    let (node, elsewhere) = (world.start(), cluster.ledger(TWO));
    let round = elsewhere.ask(ask_for(&absent.name, Replicas::Nodes(vec![TWO]))).await.expect("it is on record");
    elsewhere.tell(absent.name.clone(), round, PullError::Cancelled).await.expect("it is told");
    let wish = cluster.wish(&absent.name);
    assert!(wish.is_some());
    let error = manifest(&node, asked(&absent, true)).await.expect_err("nobody has it");
    assert_eq!(error.code(), ErrorCode::ModelNotFound, "{error}");
    sleep(MINUTE).await;
    assert_eq!(cluster.wish(&absent.name), wish, "it stays wanted");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_ends_early_breaks_the_stream() {
    let world = World::new();
    let model = world.model("tiny", 5, chunks(3));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    let mut pieces = open(&node, &model, 0..u64::MAX).await;
    assert!(node.handle.cancel(&model.name).await);
    let there = usize::try_from(chunks(1)).expect("small");
    let broken = take(&mut pieces, model.bytes.len()).await.expect_err("it breaks off");
    assert!(broken == model.bytes[..there], "{} bytes", broken.len());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_stays_damaged_is_not_given() {
    let world = World::new();
    let model = world.model("tiny", 6, chunks(3));
    world.origin.set_limit(chunks(2));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(2)).await;
    let part = OpenOptions::new().write(true).open(world.part(model.weights.sha256)).expect("it is there");
    part.write_all_at(b"damaged", 11).expect("written");
    let mut pieces = open(&node, &model, 0..u64::MAX).await;
    assert_eq!(take(&mut pieces, 1).await, Err(Vec::new()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_ends_nothing() {
    let world = World::new();
    let model = world.model("tiny", 7, chunks(3));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    given(&node, asked(&model, true)).await;
    let mut pieces = open(&node, &model, 0..u64::MAX).await;
    take(&mut pieces, 1).await.expect("the first bytes");
    drop(pieces);
    world.origin.set_limit(u64::MAX);
    let mut watch = node.handle.watch(&model.name).expect("there is one");
    result(&mut watch).await.expect("it goes on");
    world.check_published(&model);
    node.end().await;
}

/// Machines that waited once kept people from watching their own wishes.
#[tokio::test(start_paused = true)]
async fn machines_that_wait_leave_places_for_people() {
    let world = World::new();
    let (model, other) = (world.model("tiny", 14, chunks(1)), world.model("other", 15, chunks(1)));
    world.origin.fail_manifests([OriginTrouble::Busy { after_ms: Some(60_000) }]);
    let node = world.start();
    let lab = node.handle.lab();
    let mut waiting: Vec<_> = (0..PULL_WATCHERS_MAX / 2).map(|_| Box::pin(lab.manifest(asked(&model, true)))).collect();
    for machine in &mut waiting {
        assert!(poll!(machine).is_pending());
    }
    let error = manifest(&node, asked(&model, true)).await.expect_err("too many wait");
    assert_eq!(error.code(), ErrorCode::Overloaded, "{error}");
    let ask = Ask { asked_by: "a person".to_owned(), ..ask_for(&other.name, Replicas::Nodes(vec![ONE])) };
    assert!(node.handle.ask(ask).await.is_ok());
    drop(waiting);
    given(&node, asked(&model, true)).await;
    node.end().await;
}

/// Machines that stood still with a chunk each once kept others from a file that lay in the store by then.
#[tokio::test(start_paused = true)]
async fn readers_that_stand_still_keep_nobody_from_the_file_of_the_store() {
    let world = World::new();
    let model = world.model("tiny", 12, chunks(2));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    let mut still = Vec::new();
    for _ in 0..CHUNKS_HELD_MAX {
        let mut pieces = open(&node, &model, 0..u64::MAX).await;
        take(&mut pieces, 1).await.expect("the first bytes");
        still.push(pieces);
    }
    let mut late = open(&node, &model, 0..u64::MAX).await;
    timeout(MINUTE, late.next()).await.expect_err("all places are taken");
    world.origin.set_limit(u64::MAX);
    result(&mut watch).await.expect("it is published");
    let taken = take(&mut late, model.bytes.len()).await.expect("it comes from the store");
    assert!(taken == model.bytes);
    drop(still);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_does_not_exist_until_somebody_has_it() {
    let world = World::new();
    let model = world.model("tiny", 8, chunks(1));
    let other = Model { name: name("other"), ..model.clone() };
    let node = world.start();
    let check = async |asked: Asked| {
        let error = manifest(&node, asked).await.expect_err("nobody has it");
        assert_eq!(error.code(), ErrorCode::ModelNotFound, "{error}");
    };
    check(asked(&model, false)).await;
    assert_eq!(world.origin.manifests_asked(), 0, "nobody wants it to be fetched");
    check(asked(&other, true)).await;
    // That it failed is on record by then.
    sleep(MINUTE).await;
    world.origin.put_manifest(other.name.clone(), other.manifest.bytes().to_vec());
    assert_eq!(given(&node, asked(&other, true)).await, other.manifest.digest(), "it is asked for again");
    node.end().await;
}

/// Names that do not exist once stayed on record for good, until nobody could wish for anything.
#[tokio::test(start_paused = true)]
async fn a_wish_that_comes_to_nothing_is_taken_back() {
    let world = World::new();
    let model = world.model("tiny", 16, chunks(1));
    let [waits, leaves] = ["waits", "leaves"].map(|text| Model { name: name(text), ..model.clone() });
    let node = world.start();
    let error = manifest(&node, asked(&waits, true)).await.expect_err("nobody has it");
    assert_eq!(error.code(), ErrorCode::ModelNotFound);
    let lab = node.handle.lab();
    let mut left = Box::pin(lab.manifest(asked(&leaves, true)));
    assert!(poll!(&mut left).is_pending());
    drop(left);
    given(&node, asked(&model, true)).await;
    for name in [&waits.name, &leaves.name, &model.name] {
        assert!(world.cluster.wish(name).is_some(), "{name}");
    }
    sleep(MINUTE).await;
    for name in [&waits.name, &leaves.name] {
        assert_eq!(world.cluster.wish(name), None, "{name}");
    }
    assert!(world.cluster.wish(&model.name).is_some(), "what came is still wished");
    node.end().await;
}

/// A machine that asked for one name after the other once left no wish for people.
#[tokio::test(start_paused = true)]
async fn machines_leave_wishes_for_people() {
    let cluster = MemCluster::new([ONE, TWO]);
    let world = World { cluster: cluster.clone(), ..World::new() };
    let (model, other) = (world.model("tiny", 18, chunks(1)), world.model("other", 19, chunks(1)));
    let (node, elsewhere) = (world.start(), cluster.ledger(TWO));
    for number in 0..LENT_MAX {
        let ask = ask_for(&name(&format!("m{number}")), Replicas::Nodes(vec![TWO]));
        let ask = Ask { asked_by: "registry/10.0.0.8".to_owned(), ..ask };
        elsewhere.ask(ask).await.expect("it is on record");
    }
    let error = manifest(&node, asked(&model, true)).await.expect_err("that is one too many");
    assert_eq!(error.code(), ErrorCode::QuotaExceeded, "{error}");
    assert_eq!(cluster.wish(&model.name), None);
    node.pull(&other.name).await.expect("people may have more");
    assert!(elsewhere.forget(name("m0")).await.expect("it is taken back"));
    assert_eq!(given(&node, asked(&model, true)).await, model.manifest.digest());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_only_what_is_here_is_given() {
    let world = World::new();
    let (here, other) = (world.model("tiny", 9, chunks(1)), world.model("other", 10, chunks(1)));
    let node = world.start();
    node.pull(&here.name).await.expect("it comes");
    world.cluster.set_quorum(false);
    given(&node, asked_of(&here, &[ONE])).await;
    assert!(read(&node, &here).await == here.bytes);
    let error = manifest(&node, asked(&other, true)).await.expect_err("nobody can decide it");
    assert_eq!(error.code(), ErrorCode::NoQuorum);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_knows_no_wishes_pulls_on_the_node_that_is_asked() {
    let world = World::new();
    let model = world.model("tiny", 11, chunks(2));
    world.cluster.set_version(3);
    let node = world.start();
    assert_eq!(given(&node, asked(&model, true)).await, model.manifest.digest());
    assert!(read(&node, &model).await == model.bytes);
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(2));
    let stages: Vec<Stage> = node.listed().into_iter().map(|(_, stage)| stage).collect();
    assert!(!stages.iter().any(|stage| matches!(stage, Stage::Failed(_))), "{stages:?}");
    node.end().await;
}
