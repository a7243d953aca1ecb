//! Schemas: made from types, compiled once, used to check values and to hide what is secret in them.
//!
//! Always: JSON Schema 2020-12 without references, so that it can be read and walked as it stands. A problem names the
//! place and the rule, and never repeats the value: arguments may be secret, and may be megabytes.

use jsonschema::Validator;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The key by which a schema marks a value that no log may show.
pub const SECRET_MARK: &str = "x-ollamax-secret";

/// What stands in a log for a value that it may not show.
const HIDDEN: &str = "***";
/// Problems that are told of one value.
const PROBLEMS_MAX: usize = 5;
/// Characters that are told of one problem.
const PROBLEM_CHARS_MAX: usize = 300;
/// Formats that say which integer of ours a number is; to a caller they are noise.
const FORMATS_OF_NUMBERS: [&str; 12] =
    ["int8", "int16", "int32", "int64", "int", "uint8", "uint16", "uint32", "uint64", "uint", "float", "double"];

/// A schema, ready to be shown and to check.
#[derive(Debug, Clone)]
pub struct Schema {
    shown: Map<String, Value>,
    brief: Map<String, Value>,
    validator: Validator,
}

// === impl Schema ===

impl Schema {
    /// What a tool takes.
    ///
    /// # Errors
    /// When the type's schema cannot be compiled.
    pub fn of_input<T: JsonSchema>() -> Result<Self, String> {
        Self::compile(generate::<T>(SchemaSettings::draft2020_12().for_deserialize()))
    }

    /// What a tool answers.
    ///
    /// # Errors
    /// When the type's schema cannot be compiled.
    pub fn of_output<T: JsonSchema>() -> Result<Self, String> {
        Self::compile(generate::<T>(SchemaSettings::draft2020_12().for_serialize()))
    }

    fn compile(shown: Map<String, Value>) -> Result<Self, String> {
        let validator = jsonschema::draft202012::new(&Value::Object(shown.clone()));
        let validator = validator.map_err(|error| format!("its schema cannot be compiled: {error}"))?;
        let brief = without_words(&shown);
        Ok(Self { shown, brief, validator })
    }

    /// As callers read it.
    #[must_use]
    pub const fn shown(&self) -> &Map<String, Value> {
        &self.shown
    }

    /// Without words: the same values fit, in fewer bytes.
    #[must_use]
    pub const fn brief(&self) -> &Map<String, Value> {
        &self.brief
    }

    /// What is wrong with a value, the first few things; nothing where it fits.
    #[must_use]
    pub fn problems(&self, value: &Value) -> Vec<String> {
        let told = |error: jsonschema::ValidationError<'_>| {
            let place = error.instance_path().to_string();
            let place = if place.is_empty() { "at the top".to_owned() } else { place };
            shortened(&format!("{place}: {}", error.masked()))
        };
        self.validator.iter_errors(value).take(PROBLEMS_MAX).map(told).collect()
    }

    /// The value, with what is marked as secret hidden, and with what the schema does not know hidden too.
    #[must_use]
    pub fn redact(&self, value: &Value) -> Value {
        redact(&self.shown, value)
    }
}

fn generate<T: JsonSchema>(settings: SchemaSettings) -> Map<String, Value> {
    let generator = settings.with(|settings| settings.inline_subschemas = true).into_generator();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    without_noise(&mut schema);
    let Value::Object(mut shown) = schema else { return Map::new() };
    // The dialect is the protocol's own, and title and description are the tool's.
    for key in ["$schema", "title", "description"] {
        shown.shift_remove(key);
    }
    shown
}

/// Takes away which integer of ours a number is.
fn without_noise(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("format").and_then(Value::as_str).is_some_and(|format| FORMATS_OF_NUMBERS.contains(&format)) {
                map.shift_remove("format");
            }
            map.values_mut().for_each(without_noise);
        }
        Value::Array(items) => items.iter_mut().for_each(without_noise),
        _ => {}
    }
}

/// The schema without its descriptions. What a field is called stays, also where it is called description.
fn without_words(schema: &Map<String, Value>) -> Map<String, Value> {
    let told = schema.iter().filter(|(key, value)| !(key.as_str() == "description" && value.is_string()));
    let brief = told.map(|(key, value)| {
        let value = match value {
            Value::Object(fields) if key == "properties" => {
                Value::Object(fields.iter().map(|(name, field)| (name.clone(), in_brief(field))).collect())
            }
            other => in_brief(other),
        };
        (key.clone(), value)
    });
    brief.collect()
}

fn in_brief(value: &Value) -> Value {
    match value {
        Value::Object(schema) => Value::Object(without_words(schema)),
        Value::Array(items) => items.iter().map(in_brief).collect(),
        other => other.clone(),
    }
}

/// Whether a schema, or one of those that it is made of, marks its value.
fn is_secret(schema: &Map<String, Value>) -> bool {
    let is_marked = schema.get(SECRET_MARK).and_then(Value::as_bool) == Some(true);
    let mut parts = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten();
    is_marked || parts.any(|part| part.as_object().is_some_and(is_secret))
}

