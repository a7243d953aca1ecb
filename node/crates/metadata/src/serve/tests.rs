//! Snapshots that arrive whole, and those that do not.

use ollamax_core::catalog::{Command, read};
use ollamax_types::RequestId;

use crate::Config;
use crate::alone::{Alone, CLUSTER};
use crate::mem::Network;

use super::*;

/// Node 1's state as it would send it to node 2.
fn messages(source: &Handle) -> Vec<Bytes> {
    let mut export = source.0.state.export().expect("something to export");
    let applied = Applied::from_store(export.meta()).expect("its mark");
    let header = SnapshotPart::Header { vote: source.raft_metrics().vote, applied };
    let mut parts = vec![header];
    while let Some(chunk) = export.next_chunk().expect("readable") {
        parts.push(SnapshotPart::Data(chunk.into()));
    }
    parts.into_iter().map(|part| wire::encode_request(CLUSTER, NodeId(2), Request::Snapshot(part))).collect()
}

fn stream(messages: &[Bytes]) -> BoxStream<'static, Result<Bytes, String>> {
    futures::stream::iter(messages.to_vec()).map(Ok).boxed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_ends_early_is_refused_and_the_node_goes_on() {
    let source = Alone::cluster_of_one().await;
    let set = Command::SetSetting { key: "k".into(), value: b"v".to_vec() };
    let committed = source.handle.propose(RequestId::default(), "admin", set).await.expect("committed");
    let messages = messages(&source.handle);
    let target = Alone::open(2, Config::default(), Network::default().peers_of(NodeId(2))).await;

    for whole in 1..messages.len() {
        let answer = target.handle.serve_snapshot(NodeId(1), stream(&messages[..whole])).await;
        assert!(matches!(answer, Err(ServeError::Snapshot(_))), "{whole} of {}: {answer:?}", messages.len());
    }
    let answer = target.handle.serve_snapshot(NodeId(1), stream(&messages)).await.expect("whole");
    assert!(matches!(wire::decode_reply(answer), Ok((_, Reply::Snapshot(_)))));
    let mut changes = target.handle.changes();
    changes.wait_for(|applied| *applied >= committed.revision).await.expect("consensus runs");
    let setting = read::setting(&*target.handle.view(), "k").expect("readable").expect("installed");
    assert_eq!(setting.value, b"v");
    target.close().await;
    source.close().await;
}
