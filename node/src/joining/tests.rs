//! Who is believed to be a member, and how a way in is found among addresses that lead nowhere.

use std::net::{Ipv4Addr, TcpListener};

use tokio::time::Instant;

use ollamax_security::{ClusterKey, NodeKey};

use super::*;
use crate::loopback::{Door, Words, new_key};

fn hello(node: &NodeKey, key: &ClusterKey) -> v1::HelloReply {
    let credential = Credential {
        cluster: ClusterId([1; 16]),
        node: NodeId(1),
        peer_id: node.peer_id().clone(),
        role: Role::Voter,
        incarnation: Incarnation([2; 16]),
    };
    v1::HelloReply {
        cluster: vec![1; 16],
        credential: credential.sign(key).expect("signed"),
        ..v1::HelloReply::default()
    }
}

fn cluster() -> (ClusterKey, JoinToken) {
    let key = ClusterKey::generate().expect("key");
    let token = JoinToken::make(key.public_key()).expect("token");
    (key, token)
}

async fn joiner() -> (Door, Joiner) {
    let door = Door::open(new_key(), Words::default()).await;
    let joiner = Joiner {
        request: RequestId::default(),
        net: door.net.clone(),
        incarnation: Incarnation([3; 16]),
        name: "gpu".to_owned(),
        role: None,
        addresses: Addresses::default(),
        lanes: false,
        wall_time_ms: 0,
        release: 2,
    };
    (door, joiner)
}

async fn member(key: &ClusterKey) -> Door {
    let node = new_key();
    let words = Words { hello: Some(hello(&node, key)), ..Words::default() };
    Door::open(node, words).await
}

#[test]
fn a_member_of_another_cluster_or_with_another_key_is_foreign() {
    let ((ours, token), (other, _), node) = (cluster(), cluster(), new_key());
    assert!(check_hello(&hello(&node, &ours), node.peer_id(), &token).is_ok());
    assert!(check_hello(&hello(&node, &other), node.peer_id(), &token).is_err());
    assert!(check_hello(&hello(&node, &ours), &PeerId("12D3KooWother".to_owned()), &token).is_err());
    let moved = v1::HelloReply { cluster: vec![9; 16], ..hello(&node, &ours) };
    assert!(check_hello(&moved, node.peer_id(), &token).is_err());
}

#[test]
fn without_any_seed_the_error_names_the_flag_and_a_foreign_cluster_is_a_token_matter() {
    assert!(nobody(&[]).next.contains("--peer"));
    assert_eq!(nobody(&[("h:1", Greeting::Foreign)]).code, ErrorCode::TokenInvalid);
    assert_eq!(nobody(&[("h:1", Greeting::Unreachable("off".to_owned()))]).code, ErrorCode::PeerUnreachable);
    assert_eq!(nobody(&[("h:1", Greeting::Late)]).code, ErrorCode::PeerUnreachable);
}

#[tokio::test]
async fn one_member_among_addresses_that_lead_nowhere_is_found_at_once() {
    let (ours, token) = cluster();
    let (_door, joiner) = joiner().await;
    let (good, foreign) = (member(&ours).await, member(&cluster().0).await);
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let silent = silent.local_addr().expect("bound").to_string();
    let mut seeds = vec![silent; GREETED_AT_ONCE - 2];
    seeds.extend([foreign.address(), good.address()]);
    let start = Instant::now();
    let found = joiner.find(&token, &seeds).await.expect("found");
    assert_eq!((found.hello, &found.proved), (hello(&good.key, &ours), good.key.peer_id()));
    assert!(start.elapsed() < GREET_TIMEOUT, "it waited for the silent ones");
}

#[tokio::test]
async fn an_address_that_takes_too_long_is_given_up_and_named() {
    let (_, token) = cluster();
    let (_door, joiner) = joiner().await;
    let hangs = Door::open(new_key(), Words::default()).await;
    let refused = joiner.find(&token, &[hangs.address()]).await.expect_err("nobody answers");
    assert_eq!(refused.code, ErrorCode::PeerUnreachable);
    let expected = format!("{}: no answer within {} s", hangs.address(), GREET_TIMEOUT.as_secs());
    assert_eq!(refused.why, expected);
}

#[tokio::test]
async fn the_name_that_the_cluster_gave_is_kept() {
    let (ours, token) = cluster();
    let (door, joiner) = joiner().await;
    let credential = hello(&door.key, &ours).credential;
    let reply = |name: &str| v1::JoinClusterReply {
        node_id: 1,
        cluster: vec![1; 16],
        credential: credential.clone(),
        name: name.to_owned(),
        ..v1::JoinClusterReply::default()
    };
    assert_eq!(joiner.membership(reply("gpu-2"), &token, false).expect("read").name, "gpu-2");
    assert!(joiner.membership(reply(""), &token, false).is_err());
}

#[tokio::test]
async fn who_is_reached_over_its_own_connections_alone_keeps_where_they_lead() {
    let (ours, token) = cluster();
    let (door, joiner) = joiner().await;
    let told = "/ip4/10.0.0.2/tcp/11437".to_owned();
    let member = v1::MemberAddress { node_id: 2, p2p_addresses: vec![told.clone()], ..v1::MemberAddress::default() };
    let reply = v1::JoinClusterReply {
        node_id: 1,
        cluster: vec![1; 16],
        credential: hello(&door.key, &ours).credential,
        name: "gpu".to_owned(),
        members: vec![member],
        ..v1::JoinClusterReply::default()
    };
    for (lane_only, expected) in [(true, vec![told]), (false, Vec::new())] {
        let known = joiner.membership(reply.clone(), &token, lane_only).expect("read").known;
        assert_eq!(known.into_iter().map(|member| member.p2p).collect::<Vec<_>>(), [expected]);
    }
}

#[tokio::test]
async fn a_node_that_is_too_old_for_the_cluster_is_turned_back_before_it_sends_its_token() {
    let (ours, token) = cluster();
    let (_door, joiner) = joiner().await;
    let node = new_key();
    let newer = v1::HelloReply { cluster_version: 3, ..hello(&node, &ours) };
    // Its service refuses whatever comes after the greeting with another error.
    let member = Door::open(node, Words { hello: Some(newer), ..Words::default() }).await;
    let refused = joiner.join(&token, &[member.address()]).await.expect_err("too old");
    assert_eq!(refused.code, ErrorCode::PreconditionFailed);
    assert_eq!(refused.what, "the cluster runs version 3, and this node applies up to 2");
    assert!(refused.next.contains("install the release"), "{refused:?}");
}

#[test]
fn any_version_up_to_its_own_and_one_that_is_not_told_let_a_node_go_on() {
    for (release, cluster_version, may) in [(2, 0, true), (2, 1, true), (2, 2, true), (2, 3, false), (1, 2, false)] {
        assert_eq!(check_release(release, cluster_version).is_ok(), may, "{release} in {cluster_version}");
    }
}
