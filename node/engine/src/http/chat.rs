//! `POST /api/chat`: continues a conversation, or loads or unloads a model.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http::body::{Body, Kind, Shaped, Struct};
use crate::http::error::ApiError;
use crate::http::generate::{
    keep_alive, opening, own_template, refuse, refuse_top_logprobs, thinks, wants_json, with_system,
};
use crate::http::now;
use crate::http::stream::{self, End, Wire};
use crate::inference::{Engine, Need, Prepared};
use crate::keep_alive::KeepAlive;
use crate::protocol::{self, Order, Prompt};
use crate::template::Message;

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ChatRequest {
    model: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    stream: Option<bool>,
    format: Option<Value>,
    keep_alive: Option<Value>,
    options: Option<Map<String, Value>>,
    tools: Option<Vec<Value>>,
    think: Option<Value>,
    top_logprobs: Option<i64>,
    truncate: Option<bool>,
    shift: Option<bool>,
}

impl Shaped for ChatRequest {
    const SHAPE: &'static Struct = &Struct::new(
        "api.ChatRequest",
        &[
            ("model", Kind::Text),
            ("messages", Kind::List("[]api.Message", &Kind::Struct(&MESSAGE))),
            ("stream", Kind::Bool),
            ("options", Kind::Map),
            ("tools", Kind::List("api.Tools", &Kind::Struct(&TOOL))),
            ("top_logprobs", Kind::Int),
            ("truncate", Kind::Bool),
            ("shift", Kind::Bool),
        ],
    );
}

/// A message goes by the name that its decoder gives to itself.
const MESSAGE: Struct = Struct {
    go: "api.Alias",
    fields: &[("role", Kind::Text), ("content", Kind::Text), ("images", Kind::List("[]api.ImageData", &Kind::Any))],
    is_nameless: true,
};
/// A tool; what is in it is not read.
pub(super) const TOOL: Struct = Struct::new("api.Tool", &[]);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatMessage {
    role: Option<String>,
    content: Option<String>,
    images: Option<Vec<Value>>,
}

/// How a conversation is to be continued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    /// Leave out the oldest messages if there are too many.
    pub(super) truncate: bool,
    /// Go on when the context is full.
    pub(super) shift: bool,
    /// Give only JSON.
    pub(super) json: bool,
}

pub(super) async fn chat(State(engine): State<Engine>, Body(request): Body<ChatRequest>) -> Result<Response, ApiError> {
    let started = Instant::now();
    let asked = request.model.clone().unwrap_or_default();
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let thinks = thinks(request.think.as_ref())?;
    refuse_top_logprobs(request.top_logprobs)?;
    if asked.is_empty() {
        return Err(ApiError::bad("model is required"));
    }
    let messages = request.messages.unwrap_or_default();
    let unloads = messages.is_empty() && keep_alive.is_some_and(KeepAlive::is_zero);
    let need = if unloads { Need::Nothing } else { Need::Chat };
    let prepared = engine.prepare(&asked, need, request.options.unwrap_or_default(), keep_alive).await?;
    if unloads {
        engine.pool.unload(&prepared.model.weights);
        return Ok(stream::object(without_text(&asked, "unload")));
    }
    let full = prepared.model.name.full();
    refuse(&full, "tools", request.tools.is_some_and(|tools| !tools.is_empty()))?;
    let has_images = |message: &ChatMessage| message.images.as_ref().is_some_and(|images| !images.is_empty());
    refuse(&full, "vision", messages.iter().any(has_images))?;
    refuse(&format!("{asked:?}"), "thinking", thinks)?;
    let json = wants_json(request.format.as_ref())?;
    if messages.is_empty() {
        engine.load(&prepared).await?;
        return Ok(stream::object(without_text(&asked, "load")));
    }
    let message = |message: ChatMessage| Message {
        role: message
            .role
            .filter(|role| !role.is_empty())
            .map_or_else(|| "user".to_owned(), |role| role.to_lowercase()),
        content: message.content.unwrap_or_default(),
    };
    let manner = Manner { truncate: request.truncate.unwrap_or(true), shift: request.shift.unwrap_or(true), json };
    let order = order(&prepared, messages.into_iter().map(message).collect(), manner);
    let running = engine.start(&prepared, order).await?;
    if request.stream.unwrap_or(true) {
        let shape = move |part| stream::native(part, |text, end| chunk(&asked, text, end));
        return Ok(stream::parts(running, started, Wire::Ndjson, shape));
    }
    let (text, end) = stream::whole(running, started).await?;
    Ok(stream::object(chunk(&asked, Some(text), Some(end))))
}

/// The order for a conversation, with what the model brings of its own.
pub(super) fn order(prepared: &Prepared, messages: Vec<Message>, manner: Manner) -> Order {
    let model = &prepared.model;
    Order::Generate(Box::new(protocol::Generate {
        prompt: Prompt::Chat {
            before: Vec::new(),
            messages: with_system(model.system.clone(), opening(model), messages),
            template: own_template(model),
        },
        truncate: manner.truncate,
        shift: manner.shift,
        json: manner.json,
        sampling: prepared.sampling.clone(),
    }))
}

/// The answer to a conversation without messages: the model was loaded or unloaded.
fn without_text(model: &str, reason: &str) -> Value {
    let message = json!({"role": "assistant", "content": ""});
    json!({"model": model, "created_at": now(), "message": message, "done": true, "done_reason": reason})
}

fn chunk(model: &str, text: Option<String>, end: Option<End>) -> Value {
    let message = json!({"role": "assistant", "content": text.unwrap_or_default()});
    let mut value = json!({"model": model, "created_at": now(), "message": message, "done": end.is_some()});
    if let (Some(end), Some(object)) = (end, value.as_object_mut()) {
        object.insert("done_reason".to_owned(), json!(end.outcome.reason.as_str()));
        object.extend(end.metrics());
    }
    value
}
