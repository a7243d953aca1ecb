//! Chat and completion, native and OpenAI: one job, four forms of line.
//!
//! As Ollama, nothing is sent before the first token. A caller that leaves frees its slot at once, wherever it was.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tokio::time::Instant;

use ollamax_types::Digest;

use crate::fake_ollama::answer::{Ask, Ending, RUNNER_STOPPED, busy, object, respond};
use crate::fake_ollama::record::Phase;
use crate::fake_ollama::request::{Fields, Refused, name, refuse};
use crate::fake_ollama::runner::{KeepAlive, Slot, Wanted};
use crate::fake_ollama::script::{ModelScript, vary};
use crate::fake_ollama::watch::Watch;
use crate::fake_ollama::{CloseConnection, Shared, text};
use crate::wait;

/// Time in which the lines before a cut leave the socket.
const FLUSH_TIME: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Generate,
    Chat,
    OpenAiChat,
    OpenAiCompletion,
}

impl Form {
    fn of(path: &str) -> Self {
        match path {
            "/api/generate" => Self::Generate,
            "/api/chat" => Self::Chat,
            "/v1/chat/completions" => Self::OpenAiChat,
            _ => Self::OpenAiCompletion,
        }
    }

    const fn is_native(self) -> bool {
        matches!(self, Self::Generate | Self::Chat)
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::Generate | Self::OpenAiCompletion => "generate",
            Self::Chat | Self::OpenAiChat => "chat",
        }
    }
}

/// A request as understood.
#[derive(Debug)]
struct Job {
    form: Form,
    /// The model's name as the client sent it.
    sent: String,
    model: ModelScript,
    voice: Digest,
    prompt_tokens: u64,
    tokens: u64,
    reason: &'static str,
    stream: bool,
    usage: bool,
    load_only: Option<&'static str>,
    wanted: Wanted,
    created: String,
    begin: Instant,
    token_time: Duration,
}

/// The model named in a body loses its runner, as after a crash.
pub(crate) fn forget_runner(shared: &Shared, body: &[u8]) {
    let Ok(fields) = Fields::parse(body) else { return };
    let Ok(name) = fields.text("model").and_then(name) else { return };
    if let Some(model) = shared.script().find(&name) {
        shared.runners.unload(model.weights_digest());
    }
}

pub(crate) async fn infer(shared: &Arc<Shared>, mut ask: Ask) -> Result<Response, Refused> {
    let script = shared.script();
    let mut job = match understand(shared, &ask) {
        Ok(job) => job,
        Err(refused) => {
            ask.watch.forget();
            return Err(refused);
        }
    };
    if job.load_only == Some("unload") {
        shared.runners.unload(job.model.weights_digest());
        ask.watch.finish();
        return Ok(object(200, &job.loaded("unload")));
    }
    let acquired = shared.runners.acquire(&script, job.wanted.clone(), &shared.record, &mut ask.watch).await;
    let Ok(slot) = acquired else {
        ask.watch.forget();
        return Ok(busy(&ask.path));
    };
    if job.load_only.is_some() {
        ask.watch.finish();
        return Ok(object(200, &job.loaded("load")));
    }
    ask.watch.enter(Phase::FirstByte);
    let first = vary(Duration::from_millis(script.first_byte_ms), script.jitter_percent, shared.draw());
    job.token_time = vary(Duration::from_micros(script.token_us), script.jitter_percent, shared.draw());
    wait::pause(first + ask.extra_first_byte).await;
    ask.watch.enter(Phase::Stream);
    if job.stream {
        return Ok(stream_lines(Lines { job, slot, watch: ask.watch, next: 0, ending: ask.ending }));
    }
    let steps = u32::try_from(job.tokens.saturating_sub(1)).unwrap_or(u32::MAX);
    wait::pause(job.token_time.saturating_mul(steps)).await;
    ask.watch.finish();
    Ok(match ask.ending {
        Ending::Whole => object(200, &job.whole(&slot)),
        // Without a stream both mean that the runner died before the answer was complete.
        Ending::CutAfter(_) | Ending::ErrorAfter(_) => return refuse(500, RUNNER_STOPPED),
    })
}

