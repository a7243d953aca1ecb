//! Cut links and lagging nodes: no old value is ever returned, and nothing acknowledged is lost.

use std::time::Duration;

use tokio::time::Instant;

use ollamax_metadata::mem::Link;
use ollamax_metadata::{Config, ProposeError, ReadError};
use ollamax_types::{NodeId, RequestId};

use crate::world::{World, setting};

async fn says_no_quorum_within_two_seconds(world: &World, node: u64) {
    let started = Instant::now();
    let error = world.handle(node).read_barrier().await.expect_err("no majority");
    assert!(matches!(error, ReadError::NoQuorum(_)), "{error:?}");
    assert!(!error.to_string().contains('{'), "what an administrator reads is no dump of a library: {error}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let started = Instant::now();
    let proposal = world.handle(node).propose(RequestId::default(), "test", setting("lost", "x")).await;
    let error = proposal.expect_err("no majority");
    assert!(matches!(error, ProposeError::NoQuorum(_)), "{error:?}");
    assert!(!error.to_string().contains('{'), "what an administrator reads is no dump of a library: {error}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_says_no_quorum_and_the_others_go_on() {
    for link in [Link::Cut, Link::Swallowed] {
        let world = World::three().await;
        world.propose(1, setting("value", "old")).await;
        let old = world.leader_among(&[1, 2, 3]).await;
        let rest: Vec<u64> = (1..=3).filter(|node| *node != old).collect();
        world.network.set_all(NodeId(old), link);
        says_no_quorum_within_two_seconds(&world, old).await;
        world.wait(old, "knows that it has no majority", |status| !status.has_quorum).await;

        let new = world.leader_among(&rest).await;
        world.propose(new, setting("value", "new")).await;

        world.network.heal();
        let healed = world.handle(old);
        crate::world::eventually("barrier after healing", || healed.read_barrier()).await;
        assert_eq!(world.read(old, "value").as_deref(), Some("new"));
        assert_eq!(world.read(old, "lost"), None, "what was refused for lack of a majority never happened");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_is_cut_off_says_no_quorum_and_does_not_disturb_the_leader() {
    for link in [Link::Cut, Link::Swallowed] {
        let world = World::three().await;
        let leader = world.leader_among(&[1, 2, 3]).await;
        let alone = (1..=3).find(|node| *node != leader).expect("three nodes");
        let term = world.handle(leader).status().term;
        world.network.set_all(NodeId(alone), link);
        says_no_quorum_within_two_seconds(&world, alone).await;
        world.network.heal();
        let healed = world.handle(alone);
        crate::world::eventually("barrier after healing", || healed.read_barrier()).await;
        let status = healed.status();
        assert_eq!((status.leader, status.term), (Some(NodeId(leader)), term), "pre-vote kept the term");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_is_healed_by_a_snapshot() {
    let config = Config { snapshot_every: 50, keep_log: 10, ..Config::default() };
    let mut world = World::three_with(config).await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let behind = (1..=3).find(|node| *node != leader).expect("three nodes");
    world.close(behind).await;
    for index in 0..500 {
        world.propose(leader, setting(&format!("s{}", index % 100), &index.to_string())).await;
    }
    world.wait(leader, "purged its log", |status| status.log_first_index > 300).await;
    world.open(behind).await;
    let goal = world.handle(leader).status().applied;
    world.wait(behind, "caught up", |status| status.applied >= goal).await;

    let (healed, source) = (world.handle(behind), world.handle(leader));
    crate::world::eventually("equal state at an equal index", || {
        let (a, b) = (healed.status(), source.status());
        async move {
            if a.applied == b.applied && a.state_hash == b.state_hash { Ok(()) } else { Err((a.applied, b.applied)) }
        }
    })
    .await;
    world.wait(behind, "it got a snapshot, not the log", |status| status.log_first_index > 300).await;
    assert_eq!(world.read(behind, "s99").as_deref(), Some("499"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_disk_is_full_says_so_and_catches_up_when_there_is_room() {
    let mut world = World::three().await;
    let leader = world.leader_among(&[1, 2, 3]).await;
    let full = (1..=3).find(|node| *node != leader).expect("three nodes");
    world.propose(leader, setting("value", "old")).await;
    let goal = world.handle(leader).status().applied;
    world.wait(full, "has the old value", |status| status.applied >= goal).await;
    world.close(full).await;
    // No disk has as much room as this node wants to keep.
    world.reserves.insert(full, u64::MAX);
    world.open(full).await;
    world.wait(full, "follows", |status| status.has_quorum && status.leader.is_some()).await;

    world.propose(leader, setting("value", "new")).await;
    let refused = world.handle(full).propose(RequestId::default(), "test", setting("more", "bytes")).await;
    assert!(matches!(refused, Err(ProposeError::DiskFull(_))), "{refused:?}");
    assert_eq!(world.read(full, "value").as_deref(), Some("old"), "nothing was written there");
    world.wait(full, "still follows", |status| status.has_quorum && status.leader.is_some()).await;

    world.close(full).await;
    world.reserves.remove(&full);
    world.open(full).await;
    let healed = world.handle(full);
    crate::world::eventually("barrier once there is room", || healed.read_barrier()).await;
    assert_eq!(world.read(full, "value").as_deref(), Some("new"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_another_node_or_in_another_name_is_refused() {
    let world = World::three().await;
    let (one, two) = (world.handle(1), world.handle(2));
    for garbage in [&b""[..], &b"\xff\xff"[..], &b"GET / HTTP/1.1"[..]] {
        assert!(one.serve(NodeId(2), garbage.to_vec().into()).await.is_err());
        assert!(two.serve(NodeId(1), garbage.to_vec().into()).await.is_err());
    }
    world.propose(1, setting("still", "fine")).await;
}
