//! The configuration as TOML for people: the example file with every key, its meaning and its default, and what
//! `--print-config` shows, with the origin of each value.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::NodeConfig;
use super::layers::{Effective, Origin, leaves};

/// The example file: every key at its default, commented out. A test keeps the shipped one equal to it.
#[cfg(test)]
#[must_use]
pub(crate) fn example() -> String {
    let mut text = String::from(
        "# Every key of ollamax-node with its default. Order: defaults < this file < OLLAMAX_* environment < flags.\n\
         # A key such as api.listen is OLLAMAX_API_LISTEN in the environment and --api.listen as a flag.\n",
    );
    let defaults = serde_json::to_value(NodeConfig::default()).expect("plain fields serialise");
    let meanings = meanings();
    let mut table = String::new();
    for (key, value) in leaves(&defaults) {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", &key));
        if section != table {
            section.clone_into(&mut table);
            write!(text, "\n# {}\n[{section}]\n", meanings.get(section).map_or("", String::as_str)).expect("a string");
        }
        for line in meanings.get(&key).map_or("", String::as_str).lines() {
            writeln!(text, "# {line}").expect("a string");
        }
        writeln!(text, "# {name} = {}", toml_text(&value)).expect("a string");
    }
    text
}

/// The effective configuration with the origin of each value.
#[must_use]
pub(crate) fn effective(effective: &Effective<NodeConfig>) -> String {
    let values = serde_json::to_value(&effective.config).expect("plain fields serialise");
    let mut text = String::new();
    let mut table = String::new();
    for (key, value) in leaves(&values) {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", &key));
        if section != table {
            section.clone_into(&mut table);
            writeln!(text, "{}[{section}]", if text.is_empty() { "" } else { "\n" }).expect("a string");
        }
        let origin = effective.origins.get(&key).unwrap_or(&Origin::Default);
        writeln!(text, "{name} = {}  # {origin}", toml_text(&value)).expect("a string");
    }
    text
}

/// What each key and table means, from the doc comments beside the fields.
#[must_use]
pub(crate) fn meanings() -> BTreeMap<String, String> {
    let schema = schemars::schema_for!(NodeConfig);
    let root = schema.as_value().clone();
    let mut found = BTreeMap::new();
    walk(&root, &root, "", &mut found);
    found
}

fn walk(root: &Value, schema: &Value, prefix: &str, found: &mut BTreeMap<String, String>) {
    let Some(properties) = resolve(root, schema).and_then(|schema| schema["properties"].as_object()) else { return };
    for (name, inner) in properties {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let own = inner["description"].as_str();
        let meaning = own.or_else(|| resolve(root, inner).and_then(|inner| inner["description"].as_str()));
        found.insert(key.clone(), meaning.unwrap_or_default().to_owned());
        walk(root, inner, &key, found);
    }
}

/// Follows `$ref`, also inside `allOf` as schemars writes it beside a description.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> Option<&'a Value> {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    match reference {
        Some(reference) => root.pointer(reference.strip_prefix('#')?),
        None => Some(schema),
    }
}

fn toml_text(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".to_owned(),
        other => toml::Value::try_from(other).map(|value| value.to_string()).unwrap_or_default(),
    }
}
