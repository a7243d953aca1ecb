//! The fake answers as Ollama does, and does wrong what its script says.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::http::HttpClient;
use crate::wait;

const SOON: Duration = Duration::from_secs(5);

async fn fake(change: impl FnOnce(&mut Script)) -> (FakeOllama, HttpClient) {
    let mut script = Script::with_models([ModelScript::named("demo")]);
    change(&mut script);
    (FakeOllama::start(script).await.expect("a free port"), HttpClient::new())
}

fn chat(stream: bool) -> Value {
    json!({ "model": "demo", "stream": stream, "messages": [{ "role": "user", "content": "hello" }] })
}

#[tokio::test]
async fn streams_lines_in_order_and_says_the_same_without_a_stream() {
    let (fake, http) = fake(|script| script.tokens = 5).await;
    let url = format!("{}/api/chat", fake.url());
    let answer = http.post(&url, &chat(true)).await.expect("answer");
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-ndjson"));
    let (lines, end) = answer.lines().await;
    end.expect("a clean end");
    let values: Vec<Value> = lines.iter().map(|line| serde_json::from_str(&line.text).expect("JSON")).collect();
    assert_eq!(values.len(), 6);
    assert!(values[..5].iter().all(|value| value["done"] == false && value["model"] == "demo"));
    assert_eq!((&values[5]["done"], &values[5]["done_reason"]), (&json!(true), &json!("stop")));
    let streamed: String = values.iter().filter_map(|value| value["message"]["content"].as_str()).collect();
    let whole = http.post(&url, &chat(false)).await.expect("answer").ok_json().await.expect("JSON");
    assert_eq!(whole["message"]["content"], json!(streamed));
    assert_eq!(whole["eval_count"], 5);
    assert_eq!(fake.read(|record| (record.finished, record.loads, record.running)), (2, 1, 0));
}

