//! The page of all tools, `docs/user/tools.md`, made from what the tools declare.
//!
//! Pure. A test compares what is made with the page that is there, so that people read what calls are checked by.

use serde_json::{Map, Value};

use ollamax_tools::{Idempotency, Schema, Spec, Tool};

/// Characters of a line of prose.
const LINE_CHARS_MAX: usize = 120;

/// What stands before the first tool.
const HEAD: &str = "\
# Tools

Every tool of a node, by family. The page is made from what the tools declare; `ollamax tool describe NAME` tells the
same of one, `GET /tools` and `GET /openapi.json` of all. How an assistant connects, who may call, and what a refusal
looks like: [Assistants](mcp.md). What takes longer than a call: [Tasks](tasks.md).

Callers over the loopback address have the permissions `read` and `infer`; administrators have all, over the admin
socket (`ollamax tool call`). An argument that a tool does not know is refused. Arguments have 256 KiB at most, those of
a task 16 KiB. *Hints* are what a client may think before it calls: `readOnlyHint` (it changes nothing),
`destructiveHint` (it may destroy something), `idempotentHint` (the same call again changes nothing more) and
`openWorldHint` (it deals with things outside of the cluster).
";

/// The page.
pub(super) fn page(tools: &[&Tool], families: &[&str]) -> String {
    let mut page = HEAD.to_owned();
    for family in families {
        page += &format!("\n## {family}\n");
        for tool in tools.iter().filter(|tool| tool.spec().family == *family) {
            page += &section(tool);
        }
    }
    page
}

fn section(tool: &Tool) -> String {
    let spec = tool.spec();
    let words = wrapped(&format!("**{}.** {}", spec.title, spec.description));
    let mut text = format!("\n### `{}`\n\n{words}\n\n", spec.name);
    text += &match fields(tool.input()) {
        rows if rows.is_empty() => "It takes no arguments.\n".to_owned(),
        rows => format!("| argument | is | needed | says |\n| --- | --- | --- | --- |\n{}", arguments(tool, &rows)),
    };
    text += "\n| answer | is | says |\n| --- | --- | --- |\n";
    for (name, schema) in fields(tool.output()) {
        text += &format!("| `{name}` | {} | {} |\n", kind(schema), says(schema));
    }
    text + &facts(spec) + &examples(spec)
}

fn fields(schema: &Schema) -> Vec<(&String, &Value)> {
    schema.shown().get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter).collect()
}

fn arguments(tool: &Tool, rows: &[(&String, &Value)]) -> String {
    let needed: Vec<&str> = match tool.input().shown().get("required").and_then(Value::as_array) {
        Some(names) => names.iter().filter_map(Value::as_str).collect(),
        None => Vec::new(),
    };
    let row = |(name, schema): &(&String, &Value)| {
        let is_needed = if needed.contains(&name.as_str()) { "yes" } else { "no" };
        format!("| `{name}` | {} | {is_needed} | {} |\n", kind(schema), says(schema))
    };
    rows.iter().map(row).collect()
}

/// What a tool may do, and what it may take.
fn facts(spec: &Spec) -> String {
    let hints = [
        (spec.hints.read_only, "`readOnlyHint`"),
        (spec.hints.destructive, "`destructiveHint`"),
        (spec.hints.idempotent, "`idempotentHint`"),
        (spec.hints.open_world, "`openWorldHint`"),
    ];
    let hints: Vec<&str> = hints.into_iter().filter_map(|(holds, name)| holds.then_some(name)).collect();
    let hints = if hints.is_empty() { "none".to_owned() } else { hints.join(", ") };
    let again = match spec.idempotency {
        Idempotency::Natural => "A call may be repeated",
        Idempotency::ByKey => "A call with the same `idempotency_key` has effect once",
        Idempotency::None => "A call must not be repeated",
    };
    let mut text = format!("\n- Permission: `{}`. Hints: {hints}.\n- {again}.\n", spec.permission);
    if spec.task {
        text += "- It works in a [task](tasks.md)";
        text +=
            if spec.needs_approval { ", which waits until a person agrees: `ollamax approve ID`.\n" } else { ".\n" };
    }
    let limits = spec.limits;
    let (seconds, kilobytes) = (limits.timeout.as_secs(), limits.output_bytes_max >> 10);
    let until = if spec.task { " until it is on record" } else { "" };
    text + &format!(
        "- Limits: {seconds} s{until}, an answer of {kilobytes} KiB, {} calls of one caller in a minute.\n",
        limits.calls_per_minute
    )
}

