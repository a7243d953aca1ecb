//! `POST /v1/chat/completions`: a conversation, whole or as server-sent events.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http::body::OpenAiBody;
use crate::http::chat::{Manner, order};
use crate::http::error::{ApiError, OpenAiError};
use crate::http::generate::refuse;
use crate::http::now;
use crate::http::stream::{self, Part, Wire};
use crate::inference::{Engine, Need};
use crate::protocol::Outcome;
use crate::template::Message;

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CompletionRequest {
    model: Option<String>,
    messages: Option<Vec<CompletionMessage>>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<Value>,
    max_completion_tokens: Option<Value>,
    seed: Option<Value>,
    stop: Option<Value>,
    temperature: Option<Value>,
    top_p: Option<Value>,
    frequency_penalty: Option<Value>,
    presence_penalty: Option<Value>,
    response_format: Option<Value>,
    tools: Option<Vec<Value>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionMessage {
    role: Option<String>,
    content: Option<Value>,
}

/// What all chunks of one answer have in common.
#[derive(Debug, Clone)]
struct Frame {
    id: String,
    created: i64,
    model: String,
    usage: bool,
}

pub(crate) async fn completions(
    State(engine): State<Engine>,
    OpenAiBody(request): OpenAiBody<CompletionRequest>,
) -> Result<Response, OpenAiError> {
    let started = Instant::now();
    let model = request.model.clone().unwrap_or_default();
    if model.is_empty() {
        return Err(ApiError::bad("model is required").into());
    }
    let messages = messages(request.messages.as_deref().unwrap_or_default())?;
    let json = wants_json(request.response_format.as_ref())?;
    let prepared = engine.prepare(&model, Need::Chat, options(&request), None).await.map_err(ApiError::from)?;
    let tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    refuse(&prepared.model.name.full(), "tools", tools)?;
    let manner = Manner { truncate: true, shift: true, json };
    let running = engine.start(&prepared, order(&prepared, messages, manner)).await.map_err(ApiError::from)?;
    let time = now();
    let frame = Frame {
        id: format!("chatcmpl-{}", time.as_nanosecond()),
        created: time.as_second(),
        model,
        usage: request.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
    };
    if request.stream.unwrap_or(false) {
        let shape = move |part| frame.events(part);
        return Ok(stream::parts(running, started, Wire::Sse, shape));
    }
    let (text, end) = stream::whole(running, started).await?;
    Ok(stream::object(frame.whole(&text, &end.outcome)))
}

// === impl Frame ===

impl Frame {
    fn chunk(&self, delta: &Value, finish: Option<&str>) -> Value {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        self.object("chat.completion.chunk", json!([choice]))
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({
            "id": self.id, "object": kind, "created": self.created, "model": self.model,
            "system_fingerprint": "fp_ollama", "choices": choices,
        })
    }

    fn whole(&self, text: &str, outcome: &Outcome) -> Value {
        let message = json!({"role": "assistant", "content": text});
        let choice = json!({"index": 0, "message": message, "finish_reason": outcome.reason.as_str()});
        let mut value = self.object("chat.completion", json!([choice]));
        value["usage"] = usage(outcome);
        value
    }

    fn events(&self, part: Part) -> String {
        match part {
            Part::Text(text) => event(&self.chunk(&json!({"role": "assistant", "content": text}), None)),
            Part::Broken(error) => event(&error.openai_body()),
            Part::End(end) => {
                let mut text = event(&self.chunk(&json!({}), Some(end.outcome.reason.as_str())));
                if self.usage {
                    let mut value = self.object("chat.completion.chunk", json!([]));
                    value["usage"] = usage(&end.outcome);
                    text.push_str(&event(&value));
                }
                text + "data: [DONE]\n\n"
            }
        }
    }
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn usage(outcome: &Outcome) -> Value {
    json!({
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.tokens,
        "total_tokens": outcome.prompt_tokens + outcome.tokens,
    })
}

fn options(request: &CompletionRequest) -> Map<String, Value> {
    let stop = match request.stop.clone() {
        Some(Value::String(text)) => Some(json!([text])),
        other => other,
    };
    let rows = [
        ("num_predict", request.max_tokens.clone().or_else(|| request.max_completion_tokens.clone())),
        ("seed", request.seed.clone()),
        ("stop", stop),
        ("temperature", Some(request.temperature.clone().unwrap_or_else(|| json!(1.0)))),
        ("top_p", Some(request.top_p.clone().unwrap_or_else(|| json!(1.0)))),
        ("frequency_penalty", request.frequency_penalty.clone()),
        ("presence_penalty", request.presence_penalty.clone()),
    ];
    rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn messages(messages: &[CompletionMessage]) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::bad("[] is too short - 'messages'"));
    }
    let message = |message: &CompletionMessage| {
        let role = message.role.clone().unwrap_or_else(|| "user".to_owned());
        Ok(Message { role, content: content(message.content.as_ref())? })
    };
    messages.iter().map(message).collect()
}

fn content(value: Option<&Value>) -> Result<String, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let texts: Result<Vec<&str>, ApiError> = parts.iter().map(part_text).collect();
            Ok(texts?.join("\n"))
        }
        Some(_) => Err(ApiError::bad("invalid message content type")),
    }
}

fn part_text(part: &Value) -> Result<&str, ApiError> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") => Ok(part.get("text").and_then(Value::as_str).unwrap_or_default()),
        _ => Err(ApiError::bad("invalid message format: this runtime reads parts of type \"text\" only")),
    }
}

fn wants_json(format: Option<&Value>) -> Result<bool, ApiError> {
    match format.and_then(|format| format.get("type")).and_then(Value::as_str) {
        None | Some("text") => Ok(false),
        Some("json_object") => Ok(true),
        Some(other) => Err(ApiError::bad(format!("response_format {other:?} is not supported; use \"json_object\""))),
    }
}