#[tokio::test]
async fn refuses_in_ollamas_words() {
    let (fake, http) = fake(|_| {}).await;
    let rows: [(&str, &str, u16, &str); 11] = [
        ("/api/chat", r#"{"model":"nope","messages":[]}"#, 404, r#"{"error":"model 'nope' not found"}"#),
        ("/api/generate", r#"{"prompt":"x"}"#, 404, r#"{"error":"model '' not found"}"#),
        ("/api/chat", r#"{"messages":[]}"#, 400, r#"{"error":"model is required"}"#),
        ("/api/chat", "", 400, r#"{"error":"missing request body"}"#),
        ("/api/chat", r#"{"model":"#, 400, r#"{"error":"unexpected EOF"}"#),
        ("/api/chat", r#"{"model":"a b"}"#, 400, r#"{"error":"invalid model name"}"#),
        (
            "/api/embed",
            r#"{"model":"nope","input":"x"}"#,
            404,
            r#"{"error":"model \"nope\" not found, try pulling it first"}"#,
        ),
        ("/api/show", r#"{"model":"nope"}"#, 404, r#"{"error":"model 'nope:latest' not found"}"#),
        ("/api/show", "{}", 400, r#"{"error":"model is required"}"#),
        ("/api/create", r#"{"model":"x"}"#, 400, r#"{"error":"neither 'from' or 'files' was specified"}"#),
        ("/api/nope", "{}", 404, "404 page not found"),
    ];
    for (path, body, status, text) in rows {
        let answer = http.call(Method::POST, &format!("{}{path}", fake.url()), body).await.expect("answer");
        assert_eq!(answer.status, status, "{path} {body}");
        assert_eq!(answer.text().await.expect("body"), text, "{path} {body}");
    }
    let openai = http.post(&format!("{}/v1/chat/completions", fake.url()), &json!({ "model": "nope" })).await;
    let openai = openai.expect("answer").json().await.expect("JSON");
    assert_eq!(openai["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn speaks_openais_events() {
    let (fake, http) = fake(|script| script.tokens = 2).await;
    let mut body = chat(true);
    body["stream_options"] = json!({ "include_usage": true });
    let answer = http.post(&format!("{}/v1/chat/completions", fake.url()), &body).await.expect("answer");
    let (lines, end) = answer.lines().await;
    end.expect("a clean end");
    let events: Vec<&str> = lines.iter().filter_map(|line| line.text.strip_prefix("data: ")).collect();
    assert_eq!(events.len(), 5);
    assert_eq!(events[4], "[DONE]");
    let finish: Value = serde_json::from_str(events[2]).expect("JSON");
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    let usage: Value = serde_json::from_str(events[3]).expect("JSON");
    assert_eq!(usage["usage"]["completion_tokens"], 2);
}

#[tokio::test]
async fn faults_strike_as_scripted() {
    let (fake, http) = fake(|script| script.tokens = 10).await;
    let url = format!("{}/api/chat", fake.url());
    fake.inject(FaultRule::once(On::Inference, Fault::Busy));
    let answer = http.post(&url, &chat(true)).await.expect("answer");
    assert_eq!(answer.status, 503);
    let text = answer.text().await.expect("body");
    assert_eq!(text, r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#);

    fake.inject(FaultRule::once(On::Inference, Fault::CutAfterLines(3)));
    let (lines, end) = http.post(&url, &chat(true)).await.expect("answer").lines().await;
    assert_eq!((lines.len(), end.is_err()), (3, true));

    fake.inject(FaultRule::once(On::Inference, Fault::ErrorAfterLines(2)));
    let (lines, end) = http.post(&url, &chat(true)).await.expect("answer").lines().await;
    assert_eq!((lines.len(), end.is_ok()), (3, true));
    assert!(lines[2].text.contains("model runner has unexpectedly stopped"));

    fake.inject(FaultRule::once(On::Inference, Fault::RunnerCrash));
    let answer = http.post(&url, &chat(true)).await.expect("answer");
    assert_eq!(answer.status, 500);
    let ps = http.get_json(&format!("{}/api/ps", fake.url())).await.expect("ps");
    assert_eq!(ps["models"], json!([]), "a crashed runner is not resident");

    fake.inject(FaultRule::once(On::Health, Fault::Garbage));
    let answer = http.call(Method::GET, &format!("{}/api/tags", fake.url()), "").await.expect("answer");
    assert!(answer.text().await.expect("body").contains("<html>"));

    fake.inject(FaultRule::once(On::Inference, Fault::Reset));
    assert!(http.post(&url, &chat(true)).await.is_err());
    assert_eq!(http.post(&url, &chat(true)).await.expect("healed").status, 200);
}

#[tokio::test]
async fn notices_a_caller_that_leaves_in_queue_load_and_stream() {
    let (fake, http) = fake(|script| {
        script.tokens = 100_000;
        script.token_us = 5_000;
        script.load_ms = 200;
    })
    .await;
    let url = format!("{}/api/chat", fake.url());
    let in_phase = async |phase| {
        wait::until_true("the cancellation", SOON, || async {
            fake.read(|record| record.cancelled.iter().any(|cancelled| cancelled.phase == phase))
        })
        .await
        .expect("noticed");
    };
    let leave = async |after: Duration| drop(tokio::time::timeout(after, http.post(&url, &chat(true))).await);

    leave(Duration::from_millis(60)).await;
    in_phase(Phase::Load).await;
    let mut streaming = http.post(&url, &chat(true)).await.expect("answer");
    streaming.next_piece().await.expect("a line").expect("a line");
    leave(Duration::from_millis(60)).await;
    in_phase(Phase::Queue).await;
    drop(streaming);
    in_phase(Phase::Stream).await;
    assert_eq!(fake.read(|record| (record.running, record.running_most)), (0, 1));
}

#[tokio::test]
async fn loads_evict_idle_models_and_requests_never_exceed_the_slots() {
    let (fake, http) = fake(|script| {
        script.models.push(ModelScript::named("other"));
        script.vram_bytes = 100 << 20;
        script.slots = 2;
        script.first_byte_ms = 20;
    })
    .await;
    let url = format!("{}/api/chat", fake.url());
    let demo = chat(false);
    futures::future::join_all((0..6).map(|_| http.post(&url, &demo))).await;
    assert_eq!(fake.read(|record| (record.running_most, record.loads)), (2, 1));
    let mut other = chat(false);
    other["model"] = json!("other");
    assert_eq!(http.post(&url, &other).await.expect("answer").status, 200);
    let ps = http.get_json(&format!("{}/api/ps", fake.url())).await.expect("ps");
    assert_eq!(ps["models"].as_array().map(Vec::len), Some(1));
    assert_eq!(ps["models"][0]["name"], "other:latest");
    let unload = json!({ "model": "other", "keep_alive": 0, "messages": [] });
    let unloaded = http.post(&url, &unload).await.expect("answer").ok_json().await.expect("one object");
    assert_eq!((&unloaded["done_reason"], &unloaded["done"]), (&json!("unload"), &json!(true)));
    let ps = http.get_json(&format!("{}/api/ps", fake.url())).await.expect("ps");
    assert_eq!(ps["models"], json!([]));
}

#[tokio::test]
async fn models_of_the_same_weights_share_a_runner_that_shows_the_name_that_loaded_first() {
    let (fake, http) = fake(|script| {
        let alias = script.models[0].alias("mine");
        script.models.push(alias);
        script.first_byte_ms = 20;
    })
    .await;
    let url = format!("{}/api/chat", fake.url());
    let mut mine = chat(false);
    mine["model"] = json!("mine");
    assert_eq!(http.post(&url, &chat(false)).await.expect("answer").status, 200);
    let demo = chat(false);
    futures::future::join_all([http.post(&url, &demo), http.post(&url, &mine)]).await;
    assert_eq!(fake.read(|record| (record.running_most, record.loads, record.finished)), (1, 1, 3));
    let ps = http.get_json(&format!("{}/api/ps", fake.url())).await.expect("ps");
    assert_eq!(ps["models"].as_array().map(Vec::len), Some(1));
    assert_eq!(ps["models"][0]["name"], "demo:latest");
    let show = async |name: &str| {
        let answer = http.post(&format!("{}/api/show", fake.url()), &json!({ "model": name })).await.expect("answer");
        let modelfile = answer.ok_json().await.expect("JSON")["modelfile"].as_str().expect("a text").to_owned();
        modelfile.lines().find(|line| line.starts_with("FROM")).expect("a FROM").to_owned()
    };
    assert_eq!(show("mine").await, show("demo").await);
}

#[tokio::test]
async fn creates_from_an_upload_and_deletes_again() {
    let (fake, http) = fake(|_| {}).await;
    let bytes = b"GGUF and more";
    let digest = Digest(<sha2::Sha256 as sha2::Digest>::digest(bytes).into());
    let blob = format!("{}/api/blobs/sha256:{digest}", fake.url());
    let call = async |method, url: &str, body: Vec<u8>| http.call(method, url, body).await.expect("answer").status;
    assert_eq!(call(Method::HEAD, &blob, Vec::new()).await, 404);
    assert_eq!(call(Method::POST, &blob, b"other".to_vec()).await, 400);
    assert_eq!(call(Method::POST, &blob, bytes.to_vec()).await, 201);
    assert_eq!(call(Method::HEAD, &blob, Vec::new()).await, 200);
    let create = json!({ "model": "mine", "files": { "m.gguf": format!("sha256:{digest}") }, "stream": false });
    let made = http.post(&format!("{}/api/create", fake.url()), &create).await.expect("answer");
    assert_eq!(made.ok_json().await.expect("JSON"), json!({ "status": "success" }));
    assert_eq!(fake.models().len(), 2);
    let delete = json!({ "model": "MINE" }).to_string().into_bytes();
    assert_eq!(call(Method::DELETE, &format!("{}/api/delete", fake.url()), delete.clone()).await, 200);
    assert_eq!(call(Method::DELETE, &format!("{}/api/delete", fake.url()), delete).await, 404);
}

#[tokio::test]
async fn refuses_connections_while_stopped_and_comes_back_on_its_port() {
    let (fake, http) = fake(|_| {}).await;
    let url = format!("{}/api/version", fake.url());
    assert_eq!(http.get_json(&url).await.expect("version")["version"], "0.24.0");
    fake.stop();
    wait::until_true("the port to close", SOON, || async { http.get_json(&url).await.is_err() }).await.expect("closed");
    wait::until("the port to open", SOON, || fake.resume()).await.expect("bound");
    assert!(http.get_json(&url).await.is_ok());
}

#[tokio::test]
async fn embeds_natively_and_for_openai() {
    let (fake, http) = fake(|_| {}).await;
    let ask = async |path: &str, body: Value| {
        let answer = http.post(&format!("{}{path}", fake.url()), &body).await.expect("answer");
        answer.ok_json().await.expect("JSON")
    };
    let native = ask("/api/embed", json!({ "model": "demo", "input": ["a", "b"] })).await;
    assert_eq!(native["embeddings"].as_array().map(Vec::len), Some(2));
    let openai = ask("/v1/embeddings", json!({ "model": "demo", "input": "a" })).await;
    assert_eq!(openai["data"][0]["embedding"], native["embeddings"][0]);
}

#[tokio::test]
async fn a_push_is_told_file_by_file_and_goes_to_a_namespace_that_is_somebodys() {
    let (fake, http) = fake(|script| script.models.push(ModelScript::named("me/demo"))).await;
    let url = format!("{}/api/push", fake.url());
    for (name, status, last) in [
        ("me/demo", 200, r#"{"status":"success"}"#),
        ("demo", 200, "namespace you own"),
        ("me/nope", 404, r#"{"error":"model 'me/nope' not found"}"#),
    ] {
        let answer = http.post(&url, &json!({ "model": name })).await.expect("answer");
        assert_eq!(answer.status, status, "{name}");
        let text = answer.text().await.expect("text");
        assert!(text.lines().last().is_some_and(|line| line.contains(last)), "{name}: {text}");
        assert_eq!(text.contains("\"status\":\"pushing "), name == "me/demo" && status == 200, "{text}");
    }
}
