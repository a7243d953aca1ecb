//! Snapshots that arrive whole, those that do not, and those that go on.

use ollamax_core::catalog::{Command, read};
use ollamax_types::RequestId;

use crate::Config;
use crate::alone::{Alone, CLUSTER};
use crate::mem::Network;
use crate::wire;

use super::*;

/// Node 1's state as it would send it to node 2, behind a key.
fn messages(vote: Vote, export: store::Export, after: &[u8]) -> Vec<Bytes> {
    let applied = Applied::from_store(export.meta()).expect("its mark");
    let mut export = export.behind(after);
    let mut parts = vec![SnapshotPart::Header { vote, applied, after: after.to_vec() }];
    while let Some(chunk) = export.next_chunk().expect("readable") {
        parts.push(SnapshotPart::Data(chunk.into()));
    }
    parts.into_iter().map(|part| wire::encode_request(CLUSTER, NodeId(2), Request::Snapshot(part))).collect()
}

fn stream(messages: &[Bytes]) -> BoxStream<'static, Result<Bytes, String>> {
    futures::stream::iter(messages.to_vec()).map(Ok).boxed()
}

/// What a node answers to the offer of a snapshot.
async fn answer_to(target: &Handle, vote: Vote, id: store::SnapshotId) -> Result<Reply, ServeError> {
    let request = wire::encode_request(CLUSTER, NodeId(2), Request::SnapshotOffer { vote, id });
    let answer = target.serve(NodeId(1), request).await?;
    Ok(wire::decode_reply(answer).expect("readable").1)
}

/// The last key that a node says it has of a snapshot.
async fn offer(target: &Handle, vote: Vote, id: store::SnapshotId) -> Vec<u8> {
    match answer_to(target, vote, id).await {
        Ok(Reply::SnapshotFrom(last_key)) => last_key,
        other => unreachable!("no answer to an offer: {other:?}"),
    }
}

async fn target() -> Alone {
    Alone::open(2, Config::default(), Network::default().peers_of(NodeId(2))).await
}

