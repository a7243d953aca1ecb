//! Wishes in whose midst something goes: the node, whoever brings the copy, or the file itself.

use super::*;

/// Waits until something is so.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        let mut looks = interval(Duration::from_millis(10));
        while !is_so() {
            looks.tick().await;
        }
    };
    assert!(timeout(LONG, waiting).await.is_ok(), "never: {what}");
}

/// The node that gets the copy starts again, one that brings it dies, then the other one for so long that it fails, and
/// the next leader begins a round.
#[tokio::test(start_paused = true)]
async fn a_repair_goes_on_with_what_came_whoever_plans_it_again() {
    let lab = Lab::new(3);
    let model = lab.model("tiny", 27, chunks(8));
    let [one, two] = lab.start::<2>();
    held(&mut ask(&one, &model.name, Replicas::Nodes(vec![ONE, TWO])).await.expect("it is on record")).await;
    lab.hold(&[ONE, TWO], &model);
    let ledger = lab.cluster.ledger(ONE);
    let is_bound = || model.manifest.blobs().iter().all(|blob| ledger.bound(blob.sha256).is_some());
    eventually("its files are on record", is_bound).await;
    // Of the two that have it only this one is there, until it has sent so much.
    let only = |id: NodeId, node: &Node, bytes: u64| {
        [ONE, TWO].into_iter().for_each(|other| lab.peers.unlink(other));
        lab.peers.link(id, node.handle.clone());
        lab.peers.set_fault(id, Some(PeerFault::VanishAfter(bytes)));
    };
    let repair = |from: NodeId| lab.cluster.repair(&model.name, from, vec![ONE, TWO, THREE]);

    only(ONE, &one, chunks(2));
    repair(ONE);
    let three = lab.start_one(THREE);
    let mut pull = pull_of(&three, &model.name).await;
    until_verified(&mut pull, chunks(2)).await;
    three.end().await;
    assert_eq!(result(&mut pull).await, Err(PullError::Stopping));

    only(TWO, &two, chunks(3));
    repair(TWO);
    let three = lab.start_one(THREE);
    let mut pull = pull_of(&three, &model.name).await;
    until_verified(&mut pull, chunks(5)).await;
    let error = result(&mut pull).await.expect_err("nobody has the rest");
    assert!(matches!(error, PullError::Silent { .. }), "{error}");

    only(ONE, &one, u64::MAX);
    lab.cluster.fix(&model.name, model.manifest.digest(), model.manifest.size_bytes());
    repair(ONE);
    let stored = || lab.world(THREE).store().manifest(&model.name).expect("readable");
    eventually("the copy is there", || stored().is_some()).await;
    result(&mut pull_of(&three, &model.name).await).await.expect("it comes");
    assert_eq!(lab.peers.sent_bytes(ONE), model.manifest.size_bytes() - chunks(5), "nothing comes twice");
    lab.world(THREE).check_published(&model);
    end_all([one, two, three]).await;
}

/// It lay there before the wish, and what it is was not on record yet.
#[tokio::test(start_paused = true)]
async fn a_file_that_goes_before_its_hash_is_on_record_ends_the_wish_of_all() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 28, chunks(1));
    let weights = model.weights.sha256;
    let one = lab.start_one(ONE);
    one.pull(&model.name).await.expect("it comes");
    one.end().await;
    lab.origin.fail_manifests([OriginTrouble::Busy { after_ms: Some(5_000) }]);
    let [one, two] = lab.start::<2>();
    let mut adopted = one.handle.adopted();
    let known = |adopted: &Arc<Adopted>| adopted.hashed.contains_key(&weights);
    timeout(LONG, adopted.wait_for(known)).await.expect("in time").expect("it runs");
    let _watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    // The version cannot be put on record, so nothing is said of the file while it is there.
    lab.cluster.set_quorum(false);
    let mut second = pull_of(&two, &model.name).await;
    result(&mut pull_of(&one, &model.name).await).await.expect("it needs no quorum");
    fs::remove_file(lab.world(ONE).blob(weights)).expect("it is there");
    one.handle.look_again();
    timeout(LONG, adopted.wait_for(|adopted| !known(adopted))).await.expect("in time").expect("it runs");

    lab.cluster.set_quorum(true);
    let error = result(&mut second).await.expect_err("nobody has it");
    assert_eq!(error.code(), ErrorCode::StorageFailed, "{error}");
    let wish = lab.cluster.wish(&model.name).expect("it is on record");
    let text = format!("{} is not in the store any more", weights.short());
    assert!(wish.failures[&ONE].text.contains(&text), "{:?}", wish.failures);
    end_all([one, two]).await;
}
