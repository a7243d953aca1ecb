//! The family `inference`: the cluster's models answer.
//!
//! Always: what is asked goes the way of every client's request, so that queues, limits and placement are the same; the
//! answer says which model it is of. What is asked, and what is answered, stands in no log.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use ollamax_tools::{
    Call, Class, DeclarationError, Example, Inference, Lab, Limits, Permission, Ports, Spec, Tool, ToolError,
};
use ollamax_types::{Capability, ErrorCode};

mod choice;

const FAMILY: &str = "inference";

const CHAT: Spec = Spec {
    name: "chat",
    title: "Chat",
    description: "Has a model of the cluster go on with a conversation. Without a model, one that is loaded answers.",
    family: FAMILY,
    class: Class::Inference,
    permission: Permission::Infer,
    // A model may have to be loaded first, and to wait for its turn.
    limits: Limits { timeout: Duration::from_secs(600), output_bytes_max: 256 << 10, ..Limits::READ },
    examples: &[Example {
        title: "A question",
        arguments: r#"{"messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#,
    }],
    ..Spec::READ
};

const GENERATE: Spec = Spec {
    name: "generate",
    title: "Generate",
    description: "Has a model of the cluster go on with a text. Without a model, one that is loaded answers.",
    examples: &[Example { title: "A text", arguments: r#"{"model": "llama3.2", "prompt": "Once upon a time"}"# }],
    ..CHAT
};

const EMBED: Spec = Spec {
    name: "embed",
    title: "Embed",
    description: "Makes a vector of each text. Without a model, one that can is taken; keep to the one that is told.",
    limits: Limits { output_bytes_max: 1 << 20, ..CHAT.limits },
    examples: &[Example { title: "Two texts", arguments: r#"{"input": ["one text", "another"]}"# }],
    ..CHAT
};

// A conversation.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Chat {
    #[schemars(length(min = 1, max = 512))]
    model: Option<String>,
    #[schemars(length(min = 1, max = 512), extend("x-ollamax-secret" = true))]
    messages: Vec<Message>,
    /// Said before everything else.
    #[schemars(extend("x-ollamax-secret" = true))]
    system: Option<String>,
    /// Ollama's options, such as temperature.
    options: Option<Map<String, Value>>,
    /// A JSON Schema, or "json".
    format: Option<Value>,
}

// What somebody said.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Message {
    role: Role,
    content: String,
}

#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Role {
    System,
    User,
    Assistant,
}

// A text.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Generate {
    #[schemars(length(min = 1, max = 512))]
    model: Option<String>,
    #[schemars(length(min = 1), extend("x-ollamax-secret" = true))]
    prompt: String,
    /// Said before everything else.
    #[schemars(extend("x-ollamax-secret" = true))]
    system: Option<String>,
    /// Ollama's options, such as temperature.
    options: Option<Map<String, Value>>,
    /// A JSON Schema, or "json".
    format: Option<Value>,
}

// Texts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Embed {
    #[schemars(length(min = 1, max = 512))]
    model: Option<String>,
    #[schemars(length(min = 1, max = 64), extend("x-ollamax-secret" = true))]
    input: Vec<String>,
    /// Numbers of a vector, where the model can make fewer.
    #[schemars(range(min = 1, max = 65_536))]
    dimensions: Option<u32>,
}

// What a model said.
#[derive(Debug, Serialize, JsonSchema)]
struct Said {
    /// Which model.
    model: String,
    /// What it said.
    text: String,
    /// What it thought before, where it told.
    thinking: Option<String>,
    /// Why it ended: stop, length.
    done_reason: Option<String>,
    /// Tokens that it read.
    prompt_tokens: Option<u64>,
    /// Tokens that it made.
    tokens: Option<u64>,
}

// Vectors.
#[derive(Debug, Serialize, JsonSchema)]
struct Embedded {
    /// Which model.
    model: String,
    /// One for each text, in their order.
    embeddings: Vec<Vec<f64>>,
    /// Tokens that it read.
    prompt_tokens: Option<u64>,
}

/// What the tools see of the node.
#[derive(Clone)]
struct Models {
    lab: Arc<dyn Lab>,
    inference: Arc<dyn Inference>,
}