#[test]
fn a_stream_goes_into_the_import_that_has_what_it_leaves_out_and_nowhere_else() {
    let applied = |ms| Applied { log_time: ollamax_types::Timestamp(ms), ..Applied::default() };
    let check = |offered: Option<(u64, &str)>, after: &str, expected: Destination| {
        let offered = offered.map(|(ms, last_key)| (applied(ms), last_key));
        let offered = offered.as_ref().map(|(applied, last_key)| (applied, last_key.as_bytes()));
        assert_eq!(choose_destination(offered, &applied(1), after.as_bytes()), expected, "{offered:?} {after}");
    };
    check(None, "", Destination::New);
    check(None, "k", Destination::Nowhere);
    check(Some((1, "k")), "k", Destination::Offered);
    check(Some((1, "")), "", Destination::Offered);
    check(Some((1, "k")), "", Destination::New);
    check(Some((1, "k")), "j", Destination::Nowhere);
    check(Some((2, "k")), "k", Destination::Nowhere);
    check(Some((2, "")), "", Destination::New);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_ends_early_is_refused_and_the_node_goes_on() {
    let source = Alone::cluster_of_one().await;
    let set = Command::SetSetting { key: "k".into(), value: b"v".to_vec() };
    let committed = source.handle.propose(RequestId::default(), "admin", set).await.expect("committed");
    let export = source.handle.0.state.export().expect("something to export");
    let messages = messages(source.handle.raft_metrics().vote, export, b"");
    let target = target().await;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_cut_goes_on_where_the_receiver_says_and_nowhere_else() {
    let source = Alone::cluster_of_one().await;
    for number in 0..120 {
        let set = Command::SetSetting { key: format!("k{number:03}"), value: vec![7; 30_000] };
        source.handle.propose(RequestId::default(), "admin", set).await.expect("committed");
    }
    let (vote, export) = (source.handle.raft_metrics().vote, source.handle.0.state.export().expect("a state"));
    let whole = messages(vote, export.again(), b"");
    let target = target().await;

    assert_eq!(offer(&target.handle, vote, export.id()).await, b"", "nothing is there yet");
    let answer = target.handle.serve_snapshot(NodeId(1), stream(&whole[..whole.len() / 2])).await;
    assert!(matches!(answer, Err(ServeError::Snapshot(_))), "{answer:?}");

    let last_key = offer(&target.handle, vote, export.id()).await;
    assert!(!last_key.is_empty(), "half of {} messages came", whole.len());
    let answer = target.handle.serve_snapshot(NodeId(1), stream(&messages(vote, export.again(), b"\x07k119"))).await;
    assert!(matches!(answer, Err(ServeError::Snapshot(_))), "records would be missing: {answer:?}");

    assert_eq!(offer(&target.handle, vote, export.id()).await, last_key, "and nothing was lost by it");
    let rest = messages(vote, export.again(), &last_key);
    assert!(rest.len() + 8 <= whole.len(), "{} of {} messages once more", rest.len(), whole.len());
    let answer = target.handle.serve_snapshot(NodeId(1), stream(&rest)).await.expect("whole");
    assert!(matches!(wire::decode_reply(answer), Ok((_, Reply::Snapshot(_)))));
    let mut changes = target.handle.changes();
    changes.wait_for(|applied| *applied >= export.meta().index).await.expect("consensus runs");
    assert_eq!(target.handle.0.state.state_hash(), export.state_hash());
    target.close().await;
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_last_answer_was_lost_is_not_sent_again() {
    let source = Alone::cluster_of_one().await;
    let (vote, export) = (source.handle.raft_metrics().vote, source.handle.0.state.export().expect("a state"));
    let target = target().await;
    assert_eq!(offer(&target.handle, vote, export.id()).await, b"");
    let messages = messages(vote, export.again(), b"");
    target.handle.serve_snapshot(NodeId(1), stream(&messages)).await.expect("whole, and nobody hears of it");
    let mut changes = target.handle.changes();
    changes.wait_for(|applied| *applied >= export.meta().index).await.expect("consensus runs");
    let answer = answer_to(&target.handle, vote, export.id()).await;
    assert!(matches!(answer, Ok(Reply::Snapshot(_))), "{answer:?}");
    assert!(!target.dir().join("raft").join("incoming").exists(), "nothing waits for what will not come");
    target.close().await;
    source.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_offered_and_never_sent_goes_when_the_state_has_come_as_far() {
    let source = Alone::cluster_of_one().await;
    let (vote, export) = (source.handle.raft_metrics().vote, source.handle.0.state.export().expect("a state"));
    // It does not look by itself.
    let config = Config { autopilot_ms: 3_600_000, ..Config::default() };
    let target = Alone::open(2, config, Network::default().peers_of(NodeId(2))).await;
    assert_eq!(offer(&target.handle, vote, export.id()).await, b"");
    let (state, incoming) = (&target.handle.0.state, target.dir().join("raft").join("incoming"));
    target.handle.tend_snapshots().await;
    assert!(incoming.exists(), "it may still come");
    assert!(matches!(state.import(), Err(store::ImportError::Busy)), "and has the folder to itself");
    state.commit(state.begin(), export.meta().clone()).expect("the log leads as far");
    target.handle.tend_snapshots().await;
    assert!(!incoming.exists());
    drop(state.import().expect("nothing stands in its way"));
    target.close().await;
    source.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_had_no_room_is_not_filled_again_at_once() {
    let (offered, full) = (Offered::default(), store::NoRoom { free_bytes: 1, reserve_bytes: 2 });
    assert_eq!(offered.check_full(), Ok(()));
    offered.note_full(full);
    assert_eq!(offered.check_full(), Err(full));
    tokio::time::advance(FULL_PAUSE - Duration::from_millis(1)).await;
    assert_eq!(offered.check_full(), Err(full));
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(offered.check_full(), Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_offer_nor_stream_is_taken_where_the_disk_had_no_room_for_the_last() {
    let source = Alone::cluster_of_one().await;
    let (vote, export) = (source.handle.raft_metrics().vote, source.handle.0.state.export().expect("a state"));
    let target = target().await;
    target.handle.0.offered.note_full(store::NoRoom { free_bytes: 1, reserve_bytes: 2 });
    let answer = answer_to(&target.handle, vote, export.id()).await;
    assert!(matches!(answer, Err(ServeError::DiskFull(_))), "{answer:?}");
    let answer = target.handle.serve_snapshot(NodeId(1), stream(&messages(vote, export, b""))).await;
    assert!(matches!(answer, Err(ServeError::DiskFull(_))), "{answer:?}");
    target.close().await;
    source.close().await;
}
