//! Vectors: `/api/embed`, the old `/api/embeddings`, `/v1/embeddings`.

use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::fake_ollama::answer::{Ask, busy, object};
use crate::fake_ollama::record::Phase;
use crate::fake_ollama::request::{Fields, Refused, name, refuse};
use crate::fake_ollama::runner::{KeepAlive, Wanted};
use crate::fake_ollama::script::{ModelScript, vary};
use crate::fake_ollama::{Shared, text};
use crate::wait;

#[derive(Debug)]
struct Job {
    sent: String,
    inputs: Vec<String>,
    dimensions: usize,
    base64: bool,
    wanted: Wanted,
}

pub(crate) async fn embed(shared: &Arc<Shared>, mut ask: Ask) -> Result<Response, Refused> {
    let begin = Instant::now();
    let job = match understand(shared, &ask) {
        Ok(job) => job,
        Err(refused) => {
            ask.watch.forget();
            return Err(refused);
        }
    };
    let script = shared.script();
    let acquired = shared.runners.acquire(&script, job.wanted.clone(), &shared.record, &mut ask.watch).await;
    let Ok(slot) = acquired else {
        ask.watch.forget();
        return Ok(busy(&ask.path));
    };
    ask.watch.enter(Phase::FirstByte);
    let time = vary(Duration::from_millis(script.first_byte_ms), script.jitter_percent, shared.draw());
    wait::pause(time + ask.extra_first_byte).await;
    ask.watch.finish();
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let words: usize = job.inputs.iter().map(|input| input.split_whitespace().count()).sum();
    let vectors = job.inputs.iter().map(|input| text::vector(&job.wanted.model.content, input, job.dimensions));
    Ok(match ask.path.as_str() {
        "/api/embed" => object(
            200,
            &json!({
                "model": job.sent, "embeddings": vectors.collect::<Vec<_>>(),
                "total_duration": nanos(begin.elapsed()), "load_duration": nanos(slot.load_time),
                "prompt_eval_count": words,
            }),
        ),
        "/api/embeddings" => object(200, &json!({ "embedding": vectors.flatten().collect::<Vec<_>>() })),
        _ => {
            let data: Vec<Value> = vectors
                .enumerate()
                .map(
                    |(index, vector)| json!({ "object": "embedding", "index": index, "embedding": job.shown(&vector) }),
                )
                .collect();
            object(
                200,
                &json!({
                    "object": "list", "data": data, "model": job.sent,
                    "usage": { "prompt_tokens": words, "total_tokens": words },
                }),
            )
        }
    })
}

impl Job {
    fn shown(&self, vector: &[f32]) -> Value {
        if !self.base64 {
            return json!(vector);
        }
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        json!(STANDARD.encode(bytes))
    }
}

fn understand(shared: &Shared, ask: &Ask) -> Result<Job, Refused> {
    let fields = Fields::parse(&ask.body)?;
    let sent = fields.text("model")?.to_owned();
    let inputs = match ask.path.as_str() {
        "/api/embeddings" => vec![fields.text("prompt")?.to_owned()],
        _ => inputs(fields.get("input"))?,
    };
    if sent.is_empty() && ask.path == "/api/embeddings" {
        return refuse(400, "model is required");
    }
    let script = shared.script();
    let found: Option<&ModelScript> = if sent.is_empty() { None } else { script.find(&name(&sent)?) };
    let Some(model) = found else {
        let text = if sent.is_empty() && ask.path == "/api/embed" {
            "model '' not found".to_owned()
        } else {
            format!("model \"{sent}\" not found, try pulling it first")
        };
        return refuse(404, text);
    };
    if !model.can("embedding") {
        return refuse(400, "this model does not support embeddings");
    }
    let dimensions = fields.get("dimensions").and_then(Value::as_u64).and_then(|asked| usize::try_from(asked).ok());
    let wanted = Wanted {
        model: model.clone(),
        context: fields.option("num_ctx")?.and_then(|context| u32::try_from(context).ok()),
        keep_alive: KeepAlive::or_default(fields.keep_alive()?),
    };
    Ok(Job {
        inputs,
        dimensions: dimensions.unwrap_or(usize::MAX).min(model.embedding_length),
        base64: fields.text("encoding_format")? == "base64",
        wanted,
        sent,
    })
}

fn inputs(input: Option<&Value>) -> Result<Vec<String>, Refused> {
    match input {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|entry| entry.as_str().map(str::to_owned));
            texts.collect::<Option<Vec<_>>>().map_or_else(|| refuse(400, "invalid input type"), Ok)
        }
        Some(_) => refuse(400, "invalid input type"),
    }
}
