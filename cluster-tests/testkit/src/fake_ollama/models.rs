//! The store of a fake: lists, details, uploads, creation, second names, pushes and deletion of models.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::response::Response;
use http::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use ollamax_types::name::DEFAULT_NAMESPACE;
use ollamax_types::{Clock, Digest, ModelName};

use crate::fake_ollama::answer::{Ask, object, respond};
use crate::fake_ollama::request::{Fields, Refused, name, refuse};
use crate::fake_ollama::script::{ModelScript, Script};
use crate::fake_ollama::{Shared, lock, shelf, text};

/// What a registry says whose account is another one.
const NOT_YOURS: &str = "you are not authorized to push to this namespace, create the model under a namespace you own";

fn details(model: &ModelScript) -> Value {
    json!({
        "parent_model": "", "format": "gguf", "family": model.family, "families": [model.family],
        "parameter_size": model.parameter_size, "quantization_level": model.quantization,
    })
}

pub(crate) fn tags(shared: &Shared) -> Response {
    let script = shared.script();
    let mut listed: Vec<&ModelScript> = script.models.iter().collect();
    listed.sort_by(|a, b| b.modified_at.cmp(&a.modified_at));
    let entry = |model: &ModelScript| {
        json!({
            "name": model.name, "model": model.name, "modified_at": model.modified_at, "size": model.size_bytes,
            "digest": model.digest().to_string(), "details": details(model),
        })
    };
    object(200, &json!({ "models": listed.into_iter().map(entry).collect::<Vec<_>>() }))
}

pub(crate) fn ps(shared: &Shared) -> Response {
    let (clock, now) = (Clock::system().now(), Instant::now());
    let entry = |resident: crate::fake_ollama::runner::Resident| {
        // Ollama writes "never" as a time about 292 years ahead.
        let left = resident.expires.map_or(Duration::from_secs(292 * 365 * 86_400), |expires| expires - now);
        let model = &resident.model;
        json!({
            "name": model.name, "model": model.name, "size": model.vram_bytes, "digest": model.digest().to_string(),
            "details": details(model), "size_vram": model.vram_bytes, "context_length": resident.context,
            "expires_at": text::rfc3339(clock.plus_ms(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))),
        })
    };
    object(200, &json!({ "models": shared.runners.resident().into_iter().map(entry).collect::<Vec<_>>() }))
}

fn openai_model(model: &ModelScript) -> Value {
    let created = model.modified_at.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
    let owner = model.parsed().map_or_else(|| "library".to_owned(), |name| name.namespace().to_owned());
    json!({ "id": model.name, "object": "model", "created": created, "owned_by": owner })
}

pub(crate) fn openai_list(shared: &Shared) -> Response {
    let script = shared.script();
    let data: Vec<Value> = script.models.iter().map(openai_model).collect();
    let data = if data.is_empty() { Value::Null } else { Value::Array(data) };
    object(200, &json!({ "object": "list", "data": data }))
}

/// Routes with a part that varies, and what Ollama says to all others.
pub(crate) fn by_prefix(shared: &Shared, method: &Method, ask: &Ask) -> Result<Response, Refused> {
    if let Some(digest) = ask.path.strip_prefix("/api/blobs/") {
        return blob(shared, method, digest, ask);
    }
    if let Some(sent) = ask.path.strip_prefix("/v1/models/").filter(|_| method == Method::GET) {
        let script = shared.script();
        return match name(sent).ok().and_then(|name| script.find(&name).map(openai_model)) {
            Some(model) => Ok(object(200, &model)),
            None => refuse(404, format!("model '{sent}' not found")),
        };
    }
    Ok(respond(404, "text/plain", "404 page not found"))
}

pub(crate) fn show(shared: &Shared, ask: &Ask) -> Result<Response, Refused> {
    let fields = Fields::parse(&ask.body)?;
    let sent = fields.model_or_name()?;
    if sent.is_empty() {
        return refuse(400, "model is required");
    }
    let name = name(sent)?;
    let script = shared.script();
    let Some(model) = script.find(&name) else { return refuse(404, format!("model '{name}' not found")) };
    let family = &model.family;
    Ok(object(
        200,
        &json!({
            "modelfile": modelfile(model), "parameters": "", "template": "{{ .Prompt }}",
            "details": details(model), "capabilities": model.capabilities, "modified_at": model.modified_at,
            "model_info": {
                "general.architecture": family, "general.parameter_count": 1_000_000,
                (format!("{family}.context_length")): model.context_length,
                (format!("{family}.embedding_length")): model.embedding_length,
            },
        }),
    ))
}

