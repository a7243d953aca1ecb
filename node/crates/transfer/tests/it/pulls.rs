//! Pulls that come to their end, alone, together, and over restarts.

use std::fs::{self, File};
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::{sleep, timeout};

use ollamax_blobs::{JOB_VERSION, JobFile, Jobs, Staging};
use ollamax_transfer::{Config, Listing, Place, PullError, Source, Stage, Wait};
use ollamax_types::NodeId;

use crate::world::{LONG, Model, World, chunks, name, result, until, until_verified};

#[tokio::test(start_paused = true)]
async fn a_pull_ends_with_a_listed_model() {
    let mut world = World::new();
    world.config.origin_streams = 3;
    let model = world.model("tiny", 1, chunks(4) + 7);
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    assert_ne!(watch.now().stage, Stage::Resolving, "it is promised");
    assert_eq!(watch.now().digest, Some(model.manifest.digest()));
    assert_eq!(watch.now().total_bytes(), model.manifest.size_bytes());
    let done = result(&mut watch).await.expect("it comes");
    assert!(!watch.changed().await, "it is over, and that was seen");
    assert_eq!((done.node, &done.name), (NodeId(1), &model.name));
    assert_eq!(done.sources.len(), 1);
    assert_eq!((&done.sources[0].source, done.sources[0].bytes), (&Source::Origin, model.manifest.size_bytes()));
    world.check_published(&model);
    assert!(world.runtime.looks() > 0, "the runtime lists again");
    assert_eq!(node.listed(), []);
    assert_eq!(node.metric("ollamax_transfer_pulls"), 0.0);
    assert_eq!(node.metric("ollamax_transfer_pulls_total"), 1.0);
    assert_eq!(node.metric("ollamax_transfer_received_bytes_total"), model.manifest.size_bytes() as f64);
    // What was hashed on the way is not read again.
    let mut adopted = node.handle.adopted();
    let is_known = |adopted: &ollamax_transfer::Adopted| adopted.models.len() == 1 && adopted.left_bytes == 0;
    let told = timeout(LONG, adopted.wait_for(|adopted| is_known(adopted))).await.expect("in time");
    assert!(told.expect("the node runs").hashed.contains_key(&model.weights.sha256));
    assert_eq!(node.metric("ollamax_blobs_hashed_bytes_total"), 0.0);

    // Again it costs a question.
    node.pull(&model.name).await.expect("it is there");
    assert_eq!(world.origin.manifests_asked(), 2);
    assert_eq!(world.origin.sent(model.weights.sha256), model.weights.size_bytes);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn two_pulls_of_one_name_are_one() {
    let world = World::new();
    let model = world.model("tiny", 2, chunks(2));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let (first, second) = (model.name.clone(), name("TINY:Latest"));
    let (first, second) = tokio::join!(node.ask(&first), node.ask(&second));
    let (mut first, mut second) = (first.expect("it begins"), second.expect("it is joined"));
    until_verified(&mut second, chunks(1)).await;
    let mut third = node.ask(&model.name).await.expect("it is joined");
    assert_eq!(node.listed().len(), 1);
    world.origin.set_limit(u64::MAX);
    for watch in [&mut first, &mut second, &mut third] {
        result(watch).await.expect("it comes");
    }
    assert_eq!(world.origin.manifests_asked(), 1);
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(2));
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_whose_askers_left_goes_on() {
    let world = World::new();
    let model = world.model("tiny", 3, chunks(2));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    drop(node.ask(&model.name).await.expect("it begins"));
    world.origin.set_limit(u64::MAX);
    while !node.listed().is_empty() {
        sleep(Duration::from_millis(50)).await;
    }
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_was_cut_off_asks_only_for_what_is_missing() {
    let world = World::new();
    let model = world.model("tiny", 4, chunks(4) + 100);
    world.origin.set_limit(chunks(2) + 5_000);
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(2)).await;
    node.end().await;
    assert_eq!(result(&mut watch).await, Err(PullError::Stopping));
    assert_eq!(world.jobs(), ["tiny:latest"]);
    world.check_nothing_published();

    // The job lies there, and whoever asks joins it. The name has moved meanwhile, which changes nothing.
    let moved = world.model("tiny", 5, 1_000);
    world.origin.set_limit(u64::MAX);
    let sent = world.origin.sent(model.weights.sha256);
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it goes on");
    let done = result(&mut watch).await.expect("it comes");
    assert_eq!(done.digest, Some(model.manifest.digest()));
    let here = done.sources.iter().find(|part| part.source == Source::Here).expect("some was here");
    assert_eq!(here.bytes, chunks(2));
    assert_eq!(world.origin.sent(model.weights.sha256) - sent, chunks(2) + 100);
    assert_eq!(world.origin.manifests_asked(), 1);
    world.check_published(&model);

    // Whoever asks from now on gets what the name stands for now.
    node.pull(&model.name).await.expect("it comes");
    world.check_published(&moved);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_cut_off_does_not_replace_what_others_put_under_its_name_meanwhile() {
    let world = World::new();
    let manifest = world.store().root().join("manifests/registry.ollama.ai/library/tiny/latest");
    let theirs = world.model("theirs", 60, 1_000);
    let put = |written_at_ms: u64| {
        fs::create_dir_all(manifest.parent().expect("it has one")).expect("there is room");
        fs::write(&manifest, theirs.manifest.bytes()).expect("there is room");
        let file = File::options().write(true).open(&manifest).expect("ours");
        file.set_modified(UNIX_EPOCH + Duration::from_millis(written_at_ms)).expect("ours");
    };
    let cut_off = async |model: &Model| {
        world.origin.set_limit(0);
        let node = world.start();
        node.ask(&model.name).await.expect("it begins");
        node.end().await;
        assert_eq!(world.jobs(), ["tiny:latest"]);
    };

    // What lay there before it was asked for is what it shall replace.
    let model = world.model("tiny", 61, chunks(2));
    put(1_000);
    cut_off(&model).await;
    world.origin.set_limit(u64::MAX);
    let node = world.start();
    result(&mut node.ask(&model.name).await.expect("it goes on")).await.expect("it comes");
    world.check_published(&model);
    node.end().await;

    // What others put there later stays, whether it is there when the job goes on or comes while it does.
    for (seed, is_late) in [(62, false), (63, true)] {
        let model = world.model("tiny", seed, chunks(2));
        cut_off(&model).await;
        let (later, asked) = (world.clock.now().0 + 60_000, world.origin.asked().len());
        if !is_late {
            put(later);
        }
        let node = world.start();
        while is_late && world.origin.asked().len() == asked {
            sleep(Duration::from_millis(50)).await;
        }
        put(later);
        world.origin.set_limit(u64::MAX);
        let overtaken = Stage::Failed(PullError::Overtaken { name: model.name.clone() });
        while node.listed() != [(model.name.to_string(), overtaken.clone())] {
            sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(fs::read(&manifest).expect("it is there"), theirs.manifest.bytes());
        assert_eq!((world.jobs(), world.origin.asked().len() > asked), (vec![], is_late));
        node.end().await;
        fs::remove_file(&manifest).expect("ours");
    }
}

/// Killed behind the last step that can be seen, before the last that cannot.
#[tokio::test(start_paused = true)]
async fn a_job_whose_model_is_there_ends_at_once() {
    let world = World::new();
    let model = world.model("tiny", 50, chunks(1));
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    node.end().await;
    let job = JobFile {
        version: JOB_VERSION,
        name: "tiny".to_owned(),
        insecure: false,
        manifest_hex: hex_of(model.manifest.bytes()),
        asked_by: "a test".to_owned(),
        asked_at_ms: 1,
    };
    let jobs = Jobs::open(&world.folder.path().join("data/transfer/jobs")).expect("ours");
    jobs.write(&job).expect("there is room");
    let staging = Staging::open(&world.store().staging_place(), None).expect("ours");
    drop(staging.begin(model.weights).expect("there is room"));
    let (asked, manifests) = (world.origin.asked().len(), world.origin.manifests_asked());
    let node = world.start();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.listed(), []);
    world.check_published(&model);
    assert_eq!((world.origin.asked().len(), world.origin.manifests_asked()), (asked, manifests));
    node.end().await;
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_a_store_that_comes_later() {
    let world = World::new();
    let model = world.model("tiny", 6, chunks(1));
    world.origin.set_limit(0);
    let node = world.start();
    node.ask(&model.name).await.expect("it begins");
    node.end().await;
    world.origin.set_limit(u64::MAX);
    world.runtime.set_place(Place::None("no runtime is chosen".to_owned()));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it is promised already");
    sleep(Duration::from_secs(600)).await;
    let reason = "no runtime is chosen".to_owned();
    assert_eq!((&watch.now().stage, &watch.now().wait), (&Stage::Waiting, &Some(Wait::Store { reason })));
    let other = world.model("other", 7, 10);
    let refused = node.pull(&other.name).await.expect_err("there is no store");
    assert_eq!(refused.to_string(), "no place for models on this node: no runtime is chosen");
    world.runtime.set_place(Place::Store(world.folder.path().join("models")));
    result(&mut watch).await.expect("it comes");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_pull_keeps_what_came() {
    let world = World::new();
    let model = world.model("tiny", 8, chunks(3));
    world.origin.set_limit(chunks(2));
    let node = world.start();
    assert!(!node.handle.cancel(&model.name).await, "there is none");
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(2)).await;
    assert!(node.handle.cancel(&name("Tiny")).await);
    assert_eq!(result(&mut watch).await, Err(PullError::Cancelled));
    assert_eq!((node.listed(), world.jobs()), (vec![], vec![]));
    assert!(!node.handle.cancel(&model.name).await, "it is over");
    world.check_nothing_published();
    world.origin.set_limit(u64::MAX);
    node.pull(&model.name).await.expect("it comes");
    assert_eq!(world.origin.sent(model.weights.sha256), chunks(3));
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_there_was_not_cancelled() {
    let world = World::new();
    let model = world.model("tiny", 70, 1_000);
    let node = world.start();
    // It settles for a while.
    world.runtime.set_known(false);
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until(&mut watch, |progress| progress.stage == Stage::Settling).await;
    assert!(!node.handle.cancel(&model.name).await, "it is done");
    result(&mut watch).await.expect("it came");
    world.check_published(&model);

    // Nor was a pull that goes on at the next start.
    let other = world.model("other", 71, chunks(1));
    world.origin.set_limit(0);
    node.ask(&other.name).await.expect("it begins");
    let handle = node.handle.clone();
    let (is_cancelled, ()) = tokio::join!(handle.cancel(&other.name), node.end());
    assert_eq!(world.jobs().is_empty(), is_cancelled);
}

#[tokio::test(start_paused = true)]
async fn cancel_is_obeyed_while_hashing() {
    let world = World::new();
    let model = world.model("tiny", 9, chunks(6));
    world.origin.set_limit(chunks(5));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(5)).await;
    node.end().await;
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it goes on");
    until(&mut watch, |progress| progress.stage == Stage::Checking).await;
    let asked = world.origin.asked().len();
    assert!(node.handle.cancel(&model.name).await);
    assert_eq!(result(&mut watch).await, Err(PullError::Cancelled));
    assert_eq!(world.origin.asked().len(), asked, "nobody was asked for more");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_two_models_share_comes_once() {
    let mut world = World::new();
    world.config.origin_streams = 2;
    let one = world.model("one", 10, chunks(2));
    let two = world.model("two", 10, chunks(2));
    world.origin.set_limit(chunks(1));
    let node = world.start();
    let mut first = node.ask(&one.name).await.expect("it begins");
    let mut second = node.ask(&two.name).await.expect("it begins");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(node.listed().len(), 2);
    world.origin.set_limit(u64::MAX);
    result(&mut first).await.expect("it comes");
    result(&mut second).await.expect("it comes");
    assert_eq!(world.origin.sent(one.weights.sha256), chunks(2));
    world.check_published(&one);
    world.check_published(&two);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn more_pulls_than_places_wait_and_more_than_may_wait_are_refused() {
    let mut world = World::new();
    world.config = Config { pulls_max: 1, pulls_waiting_max: 1, ..world.config };
    let models = [1, 2, 3].map(|seed| world.model(&format!("m{seed}"), 20 + seed, 1_000));
    world.origin.set_limit(0);
    let node = world.start();
    let mut first = node.ask(&models[0].name).await.expect("it begins");
    until(&mut first, |progress| progress.stage == Stage::Fetching).await;
    let mut second = node.ask(&models[1].name).await.expect("it may wait");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(second.now().stage, Stage::Waiting);
    assert_eq!(node.pull(&models[2].name).await.expect_err("no place"), PullError::TooMany(1, 1));
    assert!(node.ask(&models[1].name).await.is_ok(), "who joins needs no place");
    world.origin.set_limit(u64::MAX);
    result(&mut first).await.expect("it comes");
    result(&mut second).await.expect("it comes");
    node.pull(&models[2].name).await.expect("there is a place again");
    models.iter().for_each(|model| world.check_published(model));
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_runtime_says_of_a_new_model_decides_how_a_pull_ends() {
    let world = World::new();
    let node = world.start();
    let one = world.model("one", 30, 1_000);
    world.runtime.set_listing(Some(Listing::Down));
    world.runtime.set_known(false);
    let mut watch = node.ask(&one.name).await.expect("it begins");
    until(&mut watch, |progress| progress.wait == Some(Wait::Runtime)).await;
    assert_eq!(watch.now().stage, Stage::Settling);
    world.runtime.set_listing(Some(Listing::Listed));
    result(&mut watch).await.expect("it was started meanwhile");

    let two = world.model("two", 31, 1_000);
    world.runtime.set_listing(None);
    let error = node.pull(&two.name).await.expect_err("it does not list it");
    assert_eq!(error, PullError::NotListed { name: two.name.clone() });
    assert_eq!(node.listed(), [("two:latest".to_owned(), Stage::Failed(error))]);

    let three = world.model("three", 32, 1_000);
    world.runtime.set_listing(Some(Listing::Listed));
    node.pull(&three.name).await.expect("without a quorum it serves all the same");
    for model in [&one, &two, &three] {
        world.check_published(model);
    }
    // Also when nothing was left to fetch.
    world.runtime.set_listing(None);
    let error = node.pull(&three.name).await.expect_err("it does not list it any more");
    assert_eq!(error, PullError::NotListed { name: three.name.clone() });
    world.runtime.set_listing(Some(Listing::Down));
    let error = node.pull(&three.name).await.expect_err("nobody starts it");
    assert_eq!(error, PullError::RuntimeDown { name: three.name.clone() });
    let told = node.handle.watch(&three.name).expect("it was pulled").now();
    assert_eq!(told.stage, Stage::Failed(error), "that it lies in the store is no copy");
    world.check_published(&three);
    // It is listed for an hour, for whoever did not wait.
    sleep(Duration::from_secs(3_600)).await;
    assert_eq!(node.listed(), []);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_was_there_leaves_nothing_behind_and_a_lost_folder_is_made_again() {
    let world = World::new();
    let model = world.model("tiny", 40, chunks(1));
    let node = world.start();
    node.pull(&model.name).await.expect("it comes");
    fs::remove_dir_all(world.store().staging_place()).expect("ours");
    let done = node.pull(&model.name).await.expect("it is there");
    assert_eq!(done.sources[0].source, Source::Here);
    assert!(!world.store().staging_place().exists());
    // A folder that somebody removed is made again.
    let other = world.model("other", 41, 1_000);
    node.pull(&other.name).await.expect("it comes");
    world.check_published(&other);
    node.end().await;
}
