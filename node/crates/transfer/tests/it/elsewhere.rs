//! A pull on another node, watched from here.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use ollamax_transfer::{PullError, PullSpec, Stage};
use ollamax_types::{ErrorCode, NodeId};

use crate::world::{Model, Node, World, chunks, result, until_verified};

const THERE: NodeId = NodeId(2);

/// A node that asks, and one that is asked.
struct Pair {
    here: World,
    there: World,
}

// === impl Pair ===

impl Pair {
    fn new() -> Self {
        let mut there = World::new();
        there.node = THERE;
        Self { here: World::new(), there }
    }

    fn start(&self) -> (Node, Node) {
        let (here, there) = (self.here.start(), self.there.start());
        self.here.others.link(THERE, there.handle.clone());
        (here, there)
    }
}

fn spec(model: &Model) -> PullSpec {
    PullSpec { name: model.name.clone(), insecure: false, asked_by: "another node".to_owned() }
}

#[tokio::test(start_paused = true)]
async fn it_is_watched_over_lost_connections_and_restarts() {
    let pair = Pair::new();
    let model = pair.there.model("tiny", 1, chunks(3));
    pair.there.origin.set_limit(chunks(1));
    let (here, there) = pair.start();
    let mut watch = here.handle.pull_at(THERE, spec(&model)).await.expect("it is promised");
    assert_eq!(watch.now().node, THERE);
    until_verified(&mut watch, chunks(1)).await;
    pair.here.others.cut();
    pair.there.origin.set_limit(chunks(2));
    until_verified(&mut watch, chunks(2)).await;

    // The node there starts again, and is not to be reached for a minute.
    pair.here.others.unlink(THERE);
    there.end().await;
    sleep(Duration::from_secs(60)).await;
    assert!(!watch.now().is_over(), "{:?}", watch.now().stage);
    pair.there.origin.set_limit(u64::MAX);
    let there = pair.there.start();
    pair.here.others.link(THERE, there.handle.clone());
    let done = result(&mut watch).await.expect("it comes");
    assert_eq!((done.node, &done.name), (THERE, &model.name));
    pair.there.check_published(&model);
    pair.here.check_nothing_published();
    here.end().await;
    there.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stays_away_is_given_up_and_its_pull_is_not() {
    let pair = Pair::new();
    let model = pair.there.model("tiny", 2, chunks(2));
    pair.there.origin.set_limit(chunks(1));
    let (here, there) = pair.start();
    let mut watch = here.handle.pull_at(THERE, spec(&model)).await.expect("it is promised");
    until_verified(&mut watch, chunks(1)).await;
    pair.here.others.unlink(THERE);
    pair.here.others.cut();
    pair.there.origin.set_limit(u64::MAX);
    let started = Instant::now();
    let error = result(&mut watch).await.expect_err("it is away");
    assert_eq!((error.code(), error.to_string().as_str()), (ErrorCode::PeerUnreachable, "node 2: no connection"));
    assert!(started.elapsed() >= Duration::from_secs(299), "{:?}", started.elapsed());
    pair.there.check_published(&model);
    let refused = here.handle.pull_at(THERE, spec(&model)).await.expect_err("it is away");
    assert_eq!(refused.code(), ErrorCode::PeerUnreachable);
    assert_eq!(here.handle.cancel_at(THERE, &model.name).await, Err(refused));
    here.end().await;
    there.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_there_is_told_here() {
    let pair = Pair::new();
    let model = pair.here.model("only-here", 3, 1_000);
    let (here, there) = pair.start();
    let error = here.handle.pull_at(THERE, spec(&model)).await.expect_err("the registry there has none");
    let text = "node 2: pull model manifest: file does not exist";
    assert_eq!((error.code(), error.to_string().as_str()), (ErrorCode::ModelNotFound, text));
    // The same node needs no connection.
    let mut watch = here.handle.pull_at(NodeId(1), spec(&model)).await.expect("it is promised");
    result(&mut watch).await.expect("it comes");
    assert_eq!(here.handle.cancel_at(NodeId(1), &model.name).await, Ok(false));
    here.end().await;
    there.end().await;
}

#[tokio::test(start_paused = true)]
async fn it_is_cancelled_from_here_and_dropping_the_watch_does_not_cancel_it() {
    let pair = Pair::new();
    let model = pair.there.model("tiny", 4, chunks(2));
    pair.there.origin.set_limit(chunks(1));
    let (here, there) = pair.start();
    let mut watch = here.handle.pull_at(THERE, spec(&model)).await.expect("it is promised");
    drop(here.handle.pull_at(THERE, spec(&model)).await.expect("it is joined"));
    until_verified(&mut watch, chunks(1)).await;
    assert_eq!(there.handle.pulls().len(), 1);
    assert_eq!(here.handle.cancel_at(THERE, &model.name).await, Ok(true));
    assert_eq!(result(&mut watch).await, Err(PullError::Cancelled));
    assert_eq!(there.listed(), []);
    here.end().await;
    there.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_ends_ends_its_watches_and_not_the_pull() {
    let pair = Pair::new();
    let model = pair.there.model("tiny", 5, chunks(2));
    pair.there.origin.set_limit(chunks(1));
    let (here, there) = pair.start();
    let mut watch = here.handle.pull_at(THERE, spec(&model)).await.expect("it is promised");
    until_verified(&mut watch, chunks(1)).await;
    here.end().await;
    assert_eq!(result(&mut watch).await, Err(PullError::Stopping));
    let listed = there.handle.pulls();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].stage, Stage::Fetching);
    there.end().await;
}
