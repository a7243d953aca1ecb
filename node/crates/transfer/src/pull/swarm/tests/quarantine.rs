//! Nodes that sent what is wrong: which of them are struck, and when they are asked again.

use std::cell::Cell;

use ollamax_blobs::Tree;

use super::*;

/// Nodes that are in quarantine here, as other pulls have found.
fn shut_out(world: &World, nodes: &[NodeId]) {
    for node in nodes {
        (0..3).for_each(|index| world.trust.strike(*node, Digest([9; 32]), index));
        assert!(!world.trust.may_ask(*node), "node {node}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_lies_three_times_is_left_for_ten_minutes_by_every_pull_and_is_asked_again_afterwards() {
    for seed in SEEDS {
        let world = World::new(12, &[TWO]).await;
        world.cluster.put(world.own.spec, world.own.tree().root());
        world.peers.set_fault(TWO, Some(PeerFault::LyingChunks));
        let error = world.try_receive(seed).await.expect_err("nobody has it");
        assert!(matches!(error, PullError::Peers { .. }), "seed {seed}: {error}");
        assert!(!world.trust.may_ask(TWO), "seed {seed}");
        sleep(Duration::from_secs(1)).await;
        let told: Vec<(NodeId, Digest)> = world.peers.doubts().iter().map(|told| (told.0, told.1)).collect();
        assert_eq!(told, [(TWO, world.own.spec.sha256)], "seed {seed}: once for a file");

        // It would be right from now on; another pull has somebody else to ask.
        world.peers.set_fault(TWO, None);
        let other = World::new(6, &[TWO, THREE]).await;
        let other = World { trust: world.trust.clone(), ..other };
        other.receive(seed).await;
        assert_eq!(other.peers.sent_bytes(TWO), 0, "seed {seed}");
        sleep(Duration::from_secs(600)).await;
        let later = World::new(6, &[TWO]).await;
        let later = World { trust: world.trust.clone(), ..later };
        let begun = Instant::now();
        later.receive(seed).await;
        assert!(begun.elapsed() < shunned::LAST_CHOICE_AFTER, "seed {seed}: {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_only_holder_is_asked_although_it_is_in_quarantine() {
    for seed in SEEDS {
        let world = World::new(6, &[TWO]).await;
        shut_out(&world, &[TWO]);
        let begun = Instant::now();
        world.receive(seed).await;
        assert!(begun.elapsed() >= shunned::LAST_CHOICE_AFTER, "seed {seed}: {:?}", begun.elapsed());
        assert_eq!(world.peers.sent_bytes(TWO), world.own.spec.size_bytes, "seed {seed}");
        assert!(!world.trust.may_ask(TWO), "seed {seed}: it is the last choice still");
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_the_file_and_gives_nothing_does_not_keep_a_node_in_quarantine_from_being_asked() {
    let world = World::new(4, &[TWO, THREE]).await;
    world.peers.set_fault(THREE, Some(PeerFault::Busy));
    shut_out(&world, &[TWO]);
    let begun = Instant::now();
    world.receive(1).await;
    assert!(begun.elapsed() >= Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_comes_into_quarantine_meanwhile_is_left_and_another_gives_the_rest() {
    let world = World::new(8, &[TWO]).await;
    let (three, part) = world.join(THREE);
    arrive(&three, &part, 0..8);
    // Whoever is asked alone is slow, so that the rest is still missing.
    let gate = world.gate("1MiB/s", &Clock::system());
    let receiving = Receiving { gate, others: vec![THREE], ..world.receiving(1) };
    let _offered = three.library.offer(part);
    let sent = Cell::new(None);
    let happens = async {
        sleep(Duration::from_secs(6)).await;
        shut_out(&world, &[TWO]);
        sent.set(Some(world.peers.sent_bytes(TWO)));
        pending::<()>().await;
    };
    let fetched = Box::pin(receive(receiving, &world.config, Chaser::new()));
    tokio::select! {
        fetched = timeout(LONG, fetched) => assert_eq!(fetched.expect("it ends"), Ok(world.own.spec.sha256)),
        () = happens => {}
    }
    let before = sent.get().expect("it was left before all was there");
    // What was on its way may still have come.
    assert!(world.peers.sent_bytes(TWO) <= before + CHUNK_BYTES, "{} after {before}", world.peers.sent_bytes(TWO));
}

#[tokio::test(start_paused = true)]
async fn what_is_only_told_of_a_chunk_strikes_nobody_but_who_told_it() {
    let world = World::new(12, &[]).await;
    let ((two, first), (three, whole)) = (world.join(TWO), world.join(THREE));
    for (disk, part) in [(&two, &first), (&three, &whole)] {
        arrive(disk, part, 0..12);
    }
    world.peers.set_fault(TWO, Some(PeerFault::LyingHashes));
    let _offered = (two.library.offer_first(first), three.library.offer(whole));
    let fetched = Box::pin(receive(world.hearing(&[TWO, THREE]), &world.config, Chaser::new()));
    timeout(LONG, fetched).await.expect("it ends").expect_err("nothing fits what was told");
    assert!(world.trust.may_ask(THREE), "it sent what it should");
    assert!(!world.trust.may_ask(TWO), "nothing that it sent is what it told");
    assert!(world.peers.doubts().iter().all(|told| told.0 == TWO), "{:?}", world.peers.doubts());
}

#[tokio::test(start_paused = true)]
async fn a_tree_that_is_not_the_one_on_record_strikes_nobody() {
    for is_on_record in [false, true] {
        let world = World::new(12, &[TWO]).await;
        if is_on_record {
            world.cluster.put(world.own.spec, world.own.tree().root());
        }
        let mut hashes = world.own.tree().hashes().to_vec();
        hashes.iter_mut().for_each(|hash| hash[0] ^= 1);
        let tree = Tree::of(world.own.spec.size_bytes, hashes).expect("as many as before");
        let receiving = Receiving { proof: Proof::Tree(tree), ..world.receiving(1) };
        let fetched = Box::pin(receive(receiving, &world.config, Chaser::new()));
        timeout(LONG, fetched).await.expect("it ends").expect_err("nothing fits the tree");
        assert!(world.trust.may_ask(TWO), "it sent what it should; on record: {is_on_record}");
        assert!(world.peers.doubts().is_empty(), "on record: {is_on_record}");
    }
}
