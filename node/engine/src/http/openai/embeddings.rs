//! `POST /v1/embeddings`: texts in, vectors out, as numbers or as base64.

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::http::body::{Kind, OpenAiBody, Shaped, Struct};
use crate::http::embed::{inputs, missing, shortened};
use crate::http::error::{ApiError, OpenAiError};
use crate::http::stream;
use crate::inference::{Engine, Need};
use crate::protocol::{Embed, Order};

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct EmbeddingRequest {
    model: Option<String>,
    input: Option<Value>,
    dimensions: Option<i64>,
    encoding_format: Option<String>,
}

impl Shaped for EmbeddingRequest {
    const SHAPE: &'static Struct = &Struct::new(
        "openai.EmbedRequest",
        &[("model", Kind::Text), ("dimensions", Kind::Int), ("encoding_format", Kind::Text)],
    );
}

pub(crate) async fn embeddings(
    State(engine): State<Engine>,
    OpenAiBody(request): OpenAiBody<EmbeddingRequest>,
) -> Result<Response, OpenAiError> {
    let format = request.encoding_format.unwrap_or_default();
    let base64 = format.eq_ignore_ascii_case("base64");
    if !base64 && !format.is_empty() && !format.eq_ignore_ascii_case("float") {
        let message = format!("Invalid value for 'encoding_format' = {format}. Supported values: ['float', 'base64'].");
        return Err(ApiError::bad(message).into());
    }
    let model = request.model.unwrap_or_default();
    let inputs = match request.input {
        Some(Value::String(text)) => vec![text],
        input => inputs(input)?,
    };
    if inputs.is_empty() {
        return Err(ApiError::bad("invalid input").into());
    }
    let prepared = engine.prepare(&model, Need::Embed, Map::new(), None).await.map_err(missing)?;
    let order = Order::Embed(Embed { inputs, truncate: true });
    let running = engine.start(&prepared, order).await.map_err(ApiError::from)?;
    let (vectors, tokens) = stream::vectors(running).await?;
    let row = |(index, vector): (usize, Vec<f32>)| {
        let embedding = if base64 { json!(encoded(&vector)) } else { json!(vector) };
        json!({"object": "embedding", "embedding": embedding, "index": index})
    };
    let data: Vec<Value> = shortened(vectors, request.dimensions).into_iter().enumerate().map(row).collect();
    let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    Ok(stream::object(json!({"object": "list", "data": data, "model": model, "usage": usage})))
}

fn encoded(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
    BASE64_STANDARD.encode(bytes)
}