fn redact(schema: &Map<String, Value>, value: &Value) -> Value {
    if is_secret(schema) {
        return Value::from(HIDDEN);
    }
    let below = |schema: Option<&Value>, value: &Value| match schema.and_then(Value::as_object) {
        Some(schema) => redact(schema, value),
        None => Value::from(HIDDEN),
    };
    match value {
        Value::Object(fields) => {
            let known = schema.get("properties").and_then(Value::as_object);
            let shown = fields.iter().map(|(key, field)| match known.and_then(|known| known.get(key)) {
                Some(schema) => (key.clone(), below(Some(schema), field)),
                None => (key.clone(), Value::from(HIDDEN)),
            });
            Value::Object(shown.collect())
        }
        Value::Array(items) => items.iter().map(|item| below(schema.get("items"), item)).collect(),
        // One value where several were to be: nobody said which of them it is.
        _ if schema.contains_key("properties") || schema.contains_key("items") => Value::from(HIDDEN),
        _ => value.clone(),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(PROBLEM_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    #[derive(Deserialize, Serialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        /// Which one.
        #[schemars(length(min = 1, max = 8))]
        name: String,
        count: Option<u32>,
        #[schemars(extend("x-ollamax-secret" = true))]
        token: Option<String>,
        #[serde(default)]
        rows: Vec<Row>,
    }

    #[derive(Deserialize, Serialize, JsonSchema)]
    struct Row {
        id: u64,
        #[schemars(extend("x-ollamax-secret" = true))]
        password: String,
    }

    #[test]
    fn a_schema_is_one_object_without_references_and_without_our_integers() {
        let schema = Schema::of_input::<Asked>().expect("it compiles");
        let text = serde_json::to_string(schema.shown()).expect("JSON");
        assert_eq!(schema.shown()["type"], "object");
        assert_eq!(schema.shown()["additionalProperties"], false);
        assert_eq!(schema.shown()["required"], json!(["name"]));
        for noise in ["$ref", "$defs", "$schema", "uint", "Asked"] {
            assert!(!text.contains(noise), "{noise} in {text}");
        }
    }

    #[test]
    fn in_brief_the_words_are_left_out_and_the_fields_are_not() {
        #[derive(Deserialize, Serialize, JsonSchema)]
        struct Named {
            /// Words of a field.
            description: String,
            /// Words of rows.
            rows: Option<Vec<Row>>,
        }
        let schema = Schema::of_input::<Named>().expect("it compiles");
        let brief = Value::Object(schema.brief().clone());
        assert!(!brief.to_string().contains("Words"), "{brief}");
        assert_eq!(brief["properties"]["description"]["type"], "string");
        assert_eq!(brief["properties"]["rows"]["items"]["properties"]["id"]["type"], "integer");
        assert_eq!(schema.shown()["properties"]["description"]["description"], "Words of a field.");
    }

    #[test]
    fn problems_name_the_place_and_never_the_value() {
        let schema = Schema::of_input::<Asked>().expect("it compiles");
        let check = |value: Value, expected: &[&str]| {
            let problems = schema.problems(&value);
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, expected) in problems.iter().zip(expected) {
                assert!(problem.starts_with(expected), "{problems:?}");
                assert!(!problem.contains("hunter2"), "{problems:?}");
            }
        };
        check(json!({"name": "a"}), &[]);
        check(json!({"name": "a", "count": null, "rows": []}), &[]);
        check(json!({}), &["at the top: "]);
        check(json!([]), &["at the top: "]);
        check(json!({"name": "hunter2 and more"}), &["/name: "]);
        check(json!({"name": "a", "count": -1}), &["/count: "]);
        check(json!({"name": "a", "token": ["hunter2"]}), &["/token: "]);
        check(
            json!({"name": "a", "rows": vec![json!(1); 9]}),
            &["/rows/0: ", "/rows/1", "/rows/2", "/rows/3", "/rows/4"],
        );
    }

    #[test]
    fn what_is_secret_or_not_known_is_hidden_at_any_depth() {
        let schema = Schema::of_input::<Asked>().expect("it compiles");
        let sent = json!({
            "name": "a", "token": "hunter2", "rows": [{"id": 1, "password": "hunter2"}, "hunter2"], "stray": "hunter2",
        });
        let shown = json!({
            "name": "a", "token": "***", "rows": [{"id": 1, "password": "***"}, "***"], "stray": "***",
        });
        assert_eq!(schema.redact(&sent), shown);
        for key in ["anyOf", "oneOf", "allOf"] {
            let composed = json!({"properties": {"token": {key: [{"type": "null"}, {"x-ollamax-secret": true}]}}});
            let Value::Object(composed) = composed else { panic!("{composed}") };
            assert_eq!(redact(&composed, &json!({"token": "hunter2"})), json!({"token": "***"}), "{key}");
        }
    }
}
