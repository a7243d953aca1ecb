//! `POST /v1/chat/completions`: a conversation, whole or as server-sent events.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http::body::{Kind, OpenAiBody, Shaped, Struct};
use crate::http::chat::{Manner, TOOL, order};
use crate::http::error::{ApiError, OpenAiError};
use crate::http::generate::{refuse, refuse_top_logprobs};
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
    max_tokens: Option<i64>,
    max_completion_tokens: Option<i64>,
    seed: Option<i64>,
    stop: Option<Value>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    frequency_penalty: Option<f64>,
    presence_penalty: Option<f64>,
    response_format: Option<ResponseFormat>,
    top_logprobs: Option<i64>,
    tools: Option<Vec<Value>>,
    reasoning: Option<Reasoning>,
    reasoning_effort: Option<String>,
}

impl Shaped for CompletionRequest {
    const SHAPE: &'static Struct = &Struct::new(
        "openai.ChatCompletionRequest",
        &[
            ("model", Kind::Text),
            ("messages", Kind::List("[]openai.Message", &Kind::Struct(&MESSAGE))),
            ("stream", Kind::Bool),
            ("stream_options", Kind::Struct(&STREAM_OPTIONS)),
            ("max_tokens", Kind::Int),
            ("seed", Kind::Int),
            ("temperature", Kind::Float),
            ("top_p", Kind::Float),
            ("frequency_penalty", Kind::Float),
            ("presence_penalty", Kind::Float),
            ("response_format", Kind::Struct(&RESPONSE_FORMAT)),
            ("top_logprobs", Kind::Int),
            ("tools", Kind::List("[]api.Tool", &Kind::Struct(&TOOL))),
            ("reasoning", Kind::Struct(&REASONING)),
            ("reasoning_effort", Kind::Text),
        ],
    );
}

const MESSAGE: Struct =
    Struct::new("openai.Message", &[("role", Kind::Text), ("tool_calls", Kind::List("[]openai.ToolCall", &Kind::Any))]);
const STREAM_OPTIONS: Struct = Struct::new("openai.StreamOptions", &[("include_usage", Kind::Bool)]);
const RESPONSE_FORMAT: Struct = Struct::new("openai.ResponseFormat", &[("type", Kind::Text)]);
const REASONING: Struct = Struct::new("openai.Reasoning", &[("effort", Kind::Text)]);
/// How much a model may be asked to think.
const EFFORTS: [&str; 5] = ["high", "medium", "low", "max", "none"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ResponseFormat {
    r#type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reasoning {
    effort: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionMessage {
    role: Option<String>,
    content: Option<Value>,
    tool_calls: Option<Vec<Value>>,
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
    let messages = messages(request.messages.as_deref().unwrap_or_default())?;
    let thinks = thinks(&request)?;
    let json = wants_json(request.response_format.as_ref())?;
    refuse_top_logprobs(request.top_logprobs)?;
    let model = request.model.clone().unwrap_or_default();
    if model.is_empty() {
        return Err(ApiError::bad("model is required").into());
    }
    let prepared = engine.prepare(&model, Need::Chat, options(&request), None).await.map_err(ApiError::from)?;
    let tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    refuse(&prepared.model.name.full(), "tools", tools)?;
    refuse(&format!("{model:?}"), "thinking", thinks)?;
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
        let mut begun = false;
        let shape = move |part| frame.events(part, &mut begun);
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

    /// The first chunk of every answer names the role, also of one without text.
    fn events(&self, part: Part, begun: &mut bool) -> String {
        let chunk = |text: &str| event(&self.chunk(&json!({"role": "assistant", "content": text}), None));
        let first = !std::mem::replace(begun, true);
        match part {
            Part::Text(text) => chunk(&text),
            Part::Broken(error) => event(&error.openai_body()),
            Part::End(end) => {
                let mut text = if first { chunk("") } else { String::new() };
                text.push_str(&event(&self.chunk(&json!({}), Some(end.outcome.reason.as_str()))));
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
    let rows = [
        ("num_predict", request.max_tokens.or(request.max_completion_tokens).map(Value::from)),
        ("seed", request.seed.map(Value::from)),
        ("stop", stops(request.stop.as_ref())),
        ("temperature", Some(json!(request.temperature.unwrap_or(1.0)))),
        ("top_p", Some(json!(request.top_p.unwrap_or(1.0)))),
        ("frequency_penalty", request.frequency_penalty.map(Value::from)),
        ("presence_penalty", request.presence_penalty.map(Value::from)),
    ];
    rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// One text or several; as in Ollama, what is no text is passed over.
fn stops(value: Option<&Value>) -> Option<Value> {
    match value? {
        Value::String(text) => Some(json!([text])),
        Value::Array(items) => Some(items.iter().filter(|item| item.is_string()).cloned().collect()),
        _ => None,
    }
}

fn messages(messages: &[CompletionMessage]) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::bad("[] is too short - 'messages'"));
    }
    let message = |message: &CompletionMessage| {
        let role = message.role.as_deref().map_or_else(|| "user".to_owned(), str::to_lowercase);
        Ok(Message { role, content: content(message)? })
    };
    messages.iter().map(message).collect()
}

/// The text of a message; only one that calls tools may have none.
fn content(message: &CompletionMessage) -> Result<String, ApiError> {
    let unknown = |kind: &str| Err(ApiError::bad(format!("invalid message content type: {kind}")));
    match &message.content {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Array(parts)) => {
            let texts: Result<Vec<&str>, ApiError> = parts.iter().map(part_text).collect();
            Ok(texts?.join("\n"))
        }
        _ if message.tool_calls.is_some() => Ok(String::new()),
        None | Some(Value::Null) => unknown("<nil>"),
        Some(Value::Bool(_)) => unknown("bool"),
        Some(Value::Number(_)) => unknown("float64"),
        Some(Value::Object(_)) => unknown("map[string]interface {}"),
    }
}

fn part_text(part: &Value) -> Result<&str, ApiError> {
    match part.get("type").and_then(Value::as_str) {
        Some("text") => Ok(part.get("text").and_then(Value::as_str).unwrap_or_default()),
        _ => Err(ApiError::bad("invalid message format: this runtime reads parts of type \"text\" only")),
    }
}

/// True if the request asks the model to think first.
fn thinks(request: &CompletionRequest) -> Result<bool, ApiError> {
    let effort = match &request.reasoning {
        Some(reasoning) => reasoning.effort.as_deref(),
        None => request.reasoning_effort.as_deref(),
    };
    let effort = effort.unwrap_or_default();
    if effort.is_empty() || EFFORTS.contains(&effort) {
        return Ok(!matches!(effort, "" | "none"));
    }
    let allowed = r#"must be "high", "medium", "low", "max", or "none""#;
    Err(ApiError::bad(format!("invalid reasoning value: '{effort}' ({allowed})")))
}

fn wants_json(format: Option<&ResponseFormat>) -> Result<bool, ApiError> {
    match format.and_then(|format| format.r#type.as_deref()) {
        None | Some("" | "text") => Ok(false),
        Some("json_object") => Ok(true),
        Some(other) => Err(ApiError::bad(format!("response_format {other:?} is not supported; use \"json_object\""))),
    }
}
