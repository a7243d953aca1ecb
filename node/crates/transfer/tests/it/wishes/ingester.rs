//! Who takes the place of the node that asks the registry.

use super::*;

#[tokio::test(start_paused = true)]
async fn who_takes_the_place_of_an_ingester_that_died_keeps_what_came() {
    let lab = Lab::new(3);
    let model = lab.model("tiny", 23, chunks(6));
    lab.origin.set_limit(chunks(3));
    let [one, two, three] = lab.start::<3>();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    for node in [&two, &three] {
        until_verified(&mut pull_of(node, &model.name).await, chunks(3)).await;
    }
    one.end().await;
    lab.peers.unlink(ONE);
    lab.cluster.plan(&model.name, TWO, vec![TWO, THREE]);
    lab.origin.set_limit(u64::MAX);
    let over = held(&mut watch).await;
    assert_eq!(over.copies.iter().map(|copy| copy.node).collect::<Vec<_>>(), [TWO, THREE]);
    for node in [TWO, THREE] {
        lab.world(node).check_published(&model);
    }
    assert_eq!(lab.origin.sent(model.weights.sha256), chunks(6), "each byte once");
    end_all([two, three]).await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_the_place_of_an_ingester_fetches_the_version_that_was_chosen() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 18, chunks(2));
    lab.origin.set_limit(0);
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let mut second = pull_of(&two, &model.name).await;
    until(&mut second, |progress| progress.digest.is_some() && progress.wait == Some(Wait::FirstCopy)).await;
    one.end().await;
    lab.peers.unlink(ONE);
    // The name moves meanwhile; the files of the version before are still there.
    lab.model("tiny", 19, chunks(1));
    lab.cluster.plan(&model.name, TWO, vec![TWO]);
    lab.origin.set_limit(u64::MAX);
    assert_eq!(held(&mut watch).await.digest, Some(model.manifest.digest()));
    lab.world(TWO).check_published(&model);
    assert_eq!(lab.origin.manifests_asked(), 1);
    two.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_a_pull_holds_on_when_its_node_takes_the_place_of_an_ingester() {
    let lab = Lab::new(2);
    let model = lab.model("tiny", 20, chunks(6));
    lab.origin.set_limit(0);
    let [one, two] = lab.start::<2>();
    let mut watch = ask(&two, &model.name, Replicas::All).await.expect("it is on record");
    let mut second = pull_of(&two, &model.name).await;
    until(&mut second, |progress| progress.digest.is_some() && progress.wait == Some(Wait::FirstCopy)).await;
    let rate = Rate::of(256 << 10);
    assert!(two.handle.limit_pull(&model.name, rate, false));
    one.end().await;
    lab.peers.unlink(ONE);
    lab.cluster.plan(&model.name, TWO, vec![TWO]);
    lab.origin.set_limit(u64::MAX);
    let begun = Instant::now();
    held(&mut watch).await;
    // 24 MiB, but for the burst and a chunk on credit.
    assert!(begun.elapsed() >= Duration::from_secs(60), "{:?}", begun.elapsed());
    assert_eq!(two.handle.limit_of_pull(&model.name), None, "it goes with its pull");
    two.end().await;
}
