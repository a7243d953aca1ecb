//! What happens when a node fails: the next one answers, or the error says whose part was what.

use bytes::Bytes;

use ollamax_scheduler::mem::{Link, Script};
use ollamax_scheduler::{Config, DispatchError, Reason, RuntimeError, RuntimeReport};
use ollamax_types::{ErrorCode, NodeId, RuntimeState};

use crate::world::{NEW, World, ms, read, report, request};

/// Node 1 routes; the others hold the model.
fn four() -> World {
    World::new(4, &[2, 3, 4], &Config::default())
}

fn crash() -> Script {
    let body = Bytes::from_static(br#"{"error":"model runner has unexpectedly stopped"}"#);
    Script { status: 500, parts: vec![body], ..Script::default() }
}

fn started(world: &World) -> u32 {
    world.runtimes.values().map(|runtime| runtime.tally().started).sum()
}

fn reasons(error: &DispatchError) -> Vec<Reason> {
    let mut reasons: Vec<Reason> = error.nodes().iter().map(|node| node.reason).collect();
    reasons.sort_unstable();
    reasons
}

#[tokio::test(start_paused = true)]
async fn before_the_first_byte_the_next_node_answers() {
    type Break = fn(&World, u64);
    let ways: [(&str, Break); 6] = [
        ("the link is cut", |world, node| world.remote.set_link(NodeId(node), Link::Cut)),
        ("it drains", |world, node| world.nodes[&node].set_draining(true)),
        ("its model is gone", |world, node| world.nodes[&node].set_runtime(report(None))),
        ("its runtime went down", |world, node| {
            let state = RuntimeState::Down("refused".to_owned());
            world.nodes[&node].set_runtime(RuntimeReport { state, ..report(Some(NEW)) });
        }),
        ("its runtime is busy", |world, node| {
            world.runtimes[&node].set_script(Script { status: 503, ..Script::default() });
        }),
        ("its runtime refuses", |world, node| {
            let error = Some(RuntimeError::Unreachable("refused".to_owned()));
            world.runtimes[&node].set_script(Script { error, ..Script::default() });
        }),
    ];
    for (name, spoil) in ways {
        let world = four();
        spoil(&world, 2);
        spoil(&world, 3);
        for _ in 0..10 {
            let response = world.nodes[&1].dispatch(request()).await.expect(name);
            assert_eq!(response.node, NodeId(4), "{name}");
            assert_eq!(read(response).await, "{\"done\":true}\n");
        }
        spoil(&world, 4);
        let error = world.nodes[&1].dispatch(request()).await.expect_err(name);
        assert_eq!(error.nodes().len(), 3, "{name}: {error}");
        assert!(error.to_string().contains("`ollamax status`"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_crashes_runners_goes_to_two_nodes_at_most() {
    let world = four();
    world.runtimes.values().for_each(|runtime| runtime.set_script(crash()));
    let error = world.nodes[&1].dispatch(request()).await.expect_err("crashes everywhere");
    assert_eq!(started(&world), 2);
    assert_eq!(reasons(&error), [Reason::RunnerCrashed, Reason::RunnerCrashed, Reason::NotTried]);
    assert_eq!((error.code(), error.retry_after()), (ErrorCode::RuntimeFailed, None));
    assert!(error.to_string().contains("unexpectedly stopped"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_crash_is_answered_by_another_node() {
    let world = World::new(3, &[2, 3], &Config::default());
    world.runtimes[&2].set_script(crash());
    for _ in 0..10 {
        assert_eq!(world.nodes[&1].dispatch(request()).await.expect("node 3 works").node, NodeId(3));
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_answer_of_the_runtime_is_the_clients_and_is_not_tried_again() {
    let world = four();
    let body = Bytes::from_static(br#"{"error":"\"m\" does not support chat"}"#);
    let script = Script { status: 400, parts: vec![body.clone()], ..Script::default() };
    world.runtimes.values().for_each(|runtime| runtime.set_script(script.clone()));
    let response = world.nodes[&1].dispatch(request()).await.expect("an answer");
    assert_eq!(response.status, 400);
    assert_eq!(read(response).await.into_bytes(), body);
    assert_eq!(started(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_waiting_at_a_node_that_falls_silent_is_answered_by_another() {
    let world = World::new(3, &[2, 3], &Config::default());
    // Node 3 is busy, so node 2 is chosen.
    world.remote.set_link(NodeId(2), Link::Hangs);
    let busy = world.nodes[&3].admit(request()).await.expect("a free slot");
    world.exchange_beats();
    let (response, ()) = tokio::join!(tokio::time::timeout(ms(3_000), world.nodes[&1].dispatch(request())), async {
        drop(busy);
        world.pass(ms(6_000), &[2]).await;
    });
    let response = response.expect("within 3 s").expect("node 3 answers");
    assert_eq!(response.node, NodeId(3));
    let attempts = world.counter(1, "ollamax_scheduler_attempts_total", "node_offline");
    assert_eq!(attempts, 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_long_load_at_a_living_node_is_waited_for() {
    let world = World::new(3, &[2, 3], &Config::default());
    let slow = Script { head_after: ms(90_000), ..Script::default() };
    world.runtimes.values().for_each(|runtime| runtime.set_script(slow.clone()));
    let (response, ()) = tokio::join!(world.nodes[&1].dispatch(request()), world.pass(ms(91_000), &[]));
    assert!(response.is_ok());
    assert_eq!(started(&world), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_only_holder_is_given_up() {
    let world = World::new(2, &[2], &Config::default());
    world.remote.set_link(NodeId(2), Link::Hangs);
    let (outcome, ()) = tokio::join!(world.nodes[&1].dispatch(request()), world.pass(ms(35_000), &[2]));
    let error = outcome.expect_err("nobody else");
    assert_eq!((error.code(), reasons(&error)), (ErrorCode::RuntimeUnavailable, vec![Reason::NodeOffline]));
    assert_eq!(error.retry_after(), Some(ms(60_000)));
}

#[tokio::test(start_paused = true)]
async fn a_stream_from_a_node_that_dies_breaks_off_and_is_not_sent_again() {
    let world = World::new(3, &[2], &Config::default());
    world.runtimes[&2].set_script(Script { part_after: ms(60_000), ..Script::default() });
    let response = world.nodes[&1].dispatch(request()).await.expect("a head");
    let (answer, ()) = tokio::join!(read(response), world.pass(ms(35_000), &[2]));
    assert_eq!(answer, "<the answer broke off: node 2 has been silent for 30 s>");
    assert_eq!((started(&world), world.nodes[&2].in_flight()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded() {
    let world = World::new(4, &[2, 3, 4], &Config { attempts_max: 2, ..Config::default() });
    (2..=4).for_each(|node| world.remote.set_link(NodeId(node), Link::Cut));
    let error = world.nodes[&1].dispatch(request()).await.expect_err("all links are cut");
    assert_eq!(reasons(&error), [Reason::Unreachable, Reason::Unreachable, Reason::NotTried]);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_nobody_holds_is_not_found() {
    let world = World::new(2, &[], &Config::default());
    let error = world.nodes[&1].dispatch(request()).await.expect_err("no copies");
    assert_eq!((error.code(), error.to_string()), (ErrorCode::ModelNotFound, "model 'M:latest' not found".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_request_for_one_node_goes_there_and_nowhere_else() {
    let world = four();
    for node in 2..=4 {
        let response = world.nodes[&1].dispatch_to(NodeId(node), request()).await.expect("it works");
        assert_eq!(response.node, NodeId(node));
    }
    world.remote.set_link(NodeId(3), Link::Cut);
    let error = world.nodes[&1].dispatch_to(NodeId(3), request()).await.expect_err("the link is cut");
    assert_eq!((reasons(&error), started(&world)), (vec![Reason::Unreachable], 3));
}
