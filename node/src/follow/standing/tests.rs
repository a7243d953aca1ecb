//! Whose word counts, over real doors on loopback.

use ollamax_net::PeerEntry;
use ollamax_types::PeerId;

use super::*;
use crate::loopback::{Door, Words, new_key};

const CLUSTER: ClusterId = ClusterId([1; 16]);
const OWN: NodeId = NodeId(3);

fn says(cluster: ClusterId, node: NodeId, departed: bool) -> v1::StandingReply {
    v1::StandingReply { cluster: cluster.0.to_vec(), node_id: node.0, departed }
}

async fn door(standing: v1::StandingReply) -> Door {
    Door::open(new_key(), Words { standing, ..Words::default() }).await
}

#[tokio::test]
async fn one_member_that_knows_of_the_departure_is_enough() {
    let own = door(v1::StandingReply::default()).await;
    let (behind, knows) = (door(says(CLUSTER, OWN, false)).await, door(says(CLUSTER, OWN, true)).await);
    let off = PeerEntry { addresses: Vec::new(), ..own.entry(9, &PeerId("12D3KooWoff".to_owned())) };
    let mut members = vec![behind.entry(1, behind.key.peer_id()), off, own.entry(OWN.0, own.key.peer_id())];
    own.net.set_members(members.clone());
    assert!(!is_told(&own.net, CLUSTER, OWN).await, "nobody says so");
    members.push(knows.entry(2, knows.key.peer_id()));
    own.net.set_members(members);
    assert!(is_told(&own.net, CLUSTER, OWN).await);
}

#[tokio::test]
async fn who_proves_no_members_key_is_not_believed() {
    let own = door(v1::StandingReply::default()).await;
    let liar = door(says(CLUSTER, OWN, true)).await;
    own.net.set_members(vec![liar.entry(1, new_key().peer_id())]);
    assert!(!is_told(&own.net, CLUSTER, OWN).await, "it answers at a member's address, with another key");
    own.net.set_members(Vec::new());
    assert!(!is_told(&own.net, CLUSTER, OWN).await, "nobody to ask");
}

#[test]
fn an_answer_about_somebody_else_is_none() {
    assert!(departs(&says(CLUSTER, OWN, true), CLUSTER, OWN));
    for other in [says(CLUSTER, OWN, false), says(CLUSTER, NodeId(4), true), says(ClusterId([2; 16]), OWN, true)] {
        assert!(!departs(&other, CLUSTER, OWN), "{other:?}");
    }
    assert!(!departs(&v1::StandingReply::default(), CLUSTER, OWN));
}
