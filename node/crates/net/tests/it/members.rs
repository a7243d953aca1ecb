//! Members among themselves.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tonic::Code;

use ollamax_net::{Class, ConnectError, PeerEntry, was_never_sent};
use ollamax_proto::v1::liveness_client::LivenessClient;
use ollamax_proto::v1::{RaftMessage, WatchBeatsRequest};
use ollamax_types::NodeId;

use crate::harness::{LONG, Node, config, introduce, members, new_key};

#[tokio::test]
async fn a_member_reaches_members_services_and_is_named() {
    let nodes = members(3).await;
    let message = RaftMessage { body: vec![7; 100_000].into(), ..RaftMessage::default() };
    for from in &nodes {
        for to in nodes.iter().filter(|to| to.id != from.id) {
            let answer = from.raft(to).call(message.clone()).await.unwrap().into_inner();
            assert_eq!((answer.from, answer.body.len()), (from.id.0, 100_000));
        }
    }
}

#[tokio::test]
async fn each_class_has_a_connection_of_its_own_and_keeps_it() {
    let nodes = members(2).await;
    for _ in 0..3 {
        for class in [Class::Raft, Class::Heartbeat, Class::Forward] {
            let channel = nodes[0].handle.channel(nodes[1].id, class);
            let mut client = ollamax_proto::v1::raft_client::RaftClient::new(channel);
            client.call(RaftMessage::default()).await.unwrap();
        }
    }
    assert_eq!(nodes[0].handle.open_connections(), 3);
}

#[tokio::test]
async fn a_departed_members_stream_ends_and_its_calls_are_refused() {
    let nodes = members(2).await;
    let (departed, remaining) = (&nodes[0], &nodes[1]);
    let mut client = LivenessClient::new(departed.handle.channel(remaining.id, Class::Liveness));
    let mut frames = client.watch(WatchBeatsRequest::default()).await.unwrap().into_inner();
    assert!(frames.message().await.unwrap().is_some());

    remaining.handle.set_members(vec![remaining.entry()]);
    let ended = timeout(LONG, frames.message()).await.expect("the stream ends");
    assert!(ended.is_err(), "{ended:?}");
    let refused = departed.raft(remaining).call(RaftMessage::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "only the strangers' services are left: {refused}");
}

#[tokio::test]
async fn nobody_dials_a_node_that_departed() {
    let nodes = members(2).await;
    let mut client = nodes[0].raft(&nodes[1]);
    client.call(RaftMessage::default()).await.unwrap();
    nodes[0].handle.set_members(vec![nodes[0].entry()]);
    let error = client.call(RaftMessage::default()).await.unwrap_err();
    let stale = error.code();
    // The first call may still meet the closing connection; from then on the reason is told.
    let error = client.call(RaftMessage::default()).await.unwrap_err();
    assert!(error.message().contains("node 2 is no member") && was_never_sent(&error), "{stale:?} {error:?}");
    let refused = nodes[0].handle.connect(NodeId(2), Class::Bulk).await.unwrap_err();
    assert!(matches!(refused, ConnectError::NotMember(NodeId(2))), "{refused}");
}

#[tokio::test]
async fn a_channel_finds_a_peer_again_that_restarted_on_another_port() {
    let mut nodes = members(2).await;
    let mut client = nodes[0].raft(&nodes[1]);
    client.call(RaftMessage::default()).await.unwrap();

    let old = nodes.pop().unwrap();
    old.shut_down().await;
    let down = client.call(RaftMessage::default()).await.unwrap_err();
    assert_eq!(down.code(), Code::Unavailable, "{down:?}");
    let down = client.call(RaftMessage::default()).await.unwrap_err();
    assert!(was_never_sent(&down) && down.message().contains("node 2 cannot be reached"), "{down:?}");

    let new = Node::start_with(2, old.key.clone(), config(), None).await;
    assert_ne!(new.address(), old.address());
    nodes.push(new);
    introduce(&nodes);
    let answer = client.call(RaftMessage::default()).await.unwrap().into_inner();
    assert_eq!(answer.from, 1);
}

#[tokio::test]
async fn a_dead_address_before_the_good_one_costs_little() {
    let nodes = members(2).await;
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let entry = nodes[1].entry();
    let addresses = vec!["not an address".to_owned(), unused, entry.addresses[0].clone()];
    nodes[0].handle.set_members(vec![nodes[0].entry(), PeerEntry { addresses, ..entry }]);
    nodes[0].raft(&nodes[1]).call(RaftMessage::default()).await.unwrap();
}

#[tokio::test]
async fn another_nodes_key_at_a_members_address_is_refused_and_named() {
    let nodes = members(3).await;
    let entry = PeerEntry { addresses: vec![nodes[2].address()], ..nodes[1].entry() };
    nodes[0].handle.set_members(vec![nodes[0].entry(), entry]);
    let error = nodes[0].raft(&nodes[1]).call(RaftMessage::default()).await.unwrap_err();
    let found = format!("found {}", nodes[2].peer_id());
    assert!(error.message().contains(&found) && was_never_sent(&error), "{error:?}");
}

#[tokio::test]
async fn bulk_bytes_flow_between_members_alone() {
    let (bulk, mut arrived) = tokio::sync::mpsc::channel(1);
    let receiver = Node::start_with(1, new_key(), config(), Some(bulk)).await;
    let nodes = [receiver, Node::start(2).await, Node::start(3).await];
    introduce(&nodes[..2]);
    let mut sent = nodes[1].handle.connect(nodes[0].id, Class::Bulk).await.unwrap();
    sent.write_all(b"chunk").await.unwrap();
    let mut received = timeout(LONG, arrived.recv()).await.unwrap().unwrap();
    assert_eq!(received.peer_id(), nodes[1].peer_id());
    let mut bytes = [0; 5];
    received.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"chunk");

    nodes[2].handle.set_members(vec![nodes[0].entry(), nodes[2].entry()]);
    let mut stranger = nodes[2].handle.connect(nodes[0].id, Class::Bulk).await.unwrap();
    let end = timeout(LONG, stranger.read(&mut bytes)).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "a stranger's stream is closed: {end:?}");
    assert!(arrived.try_recv().is_err());
    let refused = nodes[0].handle.connect(nodes[1].id, Class::Bulk).await.unwrap_err();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "not offered: {refused}");
}

#[tokio::test]
async fn a_stop_ends_everything_even_with_a_stream_open() {
    let nodes = members(2).await;
    let mut client = LivenessClient::new(nodes[0].handle.channel(nodes[1].id, Class::Liveness));
    let mut frames = client.watch(WatchBeatsRequest::default()).await.unwrap().into_inner();
    assert!(frames.message().await.unwrap().is_some());
    nodes[1].shut_down().await;
    assert!(timeout(LONG, frames.message()).await.expect("the stream ends").is_err());
    nodes[0].shut_down().await;
}