fn understand(shared: &Shared, ask: &Ask) -> Result<Job, Refused> {
    let form = Form::of(&ask.path);
    let fields = Fields::parse(&ask.body)?;
    let sent = fields.text("model")?.to_owned();
    let stream = fields.flag("stream", form.is_native())?;
    let keep_alive = fields.keep_alive()?;
    let messages = fields.list("messages", "[]api.Message")?;
    let prompt = match form {
        Form::Chat | Form::OpenAiChat => messages_text(messages)?,
        Form::Generate | Form::OpenAiCompletion => fields.text("prompt")?.to_owned(),
    };
    if sent.is_empty() && form == Form::Chat {
        return refuse(400, "model is required");
    }
    let script = shared.script();
    let found = if sent.is_empty() { None } else { script.find(&name(&sent)?) };
    let Some(model) = found else { return refuse(404, format!("model '{sent}' not found")) };
    if !model.can("completion") {
        return refuse(400, format!("\"{sent}\" does not support {}", form.verb()));
    }
    let limit = match fields.option("num_predict")? {
        None => fields.get("max_tokens").and_then(Value::as_i64),
        some => some,
    };
    let limit = limit.and_then(|limit| u64::try_from(limit).ok());
    let tokens = limit.map_or(script.tokens, |limit| limit.min(script.tokens));
    let is_empty = if form == Form::Chat { messages.is_empty() } else { prompt.is_empty() && form == Form::Generate };
    let context = fields.option("num_ctx")?.and_then(|context| u32::try_from(context).ok());
    let unload = keep_alive == Some(KeepAlive::For(Duration::ZERO));
    Ok(Job {
        form,
        voice: text::voice(&model.content, &prompt),
        prompt_tokens: u64::try_from(prompt.split_whitespace().count()).unwrap_or(0),
        tokens,
        reason: if tokens < script.tokens { "length" } else { "stop" },
        stream,
        usage: fields.get("stream_options").is_some_and(|options| options["include_usage"] == true),
        load_only: is_empty.then_some(if unload { "unload" } else { "load" }),
        wanted: Wanted { model: model.clone(), context, keep_alive: KeepAlive::or_default(keep_alive) },
        model: model.clone(),
        sent,
        created: text::now(),
        begin: Instant::now(),
        token_time: Duration::ZERO,
    })
}

fn messages_text(messages: &[Value]) -> Result<String, Refused> {
    let mut text = String::new();
    for message in messages {
        if !message.is_object() {
            return refuse(400, "json: cannot unmarshal string into Go struct field .messages of type api.Message");
        }
        text.push_str(message["role"].as_str().unwrap_or(""));
        text.push(':');
        match &message["content"] {
            Value::String(content) => text.push_str(content),
            Value::Array(parts) => {
                parts.iter().filter_map(|part| part["text"].as_str()).for_each(|part| text.push_str(part));
            }
            _ => {}
        }
        text.push('\n');
    }
    Ok(text)
}

// === impl Job ===

impl Job {
    fn loaded(&self, reason: &str) -> Value {
        let mut value = json!({ "model": self.sent, "created_at": self.created });
        match self.form {
            Form::Chat => value["message"] = json!({ "role": "assistant", "content": "" }),
            _ => value["response"] = json!(""),
        }
        value["done"] = json!(true);
        value["done_reason"] = json!(reason);
        value
    }

    fn native(&self, content: &str) -> Value {
        match self.form {
            Form::Chat => json!({
                "model": self.sent, "created_at": text::now(),
                "message": { "role": "assistant", "content": content }, "done": false,
            }),
            _ => json!({ "model": self.sent, "created_at": text::now(), "response": content, "done": false }),
        }
    }

    fn close(&self, mut value: Value, slot: &Slot) -> Value {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        value["done"] = json!(true);
        value["done_reason"] = json!(self.reason);
        if self.form == Form::Generate {
            value["context"] = json!([1, 2, 3]);
        }
        value["total_duration"] = json!(nanos(self.begin.elapsed()));
        value["load_duration"] = json!(nanos(slot.load_time));
        value["prompt_eval_count"] = json!(self.prompt_tokens);
        value["prompt_eval_duration"] = json!(1);
        value["eval_count"] = json!(self.tokens);
        value["eval_duration"] = json!(nanos(self.begin.elapsed().saturating_sub(slot.load_time)).max(1));
        value
    }

