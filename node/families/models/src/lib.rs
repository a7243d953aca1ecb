//! The family `models`: which models the lab has, where, and how they stand; and changing all of that.
//!
//! Everything is told as the answering node has it on record; lists are told page by page. What moves or deletes bytes
//! is a task.
#![forbid(unsafe_code)]

use std::sync::Arc;

use futures::FutureExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use ollamax_tools::page::page;
use ollamax_tools::views::{Model, Transfer};
use ollamax_tools::{Call, DeclarationError, Example, Lab, Ports, Spec, Tool, ToolError};
use ollamax_types::ErrorCode;

mod copies;
mod records;

const FAMILY: &str = "models";

const LIST_MODELS_DETAILED: Spec = Spec {
    name: "list_models_detailed",
    title: "List models",
    description: "Lists the models of the cluster: size, family and parameters, what each can do, which nodes have it, \
                  where it is loaded, and whether versions differ. Narrow it by name, capability or node.",
    family: FAMILY,
    examples: &[
        Example { title: "All models", arguments: "{}" },
        Example { title: "Those that call tools", arguments: r#"{"capability": "tools"}"# },
        Example { title: "Those of one node", arguments: r#"{"node": "gpu-1", "limit": 20}"# },
    ],
    ..Spec::READ
};

const GET_MODEL_INFO_EXTENDED: Spec = Spec {
    name: "get_model_info_extended",
    title: "Get a model",
    description: "Tells everything of one model: as list_models_detailed, with what is on its way to other nodes.",
    examples: &[Example { title: "One model", arguments: r#"{"name": "llama3.2:latest"}"# }],
    ..LIST_MODELS_DETAILED
};

// Which models.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ModelsAsked {
    /// Those whose names hold this text, whatever its case.
    #[schemars(length(min = 1, max = 512))]
    name_contains: Option<String>,
    /// Those that can do this, such as tools, vision, embedding.
    #[schemars(length(min = 1, max = 64))]
    capability: Option<String>,
    /// Those that this node has.
    #[schemars(length(min = 1, max = 64))]
    node: Option<String>,
    /// How many at once; 50 where it is not said.
    #[schemars(range(min = 1, max = 200))]
    limit: Option<u32>,
    /// The next_cursor of the page before.
    #[schemars(length(max = 512))]
    cursor: Option<String>,
}

// Models, and where the next page begins.
#[derive(Debug, Serialize, JsonSchema)]
struct Models {
    /// In the order of their names.
    models: Vec<Model>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

// Which model.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ModelAsked {
    /// Its name; without a tag it is the latest.
    #[schemars(length(min = 1, max = 512))]
    name: String,
}

// A model in full.
#[derive(Debug, Serialize, JsonSchema)]
struct Info {
    /// The model.
    model: Model,
    /// What is on its way of it.
    transfers: Vec<Transfer>,
}

/// The family's tools.
///
/// # Errors
/// When a declaration contradicts itself.
pub fn tools(ports: &Ports) -> Result<Vec<Tool>, DeclarationError> {
    let (all, one) = (Arc::clone(&ports.lab), Arc::clone(&ports.lab));
    let mut tools = vec![
        Tool::reading(LIST_MODELS_DETAILED, move |asked: ModelsAsked| list(&*all, &asked))?,
        Tool::new(GET_MODEL_INFO_EXTENDED, move |_: Call, asked: ModelAsked| info(Arc::clone(&one), asked).boxed())?,
    ];
    tools.extend(records::tools(&ports.changes)?);
    tools.extend(copies::tools(ports)?);
    Ok(tools)
}

fn list(lab: &dyn Lab, asked: &ModelsAsked) -> Result<Models, ToolError> {
    let part = asked.name_contains.as_ref().map(|part| part.to_lowercase());
    let mut models = lab.models()?;
    models.retain(|model| {
        part.as_ref().is_none_or(|part| model.name.to_lowercase().contains(part))
            && asked.capability.as_ref().is_none_or(|one| model.capabilities.contains(one))
            && asked.node.as_ref().is_none_or(|node| model.copies.iter().any(|copy| copy.node == *node))
    });
    let (models, next_cursor) = page(models, |model: &Model| model.name.clone(), asked.cursor.as_deref(), asked.limit)?;
    Ok(Models { models, next_cursor })
}

async fn info(lab: Arc<dyn Lab>, asked: ModelAsked) -> Result<Info, ToolError> {
    let ModelAsked { name } = asked;
    let model = lab.model(&name)?;
    let mut transfers = lab.transfers().await?;
    transfers.retain(|transfer| transfer.model == model.name);
    Ok(Info { model, transfers })
}

/// A wish that fits its schema and makes no sense.
fn wrong(message: &str, next: &str) -> ToolError {
    ToolError::new(ErrorCode::BadRequest, message, next)
}

#[cfg(test)]
mod tests {
    use ollamax_tools::mem::{MemLab, MemPorts};
    use ollamax_tools::views::ModelCopy;
    use ollamax_tools::{CallError, Caller, Catalogue, Families, Principal};
    use serde_json::{Value, json};

    use super::*;

    fn lab() -> MemLab {
        let model = |name: &str, able: &str, node: &str| Model {
            name: name.to_owned(),
            capabilities: vec![able.to_owned()],
            copies: vec![ModelCopy { node: node.to_owned(), served: true, ..ModelCopy::default() }],
            ..Model::default()
        };
        let transfer = |model: &str| Transfer { model: model.to_owned(), node: "n3".to_owned(), ..Transfer::default() };
        MemLab {
            nodes: Some(Vec::new()),
            models: vec![
                model("qwen3:8b", "tools", "n1"),
                model("Llama3.2:latest", "completion", "n2"),
                model("llava:7b", "vision", "n1"),
            ],
            transfers: vec![transfer("qwen3:8b"), transfer("other:latest")],
            ..MemLab::default()
        }
    }

    async fn call(lab: MemLab, tool: &str, arguments: Value) -> Result<Value, ErrorCode> {
        let tools = tools(&MemPorts::of(lab).ports()).expect("declared well");
        let all = Catalogue::new(tools, &Families::All).expect("names differ");
        let caller = Caller { principal: Principal::loopback(), request: Default::default(), trace: None };
        match all.call(caller, tool, arguments).await {
            Ok(value) => Ok(value),
            Err(CallError::Failed(error)) => Err(error.code),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn models_are_narrowed_by_name_capability_and_node() {
        let check = async |arguments: Value, expected: &[&str]| {
            let value = call(lab(), "list_models_detailed", arguments.clone()).await.expect("listed");
            let names: Vec<&str> =
                value["models"].as_array().expect("a list").iter().filter_map(|row| row["name"].as_str()).collect();
            assert_eq!(names, expected, "{arguments}");
        };
        check(json!({}), &["Llama3.2:latest", "llava:7b", "qwen3:8b"]).await;
        check(json!({"name_contains": "LLA"}), &["Llama3.2:latest", "llava:7b"]).await;
        check(json!({"capability": "tools"}), &["qwen3:8b"]).await;
        check(json!({"node": "n1", "name_contains": "l"}), &["llava:7b"]).await;
        check(json!({"node": "n9"}), &[]).await;
        check(json!({"limit": 1, "cursor": "llava:7b"}), &["qwen3:8b"]).await;
    }

    #[tokio::test]
    async fn one_model_is_told_with_what_is_on_its_way_of_it() {
        let value = call(lab(), "get_model_info_extended", json!({"name": "qwen3:8b"})).await.expect("told");
        assert_eq!(value["model"]["copies"][0]["node"], "n1");
        assert_eq!(value["transfers"].as_array().map(Vec::len), Some(1));
        let missing = call(lab(), "get_model_info_extended", json!({"name": "none"})).await;
        assert_eq!(missing, Err(ErrorCode::ModelNotFound));
        assert_eq!(call(lab(), "get_model_info_extended", json!({})).await, Err(ErrorCode::BadRequest));
    }

    #[tokio::test]
    async fn however_many_models_and_copies_there_are_every_page_fits_and_nothing_is_left_out() {
        let copy = |at: usize| ModelCopy { node: format!("gpu-{at}"), digest: "ab".repeat(32), ..ModelCopy::default() };
        let model = |at: usize| Model {
            name: format!("registry.example/people/model-{at:04}:latest"),
            copies: (0..64).map(copy).collect(),
            ..Model::default()
        };
        let lab = MemLab { models: (0..50).map(model).collect(), ..lab() };
        let (mut cursor, mut told, mut pages) = (Value::Null, 0, 0);
        while pages == 0 || cursor != Value::Null {
            let value = call(lab.clone(), "list_models_detailed", json!({"cursor": cursor})).await.expect("it fits");
            told += value["models"].as_array().map_or(0, Vec::len);
            cursor = value["next_cursor"].clone();
            pages += 1;
        }
        assert!(told == 50 && pages > 2, "{told} models on {pages} pages");
    }
}
