//! The Raft group follows the members of the catalog.

use ollamax_core::catalog::{Command, read};
use ollamax_metadata::Config;
use ollamax_types::{NodeId, Role};

use crate::world::{World, setting};

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