/// The comment above the first `FROM` holds one too, as Ollama writes it.
fn modelfile(model: &ModelScript) -> String {
    format!(
        "# Modelfile generated by \"ollama show\"\n# To build a new Modelfile based on this, replace FROM with:\n\
         # FROM {}\n\nFROM /models/blobs/sha256-{}\nTEMPLATE {{{{ .Prompt }}}}\n",
        model.name,
        model.weights_digest()
    )
}

fn blob(shared: &Shared, method: &Method, text: &str, ask: &Ask) -> Result<Response, Refused> {
    let wanted = match text.parse::<Digest>() {
        Ok(digest) if text.starts_with("sha256") => digest,
        _ => return refuse(400, "invalid digest format"),
    };
    let script = shared.script();
    let known = blob_size(shared, &script, wanted).is_some();
    match *method {
        Method::HEAD => Ok(respond(if known { 200 } else { 404 }, "text/plain", "")),
        Method::POST if known => Ok(respond(200, "text/plain", "")),
        Method::POST => {
            let found = Digest(Sha256::digest(&ask.body).into());
            if found != wanted {
                return refuse(400, format!("digest mismatch, expected \"sha256:{wanted}\", got \"sha256:{found}\""));
            }
            if let Some(store) = &script.store
                && let Err(error) = shelf::take(store, &ask.body)
            {
                return refuse(500, format!("{error:#}"));
            }
            lock(&shared.blobs).insert(found, u64::try_from(ask.body.len()).unwrap_or(0));
            Ok(respond(201, "text/plain", ""))
        }
        _ => Ok(respond(405, "text/plain", "405 method not allowed")),
    }
}

/// How large an uploaded file is; with a store on disk, one that lies there now.
fn blob_size(shared: &Shared, script: &Script, digest: Digest) -> Option<u64> {
    match &script.store {
        Some(store) => shelf::blob_size(store, digest),
        None => lock(&shared.blobs).get(&digest).copied(),
    }
}

fn uploaded(shared: &Shared, script: &Script, fields: &Fields) -> Result<Option<(Digest, u64)>, Refused> {
    let Some(Value::Object(files)) = fields.get("files") else { return Ok(None) };
    let Some(text) = files.values().find_map(Value::as_str) else { return Ok(None) };
    let Ok(digest) = text.parse::<Digest>() else { return refuse(400, "invalid digest format") };
    match blob_size(shared, script, digest) {
        Some(size) => Ok(Some((digest, size))),
        None => refuse(400, format!("blob sha256:{digest} not found")),
    }
}

pub(crate) fn create(shared: &Shared, ask: &Ask) -> Result<Response, Refused> {
    let fields = Fields::parse(&ask.body)?;
    let made = name(fields.model_or_name()?)?;
    let script = shared.script();
    let from = fields.text("from")?;
    let file = uploaded(shared, &script, &fields)?;
    let mut model = match file {
        Some((digest, size_bytes)) => {
            let content = format!("{digest}{}", script.create_salt);
            ModelScript { content, size_bytes, ..ModelScript::default() }
        }
        None if from.is_empty() => return refuse(400, "neither 'from' or 'files' was specified"),
        None => match script.find(&name(from)?) {
            Some(model) => model.clone(),
            None => return refuse(404, format!("model '{from}' not found")),
        },
    };
    let said = ["parsing GGUF", "writing manifest", "success"];
    if let Some(store) = &script.store {
        let weights = file.map_or_else(|| model.weights_digest(), |(digest, _)| digest);
        // Whatever it is told beside its weights makes it another model.
        model.content = format!("{}{}", String::from_utf8_lossy(&ask.body), script.create_salt);
        return match shelf::make(store, &made, weights, &model) {
            Ok(_) => Ok(progress(&fields, &said)),
            Err(error) => refuse(500, format!("{error:#}")),
        };
    }
    model.name = made.to_string();
    model.modified_at = text::now();
    replace(shared, &made, Some(model));
    Ok(progress(&fields, &said))
}

