//! Pulls under limits: slowed, held back, and let go.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use ollamax_transfer::{Stage, Wait};
use ollamax_types::{Clock, Rate, Timestamp};

use crate::world::{World, chunks, result, until, until_verified};

/// Monday, 5 January 1970, noon in UTC.
const MONDAY_NOON: Timestamp = Timestamp((4 * 24 + 12) * 3_600_000);

#[tokio::test(start_paused = true)]
async fn a_pull_takes_as_long_as_its_limit_says() {
    let mut world = World::new();
    world.config.limit_origin = "8MiB/s".to_owned();
    let model = world.model("tiny", 1, chunks(8));
    let node = world.start();
    let begun = Instant::now();
    node.pull(&model.name).await.expect("it comes");
    let (held, took) = (node.metric("ollamax_transfer_limited_seconds_total"), begun.elapsed().as_secs_f64());
    // 32 MiB, but for the burst of one chunk and a piece on credit.
    assert!((3.0..3.7).contains(&took), "{took}");
    assert!(held >= 3.0, "all that waited at once: {held}");
    world.check_published(&model);
    assert_eq!(node.metric("ollamax_transfer_moved_bytes_total"), model.manifest.size_bytes() as f64);
    node.end().await;
}

/// How long a pull takes while the cluster's log waits for its disk, or does not.
async fn time_beside_the_log(seed: u64, is_strained: bool) -> f64 {
    let world = World::new();
    world.strain.send_replace(is_strained);
    let model = world.model("tiny", seed, chunks(12));
    let node = world.start();
    let begun = Instant::now();
    node.pull(&model.name).await.expect("it comes");
    let took = begun.elapsed().as_secs_f64();
    world.check_published(&model);
    node.end().await;
    took
}

/// Nothing else in a pull knows of the log.
#[tokio::test(start_paused = true)]
async fn a_pull_is_written_slowly_while_the_log_waits_for_its_disk() {
    let (usual, beside) = (time_beside_the_log(10, false).await, time_beside_the_log(11, true).await);
    assert!(usual < 0.5, "{usual}");
    // 48 MiB at 32 MiB/s, but for the burst and for a piece on credit.
    assert!((1.0..2.0).contains(&beside), "{beside}, {usual} without it");
}

#[tokio::test(start_paused = true)]
async fn a_closed_window_ends_no_pull() {
    let mut world = World::new();
    world.clock = Clock::manual(MONDAY_NOON);
    world.config.limit_origin = "mon-fri 08:00-18:00 off".to_owned();
    let model = world.model("tiny", 2, chunks(2));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    let closed = Some(Wait::Window { until_minute: Some(18 * 60) });
    until(&mut watch, |progress| progress.wait == closed).await;
    assert_eq!(watch.now().stage, Stage::Waiting);
    // Longer than any silence.
    sleep(Duration::from_secs(900)).await;
    assert_eq!((watch.now().wait.clone(), watch.now().verified_bytes()), (closed, 0));
    assert_eq!(node.handle.closed().len(), 1);
    world.clock.advance_ms(6 * 3_600_000);
    result(&mut watch).await.expect("it comes");
    assert!(node.handle.closed().is_empty());
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_window_that_closes_in_mid_file_keeps_what_came() {
    let mut world = World::new();
    world.clock = Clock::manual(MONDAY_NOON);
    world.config.limit_origin = "mon 13:00-14:00 off".to_owned();
    let model = world.model("tiny", 3, chunks(6));
    world.origin.set_limit(chunks(2));
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until_verified(&mut watch, chunks(2)).await;
    world.clock.advance_ms(3_600_000);
    // The limits look at the time once a second.
    sleep(Duration::from_secs(2)).await;
    world.origin.set_limit(u64::MAX);
    until(&mut watch, |progress| progress.wait == Some(Wait::Window { until_minute: Some(14 * 60) })).await;
    assert!(watch.now().verified_bytes() <= chunks(3), "the chunk that had begun: {}", watch.now().verified_bytes());
    world.clock.advance_ms(3_600_000);
    result(&mut watch).await.expect("it comes");
    world.check_published(&model);
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_one_pull_can_be_changed_and_taken_away() {
    let world = World::new();
    let (slow, free) = (world.model("slow", 4, chunks(6)), world.model("free", 5, chunks(6)));
    world.origin.set_limit(0);
    let node = world.start();
    let rate = Rate::of(64 << 10);
    assert!(!node.handle.limit_pull(&slow.name, rate, false), "nobody pulls it yet");
    let mut watch = node.ask(&slow.name).await.expect("it begins");
    assert!(node.handle.limit_pull(&slow.name, rate, false));
    world.origin.set_limit(u64::MAX);
    // It is on its way for minutes; another one is not held up by that.
    let begun = Instant::now();
    node.pull(&free.name).await.expect("it comes");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    sleep(Duration::from_secs(60)).await;
    assert_eq!((watch.now().is_over(), node.handle.limit_of_pull(&slow.name)), (false, rate));
    assert!(node.handle.limit_pull(&slow.name, None, false));
    let begun = Instant::now();
    result(&mut watch).await.expect("it comes");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    assert!(!node.handle.limit_pull(&slow.name, rate, false), "it is over");
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_may_be_there_before_its_pull_and_goes_with_it() {
    let world = World::new();
    let model = world.model("tiny", 6, chunks(4));
    let node = world.start();
    let rate = Rate::of(1 << 20);
    assert!(node.handle.limit_pull(&model.name, rate, true));
    let begun = Instant::now();
    node.pull(&model.name).await.expect("it comes");
    assert!(begun.elapsed() >= Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(node.handle.limit_of_pull(&model.name), None);
    // One that nobody needed is gone after a while.
    let late = world.model("late", 7, chunks(4));
    assert!(node.handle.limit_pull(&late.name, rate, true));
    sleep(Duration::from_secs(700)).await;
    let begun = Instant::now();
    node.pull(&late.name).await.expect("it comes");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Somebody may take it away before that.
    let free = world.model("free", 9, chunks(4));
    assert!(node.handle.limit_pull(&free.name, rate, true));
    assert!(node.handle.limit_pull(&free.name, None, false), "it was announced");
    assert!(!node.handle.limit_pull(&free.name, None, false), "it is gone");
    let begun = Instant::now();
    node.pull(&free.name).await.expect("it comes");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    node.end().await;
}

#[tokio::test(start_paused = true)]
async fn as_many_ranges_are_open_as_a_limit_leaves_room_for() {
    let mut world = World::new();
    world.config.origin_streams = 4;
    let model = world.model("tiny", 8, chunks(12));
    world.origin.set_limit(0);
    let node = world.start();
    let mut watch = node.ask(&model.name).await.expect("it begins");
    until(&mut watch, |progress| progress.stage == Stage::Fetching).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.origin.open_max(), 4);
    // Each range ends with the chunk that it has begun, and one goes on. When is not certain: who gets on at a moment
    // depends on whose chunk is on the disk first, and the one that goes on may be far ahead of the others.
    assert!(node.handle.limit_pull(&model.name, Rate::of(1 << 20), false));
    world.origin.set_limit(u64::MAX);
    let alone = async {
        let mut looks = 0;
        while looks < 3 {
            sleep(Duration::from_secs(1)).await;
            looks = if world.origin.open_now() <= 1 { looks + 1 } else { 0 };
        }
    };
    timeout(Duration::from_secs(40), alone).await.expect("the others end");
    assert!(!watch.now().is_over(), "48 MiB take longer");
    assert!(node.handle.limit_pull(&model.name, None, false));
    result(&mut watch).await.expect("it comes");
    world.check_published(&model);
    node.end().await;
}
