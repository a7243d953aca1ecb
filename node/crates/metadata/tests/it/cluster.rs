//! The quiet days: proposing, reading, stopping, starting again.

use std::sync::atomic::{AtomicBool, Ordering};

use ollamax_core::catalog::{Answer, ClusterEvent, Command, EventKind, Refusal};
use ollamax_metadata::{Config, ProposeError, SnapshotError};
use ollamax_types::{ErrorCode, NodeId, RequestId};

use crate::world::{World, setting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_proposed_on_a_follower_is_read_on_every_node() {
    let world = World::three().await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let follower = (1..=3).find(|node| *node != leader).expect("three nodes");
    let committed = world.propose(follower, setting("colour", "blue")).await;
    assert_eq!(committed.answer, Answer::Done);
    for node in 1..=3 {
        let applied = world.handle(node).read_barrier().await.expect("a majority is there");
        assert!(applied >= committed.revision);
        assert_eq!(world.read(node, "colour").as_deref(), Some("blue"));
    }
}

/// Everything that a node keeps of what happened, up to a revision.
fn events(world: &World, node: u64, last: u64) -> Vec<ClusterEvent> {
    let mut watcher = world.handle(node).events(Vec::new(), None);
    let mut found = Vec::new();
    while let Some(batch) = watcher.next_kept().expect("nothing was pushed out") {
        found.extend(batch.events);
    }
    found.retain(|event| event.revision <= last);
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_tells_the_same_of_what_happened_in_order() {
    let world = World::three().await;
    world.propose(2, setting("colour", "blue")).await;
    let last = world.propose(3, Command::SetDrained { node: NodeId(2), drained: true }).await.revision;
    let mut told = Vec::new();
    for node in 1..=3 {
        world.handle(node).read_barrier().await.expect("a majority is there");
        told.push(events(&world, node, last));
    }
    assert!(told[0] == told[1] && told[1] == told[2], "{told:#?}");
    assert!(told[0].is_sorted_by_key(|event| event.revision), "{told:#?}");
    let kinds: Vec<EventKind> = told[0].iter().map(|event| event.kind).collect();
    for kind in [
        EventKind::ClusterMade,
        EventKind::LeaderElected,
        EventKind::TokenCreated,
        EventKind::MemberJoined,
        EventKind::TokenRedeemed,
        EventKind::VotersChanged,
        EventKind::SettingChanged,
    ] {
        assert!(kinds.contains(&kind), "{kind:?} is missing: {told:#?}");
    }
    assert_eq!(kinds.last(), Some(&EventKind::MemberDrained));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_comes_back_whole_from_the_leader() {
    let world = World::three().await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let follower = (1..=3).find(|node| *node != leader).expect("three nodes");
    let delete = Command::DeleteSetting { key: "nothing".into() };
    let committed = world.handle(follower).propose(RequestId::default(), "test", delete).await.expect("decided");
    let error = committed.accepted().expect_err("refused");
    assert_eq!(error, ProposeError::Refused(Refusal::SettingNotFound("nothing".into())));
    assert_eq!(error.code(), ErrorCode::SettingNotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_is_too_large_is_refused_before_it_is_sent() {
    let world = World::one().await;
    let large = setting("k", &"x".repeat(2 << 20));
    let error = world.handle(1).propose(RequestId::default(), "test", large).await.expect_err("too large");
    assert!(matches!(error, ProposeError::TooLarge { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_brings_back_every_acknowledged_change() {
    let mut world = World::one().await;
    for index in 0..50 {
        world.propose(1, setting(&format!("k{index}"), "v")).await;
    }
    let before = world.handle(1).status();
    world.close(1).await;
    world.open(1).await;
    world.wait(1, "applied again", |status| status.applied >= before.applied && status.has_quorum).await;
    for index in 0..50 {
        assert_eq!(world.read(1, &format!("k{index}")).as_deref(), Some("v"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first() {
    let mut world = World::three().await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let rest: Vec<u64> = (1..=3).filter(|node| *node != leader).collect();
    let term = world.handle(leader).status().term;
    world.close(leader).await;
    let next = world.leader_among(&rest).await;
    // One election, by transfer: nobody waited for the lease and stood twice.
    assert_eq!(world.handle(next).status().term, term + 1);
    world.propose(next, setting("after", "stop")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_fails_while_a_leader_that_stops_hands_over() {
    let mut world = World::three().await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let follower = (1..=3).find(|node| *node != leader).expect("three nodes");
    let over = AtomicBool::new(false);
    let write = |node: u64| {
        let (handle, over) = (world.handle(node), &over);
        async move {
            let mut written = 0_u32;
            // Through the old leader, what is begun while it leads.
            while !over.load(Ordering::SeqCst) && (node != leader || handle.status().leader == Some(NodeId(leader))) {
                let command = setting(&format!("from-{node}"), &written.to_string());
                let done = handle.propose(RequestId::default(), "test", command).await;
                assert!(done.is_ok(), "change {written} through node {node}: {done:?}");
                written += 1;
            }
            written
        }
    };
    let (at_leader, at_follower) = (write(leader), write(follower));
    let stop = async {
        world.handle(follower).propose(RequestId::default(), "test", setting("before", "it")).await.expect("committed");
        world.handle(leader).shutdown().await;
        over.store(true, Ordering::SeqCst);
    };
    let (at_leader, at_follower, ()) = tokio::join!(at_leader, at_follower, stop);
    assert!(at_leader > 0 && at_follower > 0, "{at_leader} and {at_follower} changes");
    world.close(leader).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_proposals_at_once_are_all_kept_and_stamped_in_order() {
    let world = World::three().await;
    let handle = world.handle(2);
    let all = (0..200).map(|index| {
        let handle = handle.clone();
        async move { handle.propose(RequestId::default(), "test", setting(&format!("m{index}"), "v")).await }
    });
    let results = futures::future::join_all(all).await;
    let mut revisions: Vec<u64> = results.into_iter().map(|result| result.expect("committed").revision).collect();
    revisions.sort_unstable();
    revisions.dedup();
    assert_eq!(revisions.len(), 200);
    world.handle(3).read_barrier().await.expect("a majority is there");
    assert!((0..200).all(|index| world.read(3, &format!("m{index}")).is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_asked_for_holds_what_was_applied_and_is_not_taken_twice() {
    let mut fresh = World::new(Config::default());
    fresh.open(1).await;
    assert_eq!(fresh.handle(1).take_snapshot().await, Err(SnapshotError::Empty));

    let world = World::one().await;
    let committed = world.propose(1, setting("k", "v")).await;
    let handle = world.handle(1);
    let taken = handle.take_snapshot().await.expect("taken");
    assert!(taken.index >= committed.revision && !taken.already, "{taken:?} after {committed:?}");
    assert_eq!(taken.term, committed.term);
    assert!(taken.records.is_some_and(|records| records > 0), "{taken:?}");
    world.wait(1, "the snapshot", |status| status.snapshot_index == taken.index).await;
    let again = handle.take_snapshot().await.expect("there");
    assert_eq!((again.index, again.already), (taken.index, true));
}
