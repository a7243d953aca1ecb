//! What is held of a snapshot after an attempt that failed.

use std::fs;
use std::path::Path;

use futures::future::{BoxFuture, FutureExt};

use ollamax_core::catalog::{CLUSTER_VERSION, Command};
use ollamax_types::RequestId;

use crate::alone::{Alone, CLUSTER};
use crate::raft::snapshot::label;

use super::*;

/// What an offer is answered; whatever is sent afterwards arrives, and the answer is lost.
#[derive(Debug, Clone, Copy)]
enum Receiver {
    /// It has nothing yet.
    HasNothing,
    /// Its release does not know the question.
    IsOlder,
    /// It has no room.
    IsFull,
}

impl Peers for Receiver {
    fn call(&self, _: NodeId, _: Lane, _: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        let refused = |code| Err(PeerError::Refused { code, message: String::new() });
        let answer = match self {
            Self::HasNothing => Ok(wire::encode_reply(Reply::SnapshotFrom(Vec::new()), CLUSTER_VERSION)),
            Self::IsOlder => refused(ErrorCode::BadRequest),
            Self::IsFull => refused(ErrorCode::DiskFull),
        };
        async move { answer }.boxed()
    }

    fn send_snapshot(
        &self,
        _: NodeId,
        chunks: BoxStream<'static, Bytes>,
        _: Duration,
    ) -> BoxFuture<'static, Result<Bytes, PeerError>> {
        async move {
            chunks.for_each(|_| async {}).await;
            Err(PeerError::Lost("the link broke".to_owned()))
        }
        .boxed()
    }
}

/// Sends a state of a node to a receiver, which fails; whether it is held then.
async fn is_held(source: &Alone, export: Export, receiver: Receiver, held: &Held) -> bool {
    let wiring = Wiring {
        peers: Arc::new(receiver),
        cluster: CLUSTER,
        node: NodeId(1),
        append_deadline: Duration::from_secs(1),
        snapshot_idle: Duration::from_secs(30),
        releases: Releases::default(),
        integrity: Integrity::default(),
        held: held.clone(),
        metrics: Metrics::new(),
    };
    let mut link = Link { wiring: Arc::new(wiring), target: NodeId(2), lane: Lane::Consensus };
    let snapshot = label(export).expect("its mark");
    let option = RPCOption::new(Duration::from_secs(1));
    let sent = link.full_snapshot(source.handle.raft_metrics().vote, snapshot, std::future::pending(), option).await;
    assert!(sent.is_err(), "{receiver:?}: {sent:?}");
    held.again(None).is_some()
}

/// Flips bits all over the tables of a node's database.
fn damage(dir: &Path) {
    let mut damaged = 0;
    for entry in fs::read_dir(dir.join("raft").join("db")).expect("listed") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "sst") {
            let mut bytes = fs::read(&path).expect("readable");
            let half = bytes.len() / 2;
            bytes[..half].iter_mut().step_by(100).for_each(|byte| *byte ^= 0xff);
            fs::write(&path, bytes).expect("written");
            damaged += 1;
        }
    }
    assert!(damaged > 0, "there are tables");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_held_only_for_a_receiver_that_may_go_on_with_it() {
    let source = Alone::cluster_of_one().await;
    for (receiver, expected) in [(Receiver::HasNothing, true), (Receiver::IsOlder, false), (Receiver::IsFull, false)] {
        let export = source.handle.0.state.export().expect("a state");
        assert_eq!(is_held(&source, export, receiver, &Held::default()).await, expected, "{receiver:?}");
    }
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_be_read_is_not_held() {
    let source = Alone::cluster_of_one().await;
    for number in 0..40 {
        let set = Command::SetSetting { key: format!("k{number:03}"), value: vec![number; 30_000] };
        source.handle.propose(RequestId::default(), "admin", set).await.expect("committed");
    }
    source.handle.0.state.flush().expect("flushed");
    let (export, held) = (source.handle.0.state.export().expect("a state"), Held::default());
    held.keep(NodeId(3), export.again());
    damage(source.dir());
    assert!(!is_held(&source, export, Receiver::HasNothing, &held).await, "neither for this receiver nor another");
    source.close().await;
}
