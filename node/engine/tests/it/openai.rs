//! The routes below `/v1` as OpenAI's clients use them.

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::Server;

fn question() -> Value {
    let content = json!([{"type": "text", "text": "Count to five."}]);
    json!({"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": content}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_comes_whole() -> Result<()> {
    let server = Server::with_demo().await?;
    let answer = server.post("/v1/chat/completions", question()).await?;
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("demo")));
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"], json!({"role": "assistant", "content": "One, two, three, four, five."}));
    assert_eq!(choice["finish_reason"], json!("stop"));
    let usage = |name: &str| answer["usage"][name].as_u64().unwrap_or(0);
    assert_eq!(usage("prompt_tokens") + usage("completion_tokens"), usage("total_tokens"));
    let mut short = question();
    short["max_tokens"] = json!(2);
    let answer = server.post("/v1/chat/completions", short).await?;
    assert_eq!(answer["choices"][0]["finish_reason"], json!("length"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_streams_as_events_that_end_with_usage_and_done() -> Result<()> {
    let server = Server::with_demo().await?;
    let mut body = question();
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = server.send(Method::POST, "/v1/chat/completions", Some(body)).await?;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await?;
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    assert_eq!(events.last(), Some(&"data: [DONE]"));
    let read = |event: &&str| serde_json::from_str(event.strip_prefix("data: ").unwrap_or_default());
    let chunks = events[..events.len() - 1].iter().map(read).collect::<Result<Vec<Value>, _>>()?;
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], json!("assistant"));
    let content: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(content, "One, two, three, four, five.");
    let finish = &chunks[chunks.len() - 2]["choices"][0];
    assert_eq!((&finish["finish_reason"], &finish["delta"]), (&json!("stop"), &json!({})));
    let usage = chunks.last().context("usage")?;
    assert_eq!(usage["choices"], json!([]));
    assert!(usage["usage"]["completion_tokens"].as_u64() > Some(5));
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"] && chunk["created"] == chunks[0]["created"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_text_is_a_whole_stream_and_unknown_fields_do_no_harm() -> Result<()> {
    let server = Server::with_demo().await?;
    let mut body = question();
    for (name, value) in [("stream", json!(true)), ("stop", json!(["One", 5])), ("n", json!(3)), ("user", json!("x"))] {
        body[name] = value;
    }
    let text = server.send(Method::POST, "/v1/chat/completions", Some(body)).await?.text().await?;
    let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
    let chunk = |at: usize| -> Result<Value> {
        Ok(serde_json::from_str(events.get(at).and_then(|event| event.strip_prefix("data: ")).context("a chunk")?)?)
    };
    assert_eq!(chunk(0)?["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(chunk(1)?["choices"][0]["finish_reason"], json!("stop"));
    assert_eq!(events[2..], ["data: [DONE]"], "usage only if asked for");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_come_as_numbers_and_as_base64() -> Result<()> {
    let server = Server::with_demo().await?;
    let ask = async |format: &str| {
        server.post("/v1/embeddings", json!({"model": "demo", "input": ["a", "b"], "encoding_format": format})).await
    };
    let (plain, coded) = (ask("float").await?, ask("Base64").await?);
    let numbers: Vec<f32> = serde_json::from_value(plain["data"][1]["embedding"].clone())?;
    let bytes = BASE64_STANDARD.decode(coded["data"][1]["embedding"].as_str().context("text")?)?;
    let decoded: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    assert_eq!(numbers, decoded);
    assert_eq!((&plain["object"], &plain["data"][1]["index"]), (&json!("list"), &json!(1)));
    assert!(plain["usage"]["prompt_tokens"].as_u64() > Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_openais_shape() -> Result<()> {
    let server = Server::with_demo().await?;
    let check = async |path: &str, body: Value, status: StatusCode, kind: &str, text: &str| -> Result<()> {
        let (got, answer) = server.ask(Method::POST, path, Some(body)).await?;
        let expected = json!({"error": {"message": text, "type": kind, "param": null, "code": null}});
        assert_eq!((got, answer), (status, expected));
        Ok(())
    };
    let bad = StatusCode::BAD_REQUEST;
    let invalid = "invalid_request_error";
    let messages = json!([{"role": "user", "content": "x"}]);
    let missing = json!({"model": "no", "messages": messages});
    check("/v1/chat/completions", missing, StatusCode::NOT_FOUND, "not_found_error", "model 'no' not found").await?;
    check("/v1/chat/completions", json!({"messages": messages}), bad, invalid, "model is required").await?;
    check("/v1/chat/completions", json!({"model": "demo"}), bad, invalid, "[] is too short - 'messages'").await?;
    check("/v1/embeddings", json!({"model": "demo"}), bad, invalid, "invalid input").await?;
    let text = "model \"no\" not found, try pulling it first";
    let missing = json!({"model": "no", "input": ""});
    check("/v1/embeddings", missing, StatusCode::NOT_FOUND, "not_found_error", text).await?;
    let text = "Invalid value for 'encoding_format' = x. Supported values: ['float', 'base64'].";
    check("/v1/embeddings", json!({"input": "a", "encoding_format": "x"}), bad, invalid, text).await?;
    let wrong = json!({"model": "demo", "messages": messages, "temperature": "x"});
    let text = "json: cannot unmarshal string into Go struct field ChatCompletionRequest.temperature of type float64";
    check("/v1/chat/completions", wrong, bad, invalid, text).await?;
    let many = json!({"model": "demo", "messages": messages, "top_logprobs": 21});
    check("/v1/chat/completions", many, bad, invalid, "top_logprobs must be between 0 and 20").await?;
    let thinks = |effort: &str| json!({"model": "demo", "messages": messages, "reasoning_effort": effort});
    check("/v1/chat/completions", thinks("low"), bad, invalid, "\"demo\" does not support thinking").await?;
    let text = "invalid reasoning value: 'x' (must be \"high\", \"medium\", \"low\", \"max\", or \"none\")";
    check("/v1/chat/completions", thinks("x"), bad, invalid, text).await?;
    for (content, kind) in [(json!(null), "<nil>"), (json!(1), "float64"), (json!({}), "map[string]interface {}")] {
        let body = json!({"model": "demo", "messages": [{"role": "user", "content": content}]});
        check("/v1/chat/completions", body, bad, invalid, &format!("invalid message content type: {kind}")).await?;
    }
    check("/v1/embeddings", json!({"model": "demo", "input": 5}), bad, invalid, "invalid input type").await?;
    Ok(())
}
