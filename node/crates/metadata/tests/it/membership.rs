//! The Raft group follows the members of the catalog.

use ollamax_core::catalog::Command;
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
