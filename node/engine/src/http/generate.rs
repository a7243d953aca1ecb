//! `POST /api/generate`: continues a prompt, or loads or unloads a model.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http::body::{Body, Kind, Shaped, Struct};
use crate::http::error::ApiError;
use crate::http::now;
use crate::http::stream::{self, End, Wire};
use crate::inference::{Engine, Need};
use crate::keep_alive::KeepAlive;
use crate::protocol::{self, Order, Prompt};
use crate::store::Model;
use crate::template::{self, Message};

/// How much a model may be asked to think.
const THINK_LEVELS: [&str; 4] = ["high", "medium", "low", "max"];

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GenerateRequest {
    model: Option<String>,
    prompt: Option<String>,
    suffix: Option<String>,
    system: Option<String>,
    template: Option<String>,
    context: Option<Vec<i32>>,
    stream: Option<bool>,
    raw: Option<bool>,
    format: Option<Value>,
    keep_alive: Option<Value>,
    images: Option<Vec<Value>>,
    options: Option<Map<String, Value>>,
    think: Option<Value>,
    top_logprobs: Option<i64>,
    truncate: Option<bool>,
    shift: Option<bool>,
}

impl Shaped for GenerateRequest {
    const SHAPE: &'static Struct = &Struct::new(
        "api.GenerateRequest",
        &[
            ("model", Kind::Text),
            ("prompt", Kind::Text),
            ("suffix", Kind::Text),
            ("system", Kind::Text),
            ("template", Kind::Text),
            ("context", Kind::List("[]int", &Kind::Int)),
            ("stream", Kind::Bool),
            ("raw", Kind::Bool),
            ("images", Kind::List("[]api.ImageData", &Kind::Any)),
            ("options", Kind::Map),
            ("top_logprobs", Kind::Int),
            ("truncate", Kind::Bool),
            ("shift", Kind::Bool),
        ],
    );
}

pub(super) async fn generate(
    State(engine): State<Engine>,
    Body(request): Body<GenerateRequest>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let asked = request.model.clone().unwrap_or_default();
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let thinks = thinks(request.think.as_ref())?;
    refuse_top_logprobs(request.top_logprobs)?;
    let is_empty = request.prompt.as_deref().unwrap_or_default().is_empty();
    let unloads = is_empty && keep_alive.is_some_and(KeepAlive::is_zero);
    let need = if unloads { Need::Nothing } else { Need::Generate };
    let options = request.options.clone().unwrap_or_default();
    let prepared = engine.prepare(&asked, need, options, keep_alive).await?;
    if unloads {
        engine.pool.unload(&prepared.model.weights);
        return Ok(stream::object(without_text(&asked, "unload")));
    }
    let full = prepared.model.name.full();
    refuse(&full, "insert", request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()))?;
    refuse(&full, "vision", request.images.as_ref().is_some_and(|images| !images.is_empty()))?;
    refuse(&format!("{asked:?}"), "thinking", thinks)?;
    refuse_raw_with_more(&request)?;
    let json = wants_json(request.format.as_ref())?;
    if is_empty {
        engine.load(&prepared).await?;
        return Ok(stream::object(without_text(&asked, "load")));
    }
    let order = Order::Generate(Box::new(protocol::Generate {
        prompt: prompt(&request, &prepared.model)?,
        truncate: request.truncate.unwrap_or(true),
        shift: request.shift.unwrap_or(true),
        json,
        sampling: prepared.sampling.clone(),
    }));
    let running = engine.start(&prepared, order).await?;
    let raw = request.raw.unwrap_or(false);
    if request.stream.unwrap_or(true) {
        let shape = move |part| stream::native(part, |text, end| chunk(&asked, text, end, raw));
        return Ok(stream::parts(running, started, Wire::Ndjson, shape));
    }
    let (text, end) = stream::whole(running, started).await?;
    Ok(stream::object(chunk(&asked, Some(text), Some(end), raw)))
}

fn prompt(request: &GenerateRequest, model: &Model) -> Result<Prompt, ApiError> {
    let text = request.prompt.clone().unwrap_or_default();
    let before = request.context.clone().unwrap_or_default();
    if request.raw.unwrap_or(false) {
        return Ok(Prompt::Raw { before, text });
    }
    let mut messages = Vec::new();
    if before.is_empty() {
        messages.extend(opening(model));
    }
    let user = Message { role: "user".to_owned(), content: text };
    let messages = with_system(request.system.clone().or_else(|| model.system.clone()), messages, vec![user]);
    let template = match request.template.clone().filter(|text| !text.is_empty()) {
        Some(text) => {
            template::check(&text).map_err(|error| ApiError::bad(error.to_string()))?;
            Some(text)
        }
        None => own_template(model),
    };
    Ok(Prompt::Chat { before, messages, template })
}

