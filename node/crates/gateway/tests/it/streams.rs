//! Answers: bytes untouched, in time, and never whole-looking when they broke.

use bytes::Bytes;
use http_body_util::BodyExt as _;

use ollamax_scheduler::Broken;
use ollamax_types::{Api, Digest, ModelRecord, Residency};

use crate::world::{World, call, header, model, post, resident, text, with_m};

const NDJSON: &str = "application/x-ndjson";
const SSE: &str = "text/event-stream";
const JSON: &str = "application/json; charset=utf-8";

fn broken() -> Broken {
    Broken { message: "connection reset".to_owned() }
}

#[tokio::test]
async fn body_and_answer_pass_byte_for_byte() {
    let world = with_m();
    let runtime = &world.nodes[0].runtime;
    let sent = "{ \"Model\":\"M\",\r\n \"messages\" : [1.50, \"\\u00e4\"], \"options\":{\"num_ctx\":77},\"x\":{}} ";
    let pieces = ["{\"a\" : 1}\n", "{\"b\":\"\u{e4}\",", "\"done\":true}\n\n"];
    runtime.answer_whole(200, NDJSON, &pieces);
    let response = call(&world.router(), post("/api/chat", sent)).await;
    assert_eq!((response.status().as_u16(), header(&response, "content-type")), (200, Some(NDJSON)));
    assert_eq!(header(&response, "x-ollamamax-node"), Some("n1"));
    assert_eq!(header(&response, "x-internal"), None);
    let body = response.into_body().collect().await.expect("whole").to_bytes();
    assert_eq!(body, pieces.concat());
    let request = runtime.requests.lock().expect("not poisoned")[0].clone();
    assert_eq!(request.body, sent);
    assert_eq!((request.api, request.num_ctx, request.stream), (Api::Chat, Some(77), true));
}

