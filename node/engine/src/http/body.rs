//! Reading JSON bodies as Go does: any content type, names in any case, the last of equal names, unknown ones ignored.

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::http::error::{ApiError, OpenAiError};
use crate::limits;

/// Fields whose own fields are matched in any case as well; in all others the client's keys are data.
const FIELDS_OF_FIELDS: [&str; 3] = ["messages", "stream_options", "response_format"];

/// A request body.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

/// A request body of an OpenAI route; only errors look different.
#[derive(Debug)]
pub(super) struct OpenAiBody<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        parse(&read(request.into_body()).await?).map(Self)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for OpenAiBody<T> {
    type Rejection = OpenAiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, OpenAiError> {
        let Body(body) = Body::from_request(request, state).await?;
        Ok(Self(body))
    }
}

/// The whole body; one that is too large is refused.
async fn read(body: axum::body::Body) -> Result<Vec<u8>, ApiError> {
    let mut chunks = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| ApiError::bad(format!("request broken off: {error}")))?;
        if bytes.len() + chunk.len() > limits::BODY_BYTES_MAX {
            drop(bytes);
            swallow(chunks).await;
            let message = format!("request body too large, the limit is {} bytes", limits::BODY_BYTES_MAX);
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// Throws away some of what is still coming: a client that is cut off while it sends never reads why.
pub(super) async fn swallow(mut chunks: BodyDataStream) {
    let mut left = limits::SWALLOW_BYTES_MAX;
    let some = async {
        while let Some(Ok(chunk)) = chunks.next().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    if timeout(limits::SWALLOW_TIME, some).await.is_err() {
        tracing::debug!("the client goes on sending what is not wanted");
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.is_empty() {
        return Err(ApiError::bad("missing request body"));
    }
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| ApiError::bad(format!("invalid JSON: {error}")))?;
    let Value::Object(map) = value else {
        return Err(ApiError::bad("invalid JSON: the request body must be an object"));
    };
    let mut map = lower(map);
    for name in FIELDS_OF_FIELDS {
        match map.get_mut(name) {
            Some(Value::Object(fields)) => *fields = lower(std::mem::take(fields)),
            Some(Value::Array(items)) => {
                for fields in items.iter_mut().filter_map(Value::as_object_mut) {
                    *fields = lower(std::mem::take(fields));
                }
            }
            _ => {}
        }
    }
    serde_json::from_value(Value::Object(map)).map_err(|error| ApiError::bad(format!("invalid request: {error}")))
}

fn lower(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        #[serde(default)]
        model: String,
        #[serde(default)]
        messages: Vec<Value>,
        #[serde(default)]
        options: Value,
    }

    #[test]
    fn names_of_fields_count_in_any_case_and_keys_of_data_as_they_are() {
        let body = r#"{"Messages":[{"Role":"user","Content":{"Type":1}}],"Options":{"Seed":1}}"#;
        let sample: Sample = parse(body.as_bytes()).expect("valid");
        assert_eq!(sample.messages, [serde_json::json!({"role": "user", "content": {"Type": 1}})]);
        assert_eq!(sample.options, serde_json::json!({"Seed": 1}));
    }

    #[test]
    fn bodies_are_read_as_go_reads_them() {
        let check = |body: &str, expected: Result<&str, &str>| match (parse::<Sample>(body.as_bytes()), expected) {
            (Ok(sample), Ok(model)) => assert_eq!(sample.model, model, "{body}"),
            (Err(error), Err(start)) => {
                assert_eq!(error.status, StatusCode::BAD_REQUEST);
                assert!(error.message.starts_with(start), "{}", error.message);
            }
            (result, _) => panic!("{body}: {result:?}"),
        };
        check(r#"{"model":"a"}"#, Ok("a"));
        check(r#"{"Model":"a","model":"b","x":1}"#, Ok("b"));
        check("{}", Ok(""));
        check("", Err("missing request body"));
        check("{", Err("invalid JSON"));
        check("[]", Err("invalid JSON"));
        check(r#"{"model":1}"#, Err("invalid request"));
        check(&"[".repeat(100_000), Err("invalid JSON"));
        check("\u{0}", Err("invalid JSON"));
    }
}
