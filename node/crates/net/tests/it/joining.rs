//! Keys that are no members, or not yet.

use tonic::Code;

use ollamax_net::{Class, was_never_sent};
use ollamax_proto::v1::join_client::JoinClient;
use ollamax_proto::v1::raft_client::RaftClient;
use ollamax_proto::v1::{HelloRequest, RaftMessage, StandingRequest};
use ollamax_security::ClusterKey;
use ollamax_types::{ErrorCode, NodeId};

use crate::harness::{Node, credential, members};

#[tokio::test]
async fn a_stranger_reaches_join_and_nothing_else() {
    let nodes = members(1).await;
    let stranger = Node::start(9).await;
    let (channel, proved) = stranger.handle.channel_to_address(&nodes[0].address()).await.unwrap();
    assert_eq!(&proved, nodes[0].peer_id());
    let hello = JoinClient::new(channel.clone()).hello(HelloRequest::default()).await.unwrap().into_inner();
    assert_eq!(hello.cluster_name, format!("{} None", stranger.peer_id()));
    let refused = RaftClient::new(channel).call(RaftMessage::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    assert!(refused.message().contains("`ollamax join TOKEN`"), "{refused:?}");
}

#[tokio::test]
async fn a_connection_opened_before_joining_serves_the_member_afterwards() {
    let nodes = members(1).await;
    let joiner = Node::start(2).await;
    let (channel, _) = joiner.handle.channel_to_address(&nodes[0].address()).await.unwrap();
    let mut client = RaftClient::new(channel);
    assert_eq!(client.call(RaftMessage::default()).await.unwrap_err().code(), Code::PermissionDenied);
    nodes[0].handle.set_members(vec![nodes[0].entry(), joiner.entry()]);
    assert_eq!(client.call(RaftMessage::default()).await.unwrap().into_inner().from, 2);
}

#[tokio::test]
async fn a_member_that_is_not_heard_of_yet_is_known_by_its_credential() {
    let cluster = ClusterKey::generate().unwrap();
    let nodes = members(1).await;
    let (old, new) = (&nodes[0], Node::start(5).await);
    old.handle.set_credential(credential(1, old.peer_id(), &cluster), cluster.public_key());
    new.handle.set_credential(credential(5, new.peer_id(), &cluster), cluster.public_key());
    new.handle.set_members(vec![old.entry(), new.entry()]);
    old.handle.set_next_node_id(NodeId(5));
    assert_eq!(new.raft(old).call(RaftMessage::default()).await.unwrap().into_inner().from, 5);

    // Once id 5 has been given out and is not in the table, its holder has departed, whatever it shows.
    old.handle.set_next_node_id(NodeId(6));
    let mut client = RaftClient::new(new.handle.channel(old.id, Class::Forward));
    assert_eq!(client.call(RaftMessage::default()).await.unwrap_err().code(), Code::PermissionDenied);

    // It is still known who that was, so that it can be told.
    let mut client = JoinClient::new(new.handle.channel(old.id, Class::Forward));
    let told = client.standing(StandingRequest {}).await.unwrap().into_inner();
    assert_eq!((told.node_id, told.departed), (5, true));
    let stranger = Node::start(9).await;
    let (channel, _) = stranger.handle.channel_to_address(&old.address()).await.unwrap();
    let refused = JoinClient::new(channel).standing(StandingRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
}

#[tokio::test]
async fn credentials_of_other_clusters_or_of_other_keys_open_nothing() {
    let (ours, theirs) = (ClusterKey::generate().unwrap(), ClusterKey::generate().unwrap());
    let nodes = members(1).await;
    nodes[0].handle.set_credential(Vec::new(), ours.public_key());
    nodes[0].handle.set_next_node_id(NodeId(2));
    let rows = [("another cluster's", 5, true), ("another key's", 6, false)];
    for (what, id, is_foreign) in rows {
        let stranger = Node::start(id).await;
        let shown = match is_foreign {
            true => credential(id, stranger.peer_id(), &theirs),
            false => credential(id, nodes[0].peer_id(), &ours),
        };
        stranger.handle.set_credential(shown, ours.public_key());
        stranger.handle.set_members(vec![nodes[0].entry(), stranger.entry()]);
        let refused = stranger.raft(&nodes[0]).call(RaftMessage::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{what}: {refused:?}");
    }
}

#[tokio::test]
async fn a_probe_tells_whether_this_key_answers_there() {
    let nodes = members(2).await;
    nodes[0].handle.probe(&nodes[1].address(), nodes[1].peer_id()).await.unwrap();
    let wrong = nodes[0].handle.probe(&nodes[1].address(), nodes[0].peer_id()).await.unwrap_err();
    assert!(wrong.to_string().contains("another node answers there"), "{wrong}");
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let nobody = nodes[0].handle.probe(&unused, nodes[1].peer_id()).await.unwrap_err();
    assert_eq!(nobody.code(), ErrorCode::PeerUnreachable);
    assert!(nobody.to_string().contains(&unused), "{nobody}");
}

#[tokio::test]
async fn a_node_without_a_member_table_reaches_nobody_by_number() {
    let node = Node::start(1).await;
    let error = node.raft(&node).call(RaftMessage::default()).await.unwrap_err();
    assert!(was_never_sent(&error) && error.message().contains("no member"), "{error:?}");
}
