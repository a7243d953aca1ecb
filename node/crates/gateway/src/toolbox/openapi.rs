//! The tools and tasks over plain HTTP as an OpenAPI 3.1 document, made from what the tools declare.
//!
//! Pure. Always: what a caller may not call is in no document that it gets; the same tools make the same bytes, in the
//! order of their names. The other routes of the door are Ollama's and OpenAI's, and described by them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use ollamax_tools::catalogue::ARGUMENTS_BYTES_MAX;
use ollamax_tools::page::ROWS_MAX;
use ollamax_tools::tasklist::STATES;
use ollamax_tools::views::TaskView;
use ollamax_tools::{Principal, Schema, Tool};
use ollamax_types::ErrorCode;
use ollamax_types::limits::TASK_ARGUMENTS_BYTES_MAX;

use super::Toolbox;

/// The version of the language that the document is written in.
const OPENAPI: &str = "3.1.0";
/// How schemas in it are to be read: as tools declare them.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
/// What is said of a tool beside what OpenAPI has words for, as `GET /tools` says it.
const OWN_WORDS: [&str; 9] = [
    "annotations",
    "class",
    "permission",
    "idempotency",
    "task",
    "needsApproval",
    "timeoutMs",
    "outputBytesMax",
    "callsPerMinute",
];
/// Refusals by their HTTP status: name in the document, what it means, and whether waiting helps.
const REFUSALS: [(&str, &str, &str, bool); 9] = [
    ("400", "BadRequest", "The arguments are no JSON, or do not fit the schema; the text says where.", false),
    ("403", "Forbidden", "The caller may not do this, or calls from where no tool may be called.", false),
    ("404", "NotFound", "There is no such tool or task, or not what it was asked for.", false),
    ("409", "Conflict", "The state forbids it, or the key was used for another call.", false),
    ("413", "TooLarge", "The arguments, or the result, are larger than they may be.", false),
    ("429", "TooOften", "This caller calls this tool too often.", true),
    ("503", "Unavailable", "The node has no room, no leader, or stops.", true),
    ("504", "TooLate", "It took longer than the tool may take, or its outcome is not known.", false),
    ("default", "Failed", "It did not happen; the code says why.", false),
];

// === impl Toolbox ===

impl Toolbox {
    /// The routes of the tools that somebody may call, and of the tasks that come of them, as an OpenAPI document.
    #[must_use]
    pub fn openapi(&self, principal: &Principal) -> Value {
        let tools: Vec<&Tool> = self.catalogue.listed(principal).collect();
        let families: BTreeSet<&str> = tools.iter().map(|tool| tool.spec().family).collect();
        let mut tags: Vec<Value> = families.iter().map(|family| json!({"name": family})).collect();
        tags.push(json!({"name": "over HTTP", "description": "The list of tools, and tasks."}));
        let mut paths = Map::new();
        paths.insert("/tools".to_owned(), list_of_tools());
        paths.extend(tools.iter().map(|tool| (format!("/tools/{}", tool.spec().name), operation(tool))));
        paths.extend(tasks());
        json!({
            "openapi": OPENAPI,
            "info": {
                "title": "OllamaMax: tools and tasks",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "What assistants can call at /mcp, for programs that speak no MCP. Served to programs \
                                on the node's own machine.",
            },
            "jsonSchemaDialect": DIALECT,
            "tags": tags,
            "paths": paths,
            "components": components(),
        })
    }
}

/// `POST /tools/NAME`
fn operation(tool: &Tool) -> Value {
    let (spec, told) = (tool.spec(), tool.describe());
    let own: Map<String, Value> = OWN_WORDS.iter().map(|key| ((*key).to_owned(), told[*key].clone())).collect();
    let examples = spec.examples.iter().zip(told["examples"].as_array().into_iter().flatten()).enumerate();
    let examples = examples.map(|(at, (example, told))| {
        (format!("example_{}", at + 1), json!({"summary": example.title, "value": told["arguments"]}))
    });
    let examples: Map<String, Value> = examples.collect();
    let schema = tool.input().shown();
    let mut parameters = Vec::new();
    let mut answers = vec![("200", whole("What it answers.", &told["outputSchema"]))];
    if spec.task {
        parameters.push(reference("parameters", "Prefer"));
        answers.push(("202", reference("responses", "Accepted")));
    }
    json!({"post": {
        "operationId": spec.name,
        "summary": spec.title,
        "description": spec.description,
        "tags": [spec.family],
        "parameters": parameters,
        "requestBody": {
            "required": schema.contains_key("required"),
            "content": {"application/json": {"schema": schema, "examples": examples}},
        },
        "responses": responses(answers),
        "x-ollamax": own,
    }})
}

/// `GET /tools`
fn list_of_tools() -> Value {
    let schema = json!({
        "type": "object",
        "required": ["tools"],
        "properties": {"tools": {"type": "array", "items": {"type": "object", "required": ["name"]}}},
    });
    json!({"get": {
        "operationId": "tools",
        "summary": "All that is said of each tool that the caller may call",
        "tags": ["over HTTP"],
        "responses": responses(vec![("200", whole("The tools, in the order of their names.", &schema))]),
    }})
}