/// The answer to a request without a prompt: the model was loaded or unloaded.
fn without_text(model: &str, reason: &str) -> Value {
    json!({"model": model, "created_at": now(), "response": "", "done": true, "done_reason": reason})
}

fn chunk(model: &str, text: Option<String>, end: Option<End>, raw: bool) -> Value {
    let mut value = json!({
        "model": model, "created_at": now(), "response": text.unwrap_or_default(), "done": end.is_some(),
    });
    if let (Some(end), Some(object)) = (end, value.as_object_mut()) {
        object.insert("done_reason".to_owned(), json!(end.outcome.reason.as_str()));
        if !raw {
            object.insert("context".to_owned(), json!(end.outcome.context));
        }
        object.extend(end.metrics());
    }
    value
}

/// Reads `keep_alive`.
pub(super) fn keep_alive(value: Option<&Value>) -> Result<Option<KeepAlive>, ApiError> {
    KeepAlive::from_json(value.unwrap_or(&Value::Null)).map_err(|error| ApiError::bad(error.to_string()))
}

/// The error of a request for what the model cannot do.
pub(super) fn refuse(model: &str, ability: &str, asked: bool) -> Result<(), ApiError> {
    if asked { Err(ApiError::bad(format!("{model} does not support {ability}"))) } else { Ok(()) }
}

/// True if the request asks the model to think first.
pub(super) fn thinks(value: Option<&Value>) -> Result<bool, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(asked)) => Ok(*asked),
        Some(Value::String(level)) if THINK_LEVELS.contains(&level.as_str()) => Ok(true),
        Some(Value::String(level)) => Err(ApiError::bad(format!(
            "invalid think value: {level:?} (must be \"high\", \"medium\", \"low\", \"max\", true, or false)"
        ))),
        Some(_) => Err(ApiError::bad(
            "think must be a boolean or string (\"high\", \"medium\", \"low\", \"max\", true, or false)",
        )),
    }
}

/// The bounds of `top_logprobs`, which is otherwise ignored.
pub(super) fn refuse_top_logprobs(count: Option<i64>) -> Result<(), ApiError> {
    if count.is_none_or(|count| (0..=20).contains(&count)) {
        Ok(())
    } else {
        Err(ApiError::bad("top_logprobs must be between 0 and 20"))
    }
}

fn refuse_raw_with_more(request: &GenerateRequest) -> Result<(), ApiError> {
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let context = request.context.as_ref().is_some_and(|tokens| !tokens.is_empty());
    if request.raw.unwrap_or(false) && (given(&request.template) || given(&request.system) || context) {
        return Err(ApiError::bad("raw mode does not support template, system, or context"));
    }
    Ok(())
}

/// Reads `format`.
pub(super) fn wants_json(value: Option<&Value>) -> Result<bool, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(false),
        Some(Value::String(text)) if text.is_empty() => Ok(false),
        Some(Value::String(text)) if text == "json" => Ok(true),
        Some(Value::Object(_)) => Err(ApiError::bad(
            "format: this runtime does not follow JSON schemas; use \"json\" and describe the fields in the prompt",
        )),
        Some(other) => Err(ApiError::bad(format!("invalid format: {other}; expected \"json\""))),
    }
}

/// The messages that a model opens with.
pub(super) fn opening(model: &Model) -> Vec<Message> {
    let message = |value: &Value| {
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Message { role: text("role")?, content: text("content").unwrap_or_default() })
    };
    model.messages.iter().filter_map(message).collect()
}

/// A conversation with the system text in front, unless it brings one.
pub(super) fn with_system(system: Option<String>, opening: Vec<Message>, messages: Vec<Message>) -> Vec<Message> {
    let mut all = opening;
    all.extend(messages);
    let has_system = all.first().is_some_and(|message| message.role == "system");
    if let Some(content) = system.filter(|text| !text.is_empty() && !has_system) {
        all.insert(0, Message { role: "system".to_owned(), content });
    }
    all
}

/// The template that replaces the one in the file; one in another language does not.
pub(super) fn own_template(model: &Model) -> Option<String> {
    model.template.clone().filter(|text| !text.is_empty() && !template::is_go(text))
}