    fn openai(&self, object: &str, choices: &Value) -> Value {
        json!({
            "id": format!("chatcmpl-{}", self.voice.0[0]), "object": object, "created": 1_767_323_045,
            "model": self.sent, "system_fingerprint": "fp_ollama", "choices": choices,
        })
    }

    fn usage(&self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens,
            "total_tokens": self.prompt_tokens + self.tokens,
        })
    }

    /// The answer in one piece.
    fn whole(&self, slot: &Slot) -> Value {
        let content = text::whole(&self.voice, self.tokens);
        let mut value = match self.form {
            Form::Generate | Form::Chat => return self.close(self.native(&content), slot),
            Form::OpenAiChat => {
                let message = json!({ "role": "assistant", "content": content });
                let choices = json!([{ "index": 0, "message": message, "finish_reason": self.reason }]);
                self.openai("chat.completion", &choices)
            }
            Form::OpenAiCompletion => {
                let choices = json!([{ "index": 0, "text": content, "finish_reason": self.reason }]);
                self.openai("text_completion", &choices)
            }
        };
        value["usage"] = self.usage();
        value
    }

    /// Line or event number `index` of the stream; `None` after the last.
    fn line(&self, index: u64, slot: &Slot) -> Option<String> {
        if self.form.is_native() {
            return match index.checked_sub(self.tokens) {
                None => Some(format!("{}\n", self.native(&text::token(&self.voice, index)))),
                Some(0) => Some(format!("{}\n", self.close(self.native(""), slot))),
                Some(_) => None,
            };
        }
        let choice = |content: &str, reason: Value| match self.form {
            Form::OpenAiChat => {
                let delta = json!({ "role": "assistant", "content": content });
                json!([{ "index": 0, "delta": delta, "finish_reason": reason }])
            }
            _ => json!([{ "index": 0, "text": content, "finish_reason": reason }]),
        };
        let kind = if self.form == Form::OpenAiChat { "chat.completion.chunk" } else { "text_completion" };
        let event = match index.checked_sub(self.tokens) {
            None => self.openai(kind, &choice(&text::token(&self.voice, index), Value::Null)),
            Some(0) => self.openai(kind, &choice("", json!(self.reason))),
            Some(1) if self.usage => {
                let mut value = self.openai(kind, &json!([]));
                value["usage"] = self.usage();
                value
            }
            Some(after) if after == 1 + u64::from(self.usage) => return Some("data: [DONE]\n\n".to_owned()),
            Some(_) => return None,
        };
        Some(format!("data: {event}\n\n"))
    }
}

/// A stream in progress. Dropping it frees the slot and notes the cancellation.
#[derive(Debug)]
struct Lines {
    job: Job,
    slot: Slot,
    watch: Watch,
    next: u64,
    ending: Ending,
}

fn stream_lines(lines: Lines) -> Response {
    let content_type = if lines.job.form.is_native() { "application/x-ndjson" } else { "text/event-stream" };
    let body = stream::unfold(Some(lines), |lines| async move {
        let mut lines = lines?;
        match lines.step().await {
            Some(Ok(line)) => Some((Ok(line), Some(lines))),
            Some(Err(error)) => Some((Err(error), None)),
            None => None,
        }
    });
    respond(200, content_type, Body::from_stream(body))
}

impl Lines {
    async fn step(&mut self) -> Option<Result<Bytes, CloseConnection>> {
        match self.ending {
            Ending::CutAfter(lines) if self.next == lines => {
                wait::pause(FLUSH_TIME).await;
                self.watch.forget();
                return Some(Err(CloseConnection));
            }
            Ending::ErrorAfter(lines) if self.next == lines => {
                self.ending = Ending::Whole;
                self.next = u64::MAX;
                self.watch.finish();
                return Some(Ok(Bytes::from(format!("{}\n", json!({ "error": RUNNER_STOPPED })))));
            }
            _ if self.next == u64::MAX => return None,
            _ => {}
        }
        if self.next > 0 && self.next < self.job.tokens {
            wait::pause(self.job.token_time).await;
        }
        let line = self.job.line(self.next, &self.slot)?;
        self.next += 1;
        if self.job.line(self.next, &self.slot).is_none() {
            self.watch.finish();
        }
        Some(Ok(Bytes::from(line)))
    }
}