/// The routes of tasks.
fn tasks() -> [(String, Value); 3] {
    let id = || reference("parameters", "TaskId");
    let task = || json!({"type": "object", "required": ["task"], "properties": {"task": reference("schemas", "Task")}});
    let listed = json!({
        "type": "object",
        "required": ["tasks", "next_cursor"],
        "properties": {
            "tasks": {"type": "array", "items": reference("schemas", "Task")},
            "next_cursor": {"type": ["string", "null"], "description": "Null: this was the last page."},
        },
    });
    let list = json!({"get": {
        "operationId": "tasks",
        "summary": "The tasks that the caller began; of an administrator all",
        "tags": ["over HTTP"],
        "parameters": [
            said("status", "Those that stand so; left out: all.", &json!({"type": "string", "enum": STATES})),
            said("tool", "Those of this tool alone.", &json!({"type": "string"})),
            said("mine", "Those that the caller began alone.", &json!({"type": "boolean"})),
            said("limit", "So many at most.", &json!({"type": "integer", "minimum": 1, "maximum": ROWS_MAX})),
            said("cursor", "The next_cursor of the page before.", &json!({"type": "string"})),
        ],
        "responses": responses(vec![("200", whole("The tasks, the newest first, without results.", &listed))]),
    }});
    let show = json!({"get": {
        "operationId": "task",
        "summary": "Where a task stands, and what came of it",
        "tags": ["over HTTP"],
        "parameters": [id()],
        "responses": responses(vec![("200", whole("The task.", &task()))]),
    }});
    let cancel = json!({"post": {
        "operationId": "end_task",
        "summary": "Ends a task, or has the node that works at it end it; one that is over stays as it is",
        "tags": ["over HTTP"],
        "parameters": [id()],
        "responses": responses(vec![("200", whole("The task as it stands now.", &task()))]),
    }});
    [("/tasks".to_owned(), list), ("/tasks/{id}".to_owned(), show), ("/tasks/{id}/cancel".to_owned(), cancel)]
}

/// What is said behind the question mark.
fn said(name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "description": description, "schema": schema})
}

/// These answers, and every refusal that there can be.
fn responses(answers: Vec<(&str, Value)>) -> Map<String, Value> {
    let refusals = REFUSALS.map(|(status, name, ..)| (status, reference("responses", name)));
    answers.into_iter().chain(refusals).map(|(status, answer)| (status.to_owned(), answer)).collect()
}

fn components() -> Value {
    let error = json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "What happened, and what to do."}},
    });
    // It is compiled for the tools that answer with one, too.
    let task = Schema::of_output::<TaskView>().map(|schema| schema.shown().clone()).unwrap_or_default();
    let refusals = REFUSALS.map(|(_, name, text, waits)| (name.to_owned(), refusal(text, waits)));
    let mut refusals: Map<String, Value> = refusals.into_iter().collect();
    refusals.insert("Accepted".to_owned(), accepted());
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
    let arguments = format!(
        "Arguments have {} KiB at most; those of a tool that works in a task, {} KiB.",
        ARGUMENTS_BYTES_MAX >> 10,
        TASK_ARGUMENTS_BYTES_MAX >> 10
    );
    json!({
        "schemas": {"Error": error, "Task": task},
        "parameters": {
            "Prefer": {
                "name": "Prefer",
                "in": "header",
                "description": "respond-async: answers with the task as soon as it is on record, and does not wait.",
                "schema": {"type": "string"},
            },
            "TaskId": {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}},
        },
        "headers": {
            "Code": {
                "description": "Its code, which programs may match on.",
                "schema": {"type": "string", "enum": codes},
            },
            "RetryAfter": {
                "description": "After how many seconds it may be tried again.",
                "schema": {"type": "integer", "minimum": 1},
            },
        },
        "responses": refusals,
        "x-ollamax-limits": arguments,
    })
}

/// What is told of a call that goes on in a task.
fn accepted() -> Value {
    json!({
        "description": "It goes on in a task, which was put on record.",
        "headers": {"Location": {"description": "Where the task is told of.", "schema": {"type": "string"}}},
        "content": {"application/json": {"schema": {
            "type": "object",
            "required": ["task"],
            "properties": {"task": reference("schemas", "Task")},
        }}},
    })
}

fn refusal(text: &str, waits: bool) -> Value {
    let mut headers = Map::new();
    headers.insert("X-OllamaMax-Error".to_owned(), reference("headers", "Code"));
    if waits {
        headers.insert("Retry-After".to_owned(), reference("headers", "RetryAfter"));
    }
    json!({
        "description": text,
        "headers": headers,
        "content": {"application/json": {"schema": reference("schemas", "Error")}},
    })
}