pub(crate) fn copy(shared: &Shared, ask: &Ask) -> Result<Response, Refused> {
    let fields = Fields::parse(&ask.body)?;
    let (source, destination) = (fields.text("source")?, fields.text("destination")?);
    let Ok(from) = source.parse::<ModelName>() else { return refuse(400, format!("source \"{source}\" is invalid")) };
    let Ok(to) = destination.parse::<ModelName>() else {
        return refuse(400, format!("destination \"{destination}\" is invalid"));
    };
    let script = shared.script();
    let Some(model) = script.find(&from) else { return refuse(404, format!("model \"{source}\" not found")) };
    if let Some(store) = &script.store {
        return match shelf::copy(store, &from, &to) {
            Ok(()) => Ok(respond(200, "text/plain", "")),
            Err(error) => refuse(500, error.to_string()),
        };
    }
    let copied = ModelScript { name: to.to_string(), ..model.clone() };
    replace(shared, &to, Some(copied));
    Ok(respond(200, "text/plain", ""))
}

pub(crate) fn delete(shared: &Shared, ask: &Ask) -> Result<Response, Refused> {
    let fields = Fields::parse(&ask.body)?;
    let sent = fields.model_or_name()?;
    let wanted = name(sent)?;
    let script = shared.script();
    let Some(model) = script.find(&wanted) else { return refuse(404, format!("model '{sent}' not found")) };
    shared.runners.unload(model.weights_digest());
    if let Some(store) = &script.store {
        return match shelf::remove(store, &wanted) {
            Ok(()) => Ok(respond(200, "text/plain", "")),
            Err(error) => refuse(500, error.to_string()),
        };
    }
    replace(shared, &wanted, None);
    Ok(respond(200, "text/plain", ""))
}

/// Says that it pushes a model, to a namespace that is somebody's; the record has what was asked.
pub(crate) fn push(shared: &Shared, ask: &Ask) -> Result<Response, Refused> {
    let fields = Fields::parse(&ask.body)?;
    let sent = fields.model_or_name()?;
    let wanted = name(sent)?;
    let script = shared.script();
    let Some(model) = script.find(&wanted) else { return refuse(404, format!("model '{sent}' not found")) };
    if wanted.namespace() == DEFAULT_NAMESPACE {
        let lines = format!("{}\n{}\n", json!({ "status": "retrieving manifest" }), json!({ "error": NOT_YOURS }));
        return Ok(respond(200, "application/x-ndjson", lines));
    }
    let (weights, size) = (model.weights_digest(), model.size_bytes);
    let file = json!({
        "status": format!("pushing {}", weights.short()), "digest": format!("sha256:{weights}"), "total": size,
        "completed": size,
    });
    let said = ["retrieving manifest", "pushing manifest", "success"].map(|status| json!({ "status": status }));
    let [begun, manifest, success] = said;
    let lines = [begun, file, manifest, success].map(|line| format!("{line}\n"));
    Ok(respond(200, "application/x-ndjson", lines.concat()))
}

fn replace(shared: &Shared, wanted: &ModelName, model: Option<ModelScript>) {
    shared.change(|script| {
        script.models.retain(|old| old.parsed().as_ref() != Some(wanted));
        script.models.extend(model);
    });
}

pub(crate) fn progress(fields: &Fields, statuses: &[&str]) -> Response {
    let line = |status: &str| format!("{}\n", json!({ "status": status }));
    if fields.flag("stream", true).unwrap_or(true) {
        return respond(200, "application/x-ndjson", statuses.iter().map(|status| line(status)).collect::<String>());
    }
    object(200, &json!({ "status": "success" }))
}

/// Blobs by digest with their sizes, for tests that look at what was left behind.
pub(crate) fn blobs(shared: &Shared) -> BTreeMap<Digest, u64> {
    lock(&shared.blobs).clone()
}