#[tokio::test]
async fn a_line_is_handed_on_before_the_next_is_produced() {
    let world = with_m();
    let pieces = world.nodes[0].runtime.answer(200, NDJSON);
    let mut body = call(&world.router(), post("/api/chat", r#"{"model":"m"}"#)).await.into_body();
    for line in ["{\"n\":1}\n", "{\"n\":2,\"done\":true}\n"] {
        pieces.send(Ok(Bytes::from_static(line.as_bytes()))).await.expect("read");
        let frame = body.frame().await.expect("a frame").expect("no break");
        assert_eq!(frame.into_data().expect("data"), line);
    }
    drop(pieces);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn an_error_of_the_runtime_passes_with_its_status_and_text() {
    let world = with_m();
    world.nodes[0].runtime.answer_whole(400, JSON, &[r#"{"error":"\"m\" does not support chat"}"#]);
    let found = text(&world.router(), post("/api/chat", r#"{"model":"m"}"#)).await;
    assert_eq!(found, (400, r#"{"error":"\"m\" does not support chat"}"#.to_owned()));
}

#[tokio::test]
async fn a_native_stream_that_breaks_ends_with_an_error_line() {
    let check = async |pieces: &[&'static str], breaks: bool, expected: &str| {
        let world = with_m();
        let sender = world.nodes[0].runtime.answer(200, NDJSON);
        for piece in pieces {
            sender.try_send(Ok(Bytes::from_static(piece.as_bytes()))).expect("room");
        }
        if breaks {
            sender.try_send(Err(broken())).expect("room");
        }
        drop(sender);
        let (status, body) = text(&world.router(), post("/api/chat", r#"{"model":"m"}"#)).await;
        assert_eq!((status, body.as_str()), (200, expected));
    };
    let error = "{\"error\":\"the answer broke off: connection reset\"}\n";
    check(&["{\"n\":1}\n"], true, &format!("{{\"n\":1}}\n{error}")).await;
    check(&["{\"n\":1}\n{\"re"], true, &format!("{{\"n\":1}}\n{{\"re\n{error}")).await;
    let unfinished = "{\"error\":\"the runtime of node 1 ended its answer before it was complete\"}\n";
    check(&["{\"n\":1}\n"], false, &format!("{{\"n\":1}}\n{unfinished}")).await;
    check(&["{\"done\":true}\n"], false, "{\"done\":true}\n").await;
}

#[tokio::test]
async fn an_event_stream_that_breaks_ends_with_an_error_event_and_no_done() {
    let world = with_m();
    let sender = world.nodes[0].runtime.answer(200, SSE);
    sender.try_send(Ok(Bytes::from_static(b"data: {\"id\":1}\n\n"))).expect("room");
    sender.try_send(Err(broken())).expect("room");
    let (status, body) = text(&world.router(), post("/v1/chat/completions", r#"{"model":"m","stream":true}"#)).await;
    let expected = "data: {\"id\":1}\n\ndata: {\"error\":{\"message\":\"the answer broke off: connection reset\",\
                    \"type\":\"api_error\",\"param\":null,\"code\":null}}\n\n";
    assert_eq!((status, body.as_str()), (200, expected));
}

#[tokio::test]
async fn a_whole_answer_that_breaks_is_a_broken_body() {
    let world = with_m();
    let sender = world.nodes[0].runtime.answer(200, JSON);
    sender.try_send(Ok(Bytes::from_static(b"{\"embeddings\":[["))).expect("room");
    sender.try_send(Err(broken())).expect("room");
    let response = call(&world.router(), post("/api/embed", r#"{"model":"m","input":"x"}"#)).await;
    response.into_body().collect().await.expect_err("broken");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_with_it() {
    let world = with_m();
    let runtime = world.nodes[0].runtime.clone();
    let router = world.router();
    let waiting = call(&router, post("/api/chat", r#"{"model":"m"}"#));
    tokio::select! {
        _ = waiting => unreachable!("the runtime does not answer"),
        () = runtime.busy() => {}
    }
    runtime.idle().await;
    let _pieces = runtime.answer(200, NDJSON);
    let response = call(&router, post("/api/chat", r#"{"model":"m"}"#)).await;
    runtime.busy().await;
    drop(response);
    runtime.idle().await;
}

#[tokio::test]
async fn an_unload_goes_to_every_node_that_has_the_model_in_memory() {
    let mut world = World::start(3);
    for id in 1..=3 {
        let loaded = [resident("m", 1, "")];
        let loaded = if id == 2 { &loaded[..0] } else { &loaded[..] };
        world.set(id, "0.12.0", &[model("m", 1, 5)], loaded);
        world.nodes[usize::try_from(id - 1).expect("small")].runtime.answer_whole(
            200,
            JSON,
            &[r#"{"done":true,"done_reason":"unload"}"#],
        );
    }
    let (status, body) = text(&world.router(), post("/api/chat", r#"{"model":"m","keep_alive":0}"#)).await;
    assert_eq!((status, body.as_str()), (200, r#"{"done":true,"done_reason":"unload"}"#));
    let seen: Vec<usize> =
        world.nodes.iter().map(|node| node.runtime.requests.lock().expect("not poisoned").len()).collect();
    assert_eq!(seen, [1, 0, 1]);
}

#[tokio::test]
async fn an_unload_finds_the_weights_that_were_loaded_under_another_name() {
    const UNLOADED: &str = r#"{"done":true,"done_reason":"unload"}"#;
    let weights = Digest([9; 32]);
    let of_them = |name: &str, digest: u8| ModelRecord { weights, ..model(name, digest, 5) };
    let (base, mine) = (of_them("m", 1), of_them("mine", 2));
    let loaded = Residency { weights, ..resident("m", 1, "") };
    let mut world = World::start(3);
    world.set(1, "0.12.0", &[base.clone(), mine.clone()], &[]);
    world.set(2, "0.12.0", &[base.clone(), mine], std::slice::from_ref(&loaded));
    world.set(3, "0.12.0", &[base], &[loaded]); // does not have the model that is asked for
    for node in &world.nodes {
        node.runtime.answer_whole(200, JSON, &[UNLOADED]);
    }
    let found = text(&world.router(), post("/api/chat", r#"{"model":"mine","keep_alive":0}"#)).await;
    assert_eq!(found, (200, UNLOADED.to_owned()));
    let seen: Vec<usize> =
        world.nodes.iter().map(|node| node.runtime.requests.lock().expect("not poisoned").len()).collect();
    assert_eq!(seen, [0, 1, 0]);
}

#[tokio::test]
async fn a_load_only_request_is_dispatched_like_any_other() {
    let world = with_m();
    world.nodes[0].runtime.answer_whole(200, JSON, &[r#"{"done":true,"done_reason":"load"}"#]);
    let found = text(&world.router(), post("/api/generate", r#"{"model":"m"}"#)).await;
    assert_eq!(found, (200, r#"{"done":true,"done_reason":"load"}"#.to_owned()));
}
