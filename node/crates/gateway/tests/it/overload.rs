//! A hundred clients at once against small bounds: every one is answered, or refused with a code, and then all is well.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use ollamax_gateway::Config;
use ollamax_scheduler as scheduler;

use crate::socket::{ask_once, hold, serve};
use crate::world::{World, call, header, model, post, text};

const CLIENTS: usize = 100;
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_hundred_requests_against_a_small_queue_are_answered_or_refused_and_none_hangs() {
    const TAKEN: usize = 2 + 8;
    let config = scheduler::Config { parallel: 2, queue_waiting_max: 8, ..scheduler::Config::default() };
    let mut world = World::start_with(1, &config);
    world.set(1, "0.12.0", &[model("m", 1, 5)], &[]);
    let (router, runtime) = (world.router(), world.nodes[0].runtime.clone());
    let answers: Vec<_> = (0..TAKEN).map(|_| runtime.answer(200, "application/json")).collect();
    let ask = async || {
        let response = call(&router, post("/api/chat", r#"{"model":"m"}"#)).await;
        let told = ["x-ollamamax-error", "retry-after"].map(|name| header(&response, name).map(str::to_owned));
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("whole").to_bytes();
        (told, String::from_utf8_lossy(&body).into_owned())
    };
    let mut asked: FuturesUnordered<_> = (0..CLIENTS).map(|_| ask()).collect();
    // The runtime has not said a word yet, so what is answered now was refused.
    for number in TAKEN..CLIENTS {
        let ([code, retry], body) = timeout(LIMIT, asked.next()).await.expect("nobody hangs").expect("one more");
        assert_eq!(code.as_deref(), Some("overloaded"), "{number}: {body}");
        assert!(retry.is_some() && body.contains("8 requests wait for this model"), "{number}: {retry:?} {body}");
    }
    for answer in answers {
        answer.try_send(Ok(Bytes::from_static(b"{\"done\":true}"))).expect("room");
    }
    for _ in 0..TAKEN {
        let ([code, _], body) = timeout(LIMIT, asked.next()).await.expect("nobody hangs").expect("one more");
        assert_eq!((code, body.as_str()), (None, "{\"done\":true}"));
    }
    assert!(asked.next().await.is_none());
    assert_eq!(
        (world.nodes[0].scheduler.in_flight(), runtime.requests.lock().expect("not poisoned").len()),
        (0, TAKEN)
    );
    runtime.answer_whole(200, "application/json", &["{\"done\":true}"]);
    let later = text(&router, post("/api/chat", r#"{"model":"m"}"#)).await;
    assert_eq!(later, (200, "{\"done\":true}".to_owned()), "and then all is well");
}

#[tokio::test]
async fn a_hundred_connections_beyond_a_small_bound_are_all_told_so_and_none_hangs() {
    let served = serve(Config { connections_max: 4, ..Config::default() }, Duration::from_secs(1));
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(hold(served.address).await);
    }
    let asked = join_all((0..CLIENTS).map(|_| ask_once(served.address)));
    for answer in timeout(LIMIT, asked).await.expect("nobody hangs") {
        let is_typed = answer.contains("x-ollamamax-error: overloaded") && answer.contains("retry-after: ");
        assert!(answer.starts_with("HTTP/1.1 503 ") && is_typed, "{answer:?}");
        assert!(answer.contains("too many client connections"), "{answer}");
    }
    drop(held);
    let later = async { while !ask_once(served.address).await.starts_with("HTTP/1.1 200 ") {} };
    timeout(LIMIT, later).await.expect("and then all is well");
}
