//! Tools that are about tools: which one does something, and everything that is said of one.
//!
//! Always: a caller finds what it may call, and nothing of the rest, not even its name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use ollamax_types::ErrorCode;

use crate::error::{DeclarationError, ToolError};
use crate::tool::{Example, Spec, Tool};

/// Tools that are found where nobody says how many.
const FOUND: usize = 5;

const TOOL_SEARCH: Spec = Spec {
    name: "tool_search",
    title: "Search tools",
    description: "Finds tools by words of what they do.",
    family: "tools",
    examples: &[Example { title: "What moves models?", arguments: r#"{"query": "pull model"}"# }],
    ..Spec::READ
};

const TOOL_DESCRIBE: Spec = Spec {
    name: "tool_describe",
    title: "Describe a tool",
    description: "Tells everything of one tool: what its results mean, its limits, examples.",
    examples: &[Example { title: "One tool", arguments: r#"{"name": "list_nodes"}"# }],
    ..TOOL_SEARCH
};

// What to look for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchAsked {
    #[schemars(length(min = 1, max = 200))]
    query: String,
    #[schemars(range(min = 1, max = 40))]
    limit: Option<usize>,
}

// Tools that fit, the best first.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct Found {
    /// The best first.
    tools: Vec<FoundTool>,
    /// How many fit beside those that are listed.
    omitted: usize,
}

// A tool that fits.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct FoundTool {
    /// By which it is called.
    name: &'static str,
    /// What it does.
    description: &'static str,
}

// Which tool.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DescribeAsked {
    #[schemars(length(min = 1, max = 128))]
    name: String,
}

// A tool in full.
#[derive(Debug, Serialize, JsonSchema)]
struct Described {
    /// All that is said of it.
    tool: Value,
}

/// The family `tools`.
///
/// # Errors
/// When a declaration contradicts itself.
pub fn tools() -> Result<Vec<Tool>, DeclarationError> {
    Ok(vec![
        Tool::listed(TOOL_SEARCH, |tools: &[&Tool], asked: SearchAsked| Ok(search(tools, &asked)))?,
        Tool::listed(TOOL_DESCRIBE, |tools: &[&Tool], asked: DescribeAsked| describe(tools, &asked.name))?,
    ])
}

fn search(tools: &[&Tool], asked: &SearchAsked) -> Found {
    let query = asked.query.to_lowercase();
    let words: Vec<&str> = query.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut fitting: Vec<(u32, &Spec)> = tools.iter().map(|tool| (score(tool.spec(), &words), tool.spec())).collect();
    fitting.retain(|(score, _)| *score > 0);
    fitting.sort_by_key(|(score, spec)| (u32::MAX - score, spec.name));
    let limit = asked.limit.unwrap_or(FOUND);
    let omitted = fitting.len().saturating_sub(limit);
    fitting.truncate(limit);
    let told = |(_, spec): (u32, &Spec)| FoundTool { name: spec.name, description: spec.description };
    Found { tools: fitting.into_iter().map(told).collect(), omitted }
}

/// How well words fit a tool: each counts where it stands best.
fn score(spec: &Spec, words: &[&str]) -> u32 {
    let (title, description) = (spec.title.to_lowercase(), spec.description.to_lowercase());
    let of = |word: &&str| match *word {
        word if spec.name.split('_').any(|part| part == word) => 8,
        word if spec.name.contains(word) => 4,
        word if spec.family == word || title.contains(word) => 2,
        word if description.contains(word) => 1,
        _ => 0,
    };
    words.iter().map(of).sum()
}

fn describe(tools: &[&Tool], name: &str) -> Result<Described, ToolError> {
    let found = tools.iter().find(|tool| tool.spec().name == name);
    let missing = || ToolError::new(ErrorCode::BadRequest, format!("there is no tool {name:?}"), "call tool_search");
    Ok(Described { tool: found.ok_or_else(missing)?.describe() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::catalogue::{Catalogue, Families};
    use crate::error::CallError;
    use crate::principal::{Caller, Principal};

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        idempotency_key: Option<String>,
    }

    fn catalogue() -> Catalogue {
        let pull = Spec {
            name: "pull_model",
            title: "Pull a model",
            description: "Fetches a model onto nodes.",
            family: "models",
            ..Spec::CHANGE
        };
        let list = Spec {
            name: "list_models",
            title: "List",
            description: "Lists what nodes can pull.",
            family: "models",
            ..Spec::READ
        };
        let mut all = tools().expect("declared well");
        all.push(Tool::new(pull, |_, asked: Asked| Box::pin(async move { Ok(asked) })).expect("declared well"));
        all.push(Tool::reading(list, |asked: Nothing| Ok(asked)).expect("declared well"));
        Catalogue::new(all, &Families::All).expect("names differ")
    }

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    async fn call(principal: Principal, tool: &str, arguments: Value) -> Result<Value, ErrorCode> {
        let caller = Caller { principal, request: Default::default(), trace: None };
        match catalogue().call(caller, tool, arguments).await {
            Ok(value) => Ok(value),
            Err(CallError::Failed(error)) => Err(error.code),
            Err(error) => panic!("{error}"),
        }
    }

    #[tokio::test]
    async fn tools_are_found_by_words_the_best_first_and_only_those_that_may_be_called() {
        let check = async |principal: Principal, arguments: Value, expected: &[&str], omitted: usize| {
            let value = call(principal, "tool_search", arguments.clone()).await.expect("found");
            let names: Vec<&str> =
                value["tools"].as_array().expect("a list").iter().filter_map(|row| row["name"].as_str()).collect();
            assert_eq!((names.as_slice(), &value["omitted"]), (expected, &json!(omitted)), "{arguments}");
        };
        let (admin, anybody) = (Principal::of_socket(0), Principal::loopback());
        check(admin.clone(), json!({"query": "Pull, model"}), &["pull_model", "list_models"], 0).await;
        check(admin.clone(), json!({"query": "pull", "limit": 1}), &["pull_model"], 1).await;
        check(admin, json!({"query": "zebra"}), &[], 0).await;
        check(anybody, json!({"query": "pull"}), &["list_models"], 0).await;
    }

    #[tokio::test]
    async fn a_tool_is_described_to_who_may_call_it() {
        let (admin, anybody) = (Principal::of_socket(0), Principal::loopback());
        let told = call(admin, "tool_describe", json!({"name": "pull_model"})).await.expect("it is there");
        assert_eq!(told["tool"]["permission"], "manage");
        let asked = json!({"name": "pull_model"});
        assert_eq!(call(anybody, "tool_describe", asked).await, Err(ErrorCode::BadRequest));
    }
}