fn examples(spec: &Spec) -> String {
    if spec.examples.is_empty() {
        return String::new();
    }
    let mut text = "\n```sh\n".to_owned();
    for example in spec.examples {
        let arguments = match example.arguments {
            "{}" => String::new(),
            arguments => format!(" '{arguments}'"),
        };
        text += &format!("# {}\nollamax tool call {}{arguments}\n", example.title, spec.name);
    }
    text + "```\n"
}

/// What a value is, in words.
fn kind(schema: &Value) -> String {
    let words = |key: &str| schema.get(key).and_then(Value::as_array).into_iter().flatten();
    let among: Vec<String> = words("enum").filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
    if !among.is_empty() {
        return among.join(", ");
    }
    let parts: Vec<String> = words("anyOf").filter(|part| !is_null(part)).map(kind).collect();
    if !parts.is_empty() {
        return parts.join(" or ");
    }
    let number = |key: &str| schema.get(key).and_then(Value::as_u64);
    let between = |least: &str, most: &str, of: &str| match (number(least).filter(|least| *least > 0), number(most)) {
        (Some(least), Some(most)) => format!(", {least} to {most}{of}"),
        (Some(least), None) => format!(", {least} or more{of}"),
        (None, Some(most)) => format!(", {most}{of} at most"),
        (None, None) => String::new(),
    };
    match name_of(schema) {
        "string" => format!("text{}", between("minLength", "maxLength", " characters")),
        "integer" => format!("whole number{}", between("minimum", "maximum", "")),
        "number" => "number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => {
            let of = schema.get("items").map_or_else(|| "anything".to_owned(), kind);
            format!("list{}; each: {of}", between("minItems", "maxItems", ""))
        }
        "object" => "object".to_owned(),
        _ => "anything".to_owned(),
    }
}

/// The type of a value that is there.
fn name_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).find(|name| *name != "null").unwrap_or(""),
        _ => "",
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

fn says(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or("–").replace('|', "\\|").replace('\n', " ")
}

/// A paragraph in lines of their width.
fn wrapped(text: &str) -> String {
    let (mut page, mut width) = (String::new(), 0);
    for word in text.split_whitespace() {
        let chars = word.chars().count();
        if width > 0 && width + 1 + chars > LINE_CHARS_MAX {
            page.push('\n');
            width = 0;
        } else if width > 0 {
            page.push(' ');
            width += 1;
        }
        page.push_str(word);
        width += chars;
    }
    page
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_value_is_stands_in_words() {
        let check = |schema: Value, expected: &str| assert_eq!(kind(&schema), expected, "{schema}");
        check(json!({"type": "string"}), "text");
        check(json!({"type": ["string", "null"], "minLength": 1, "maxLength": 64}), "text, 1 to 64 characters");
        check(json!({"type": "string", "maxLength": 64}), "text, 64 characters at most");
        check(json!({"type": "string", "minLength": 1}), "text, 1 or more characters");
        check(json!({"type": ["string", "null"], "enum": ["alive", "dead", null]}), "`alive`, `dead`");
        check(json!({"type": "integer", "minimum": 0}), "whole number");
        check(json!({"type": "integer", "minimum": 1}), "whole number, 1 or more");
        check(json!({"type": ["integer", "null"], "minimum": 1, "maximum": 200}), "whole number, 1 to 200");
        check(json!({"type": "boolean"}), "true or false");
        check(json!({"type": "number"}), "number");
        check(json!({"type": "array", "items": {"type": "object"}}), "list; each: object");
        check(json!({"type": "array", "maxItems": 9, "items": {"type": "string"}}), "list, 9 at most; each: text");
        check(json!({"anyOf": [{"type": "object"}, {"type": "null"}]}), "object");
        check(json!({"description": "Anything."}), "anything");
        check(json!(true), "anything");
    }

    #[test]
    fn prose_keeps_to_its_width_and_loses_no_word() {
        let text = "word ".repeat(60);
        let page = wrapped(&text);
        assert!(page.lines().all(|line| line.len() <= LINE_CHARS_MAX) && page.lines().count() == 3, "{page}");
        assert_eq!(page.split_whitespace().count(), 60);
        assert_eq!(wrapped("one"), "one");
    }
}