fn whole(text: &str, schema: &Value) -> Value {
    json!({"description": text, "content": {"application/json": {"schema": schema}}})
}

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures::FutureExt as _;
    use prometheus::Registry;
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    use ollamax_tools::{
        Call, Catalogue, Class, Example, Families, Foreseen, Hints, Idempotency, Permission, Spec, ToolError, Work,
    };

    use super::*;

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        /// Which one.
        name: String,
        dry_run: Option<bool>,
        idempotency_key: Option<String>,
    }

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    fn toolbox() -> Toolbox {
        let base = Spec { title: "A tool", description: "Does it.", family: "tests", ..Spec::READ };
        let looks = Tool::reading(Spec { name: "looks", ..base }, |asked: Nothing| Ok(asked));
        let fetches = Tool::work(
            Spec {
                name: "fetches",
                class: Class::LeaderWrite,
                permission: Permission::Manage,
                hints: Hints::CHANGE,
                idempotency: Idempotency::ByKey,
                task: true,
                examples: &[Example { title: "Fetch m", arguments: r#"{"name": "m"}"# }],
                ..base
            },
            |_: &Call, _: &Asked| ready(Ok::<_, ToolError>(Foreseen::default())).boxed(),
            |_: Work, asked: Asked| ready(Ok::<_, ToolError>(asked)).boxed(),
        );
        let all = [looks, fetches].map(|tool| tool.expect("declared well"));
        let catalogue = Catalogue::new(all.into(), &Families::All).expect("names differ");
        Toolbox::new(catalogue, &Registry::new()).expect("new names")
    }

    /// Every reference in a document.
    fn references(value: &Value) -> Vec<String> {
        match value {
            Value::Object(fields) => {
                let own = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
                own.into_iter().chain(fields.values().flat_map(references)).collect()
            }
            Value::Array(items) => items.iter().flat_map(references).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn a_caller_reads_of_what_it_may_call_alone() {
        let toolbox = toolbox();
        let paths = |principal: &Principal| -> Vec<String> {
            let document = toolbox.openapi(principal);
            document["paths"].as_object().into_iter().flat_map(Map::keys).cloned().collect()
        };
        let tasks = ["/tasks", "/tasks/{id}", "/tasks/{id}/cancel"];
        let expected = |tools: &[&str]| -> Vec<String> {
            ["/tools"].iter().chain(tools).chain(&tasks).map(|path| (*path).to_owned()).collect()
        };
        assert_eq!(paths(&Principal::loopback()), expected(&["/tools/looks"]));
        assert_eq!(paths(&Principal::of_socket(0)), expected(&["/tools/fetches", "/tools/looks"]));
    }

    #[test]
    fn an_operation_says_what_its_tool_declares() {
        let document = toolbox().openapi(&Principal::of_socket(0));
        assert_eq!((&document["openapi"], &document["jsonSchemaDialect"]), (&json!(OPENAPI), &json!(DIALECT)));
        let operation = |name: &str| document["paths"][format!("/tools/{name}")]["post"].clone();
        let (looks, fetches) = (operation("looks"), operation("fetches"));
        let named = (&fetches["operationId"], &fetches["summary"], &fetches["tags"]);
        assert_eq!(named, (&json!("fetches"), &json!("A tool"), &json!(["tests"])));
        let body = &fetches["requestBody"];
        assert_eq!((&body["required"], &looks["requestBody"]["required"]), (&json!(true), &json!(false)));
        let content = &body["content"]["application/json"];
        assert_eq!(content["schema"]["properties"]["name"]["description"], "Which one.");
        assert_eq!(content["examples"]["example_1"], json!({"summary": "Fetch m", "value": {"name": "m"}}));
        let own = &fetches["x-ollamax"];
        assert_eq!(
            (&own["permission"], &own["class"], &own["task"], &own["callsPerMinute"]),
            (&json!("manage"), &json!("leader_write"), &json!(true), &json!(600))
        );
        assert!(OWN_WORDS.iter().all(|key| !own[*key].is_null()), "{own}");
        // Only what works in a task can be asked not to wait.
        assert!(fetches["responses"]["202"].is_object() && fetches["parameters"][0].is_object(), "{fetches}");
        assert!(looks["responses"]["202"].is_null() && looks["parameters"] == json!([]), "{looks}");
        for (status, ..) in REFUSALS {
            assert!(looks["responses"][status].is_object(), "{status}");
        }
    }

    #[test]
    fn every_reference_leads_to_something_and_every_operation_has_its_own_name() {
        let document = toolbox().openapi(&Principal::of_socket(0));
        let all = references(&document);
        assert!(all.len() > 9, "{all:?}");
        for reference in all {
            let place = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(place).is_some_and(Value::is_object), "{reference}");
        }
        assert_eq!(document["components"]["schemas"]["Task"]["properties"]["status"]["type"], "string");
        let operations = document["paths"].as_object().into_iter().flat_map(Map::values);
        let names = operations.filter_map(Value::as_object).flat_map(Map::values);
        let names: Vec<&str> = names.filter_map(|one| one["operationId"].as_str()).collect();
        assert_eq!((names.len(), names.iter().collect::<BTreeSet<_>>().len()), (6, 6), "{names:?}");
    }
}
