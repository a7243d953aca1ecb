//! Reading JSON bodies as Go does: any content type, names in any case, the last of equal names, unknown ones ignored,
//! nothing read behind the first value. What Go refuses is refused in its words.

mod shape;

use axum::body::BodyDataStream;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use futures::StreamExt as _;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::http::error::{ApiError, OpenAiError};
use crate::http::json_fault;
use crate::limits;

pub(super) use self::shape::{Kind, Struct};

/// Fields whose own fields are matched in any case as well; in all others the client's keys are data.
const FIELDS_OF_FIELDS: [&str; 4] = ["messages", "stream_options", "response_format", "reasoning"];

/// What a body is read into.
pub(super) trait Shaped: DeserializeOwned {
    /// The struct that Ollama reads it into.
    const SHAPE: &'static Struct;
}

/// A request body.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

/// A request body of an OpenAI route; errors look different.
#[derive(Debug)]
pub(super) struct OpenAiBody<T>(pub(super) T);

impl<S: Send + Sync, T: Shaped> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        parse(&read(request.into_body()).await?, "missing request body").map(Self)
    }
}

impl<S: Send + Sync, T: Shaped> FromRequest<S> for OpenAiBody<T> {
    type Rejection = OpenAiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, OpenAiError> {
        Ok(Self(parse(&read(request.into_body()).await?, "EOF")?))
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

/// The first value of a text; `empty` is said of a text without one.
fn parse<T: Shaped>(bytes: &[u8], empty: &str) -> Result<T, ApiError> {
    if bytes.trim_ascii().is_empty() {
        return Err(ApiError::bad(empty));
    }
    // Go, too, reads what is no Unicode as replacement characters.
    let text = String::from_utf8_lossy(bytes);
    let value = Value::deserialize(&mut serde_json::Deserializer::from_str(&text)).map_err(|error| {
        ApiError::bad(json_fault::find(bytes).unwrap_or_else(|| format!("JSON that this runtime cannot read: {error}")))
    })?;
    let value = lowered(value);
    T::SHAPE.check(&value).map_err(ApiError::bad)?;
    // Null is a request that says nothing.
    let value = if value.is_null() { Value::Object(Map::new()) } else { value };
    serde_json::from_value(value).map_err(|error| ApiError::bad(format!("invalid request: {error}")))
}

/// With the names of all fields in lower case.
fn lowered(value: Value) -> Value {
    let Value::Object(map) = value else { return value };
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
    Value::Object(map)
}

fn lower(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use crate::http::chat::ChatRequest;
    use crate::http::create::CreateRequest;
    use crate::http::embed::EmbedRequest;
    use crate::http::generate::GenerateRequest;
    use crate::http::openai::chat::CompletionRequest;
    use crate::http::openai::embeddings::EmbeddingRequest;
    use crate::http::show::ShowRequest;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Sample {
        model: Option<String>,
        #[serde(default)]
        messages: Vec<Value>,
        #[serde(default)]
        options: Value,
    }

    impl Shaped for Sample {
        const SHAPE: &'static Struct = &Struct::new("api.Sample", &[("model", Kind::Text)]);
    }

    fn sample(body: &str) -> Result<Sample, ApiError> {
        parse(body.as_bytes(), "missing request body")
    }

    #[test]
    fn names_of_fields_count_in_any_case_and_keys_of_data_as_they_are() {
        let body = r#"{"Messages":[{"Role":"user","Content":{"Type":1}}],"Options":{"Seed":1}}"#;
        let sample = sample(body).expect("valid");
        assert_eq!(sample.messages, [serde_json::json!({"role": "user", "content": {"Type": 1}})]);
        assert_eq!(sample.options, serde_json::json!({"Seed": 1}));
    }

    #[test]
    fn bodies_are_read_as_go_reads_them() {
        let model = |sample: Sample| sample.model.unwrap_or_default();
        let check = |body: &str, expected: &str| assert_eq!(model(sample(body).expect("valid")), expected, "{body}");
        check(r#"{"model":"a"}"#, "a");
        check(r#"{"Model":"a","model":"b","x":1}"#, "b");
        check(r#"{"model":null}"#, "");
        check("null", "");
        check(r#"{"model":"a"} and more"#, "a");
        let odd = parse::<Sample>(b"{\"model\":\"a\xff\"}", "").expect("valid");
        assert_eq!(model(odd), "a\u{fffd}");
        let deep = sample(&format!("{{\"x\":{}{}}}", "[".repeat(500), "]".repeat(500))).expect_err("refused");
        assert!(deep.message.starts_with("JSON that this runtime cannot read: recursion limit"), "{}", deep.message);
    }

    fn refusal<T: Shaped>(body: &str, empty: &str) -> String {
        parse::<T>(body.as_bytes(), empty).map_or_else(|error| error.message, |_| "none".to_owned())
    }

    #[test]
    fn every_body_of_the_papers_is_refused_as_they_say() {
        let lines: Vec<&str> = include_str!("../../../../docs/api/ollama.md").lines().collect();
        let pairs = lines.windows(2).filter(|pair| pair[0].starts_with('/'));
        for pair in pairs.clone() {
            let (route, body) = pair[0].split_once(' ').unwrap_or((pair[0], ""));
            let found = match route {
                "/api/generate" => refusal::<GenerateRequest>(body, "missing request body"),
                "/api/chat" => refusal::<ChatRequest>(body, "missing request body"),
                "/api/embed" => refusal::<EmbedRequest>(body, "missing request body"),
                "/api/show" => refusal::<ShowRequest>(body, "missing request body"),
                "/api/create" => refusal::<CreateRequest>(body, "missing request body"),
                "/v1/chat/completions" => refusal::<CompletionRequest>(body, "EOF"),
                "/v1/embeddings" => refusal::<EmbeddingRequest>(body, "EOF"),
                route => panic!("no such route: {route}"),
            };
            assert_eq!(found, pair[1].trim(), "{}", pair[0]);
        }
        assert!(pairs.count() > 30);
    }
}
