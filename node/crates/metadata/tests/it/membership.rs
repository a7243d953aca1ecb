//! The Raft group follows the members of the catalog.

use ollamax_core::catalog::{Command, read};
use ollamax_metadata::mem::Link;
use ollamax_metadata::{Config, Declined, HandOverError, Part};
use ollamax_types::{NodeId, Role};

use crate::world::{World, eventually, setting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_become_learners_and_then_voters_and_leave_when_removed() {
    let mut world = World::one().await;
    world.join(2, Role::Voter).await;
    world.wait(1, "two voters", |status| status.voters == [NodeId(1), NodeId(2)]).await;
    world.join(3, Role::Gateway).await;
    world.wait(1, "a learner", |status| status.learners == [NodeId(3)]).await;
    world.wait(3, "the learner applies", |status| status.applied > 0 && status.has_quorum).await;
    world.propose(3, setting("from", "the learner")).await;

    world.propose(1, Command::RemoveMember { node: NodeId(3) }).await;
    world.wait(1, "the learner has gone", |status| status.learners.is_empty()).await;
    world.propose(1, Command::RemoveMember { node: NodeId(2) }).await;
    world.wait(1, "alone again", |status| status.voters == [NodeId(1)] && status.learners.is_empty()).await;
    world.propose(1, setting("alone", "again")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_removed_hands_over_and_leaves() {
    let world = World::three().await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let rest: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    world.propose(leader, Command::RemoveMember { node: NodeId(leader) }).await;
    let remaining: Vec<NodeId> = rest.iter().copied().map(NodeId).collect();
    world.wait(rest[0], "two voters", |status| status.voters == remaining && status.learners.is_empty()).await;
    world.propose(rest[0], setting("without", "it")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_may_be_asked_for_another_leader_and_only_a_voter_that_is_heard_gets_it() {
    let mut world = World::three().await;
    let old = world.leader_among(&[1, 2, 3]).await;
    let (asked, new) = (old % 3 + 1, (old + 1) % 3 + 1);
    let handle = world.handle(asked);
    let done = eventually("hand over", || handle.hand_over(Some(NodeId(new)))).await;
    assert_eq!((done.before, done.leader), (NodeId(old), NodeId(new)));
    world.wait(new, "it leads", |status| status.part == Part::Leader && status.has_quorum).await;
    world.propose(asked, setting("after", "the change")).await;

    // Neither a learner nor whoever leads already, whoever asks.
    world.join(4, Role::Gateway).await;
    world.wait(4, "the learner hears a leader", |status| status.part == Part::Learner && status.has_quorum).await;
    let learner = world.handle(4);
    let declined = |error: Declined| Err(HandOverError::Declined(error));
    assert_eq!(learner.hand_over(Some(NodeId(4))).await, declined(Declined::NotVoter(NodeId(4))));
    assert_eq!(learner.hand_over(Some(NodeId(new))).await, declined(Declined::LeadsAlready(NodeId(new))));

    // Nor one that has fallen silent, although it is not behind.
    world.network.set_all(NodeId(asked), Link::Cut);
    let lease = world.config.election_max_ms;
    let is_silent = |silent_ms: Option<u64>| silent_ms.is_some_and(|silent| silent > lease);
    world
        .wait(new, "a silent follower", |status| {
            status.followers.iter().any(|follower| follower.node == NodeId(asked) && is_silent(follower.silent_ms))
        })
        .await;
    assert_eq!(learner.hand_over(Some(NodeId(asked))).await, declined(Declined::NotHeard(NodeId(asked))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_keeps_leadership() {
    let world = World::one().await;
    let kept = Err(HandOverError::Declined(Declined::OnlyVoter(NodeId(1))));
    assert_eq!(world.handle(1).hand_over(None).await, kept);
    world.propose(1, setting("still", "leads")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_voter_loses_its_seat_to_a_standby_and_later_its_membership() {
    let mut world = World::three_with(Config { autopilot_ms: 100, ..Config::default() }).await;
    world.join(4, Role::Voter).await;
    for (key, value) in [("autopilot.stabilization_ms", "500"), ("autopilot.dead_after_ms", "1500")] {
        world.propose(1, setting(key, value)).await;
    }
    world.wait(1, "a standby", |status| status.learners == [NodeId(4)]).await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let silent = (1..=3).find(|node| *node != leader).expect("three nodes");
    let others: Vec<u64> = (1..=4).filter(|node| *node != silent).collect();
    let voters: Vec<NodeId> = others.iter().copied().map(NodeId).collect();

    world.close(silent).await;
    let replaced = |status: &ollamax_metadata::Status| status.voters == voters && !status.voters_changing;
    world.wait(leader, "the standby votes", replaced).await;
    world.propose(leader, setting("with", "the standby")).await;

    // It comes back, and is the standby now.
    world.open(silent).await;
    world.wait(silent, "it follows", |status| status.has_quorum && status.learners == [NodeId(silent)]).await;
    let leader = world.leader_among(&others).await;
    let healthy = |status: &ollamax_metadata::Status| {
        status.outlook.as_ref().is_some_and(|outlook| (outlook.healthy, outlook.tolerance) == (4, 1))
    };
    world.wait(leader, "all are healthy", healthy).await;

    world.propose(leader, setting("autopilot.remove_after_ms", "1500")).await;
    world.close(silent).await;
    world.wait(leader, "it left the group", |status| status.voters == voters && status.learners.is_empty()).await;
    assert_eq!(read::has_departed(&*world.handle(leader).view(), NodeId(silent)), Ok(true));
    world.propose(leader, setting("without", "it")).await;
}
