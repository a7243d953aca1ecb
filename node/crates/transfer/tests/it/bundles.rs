//! Models that leave a node in a file and come to another one from it.

use std::fs;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::time::timeout;

use ollamax_transfer::{ComeOrder, Config, Leaving, PullError, PullProgress, Source};
use ollamax_types::{Digest, ErrorCode, ModelName};

use crate::world::{LONG, Model, Node, World, chunks, name, result, until_verified};

async fn leave(node: &Node, name: &ModelName) -> Result<Leaving, PullError> {
    timeout(LONG, node.handle.leave(name, None)).await.expect("it answers")
}

async fn rest(leaving: &mut Leaving) -> Result<Vec<u8>, PullError> {
    let mut all = Vec::new();
    while let Some(piece) = timeout(LONG, leaving.bytes.next()).await.expect("it goes on") {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

async fn exported(node: &Node, name: &ModelName) -> Vec<u8> {
    let mut leaving = leave(node, name).await.expect("it is here");
    let bytes = rest(&mut leaving).await.expect("it is whole");
    assert_eq!(bytes.len() as u64, leaving.length_bytes);
    bytes
}

/// A model of three chunks and some bytes, and its bundle, made at another site.
async fn made(text: &str, seed: u64) -> (Model, Vec<u8>) {
    let world = World::new();
    let model = world.model(text, seed, chunks(3) + 9);
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    let bundle = exported(&node, &model.name).await;
    node.end().await;
    (model, bundle)
}

fn pieces(bytes: &[u8]) -> BoxStream<'static, io::Result<Bytes>> {
    let pieces: Vec<io::Result<Bytes>> = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces).boxed()
}

async fn import(node: &Node, bytes: &[u8], order: ComeOrder) -> Result<Arc<PullProgress>, PullError> {
    let mut watch = timeout(LONG, node.handle.come(pieces(bytes), order)).await.expect("it answers")?;
    result(&mut watch).await
}

fn order() -> ComeOrder {
    ComeOrder { asked_by: "a test".to_owned(), ..ComeOrder::default() }
}