/// The family's tools.
///
/// # Errors
/// When a declaration contradicts itself.
pub fn tools(ports: &Ports) -> Result<Vec<Tool>, DeclarationError> {
    let models = || Models { lab: Arc::clone(&ports.lab), inference: Arc::clone(&ports.inference) };
    let (chats, texts, vectors) = (models(), models(), models());
    Ok(vec![
        Tool::new(CHAT, move |call: Call, asked: Chat| chats.clone().chat(call, asked).boxed())?,
        Tool::new(GENERATE, move |call: Call, asked: Generate| texts.clone().generate(call, asked).boxed())?,
        Tool::new(EMBED, move |call: Call, asked: Embed| vectors.clone().embed(call, asked).boxed())?,
    ])
}

// === impl Models ===

impl Models {
    async fn chat(self, call: Call, asked: Chat) -> Result<Said, ToolError> {
        let Chat { model, messages, system, options, format } = asked;
        let model = self.model(model, Capability::Completion)?;
        let system = system.map(|content| Message { role: Role::System, content });
        let messages: Vec<Message> = system.into_iter().chain(messages).collect();
        let body = body(&model, [("messages", json!(messages))], options, format);
        let answer = self.inference.ask(&call.caller, "/api/chat", body, call.progress).await?;
        said(model, &answer, &answer["message"]["content"], &answer["message"]["thinking"])
    }

    async fn generate(self, call: Call, asked: Generate) -> Result<Said, ToolError> {
        let Generate { model, prompt, system, options, format } = asked;
        let model = self.model(model, Capability::Completion)?;
        let mut body = body(&model, [("prompt", json!(prompt))], options, format);
        if let Some(system) = system {
            body["system"] = json!(system);
        }
        let answer = self.inference.ask(&call.caller, "/api/generate", body, call.progress).await?;
        said(model, &answer, &answer["response"], &answer["thinking"])
    }

    async fn embed(self, call: Call, asked: Embed) -> Result<Embedded, ToolError> {
        let Embed { model, input, dimensions } = asked;
        let (model, texts) = (self.model(model, Capability::Embedding)?, input.len());
        let mut body = body(&model, [("input", json!(input))], None, None);
        if let Some(dimensions) = dimensions {
            body["dimensions"] = json!(dimensions);
        }
        let answer = self.inference.ask(&call.caller, "/api/embed", body, call.progress).await?;
        let embeddings = vectors(&answer["embeddings"]).filter(|vectors| vectors.len() == texts);
        let embeddings = embeddings.ok_or_else(|| strange(&model))?;
        Ok(Embedded { model, embeddings, prompt_tokens: answer["prompt_eval_count"].as_u64() })
    }

    /// The model that is named, or one that is chosen.
    fn model(&self, named: Option<String>, able: Capability) -> Result<String, ToolError> {
        if let Some(name) = named {
            return Ok(name);
        }
        let models = self.lab.models()?;
        choice::choose(&models, able).map(ToOwned::to_owned).ok_or_else(|| {
            let message = format!("no active model of the cluster is known for {able}");
            ToolError::new(ErrorCode::ModelNotFound, message, "name a model (list_models_detailed), or call pull_model")
        })
    }
}

/// A request's body; whether it is streamed is the port's own matter.
fn body<const N: usize>(
    model: &str,
    asked: [(&str, Value); N],
    options: Option<Map<String, Value>>,
    format: Option<Value>,
) -> Value {
    let mut body = json!({"model": model});
    for (name, value) in asked {
        body[name] = value;
    }
    if let Some(options) = options {
        body["options"] = Value::Object(options);
    }
    if let Some(format) = format {
        body["format"] = format;
    }
    body
}

fn said(model: String, answer: &Value, text: &Value, thinking: &Value) -> Result<Said, ToolError> {
    let text = text.as_str().ok_or_else(|| strange(&model))?.to_owned();
    let word = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(ToOwned::to_owned);
    Ok(Said {
        model,
        text,
        thinking: word(thinking),
        done_reason: word(&answer["done_reason"]),
        prompt_tokens: answer["prompt_eval_count"].as_u64(),
        tokens: answer["eval_count"].as_u64(),
    })
}

fn vectors(told: &Value) -> Option<Vec<Vec<f64>>> {
    let vector = |row: &Value| row.as_array()?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    told.as_array()?.iter().map(vector).collect()
}

/// An answer that is not Ollama's.
fn strange(model: &str) -> ToolError {
    ToolError::new(ErrorCode::RuntimeFailed, format!("the runtime of {model} answered something else"), "try again")
}

#[cfg(test)]
mod tests;
