//! `POST /api/chat`: continues a conversation, or loads or unloads a model.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http::body::Body;
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
    if asked.is_empty() {
        return Err(ApiError::bad("model is required"));
    }
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let prepared = engine.prepare(&asked, Need::Chat, request.options.unwrap_or_default(), keep_alive).await?;
    let messages = request.messages.unwrap_or_default();
    let full = prepared.model.name.full();
    refuse(&full, "tools", request.tools.is_some_and(|tools| !tools.is_empty()))?;
    let has_images = |message: &ChatMessage| message.images.as_ref().is_some_and(|images| !images.is_empty());
    refuse(&full, "vision", messages.iter().any(has_images))?;
    refuse(&format!("{asked:?}"), "thinking", thinks(request.think.as_ref())?)?;
    refuse_top_logprobs(request.top_logprobs)?;
    let json = wants_json(request.format.as_ref())?;
    if messages.is_empty() {
        let unload = keep_alive.is_some_and(KeepAlive::is_zero);
        if unload {
            engine.pool.unload(&prepared.model.weights);
        } else {
            engine.load(&prepared).await?;
        }
        let reason = if unload { "unload" } else { "load" };
        let message = json!({"role": "assistant", "content": ""});
        return Ok(stream::object(json!({
            "model": asked, "created_at": now(), "message": message, "done": true, "done_reason": reason,
        })));
    }
    let message = |message: ChatMessage| Message {
        role: message.role.filter(|role| !role.is_empty()).unwrap_or_else(|| "user".to_owned()),
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

fn chunk(model: &str, text: Option<String>, end: Option<End>) -> Value {
    let message = json!({"role": "assistant", "content": text.unwrap_or_default()});
    let mut value = json!({"model": model, "created_at": now(), "message": message, "done": end.is_some()});
    if let (Some(end), Some(object)) = (end, value.as_object_mut()) {
        object.insert("done_reason".to_owned(), json!(end.outcome.reason.as_str()));
        object.extend(end.metrics());
    }
    value
}
