//! The owner's side: slots, bounds, refusals, and what an answer teaches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use ollamax_scheduler::mem::Script;
use ollamax_scheduler::{AdmitError, Config, RuntimeError, RuntimeReport};
use ollamax_types::{Api, ErrorCode, InferenceRequest, ModelRecord, Residency, RuntimeState};

use crate::world::{NEW, OLD, WEIGHTS, World, alias, known, model, ms, read, report, request, resident, slow_stream};

fn one(config: &Config) -> World {
    World::new(1, &[1], config)
}

#[tokio::test(start_paused = true)]
async fn never_more_requests_than_slots_reach_the_runtime_and_all_are_answered() {
    for parallel in [1, 3] {
        let world = one(&Config { parallel, ..Config::default() });
        world.runtimes[&1].set_script(slow_stream());
        let ask = async || Ok(read(world.nodes[&1].admit(request()).await?).await);
        let answers: Vec<Result<String, AdmitError>> = join_all((0..10).map(|_| ask())).await;
        assert!(answers.iter().all(|answer| answer.as_deref() == Ok("xxxxxxxxxx")), "{answers:?}");
        let tally = world.runtimes[&1].tally();
        assert_eq!((tally.live_max, tally.finished, tally.live), (parallel, 10, 0));
        assert_eq!(world.nodes[&1].in_flight(), 0);
        assert_eq!(world.counter(1, "ollamax_scheduler_owned_total", "ok"), 10.0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_at_work_is_busy_and_what_was_answered_was_used_but_not_what_was_only_shown() {
    let world = one(&Config::default());
    world.runtimes[&1].set_script(slow_stream());
    let (node, model) = (&world.nodes[&1], request().model);
    read(node.admit(InferenceRequest { api: Api::Show, ..request() }).await.expect("it needs no slot")).await;
    assert!(!node.is_busy(&model) && node.served().is_empty());
    let running = node.admit(request()).await.expect("a free slot");
    assert!(node.is_busy(&model));
    assert_eq!(read(running).await, "xxxxxxxxxx");
    assert!(!node.is_busy(&model));
    assert_eq!(node.served(), BTreeMap::from([(model, 0)]));
}

#[tokio::test(start_paused = true)]
async fn what_the_runtime_has_in_memory_is_used_under_each_name_that_it_may_have_been_asked_for() {
    let world = one(&Config::default());
    let node = &world.nodes[&1];
    let other = ModelRecord { name: "other".parse().expect("valid"), ..model(OLD) };
    let models = Arc::new(vec![known(model(NEW)), alias(), other]);
    let loaded = Residency { weights: WEIGHTS, ..resident(NEW) };
    let held = RuntimeReport { models, resident: vec![], ..report(None) };
    for (what, state, resident, expected) in [
        ("nothing is loaded", RuntimeState::Up, vec![], vec![]),
        ("nobody knows", RuntimeState::Down("hung".to_owned()), vec![loaded.clone()], vec![]),
        ("one runner for two", RuntimeState::Up, vec![loaded], vec![alias().name, model(NEW).name]),
    ] {
        node.set_runtime(RuntimeReport { state, resident, ..held.clone() });
        node.note_loaded();
        assert_eq!(node.served().into_keys().collect::<Vec<_>>(), expected, "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn two_models_of_one_weights_file_share_its_runner_and_its_slot() {
    let world = one(&Config::default());
    world.runtimes[&1].set_script(slow_stream());
    let node = &world.nodes[&1];
    node.set_runtime(RuntimeReport { models: Arc::new(vec![known(model(NEW)), alias()]), ..report(None) });
    let running = node.admit(request()).await.expect("a free slot");
    let of_alias = InferenceRequest { model: alias().name, digest: Some(alias().digest), ..request() };
    let (second, ()) = tokio::join!(node.admit(of_alias.clone()), async {
        tokio::time::sleep(ms(10)).await;
        let shown: Vec<_> = node.beat().runners.iter().map(|one| (one.weights, one.running, one.waiting)).collect();
        assert_eq!(shown, [(WEIGHTS, 1, 1)]);
        assert_eq!(read(running).await, "xxxxxxxxxx");
    });
    assert_eq!(read(second.expect("the slot is free now")).await, "xxxxxxxxxx");
    assert_eq!(world.runtimes[&1].tally().live_max, 1);
    let stale = InferenceRequest { digest: Some(NEW), ..of_alias };
    assert_eq!(node.admit(stale).await.expect_err("the manifest decides").code(), ErrorCode::StalePlacement);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_and_a_long_wait_are_overload() {
    let world = one(&Config { queue_waiting_max: 1, queue_wait_ms_max: 500, ..Config::default() });
    world.runtimes[&1].set_script(slow_stream());
    let node = &world.nodes[&1];
    let running = node.admit(request()).await.expect("a free slot");
    let (waited, full) = tokio::join!(node.admit(request()), async {
        tokio::time::sleep(ms(10)).await;
        node.admit(request()).await
    });
    for (error, text) in [(full, "1 requests wait"), (waited, "no slot was free")] {
        let error = error.expect_err("no slot");
        assert_eq!((error.code(), error.started()), (ErrorCode::Overloaded, false));
        assert!(error.to_string().contains(text) && error.to_string().contains("`ollamax ps`"), "{error}");
    }
    assert_eq!(read(running).await, "xxxxxxxxxx");
    assert!(node.admit(request()).await.is_ok(), "the slot is free again");
}

#[tokio::test(start_paused = true)]
async fn only_the_version_asked_for_is_admitted() {
    let world = one(&Config::default());
    let node = &world.nodes[&1];
    let ask = |digest| node.admit(InferenceRequest { digest, ..request() });
    assert!(ask(Some(NEW)).await.is_ok());
    assert!(ask(None).await.is_ok());
    assert_eq!(ask(Some(OLD)).await.expect_err("another version").code(), ErrorCode::StalePlacement);
    node.set_runtime(report(None));
    assert_eq!(ask(None).await.expect_err("gone").code(), ErrorCode::StalePlacement);
    assert_eq!(world.runtimes[&1].tally().started, 2);
}

#[tokio::test(start_paused = true)]
async fn a_draining_node_and_one_without_a_runtime_take_nothing() {
    let world = one(&Config::default());
    let node = &world.nodes[&1];
    node.set_draining(true);
    let error = node.admit(request()).await.expect_err("draining");
    assert_eq!((error.code(), error.started()), (ErrorCode::Draining, false));
    assert!(error.to_string().contains("`ollamax node undrain 1`"), "{error}");
    assert!(node.beat().draining);
    node.set_draining(false);
    world.placements.set_drained(node.node(), true);
    assert_eq!(node.admit(request()).await.expect_err("drained").code(), ErrorCode::Draining);
    world.placements.set_drained(node.node(), false);
    for (state, text) in [(RuntimeState::Absent, "there is none"), (RuntimeState::Down("hangs".to_owned()), "hangs")] {
        node.set_runtime(RuntimeReport { state, ..report(Some(NEW)) });
        let error = node.admit(request()).await.expect_err("no runtime");
        assert_eq!(error.code(), ErrorCode::RuntimeUnavailable);
        assert!(error.to_string().contains(text) && error.to_string().contains("`ollamax doctor`"), "{error}");
    }
    assert_eq!(world.runtimes[&1].tally().started, 0);
}

#[tokio::test(start_paused = true)]
async fn the_runtimes_failures_are_told_apart() {
    let world = one(&Config::default());
    let check = async |script: Script, expected: (ErrorCode, bool)| {
        world.runtimes[&1].set_script(script.clone());
        let error = world.nodes[&1].admit(request()).await.expect_err("a failure");
        assert_eq!((error.code(), error.started()), expected, "{script:?}");
        assert_eq!(world.nodes[&1].in_flight(), 0, "{script:?}");
    };
    let status = |status: u16, text: &str| {
        let body = Bytes::from(format!("{{\"error\":\"{text}\"}}"));
        Script { status, parts: vec![body], ..Script::default() }
    };
    let error = |error: RuntimeError| Script { error: Some(error), ..Script::default() };
    check(error(RuntimeError::Unreachable("refused".to_owned())), (ErrorCode::RuntimeUnavailable, false)).await;
    check(error(RuntimeError::Failed("closed".to_owned())), (ErrorCode::RuntimeFailed, true)).await;
    check(status(503, "server busy"), (ErrorCode::Overloaded, false)).await;
    check(status(404, "model 'm' not found"), (ErrorCode::StalePlacement, false)).await;
    check(status(500, "model runner has unexpectedly stopped"), (ErrorCode::RuntimeFailed, true)).await;
}

#[tokio::test(start_paused = true)]
async fn the_closing_timings_feed_the_speed_table_of_the_beat() {
    let world = one(&Config::default());
    let last = br#"{"done":true,"total_duration":3000000000,"load_duration":1000000000}"#;
    world.runtimes[&1].set_script(Script { parts: vec![Bytes::from_static(last)], ..Script::default() });
    read(world.nodes[&1].admit(request()).await.expect("answered")).await;
    let runners = world.nodes[&1].beat().runners;
    let shown: Vec<_> = runners.iter().map(|one| (one.weights, one.service_ms, one.load_ms, one.running)).collect();
    assert_eq!(shown, [(NEW, 2_000, 1_000, 0)]);
    world.runtimes[&1].set_script(slow_stream());
    read(world.nodes[&1].admit(request()).await.expect("answered")).await;
    assert_eq!(
        world.nodes[&1].beat().runners[0].service_ms,
        (2_000 * 3 + 1_000) / 4,
        "by the clock where nothing is said"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_only_reads_files_needs_no_slot() {
    let world = one(&Config { queue_waiting_max: 0, ..Config::default() });
    world.runtimes[&1].set_script(slow_stream());
    let running = world.nodes[&1].admit(request()).await.expect("a free slot");
    let show = InferenceRequest { api: Api::Show, ..request() };
    assert_eq!(read(world.nodes[&1].admit(show).await.expect("no slot needed")).await, "xxxxxxxxxx");
    drop(running);
}
