//! Answers: known texts, the form of streams, limits, vectors, and errors before the first byte.

use anyhow::{Context as _, Result};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, demo};

const FRANCE: (&str, &str) = ("What is the capital of France?", "The capital of France is Paris.");
const FIVE: (&str, &str) = ("Count to five.", "One, two, three, four, five.");

fn parsed(lines: &[String]) -> Result<Vec<Value>> {
    lines.iter().map(|line| serde_json::from_str(line).with_context(|| line.clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn generate_streams_a_known_answer_with_timings() -> Result<()> {
    let server = Server::with_demo().await?;
    let body = json!({"model": "demo", "prompt": FRANCE.0, "options": {"temperature": 0}});
    let response = server.send(Method::POST, "/api/generate", Some(body.clone())).await?;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    assert_eq!(response.headers()["server"], concat!("ollamax-engine/", env!("CARGO_PKG_VERSION")));
    let lines: Vec<String> = response.text().await?.lines().map(str::to_owned).collect();
    let chunks = parsed(&lines)?;
    let text: String = chunks.iter().filter_map(|chunk| chunk["response"].as_str()).collect();
    assert_eq!(text, FRANCE.1);
    assert!(chunks.len() > 5 && chunks.iter().all(|chunk| chunk["model"] == "demo"));
    let (last, others) = chunks.split_last().expect("chunks");
    assert!(others.iter().all(|chunk| chunk["done"] == false && chunk.get("done_reason").is_none()));
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("stop")));
    for name in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration", "prompt_eval_count"] {
        assert!(last[name].as_u64() > Some(0), "{name}: {last}");
    }
    let count = |name: &str| last[name].as_u64().unwrap_or(0) as usize;
    let context = last["context"].as_array().map_or(0, Vec::len);
    assert_eq!(context + 1, count("prompt_eval_count") + count("eval_count"), "the end mark is counted, not kept");

    let mut whole = body;
    whole["stream"] = json!(false);
    let answer = server.post("/api/generate", whole).await?;
    assert_eq!((&answer["response"], &answer["done_reason"]), (&json!(FRANCE.1), &json!("stop")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_knows_its_system_text_and_its_limits() -> Result<()> {
    let server = Server::with_demo().await?;
    let ask = async |extra: Value| -> Result<Value> {
        let mut body = json!({"model": "demo", "stream": false, "messages": [{"role": "user", "content": FIVE.0}]});
        let (Value::Object(body_map), Value::Object(extra)) = (&mut body, extra) else { panic!("objects") };
        body_map.extend(extra);
        server.post("/api/chat", body).await
    };
    let answer = ask(json!({"options": {"temperature": 0}})).await?;
    assert_eq!(answer["message"], json!({"role": "assistant", "content": FIVE.1}));
    let answer = ask(json!({"options": {"temperature": 0, "num_predict": 3}})).await?;
    assert_eq!((&answer["done_reason"], &answer["eval_count"]), (&json!("length"), &json!(3)));
    let answer = ask(json!({"options": {"temperature": 0, "stop": ["three"]}})).await?;
    assert_eq!((&answer["done_reason"], &answer["message"]["content"]), (&json!("stop"), &json!("One, two, ")));
    let seeded = async || {
        ask(json!({"options": {"temperature": 5, "top_k": 0, "top_p": 1, "seed": 7, "num_predict": 20}})).await
    };
    assert_eq!(seeded().await?["message"], seeded().await?["message"]);
    let json_answer = ask(json!({"format": "json", "options": {"temperature": 0, "num_predict": 100}})).await?;
    let text = json_answer["message"]["content"].as_str().unwrap_or_default();
    assert!(text.trim_start().starts_with('{'), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_leaves_one_token_makes_a_hot_text_the_likeliest_one() -> Result<()> {
    let server = Server::with_demo().await?;
    let ask = async |options: &Value| -> Result<Value> {
        let messages = json!([{"role": "user", "content": FIVE.0}]);
        let body = json!({"model": "demo", "stream": false, "messages": messages, "options": options});
        Ok(server.post("/api/chat", body).await?["message"]["content"].clone())
    };
    let likeliest = ask(&json!({"temperature": 0, "num_predict": 40})).await?;
    let mut others = 0;
    for seed in [1, 2, 3] {
        let hot = json!({"temperature": 5, "top_k": 0, "top_p": 1, "min_p": 0, "seed": seed, "num_predict": 40});
        others += usize::from(ask(&hot).await? != likeliest);
        for (name, value) in [("top_k", json!(1)), ("top_p", json!(1e-6)), ("min_p", json!(1.0))] {
            let mut narrow = hot.clone();
            narrow[name] = value;
            assert_eq!(ask(&narrow).await?, likeliest, "{narrow}");
        }
    }
    assert!(others > 0, "nothing was left to chance");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn repetition_is_paid_or_punished_within_its_reach_only() -> Result<()> {
    let server = Server::with_demo().await?;
    let ask = async |penalty: f64, reach: i64| -> Result<Value> {
        let options = json!({"temperature": 0, "num_predict": 40, "repeat_penalty": penalty, "repeat_last_n": reach});
        let messages = json!([{"role": "user", "content": FIVE.0}]);
        let body = json!({"model": "demo", "stream": false, "messages": messages, "options": options});
        Ok(server.post("/api/chat", body).await?["message"]["content"].clone())
    };
    let plain = ask(1.0, 64).await?;
    assert_eq!(ask(0.01, 0).await?, plain, "looks back at nothing");
    assert_ne!(ask(0.01, 64).await?, plain);
    assert_ne!(ask(0.01, -1).await?, plain, "looks back at the whole context");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn temperature_zero_gives_the_same_bytes_after_anything_and_in_any_process() -> Result<()> {
    let (one, two) = (Server::with_demo().await?, Server::with_demo().await?);
    let long = "explain the cluster and its nodes please ".repeat(20);
    let question = json!({
        "model": "demo", "prompt": format!("{long} What is Raft?"), "stream": false,
        "options": {"temperature": 0, "num_predict": 60, "repeat_penalty": 1.3},
    });
    let fresh = one.post("/api/generate", question.clone()).await?;
    let other = json!({
        "model": "demo", "prompt": format!("{long} What is a quorum?"), "stream": false,
        "options": {"seed": 1, "num_predict": 300},
    });
    one.post("/api/generate", other).await?;
    one.answer(FRANCE.0).await?;
    let later = one.post("/api/generate", question.clone()).await?;
    let elsewhere = two.post("/api/generate", question).await?;
    assert_eq!(fresh["context"], later["context"]);
    assert_eq!(fresh["context"], elsewhere["context"]);
    assert_eq!(fresh["response"], elsewhere["response"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_that_are_too_long_are_cut_or_refused() -> Result<()> {
    let server = Server::with_demo().await?;
    let long = "a node of the cluster ".repeat(400);
    let body = json!({"model": "demo", "prompt": long, "stream": false, "options": {"num_predict": 2}});
    let answer = server.post("/api/generate", body.clone()).await?;
    assert_eq!(answer["prompt_eval_count"], json!(511));
    let mut strict = body;
    strict["truncate"] = json!(false);
    let (status, answer) = server.ask(Method::POST, "/api/generate", Some(strict)).await?;
    assert_eq!(
        (status, answer),
        (StatusCode::BAD_REQUEST, json!({"error": "the input length exceeds the context length"}))
    );

    let mut messages = vec![json!({"role": "user", "content": long}), json!({"role": "assistant", "content": "Yes."})];
    messages.push(json!({"role": "user", "content": FRANCE.0}));
    let body = json!({"model": "demo", "messages": messages, "stream": false, "options": {"temperature": 0}});
    let answer = server.post("/api/chat", body).await?;
    assert_eq!(answer["message"]["content"], json!(FRANCE.1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_context_ends_the_text_or_slides_and_never_for_ever() -> Result<()> {
    let server = Server::with_demo().await?;
    let ask = async |shift: bool| -> Result<(Value, u64)> {
        let body = json!({
            "model": "demo", "prompt": "a a a a", "raw": true, "stream": false, "shift": shift,
            "options": {"temperature": 0, "repeat_penalty": 0.01, "num_ctx": 64},
        });
        let answer = server.post("/api/generate", body).await?;
        let count = |name: &str| answer[name].as_u64().unwrap_or(0);
        let total = count("prompt_eval_count") + count("eval_count");
        Ok((answer["done_reason"].clone(), if shift { count("eval_count") } else { total }))
    };
    assert_eq!(ask(false).await?, (json!("length"), 65), "the last token needs no place");
    assert_eq!(ask(true).await?, (json!("length"), 640), "ten times the context, as in Ollama");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_and_other_cases_do_no_harm() -> Result<()> {
    let server = Server::with_demo().await?;
    let body = json!({
        "MODEL": "demo", "Messages": [{"Role": "user", "Content": FIVE.0, "tool_name": "", "thinking": ""}],
        "Stream": false, "think": false, "logprobs": true, "format": "", "images": null, "future": {"a": 1},
        "options": {"temperature": 0, "mirostat": 1, "seed": null},
    });
    assert_eq!(server.post("/api/chat", body).await?["message"]["content"], json!(FIVE.1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_have_length_one_and_mean_something() -> Result<()> {
    let server = Server::with_demo().await?;
    let long = "a long text about nodes ".repeat(40);
    let body = json!({"model": "demo", "input": ["What is a node?", "what is a node", long, "Count to five."]});
    let answer = server.post("/api/embed", body).await?;
    let vectors: Vec<Vec<f64>> = serde_json::from_value(answer["embeddings"].clone())?;
    assert_eq!((vectors.len(), vectors[0].len()), (4, 192));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    assert!(vectors.iter().all(|vector| (dot(vector, vector) - 1.0).abs() < 1e-4));
    assert!(dot(&vectors[0], &vectors[1]) > dot(&vectors[0], &vectors[3]));
    assert!(answer["prompt_eval_count"].as_u64() > Some(10));

    server.answer(FRANCE.0).await?;
    let again = server.post("/api/embed", json!({"model": "demo", "input": "What is a node?"})).await?;
    assert_eq!(again["embeddings"][0], answer["embeddings"][0]);
    let short = server.post("/api/embed", json!({"model": "demo", "input": "x", "dimensions": 8})).await?;
    assert_eq!(short["embeddings"][0].as_array().map(Vec::len), Some(8));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_request_gets_ollamas_words() -> Result<()> {
    let server = Server::with_demo().await?;
    let check = async |path: &str, body: Value, status: u16, text: &str| -> Result<()> {
        let (got, answer) = server.ask(Method::POST, path, Some(body.clone())).await?;
        assert_eq!(got.as_u16(), status, "{path} {body} {answer}");
        assert_eq!(answer, json!({"error": text}), "{path} {body}");
        Ok(())
    };
    let messages = json!([{"role": "user", "content": "x"}]);
    check("/api/generate", json!({"model": "no"}), 404, "model 'no' not found").await?;
    check("/api/generate", json!({"prompt": "x"}), 404, "model '' not found").await?;
    check("/api/generate", json!({"model": "../x"}), 400, "invalid model name").await?;
    check("/api/chat", json!({"messages": messages}), 400, "model is required").await?;
    check("/api/chat", json!({"model": "no", "messages": messages}), 404, "model 'no' not found").await?;
    check("/api/embed", json!({"model": "no", "input": "x"}), 404, "model \"no\" not found, try pulling it first")
        .await?;
    check("/api/show", json!({"model": "no"}), 404, "model 'no:latest' not found").await?;
    check("/api/show", json!({}), 400, "model is required").await?;
    let options = json!({"model": "demo", "prompt": "x", "options": {"temperature": "hot"}});
    check("/api/generate", options, 500, "option \"temperature\" must be of type float32").await?;
    let options = json!({"model": "demo", "messages": messages, "options": {"num_ctx": "1"}});
    check("/api/chat", options, 500, "option \"num_ctx\" must be of type integer").await?;
    let keep = json!({"model": "demo", "prompt": "x", "keep_alive": "300"});
    check("/api/generate", keep, 400, "time: missing unit in duration \"300\"").await?;
    let full = "registry.ollama.ai/library/demo:latest does not support";
    check("/api/generate", json!({"model": "demo", "prompt": "x", "suffix": "y"}), 400, &format!("{full} insert"))
        .await?;
    let tools = json!({"model": "demo", "messages": messages, "tools": [{}]});
    check("/api/chat", tools, 400, &format!("{full} tools")).await?;
    for think in [json!(true), json!("low")] {
        let think = json!({"model": "demo", "messages": messages, "think": think});
        check("/api/chat", think, 400, "\"demo\" does not support thinking").await?;
    }
    let think = json!({"model": "demo", "prompt": "x", "think": "xhigh"});
    let text = "invalid think value: \"xhigh\" (must be \"high\", \"medium\", \"low\", \"max\", true, or false)";
    check("/api/generate", think, 400, text).await?;
    let text = "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)";
    check("/api/chat", json!({"think": 5}), 400, text).await?;
    check("/api/chat", json!({"keep_alive": true}), 400, "Unsupported type: 'bool'").await?;
    let many = json!({"model": "demo", "messages": messages, "top_logprobs": 21});
    check("/api/chat", many, 400, "top_logprobs must be between 0 and 20").await?;
    check("/api/embed", json!({"model": "demo", "input": 5}), 400, "invalid input type").await?;
    let raw = json!({"model": "demo", "prompt": "x", "raw": true, "system": "y"});
    check("/api/generate", raw, 400, "raw mode does not support template, system, or context").await?;
    let raw = json!({"model": "demo", "raw": true, "context": [1]});
    check("/api/generate", raw, 400, "raw mode does not support template, system, or context").await?;
    let foreign = json!({"model": "demo", "prompt": "x", "context": [1, 99999]});
    check("/api/generate", foreign, 400, "context holds tokens that this model does not have").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_llama_cpp_refuses_is_reported_when_it_is_loaded() -> Result<()> {
    let server = Server::start().await?;
    let mut bytes = demo();
    let at = bytes.windows(5).position(|part| part == b"llama").expect("the architecture");
    bytes[at..at + 5].copy_from_slice(b"amall");
    server.create("odd", &bytes).await?;
    let body = json!({"model": "odd", "prompt": "x", "stream": false});
    let (status, answer) = server.ask(Method::POST, "/api/generate", Some(body)).await?;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("unable to load model") && error.contains("amall"), "{error}");
    server.create("demo", &demo()).await?;
    assert_eq!(server.answer(FRANCE.0).await?, FRANCE.1);
    Ok(())
}
