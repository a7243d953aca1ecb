//! The quiet days: proposing, reading, stopping, starting again.

use std::sync::atomic::{AtomicBool, Ordering};

use ollamax_core::catalog::{Answer, Refusal};
use ollamax_metadata::ProposeError;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_comes_back_whole_from_the_leader() {
    let world = World::three().await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let follower = (1..=3).find(|node| *node != leader).expect("three nodes");
    let delete = ollamax_core::catalog::Command::DeleteSetting { key: "nothing".into() };
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
