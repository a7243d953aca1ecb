//! Two processes with one node's key: a copied disk, or only a restart.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;

use ollamax_net::{Class, Refuser};
use ollamax_proto::v1::RaftMessage;
use ollamax_proto::v1::raft_client::RaftClient;
use ollamax_types::NodeId;

use crate::harness::{LONG, Node, config, members};

/// What a silent process may keep a newcomer waiting for, and then some.
const PROMPT: Duration = Duration::from_millis(900);

/// Another process on the same key, which knows the same members.
async fn start_again(node: &Node, nodes: &[Node]) -> Node {
    let again = Node::start_with(node.id.0, node.key.clone(), config(), None).await;
    again.handle.set_members(nodes.iter().map(Node::entry).collect());
    again
}

/// Ends when the node is not answered any more.
async fn speak(client: &mut RaftClient<Channel>) {
    while client.call(RaftMessage::default()).await.is_ok() {}
}

#[tokio::test]
async fn a_copy_is_refused_and_told_so_while_the_original_speaks() {
    let nodes = members(2).await;
    let mut original = nodes[1].raft(&nodes[0]);
    original.call(RaftMessage::default()).await.unwrap();
    let copy = start_again(&nodes[1], &nodes).await;
    let mut client = copy.raft(&nodes[0]);
    let refused = tokio::select! {
        () = speak(&mut original) => panic!("the original was cut off"),
        answer = client.call(RaftMessage::default()) => answer.unwrap_err(),
    };
    assert!(refused.message().contains("another live process has this node's identity"), "{refused:?}");
    let refuser = Refuser { node: NodeId(1), address: nodes[0].address() };
    assert_eq!(*copy.handle.refused_as_twin().borrow(), Some(refuser));
    original.call(RaftMessage::default()).await.unwrap();
    assert_eq!(*nodes[1].handle.refused_as_twin().borrow(), None);
}

#[tokio::test]
async fn a_copy_is_not_taken_for_the_original_when_it_is_dialled() {
    let nodes = members(2).await;
    let mut original = nodes[0].raft(&nodes[1]);
    original.call(RaftMessage::default()).await.unwrap();
    let copy = start_again(&nodes[1], &nodes).await;
    let address = copy.address();
    let refused = tokio::select! {
        () = speak(&mut original) => panic!("the original was cut off"),
        answer = nodes[0].handle.probe(&address, copy.peer_id()) => answer.unwrap_err(),
    };
    assert!(refused.to_string().contains("another process with the identity"), "{refused}");
    original.call(RaftMessage::default()).await.unwrap();
}

#[tokio::test]
async fn a_node_that_restarts_is_let_in_at_once() {
    let mut nodes = members(2).await;
    nodes[1].raft(&nodes[0]).call(RaftMessage::default()).await.unwrap();
    nodes[0].raft(&nodes[1]).call(RaftMessage::default()).await.unwrap();
    let old = nodes.pop().unwrap();
    old.shut_down().await;
    let new = start_again(&old, &nodes).await;
    let start = Instant::now();
    new.raft(&nodes[0]).call(RaftMessage::default()).await.unwrap();
    assert!(start.elapsed() < PROMPT, "it waited {:?} for a process that has ended", start.elapsed());
    assert_eq!(*new.handle.refused_as_twin().borrow(), None);
}

#[tokio::test]
async fn a_connection_that_died_without_a_word_keeps_nobody_out() {
    let nodes = members(2).await;
    // Open, and silent for ever: what is left of a machine that lost its power.
    let mut left = nodes[1].handle.connect(nodes[0].id, Class::Raft).await.unwrap();
    let new = start_again(&nodes[1], &nodes).await;
    new.raft(&nodes[0]).call(RaftMessage::default()).await.unwrap();
    let mut bytes = Vec::new();
    let ended = timeout(LONG, left.read_to_end(&mut bytes)).await;
    assert!(ended.is_ok(), "what was left of the old process is closed");
}

#[tokio::test]
async fn a_stranger_cannot_tell_a_node_that_it_is_a_copy() {
    let nodes = members(2).await;
    let copy = Node::start_with(2, nodes[1].key.clone(), config(), None).await;
    let mut original = nodes[1].raft(&nodes[0]);
    original.call(RaftMessage::default()).await.unwrap();
    let address = nodes[0].address();
    let refused = tokio::select! {
        () = speak(&mut original) => panic!("the original was cut off"),
        answer = copy.handle.channel_to_address(&address) => answer.unwrap_err(),
    };
    assert!(refused.to_string().contains("another live process"), "{refused}");
    assert_eq!(*copy.handle.refused_as_twin().borrow(), None, "node 1 is nobody that this process knows");
}
