//! `POST /api/embed`: texts in, vectors of length 1 out.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::http::body::{Body, Kind, Shaped, Struct};
use crate::http::error::ApiError;
use crate::http::generate::keep_alive;
use crate::http::stream::{self, nanos};
use crate::inference::{Engine, InferenceError, Need};
use crate::limits;
use crate::protocol::{Embed, Order};

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EmbedRequest {
    model: Option<String>,
    input: Option<Value>,
    truncate: Option<bool>,
    dimensions: Option<i64>,
    keep_alive: Option<Value>,
    options: Option<Map<String, Value>>,
}

impl Shaped for EmbedRequest {
    const SHAPE: &'static Struct = &Struct::new(
        "api.EmbedRequest",
        &[("model", Kind::Text), ("truncate", Kind::Bool), ("dimensions", Kind::Int), ("options", Kind::Map)],
    );
}

pub(super) async fn embed(
    State(engine): State<Engine>,
    Body(request): Body<EmbedRequest>,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    let asked = request.model.unwrap_or_default();
    let keep_alive = keep_alive(request.keep_alive.as_ref())?;
    let inputs = inputs(request.input)?;
    let prepared = engine.prepare(&asked, Need::Embed, request.options.unwrap_or_default(), keep_alive).await;
    let prepared = prepared.map_err(missing)?;
    if inputs.is_empty() {
        engine.load(&prepared).await?;
        return Ok(stream::object(json!({"model": asked, "embeddings": []})));
    }
    let order = Order::Embed(Embed { inputs, truncate: request.truncate.unwrap_or(true) });
    let running = engine.start(&prepared, order).await?;
    let load = running.load;
    let (vectors, tokens) = stream::vectors(running).await?;
    Ok(stream::object(json!({
        "model": asked,
        "embeddings": shortened(vectors, request.dimensions),
        "total_duration": nanos(started.elapsed()),
        "load_duration": nanos(load),
        "prompt_eval_count": tokens,
    })))
}

/// The error of an embedding for a model that is not here has words of its own.
pub(super) fn missing(error: InferenceError) -> ApiError {
    match error {
        InferenceError::NotFound(name) if !name.is_empty() => {
            ApiError::not_found(format!("model {name:?} not found, try pulling it first"))
        }
        error => error.into(),
    }
}

/// Reads a text or a list of texts; an empty text alone is none.
pub(super) fn inputs(value: Option<Value>) -> Result<Vec<String>, ApiError> {
    let wrong = || ApiError::bad("invalid input type");
    let inputs = match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) if text.is_empty() => Vec::new(),
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(items)) => {
            let text = |item| if let Value::String(text) = item { Ok(text) } else { Err(wrong()) };
            items.into_iter().map(text).collect::<Result<_, _>>()?
        }
        Some(_) => return Err(wrong()),
    };
    if inputs.len() > limits::EMBED_INPUTS_MAX {
        return Err(ApiError::bad(format!("input has more than {} texts", limits::EMBED_INPUTS_MAX)));
    }
    Ok(inputs)
}

/// The first `dimensions` numbers of each vector, brought back to length 1.
pub(super) fn shortened(mut vectors: Vec<Vec<f32>>, dimensions: Option<i64>) -> Vec<Vec<f32>> {
    let Some(count) = dimensions.and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0) else {
        return vectors;
    };
    for vector in vectors.iter_mut().filter(|vector| vector.len() > count) {
        vector.truncate(count);
        let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length > 0.0 {
            vector.iter_mut().for_each(|value| *value /= length);
        }
    }
    vectors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_text_or_many_are_read() {
        let check = |value: Value, expected: Option<usize>| {
            assert_eq!(inputs(Some(value.clone())).ok().map(|inputs| inputs.len()), expected, "{value}");
        };
        check(json!("a"), Some(1));
        check(json!(""), Some(0));
        check(json!(null), Some(0));
        check(json!(["a", ""]), Some(2));
        check(json!([]), Some(0));
        check(json!([1, 2]), None);
        check(json!(5), None);
    }

    #[test]
    fn shortened_vectors_have_length_one_again() {
        assert_eq!(shortened(vec![vec![3.0, 4.0, 12.0]], Some(2)), vec![vec![0.6, 0.8]]);
        assert_eq!(shortened(vec![vec![1.0, 0.0]], Some(9)), vec![vec![1.0, 0.0]]);
        assert_eq!(shortened(vec![vec![1.0, 0.0]], Some(-1)), vec![vec![1.0, 0.0]]);
    }
}
