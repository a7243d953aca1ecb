//! What a node tells of the room that models have which the cluster sends it.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_cluster_sends_counts_until_it_is_on_record() {
    let lab = Lab::new(1);
    let model = lab.model("tiny", 31, chunks(2));
    let size_bytes = model.manifest.size_bytes();
    lab.origin.set_limit(chunks(1));
    lab.world(ONE).runtime.set_known(false);
    let one = lab.start_one(ONE);
    assert_eq!(one.handle.aside_bytes(), 0, "nothing comes");
    let mut watch = ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    let mut pull = pull_of(&one, &model.name).await;
    until_verified(&mut pull, chunks(1)).await;
    assert_eq!(one.handle.aside_bytes(), size_bytes, "all of it has its room");
    lab.origin.set_limit(u64::MAX);
    until(&mut pull, |progress| progress.stage == Stage::Settling).await;
    assert_eq!(one.handle.aside_bytes(), size_bytes, "the record does not have it yet");
    lab.hold(&[ONE], &model);
    result(&mut pull).await.expect("it is there");
    held(&mut watch).await;
    assert_eq!(one.handle.aside_bytes(), 0);
    one.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_ends_early_counts_no_more_and_what_a_person_asks_the_node_for_never_does() {
    let lab = Lab::new(1);
    let (ended, wrong, own) =
        (lab.model("ended", 32, chunks(2)), lab.model("wrong", 33, chunks(2)), lab.model("own", 34, chunks(2)));
    lab.origin.put_file(wrong.weights.sha256, ended.bytes.clone());
    lab.origin.set_limit(chunks(1));
    let one = lab.start_one(ONE);

    ask(&one, &ended.name, Replicas::All).await.expect("it is on record");
    let mut pull = pull_of(&one, &ended.name).await;
    until_verified(&mut pull, chunks(1)).await;
    assert_eq!(one.handle.aside_bytes(), ended.manifest.size_bytes());
    assert_eq!(one.handle.forget(&ended.name).await, Ok(true));
    assert_eq!(result(&mut pull).await, Err(PullError::Cancelled));
    assert_eq!(one.handle.aside_bytes(), 0, "it was cancelled");

    lab.origin.set_limit(chunks(2));
    let mut pull = one.ask(&own.name).await.expect("it begins");
    until_verified(&mut pull, chunks(1)).await;
    assert_eq!(one.handle.aside_bytes(), 0, "the cluster does not count on it");
    lab.origin.set_limit(u64::MAX);
    result(&mut pull).await.expect("it comes");

    ask(&one, &wrong.name, Replicas::All).await.expect("it is on record");
    let error = result(&mut pull_of(&one, &wrong.name).await).await.expect_err("it is another file");
    assert_eq!((error.code(), one.handle.aside_bytes()), (ErrorCode::DigestMismatch, 0));
    one.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_on_record_counts_no_more_although_the_runtime_does_not_list_it_yet() {
    let lab = Lab::new(1);
    let model = lab.model("tiny", 35, chunks(2));
    lab.world(ONE).runtime.set_listing(None);
    let one = lab.start_one(ONE);
    ask(&one, &model.name, Replicas::All).await.expect("it is on record");
    let mut pull = pull_of(&one, &model.name).await;
    until(&mut pull, |progress| progress.stage == Stage::Settling).await;
    assert_eq!(one.handle.aside_bytes(), 0, "what is reserved for others must not become less by it");
    one.end().await;
}
