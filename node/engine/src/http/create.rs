//! `POST /api/create`: makes a model from an uploaded file or from another model.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::http::body::{Body, Kind, Shaped, Struct};
use crate::http::error::ApiError;
use crate::http::show::given;
use crate::http::stream;
use crate::inference::Engine;
use crate::name::Name;
use crate::options::Options;
use crate::store::{CreateSpec, Digest, Source};

/// The body of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CreateRequest {
    model: Option<String>,
    name: Option<String>,
    from: Option<String>,
    files: Option<BTreeMap<String, String>>,
    adapters: Option<BTreeMap<String, String>>,
    template: Option<String>,
    system: Option<String>,
    parameters: Option<Map<String, Value>>,
    license: Option<Value>,
    messages: Option<Vec<Value>>,
    quantize: Option<String>,
    stream: Option<bool>,
}

impl Shaped for CreateRequest {
    const SHAPE: &'static Struct = &Struct::new(
        "api.CreateRequest",
        &[
            ("model", Kind::Text),
            ("name", Kind::Text),
            ("from", Kind::Text),
            ("files", Kind::Texts),
            ("adapters", Kind::Texts),
            ("template", Kind::Text),
            ("system", Kind::Text),
            ("parameters", Kind::Map),
            ("quantize", Kind::Text),
            ("stream", Kind::Bool),
        ],
    );
}

pub(super) async fn create(
    State(engine): State<Engine>,
    Body(request): Body<CreateRequest>,
) -> Result<Response, ApiError> {
    let streams = request.stream.unwrap_or(true);
    let spec = spec(request)?;
    let name = spec.name.to_string();
    let steps = engine.on_disk(move |store| store.create(&spec)).await.ok_or_else(ApiError::lost)??;
    tracing::info!(model = name, "model created");
    if !streams {
        return Ok(stream::object(json!({"status": "success"})));
    }
    let lines: String = steps.iter().map(|step| format!("{}\n", json!({"status": step}))).collect();
    Ok((StatusCode::OK, [(CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

fn spec(request: CreateRequest) -> Result<CreateSpec, ApiError> {
    let name = given(request.model, request.name).unwrap_or_default();
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let name = Name::parse(&name).ok_or_else(|| ApiError::bad("invalid model name"))?;
    if request.adapters.is_some_and(|adapters| !adapters.is_empty()) {
        return Err(ApiError::bad("adapters are not supported by this runtime"));
    }
    if given(request.quantize).is_some() {
        return Err(ApiError::bad("quantize is not supported by this runtime; upload a quantized file"));
    }
    let files = request.files.unwrap_or_default();
    let source = match (given(request.from), files.len()) {
        (Some(from), _) => Source::Model(Name::parse(&from).ok_or_else(|| ApiError::bad("invalid model name"))?),
        (None, 0) => return Err(ApiError::bad("neither 'from' or 'files' was specified")),
        (None, 1) => {
            let digest = files.values().next().and_then(|digest| Digest::parse(digest));
            Source::Blob(digest.ok_or_else(|| ApiError::bad("invalid digest format"))?)
        }
        (None, _) => return Err(ApiError::bad("files: give one GGUF file; split models are not supported")),
    };
    let parameters = request.parameters.unwrap_or_default();
    Options::from_maps([&parameters]).map_err(|error| ApiError::bad(error.to_string()))?;
    let licenses = match request.license {
        Some(Value::String(text)) => vec![text],
        Some(Value::Array(texts)) => texts.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    Ok(CreateSpec {
        name,
        source,
        template: given(request.template),
        system: given(request.system),
        parameters,
        licenses,
        messages: request.messages.unwrap_or_default(),
    })
}
