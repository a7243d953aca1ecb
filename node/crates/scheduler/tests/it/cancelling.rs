//! Leaving in the queue, in the load and in the stream: nothing is left behind.

use futures::StreamExt;

use ollamax_scheduler::Config;
use ollamax_scheduler::mem::Script;

use crate::world::{World, ms, request, slow_stream};

/// Node 1 routes, node 2 owns.
fn two() -> World {
    World::new(2, &[2], &Config::default())
}

fn assert_nothing_left(world: &World) {
    assert_eq!(world.nodes[&2].in_flight(), 0);
    assert_eq!(world.runtimes[&2].tally().live, 0);
    let runners = world.nodes[&2].beat().runners;
    assert!(runners.iter().all(|runner| runner.running == 0 && runner.waiting == 0), "{runners:?}");
}

#[tokio::test(start_paused = true)]
async fn leaving_in_the_stream_frees_the_owner_at_once() {
    let world = two();
    world.runtimes[&2].set_script(slow_stream());
    let mut response = world.nodes[&1].dispatch(request()).await.expect("answered");
    assert!(response.body.next().await.is_some_and(|part| part.is_ok()));
    assert_eq!((world.nodes[&2].in_flight(), world.runtimes[&2].tally().live), (1, 1));
    drop(response);
    assert_nothing_left(&world);
    assert_eq!(world.counter(2, "ollamax_scheduler_owned_total", "cancelled"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn leaving_in_the_load_frees_the_owner_at_once() {
    let world = two();
    world.runtimes[&2].set_script(Script { head_after: ms(60_000), ..Script::default() });
    let left = tokio::time::timeout(ms(100), world.nodes[&1].dispatch(request())).await;
    assert!(left.is_err());
    assert_eq!(world.runtimes[&2].tally().started, 1);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn leaving_in_the_queue_frees_the_place_and_the_next_one_moves_up() {
    let world = two();
    world.runtimes[&2].set_script(slow_stream());
    let running = world.nodes[&1].dispatch(request()).await.expect("answered");
    let left = tokio::time::timeout(ms(100), world.nodes[&1].dispatch(request())).await;
    assert!(left.is_err());
    assert_eq!(
        (world.nodes[&2].in_flight(), world.runtimes[&2].tally().started),
        (1, 1),
        "it never reached the runtime"
    );
    let (next, ()) = tokio::join!(world.nodes[&1].dispatch(request()), async {
        tokio::time::sleep(ms(50)).await;
        drop(running);
    });
    assert!(next.is_ok());
    drop(next);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn leaving_at_the_moment_of_the_turn_passes_the_slot_on() {
    let world = two();
    world.runtimes[&2].set_script(slow_stream());
    let node = &world.nodes[&2];
    let running = node.admit(request()).await.expect("a free slot");
    let mut second = Box::pin(node.admit(request()));
    let mut third = Box::pin(node.admit(request()));
    assert!(futures::poll!(&mut second).is_pending());
    assert!(futures::poll!(&mut third).is_pending());
    drop(running);
    drop(second);
    assert!(third.await.is_ok(), "the second was told, and gave its turn away");
    assert_eq!(node.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_finished_body_frees_the_slot_even_when_its_holder_keeps_it() {
    let world = two();
    let mut response = world.nodes[&1].dispatch(request()).await.expect("answered");
    while response.body.next().await.is_some() {}
    assert_nothing_left(&world);
    drop(response);
    assert_nothing_left(&world);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_says_so_and_frees_the_slot() {
    let world = two();
    world.runtimes[&2].set_script(Script { breaks: true, ..slow_stream() });
    let mut response = world.nodes[&1].dispatch(request()).await.expect("answered");
    let mut last = None;
    while let Some(part) = response.body.next().await {
        last = Some(part);
    }
    assert!(matches!(last, Some(Err(_))), "{last:?}");
    assert_nothing_left(&world);
    assert_eq!(world.counter(2, "ollamax_scheduler_owned_total", "broken"), 1.0);
    assert_eq!(world.runtimes[&2].tally().started, 1, "nothing is sent again after the first byte");
}