fn told(error: &PullError) -> (ErrorCode, String) {
    (error.code(), error.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_model_goes_from_one_site_to_another_and_no_registry_is_asked() {
    let (model, bundle) = made("tiny", 1).await;
    let world = World::new();
    let node = world.start();
    let done = import(&node, &bundle, order()).await.expect("it comes");
    assert_eq!((done.digest, done.name.clone()), (Some(model.manifest.digest()), model.name.clone()));
    assert_eq!(done.sources.len(), 1);
    assert_eq!((&done.sources[0].source, done.sources[0].bytes), (&Source::Bundle, model.manifest.size_bytes()));
    assert_eq!((world.origin.manifests_asked(), world.origin.asked()), (0, vec![]));
    world.check_published(&model);
    assert_eq!(node.listed(), []);
    // It leaves again without being read twice, and is the same bundle.
    assert!(exported(&node, &name("TINY")).await == bundle, "another bundle");
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), 0.0);
    // What is here already costs nothing.
    let again = import(&node, &bundle, order()).await.expect("it is here");
    assert_eq!(again.sources[0].source, Source::Here);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_the_wanted_one_does_not_leave() {
    let world = World::new();
    let model = world.model("tiny", 1, chunks(1) + 9);
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    let (here, wanted) = (model.manifest.digest(), Digest([7; 32]));
    let left = |wanted| timeout(LONG, node.handle.leave(&model.name, Some(wanted)));
    assert_eq!(left(here).await.expect("it answers").expect("it is here").digest, here);
    let error = left(wanted).await.expect("it answers").expect_err("it is another");
    let text = format!("version {} of tiny:latest is on this node, and not {}", here.short(), wanted.short());
    assert_eq!(told(&error), (ErrorCode::DigestConflict, text));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_nobody_hashed_leaves_as_the_same_bundle() {
    let (model, bundle) = made("tiny", 1).await;
    let world = World::new();
    let node = world.start();
    import(&node, &bundle, order()).await.expect("it comes");
    for tree in fs::read_dir(world.folder.path().join("data/transfer/trees")).expect("they are kept") {
        fs::remove_file(tree.expect("readable").path()).expect("ours");
    }
    assert!(exported(&node, &model.name).await == bundle, "another bundle");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_ends_too_early_leaves_nothing_visible_and_goes_on_the_next_time() {
    let (model, bundle) = made("tiny", 2).await;
    let world = World::new();
    let node = world.start();
    let half = &bundle[..bundle.len() / 2];
    let error = import(&node, half, order()).await.expect_err("it is cut");
    let sha256 = model.weights.sha256;
    let text = format!("the bundle ends too early: at byte {}, in blobs/sha256-{sha256}", half.len());
    assert_eq!(told(&error), (ErrorCode::DigestMismatch, text));
    world.check_nothing_published();
    assert!(world.part(sha256).exists(), "what came is kept");
    assert_eq!(world.jobs(), [""; 0], "nobody goes on with it alone");
    import(&node, &bundle, order()).await.expect("it comes");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_bundle_is_named_and_nothing_of_it_is_visible() {
    let (model, mut bundle) = made("tiny", 3).await;
    let at = bundle.len() - usize::try_from(chunks(1)).expect("small") - 5_000;
    bundle[at] ^= 1;
    let world = World::new();
    let node = world.start();
    let text = format!("piece 1 of {} is damaged", model.weights.sha256);
    for only_check in [true, false] {
        let error = import(&node, &bundle, ComeOrder { only_check, ..order() }).await.expect_err("damaged");
        assert_eq!(told(&error), (ErrorCode::DigestMismatch, text.clone()));
        world.check_nothing_published();
    }
    bundle[at] ^= 1;
    import(&node, &bundle, order()).await.expect("it comes");
    world.check_published(&model);
    let error = import(&node, b"GGUF", order()).await.expect_err("another file");
    let text = "this is no bundle: it is no file of tar, or its front is damaged";
    assert_eq!(told(&error), (ErrorCode::BadRequest, text.to_owned()));
    node.end().await;
}

/// The same bundle without the hashes of the pieces, as a bundle may be.
fn without_trees(bundle: &[u8]) -> Vec<u8> {
    let is_tree = |block: &[u8]| block.starts_with(b"ollamamax/trees/");
    let at = bundle.chunks(512).position(is_tree).expect("there is one");
    // Its head, and one block of hashes.
    [&bundle[..at * 512], &bundle[(at + 2) * 512..]].concat()
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_another_as_a_whole_is_not_built_upon() {
    let (model, bundle) = made("tiny", 13).await;
    let mut bundle = without_trees(&bundle);
    let at = bundle.len() - usize::try_from(chunks(1)).expect("small") - 5_000;
    bundle[at] ^= 1;
    let world = World::new();
    let node = world.start();
    let error = import(&node, &bundle, order()).await.expect_err("another file");
    assert_eq!(error.code(), ErrorCode::DigestMismatch);
    let text = format!("{} is not what its name says: its bytes make ", model.weights.sha256);
    assert!(error.to_string().starts_with(&text), "{error}");
    assert!(!world.part(model.weights.sha256).exists(), "it went");
    world.check_nothing_published();
    bundle[at] ^= 1;
    import(&node, &bundle, order()).await.expect("it comes");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_check_writes_nothing() {
    let (model, bundle) = made("tiny", 4).await;
    let world = World::new();
    let node = world.start();
    let done = import(&node, &bundle, ComeOrder { only_check: true, ..order() }).await.expect("it is whole");
    assert_eq!((done.digest, done.verified_bytes()), (Some(model.manifest.digest()), model.manifest.size_bytes()));
    world.check_nothing_published();
    assert!(!world.store().staging_place().exists(), "no folder was made");
    assert_eq!(node.listed(), []);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_bundle_that_does_not_fit_is_refused_before_a_byte_is_written() {
    let (model, bundle) = made("tiny", 5).await;
    let mut world = World::new();
    // No disk has so much to spare.
    world.config = Config { spare_bytes_min: 1 << 60, ..world.config };
    let node = world.start();
    let error = import(&node, &bundle, order()).await.expect_err("too little room");
    assert!(error.to_string().starts_with(&format!("not enough room for {}", model.name)), "{error}");
    assert_eq!(error.code(), ErrorCode::DiskFull);
    assert_eq!(world.staged(), [""; 0]);
    world.check_nothing_published();
    node.end().await;
}

/// Time runs: a paused clock stands while a thread waits for bytes.
#[tokio::test]
async fn a_bundle_that_hangs_can_be_cancelled_and_does_not_keep_the_node_from_ending() {
    let (model, bundle) = made("tiny", 6).await;
    let world = World::new();
    let node = world.start();
    let hangs = || pieces(&bundle[..bundle.len() / 2]).chain(stream::pending()).boxed();
    let mut watch = node.handle.come(hangs(), order()).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    let refused = node.handle.come(pieces(&bundle), order()).await.expect_err("it is on its way");
    let text = "a pull of tiny:latest is under way; wait for its end, or cancel it";
    assert_eq!(told(&refused), (ErrorCode::PreconditionFailed, text.to_owned()));
    assert!(node.handle.cancel(&model.name).await);
    assert_eq!(result(&mut watch).await.expect_err("it was cancelled"), PullError::Cancelled);
    world.check_nothing_published();
    let mut watch = node.handle.come(hangs(), order()).await.expect("it begins");
    let checked = ComeOrder { only_check: true, ..order() };
    let mut check = node.handle.come(hangs(), checked).await.expect("it begins");
    until_verified(&mut watch, chunks(1)).await;
    until_verified(&mut check, chunks(1)).await;
    node.end().await;
    let error = result(&mut watch).await.expect_err("the node ended");
    let text = "this node is stopping; import the bundle again when it has started";
    assert_eq!(told(&error), (ErrorCode::Draining, text.to_owned()));
    assert!(result(&mut check).await.is_err());
    assert_eq!(world.jobs(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn another_version_gives_way_only_when_it_is_asked_to() {
    let (model, bundle) = made("tiny", 7).await;
    let world = World::new();
    let older = world.model("tiny", 8, chunks(1));
    let node = world.start();
    node.pull(&older.name).await.expect("it comes");
    let error = import(&node, &bundle, order()).await.expect_err("another version");
    let digest = older.manifest.digest().short();
    let text = format!("tiny:latest is another version here ({digest}), and the bundle does not replace it");
    assert_eq!(told(&error), (ErrorCode::DigestConflict, text));
    world.check_published(&older);
    let elsewhere = ComeOrder { name: Some(name("other")), ..order() };
    import(&node, &bundle, elsewhere).await.expect("it has its own name");
    world.check_published(&older);
    world.check_published(&Model { name: name("other"), ..model.clone() });
    import(&node, &bundle, ComeOrder { replace: true, ..order() }).await.expect("it gives way");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_removed_meanwhile_still_leaves_whole() {
    let (model, bundle) = made("tiny", 9).await;
    let world = World::new();
    let node = world.start();
    import(&node, &bundle, order()).await.expect("it comes");
    let mut leaving = leave(&node, &model.name).await.expect("it is here");
    let first = leaving.bytes.next().await.expect("a piece").expect("sound");
    let (path, _) = world.store().manifest(&model.name).expect("readable").expect("it is here");
    fs::remove_file(path).expect("it is there");
    fs::remove_file(world.blob(model.weights.sha256)).expect("it is there");
    let rest = rest(&mut leaving).await.expect("it is whole");
    assert!([&first[..], &rest].concat() == bundle, "another bundle");
    let error = leave(&node, &model.name).await.expect_err("it is gone");
    assert_eq!(told(&error), (ErrorCode::ModelNotFound, "tiny:latest is not on this node".to_owned()));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_model_does_not_leave() {
    let (model, bundle) = made("tiny", 10).await;
    let world = World::new();
    let node = world.start();
    import(&node, &bundle, order()).await.expect("it comes");
    let mut changed = model.bytes.clone();
    changed[77] ^= 1;
    fs::write(world.blob(model.weights.sha256), changed).expect("ours");
    let error = leave(&node, &model.name).await.expect_err("it is damaged");
    assert_eq!(error.code(), ErrorCode::DigestMismatch);
    let text = format!("{} is not what its name says: its bytes make ", model.weights.sha256);
    assert!(error.to_string().starts_with(&text), "{error}");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn bundles_are_bounded_and_whoever_leaves_makes_room() {
    let (model, bundle) = made("tiny", 11).await;
    let world = World::new();
    let node = world.start();
    import(&node, &bundle, order()).await.expect("it comes");
    let mut held = Vec::new();
    let refused = loop {
        match leave(&node, &model.name).await {
            Ok(leaving) => held.push(leaving),
            Err(error) => break error,
        }
    };
    assert_eq!(held.len(), 8);
    let text = "8 bundles are read and written already, which is the limit";
    assert_eq!(told(&refused), (ErrorCode::Overloaded, text.to_owned()));
    drop(held.pop());
    // Its thread ends soon.
    let taken = loop {
        match leave(&node, &model.name).await {
            Ok(leaving) => break leaving,
            Err(error) => assert_eq!(error, refused),
        }
        tokio::task::yield_now().await;
    };
    drop((held, taken));
    node.end().await;
}
