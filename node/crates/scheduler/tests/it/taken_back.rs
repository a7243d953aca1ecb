//! A runtime that hangs or dies gives back what waits for it; one that is only slow keeps it.

use tokio::time::Instant;

use ollamax_scheduler::mem::Script;
use ollamax_scheduler::{Config, Reason, RuntimeReport};
use ollamax_types::{Api, ErrorCode, InferenceRequest, NodeId, RuntimeState};

use crate::world::{NEW, World, down, ms, read, report, request, slow_stream};

const HOUR_MS: u64 = 3_600_000;

/// Takes requests, and gives no head within the hour.
fn headless() -> Script {
    Script { head_after: ms(HOUR_MS), ..Script::default() }
}

fn assert_nothing_left(world: &World, node: u64) {
    assert_eq!((world.nodes[&node].in_flight(), world.runtimes[&node].tally().live), (0, 0), "node {node}");
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_goes_down_gives_back_what_waits_in_the_queue_and_for_its_head() {
    for state in [RuntimeState::Down("hangs".to_owned()), RuntimeState::Absent] {
        let world = World::new(1, &[1], &Config::default());
        world.runtimes[&1].set_script(headless());
        let node = &world.nodes[&1];
        let began = Instant::now();
        let reading = InferenceRequest { api: Api::Show, ..request() };
        let goes_down = async {
            tokio::time::sleep(ms(200_000)).await;
            assert_eq!((node.in_flight(), world.runtimes[&1].tally().live), (2, 2), "busy is not gone");
            node.set_runtime(RuntimeReport { state: state.clone(), ..report(Some(NEW)) });
        };
        let (sent, queued, read, ()) =
            tokio::join!(node.admit(request()), node.admit(request()), node.admit(reading), goes_down);
        assert_eq!(began.elapsed(), ms(200_000), "at once, and not before");
        for (outcome, expected) in [
            (sent, (ErrorCode::RuntimeFailed, true)),
            (queued, (ErrorCode::RuntimeUnavailable, false)),
            (read, (ErrorCode::RuntimeFailed, true)),
        ] {
            let error = outcome.expect_err("the runtime is down");
            assert_eq!((error.code(), error.started()), expected, "{error}");
            assert!(error.to_string().contains("run `ollamax doctor`"), "{error}");
        }
        assert_eq!(world.runtimes[&1].tally().started, 2, "the queued one never reached the runtime");
        assert_nothing_left(&world, 1);
        assert_eq!(world.counter(1, "ollamax_scheduler_owned_total", "refused"), 3.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_runtime_keeps_its_requests_whatever_else_its_reports_say() {
    let world = World::new(1, &[1], &Config::default());
    world.runtimes[&1].set_script(Script { head_after: ms(400_000), ..Script::default() });
    let node = &world.nodes[&1];
    let reports = async {
        for resident in [report(None).resident, report(Some(NEW)).resident, report(None).resident] {
            tokio::time::sleep(ms(100_000)).await;
            node.set_runtime(RuntimeReport { resident, ..report(Some(NEW)) });
        }
    };
    let (response, ()) = tokio::join!(node.admit(request()), reports);
    assert_eq!(read(response.expect("slow, not gone")).await, "{\"done\":true}\n");
}

#[tokio::test(start_paused = true)]
async fn requests_queued_or_sent_at_a_runtime_that_goes_down_are_answered_by_another_node() {
    let world = World::new(3, &[2, 3], &Config::default());
    world.runtimes[&2].set_script(headless());
    world.nodes[&3].set_runtime(down("starts"));
    world.exchange_beats();
    let ask = async || {
        let response = world.nodes[&1].dispatch(request()).await.expect("node 3 answers");
        (response.node, read(response).await)
    };
    let goes_down = async {
        tokio::time::sleep(ms(1)).await;
        assert_eq!((world.nodes[&2].in_flight(), world.runtimes[&2].tally().started), (3, 1));
        world.nodes[&3].set_runtime(report(Some(NEW)));
        world.exchange_beats();
        world.nodes[&2].set_runtime(down("hangs"));
    };
    let (first, second, third, ()) = tokio::join!(ask(), ask(), ask(), goes_down);
    for answer in [first, second, third] {
        assert_eq!(answer, (NodeId(3), "{\"done\":true}\n".to_owned()));
    }
    assert_nothing_left(&world, 2);
}

#[tokio::test(start_paused = true)]
async fn this_nodes_own_requests_go_elsewhere_when_its_runtime_goes_down() {
    let world = World::new(2, &[1, 2], &Config::default());
    world.runtimes[&1].set_script(headless());
    world.nodes[&2].set_runtime(down("starts"));
    world.exchange_beats();
    let goes_down = async {
        tokio::time::sleep(ms(1)).await;
        world.nodes[&2].set_runtime(report(Some(NEW)));
        world.exchange_beats();
        world.nodes[&1].set_runtime(down("hangs"));
    };
    let (response, ()) = tokio::join!(world.nodes[&1].dispatch(request()), goes_down);
    assert_eq!(response.expect("node 2 answers").node, NodeId(2));
    assert_nothing_left(&world, 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_runtimes_down_meets_two_at_most() {
    let world = World::new(4, &[2, 3, 4], &Config::default());
    world.runtimes.values().for_each(|runtime| runtime.set_script(headless()));
    let hang = async {
        for _ in 0..2 {
            tokio::time::sleep(ms(1)).await;
            let busy = [2, 3, 4].into_iter().find(|node| world.nodes[node].in_flight() > 0).expect("one has it");
            world.nodes[&busy].set_runtime(down("hangs"));
            world.beat_of(busy);
        }
    };
    let (outcome, ()) = tokio::join!(world.nodes[&1].dispatch(request()), hang);
    let error = outcome.expect_err("a poisonous prompt");
    let reasons: Vec<Reason> = error.nodes().iter().map(|node| node.reason).collect();
    assert_eq!(reasons, [Reason::RunnerCrashed, Reason::RunnerCrashed, Reason::NotTried]);
    assert_eq!(error.code(), ErrorCode::RuntimeFailed);
    assert!(error.to_string().contains("went down before it answered: hangs"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_flows_survives_a_report_of_down() {
    let world = World::new(1, &[1], &Config::default());
    world.runtimes[&1].set_script(slow_stream());
    let node = &world.nodes[&1];
    let response = node.admit(request()).await.expect("a head");
    node.set_runtime(down("a health call was refused"));
    assert_eq!(read(response).await, "xxxxxxxxxx");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stands_still_breaks_off_only_when_its_runtime_stays_down() {
    let world = World::new(1, &[1], &Config::default());
    world.runtimes[&1].set_script(Script { part_after: ms(HOUR_MS), ..Script::default() });
    let node = &world.nodes[&1];
    let response = node.admit(request()).await.expect("a head");
    let began = Instant::now();
    let reports = async {
        for (at_ms, state) in [(10_000, down("hangs")), (39_000, report(Some(NEW))), (60_000, down("hangs again"))] {
            tokio::time::sleep_until(began + ms(at_ms)).await;
            node.set_runtime(state);
        }
    };
    let (answer, ()) = tokio::join!(read(response), reports);
    assert_eq!(answer, "<the answer broke off: the runtime of node 1 is down: hangs again>");
    assert_eq!(began.elapsed(), ms(90_000));
    assert_nothing_left(&world, 1);
    assert_eq!(world.counter(1, "ollamax_scheduler_owned_total", "broken"), 1.0);
}
