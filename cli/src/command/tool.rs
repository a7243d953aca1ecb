//! `ollamax tool`: what assistants can do with the lab, for people and scripts.
//!
//! A tool's result is data: it is shown as JSON either way, with `-o json` in an object that says whose it is. Where a
//! tool works in a task, the task is waited for, and what came of it is the result.

use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use ollamax_proto::v1::{CallToolRequest, ListToolsRequest, ShowOpenApiRequest, ToolView};

use crate::args::{CallArgs, Global, Output, ToolCommand};
use crate::client;
use crate::command::task;
use crate::error::Failure;
use crate::output;

/// Bytes of arguments from standard input.
const ARGUMENTS_BYTES_MAX: usize = 256 << 10;

/// Runs one of them.
pub(crate) async fn run(global: &Global, command: ToolCommand) -> Result<(), Failure> {
    match command {
        ToolCommand::List => list(global).await,
        ToolCommand::Describe { name } => describe(global, name).await,
        ToolCommand::OpenApi => openapi(global).await,
        ToolCommand::Call(args) if args.waits() => {
            tokio::select! {
                // In this order: Ctrl-C is listened to before anything is begun.
                biased;
                _ = tokio::signal::ctrl_c() => {
                    Err(Failure::new(130, "interrupted", "a task that was begun goes on", "ollamax task list"))
                }
                outcome = Box::pin(call(global, args)) => outcome,
            }
        }
        ToolCommand::Call(args) => call(global, args).await,
    }
}

async fn list(global: &Global) -> Result<(), Failure> {
    let tools = asked(global, String::new()).await?;
    if global.output == Output::Json {
        return output::json("ToolList", json!({"tools": tools.iter().map(declared).collect::<Vec<_>>()}));
    }
    output::text(&table(&tools))
}

async fn describe(global: &Global, name: String) -> Result<(), Failure> {
    let tools = asked(global, name.clone()).await?;
    let Some(tool) = tools.first() else {
        return Err(Failure::usage(format!("there is no tool {name:?}"), "ollamax tool list"));
    };
    if global.output == Output::Json {
        return output::json("Tool", declared(tool));
    }
    output::text(&page(tool))
}

/// A file for other programs: as it is, also for people.
async fn openapi(global: &Global) -> Result<(), Failure> {
    let told = client::connect_tools(global).await?.show_open_api(ShowOpenApiRequest {}).await?.into_inner();
    let Ok(document) = serde_json::from_str::<Value>(&told.document_json) else {
        return Err(Failure::new(1, "what the daemon told is no OpenAPI document", "", "ollamax tool list"));
    };
    if global.output == Output::Json {
        return output::json("OpenApi", json!({"document": document}));
    }
    output::line(&output::pretty(&document))
}

async fn call(global: &Global, args: CallArgs) -> Result<(), Failure> {
    let waits = args.waits();
    let CallArgs { name, arguments, .. } = args;
    let arguments_json = given(arguments.unwrap_or_default()).await?;
    // Waiting is done here, where it can be shown how far the task is.
    let request = CallToolRequest { name: name.clone(), arguments_json, no_wait: true };
    let told = client::connect_tools(global).await?.call_tool(request).await?.into_inner();
    let (id, result) = match told.task {
        Some(task) if waits => {
            output::talk(global.output, &format!("{name} works in {}.", task.id));
            let task = task::wait(global, &task.id).await?;
            (Some(task.id.clone()), task::result(&task)?)
        }
        Some(task) => return task::changed(global, &task),
        None => (None, task::value(&told.result_json)),
    };
    if global.output == Output::Json {
        return output::json("ToolResult", fields(&name, id, &result));
    }
    output::line(&output::pretty(&result))
}

fn fields(name: &str, task: Option<String>, result: &Value) -> Value {
    match task {
        Some(task) => json!({"tool": name, "task": task, "result": result}),
        None => json!({"tool": name, "result": result}),
    }
}

async fn asked(global: &Global, name: String) -> Result<Vec<ToolView>, Failure> {
    Ok(client::connect_tools(global).await?.list_tools(ListToolsRequest { name }).await?.into_inner().tools)
}

/// The words, or what comes on standard input.
async fn given(arguments: String) -> Result<String, Failure> {
    if arguments != "-" {
        return Ok(arguments);
    }
    let mut text = String::new();
    let room = ARGUMENTS_BYTES_MAX as u64 + 1;
    let read = tokio::io::stdin().take(room).read_to_string(&mut text).await;
    read.map_err(|error| Failure::usage(format!("standard input: {error}"), "ollamax tool call NAME - < FILE"))?;
    if text.len() > ARGUMENTS_BYTES_MAX {
        let what = format!("standard input has more than {ARGUMENTS_BYTES_MAX} bytes, which is the limit of arguments");
        return Err(Failure::usage(what, "send less"));
    }
    Ok(text)
}

/// All that the daemon says of a tool.
fn declared(tool: &ToolView) -> Value {
    serde_json::from_str(&tool.declared_json).unwrap_or_else(|_| json!({"name": tool.name}))
}

fn table(tools: &[ToolView]) -> String {
    let rows = tools
        .iter()
        .map(|tool| vec![tool.name.clone(), tool.family.clone(), tool.permission.clone(), tool.title.clone()]);
    output::table(&["NAME", "FAMILY", "NEEDS", "WHAT IT DOES"], rows.collect())
}

fn page(tool: &ToolView) -> String {
    let declared = declared(tool);
    let mut page = format!("{}: {}\n\n{}\n\n", tool.name, tool.title, tool.description);
    page += &format!("family  {}\nclass   {}\nneeds   {}\n", tool.family, tool.class, tool.permission);
    let is_so = |key: &str| declared[key] == Value::Bool(true);
    page += if is_so("task") { "task    it goes on when its caller leaves\n" } else { "" };
    page +=
        if is_so("needsApproval") { "asks    somebody approves it before it begins: ollamax approve ID\n" } else { "" };
    page += &format!("\nArguments:\n{}\n", output::pretty(&declared["inputSchema"]));
    let examples = declared["examples"].as_array().cloned().unwrap_or_default();
    if !examples.is_empty() {
        page += "\nExamples:\n";
    }
    for example in examples {
        page += &format!("  ollamax tool call {} '{}'\n", tool.name, example["arguments"]);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_a_later_release_says_more_of_is_shown_with_what_is_known() {
        let tool = ToolView { name: "look".to_owned(), title: "Look".to_owned(), ..ToolView::default() };
        assert_eq!(declared(&tool), json!({"name": "look"}));
        assert!(page(&tool).starts_with("look: Look\n"), "{}", page(&tool));
    }

    #[test]
    fn it_is_said_what_goes_on_by_itself_and_what_asks_first() {
        let page = |declared_json: &str| {
            let tool = ToolView { declared_json: declared_json.to_owned(), ..ToolView::default() };
            page(&tool)
        };
        let both = page(r#"{"task": true, "needsApproval": true}"#);
        assert!(both.contains("\ntask    ") && both.contains("\nasks    "), "{both}");
        let neither = page(r#"{"task": false}"#);
        assert!(!neither.contains("\ntask    ") && !neither.contains("\nasks    "), "{neither}");
    }
}
