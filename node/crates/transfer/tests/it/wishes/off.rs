//! Who waits for a wish while one of its nodes is off.

use ollamax_transfer::Ask;

use super::*;

/// A pull without a word of places once waited without end for a node that was off.
#[tokio::test(start_paused = true)]
async fn who_says_nothing_of_places_waits_for_nobody_who_is_off() {
    let lab = Lab::new(3);
    let model = lab.model("tiny", 25, chunks(1));
    lab.cluster.set_away([THREE]);
    let (one, two) = (lab.start_one(ONE), lab.start_one(TWO));
    let said = ask_for(&model.name, Replicas::Nodes(vec![ONE, TWO, THREE]));
    let unsaid = Ask { is_said: false, ..said.clone() };
    let mut watch = timeout(LONG, one.handle.ask(unsaid)).await.expect("it answers").expect("it is on record");
    let over = end(&mut watch).await;
    let stages: Vec<&Stage> = over.copies.iter().map(|copy| &copy.progress.stage).collect();
    assert_eq!((stages, over.error()), (vec![&Stage::Done, &Stage::Done, &Stage::Waiting], None));
    let mut watch = timeout(LONG, one.handle.ask(said)).await.expect("it answers").expect("it is on record");
    let waits = async { while watch.changed().await {} };
    timeout(Duration::from_secs(60), waits).await.expect_err("who says where waits for all of them");
    end_all([one, two]).await;
}
