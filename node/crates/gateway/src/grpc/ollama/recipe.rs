//! What a model is made of, out of a body of `/api/create`.
//!
//! The body goes on to the runtime as it came, but for what a node must know or would read otherwise than the runtime:
//! names of fields are written in lower case and each once, no empty `from`, nothing that is `null`. What a runtime
//! does not support it refuses in its own words. What makes no sense whatever the runtime is refused here, in Ollama's.

use std::collections::BTreeSet;
use std::{fmt, iter};

use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use serde_json::{Map, Value};

use ollamax_proto::v1;
use ollamax_types::limits::CREATE_FILES_MAX;
use ollamax_types::{Digest, ModelName};

use super::{bad, unread};
use crate::error::ApiError;
use crate::http::request::{BodyError, Change, read_change_fields};

/// The fields that name files by their digests.
const FILES: [&str; 3] = ["files", "adapters", "draft_files"];

/// A model that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recipe {
    /// For the cluster.
    pub(super) head: v1::CreateHead,
    /// The files that it is made of.
    pub(super) files: BTreeSet<Digest>,
    /// Whether it is told line by line.
    pub(super) streams: bool,
}

// === impl Recipe ===

impl Recipe {
    /// Reads a body.
    ///
    /// # Errors
    /// When it makes no sense.
    pub(super) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = read_change_fields(Change::Create, body).map_err(unread)?;
        let from = Some(fields.base()).filter(|from| !from.is_empty());
        for name in iter::once(fields.model()).chain(from) {
            name.parse::<ModelName>().map_err(|_| bad("invalid model name"))?;
        }
        let goes_on = |field: &str| field != "name" && (field != "from" || from.is_some());
        let object: Map<String, Value> = object(body)?.into_iter().filter(|(field, _)| goes_on(field)).collect();
        if !object.contains_key("from") && !object.contains_key("files") {
            return Err(bad("neither 'from' or 'files' was specified"));
        }
        let files = files(&object)?;
        if files.len() > CREATE_FILES_MAX {
            return Err(bad(format!("a model is made of {CREATE_FILES_MAX} files at most")));
        }
        let body = Value::Object(object).to_string().into();
        let head = v1::CreateHead { name: fields.model().to_owned(), body, files: Vec::new(), replicas: 0 };
        Ok(Self { head, files, streams: fields.streams() })
    }
}

/// The fields, as Go reads them; text behind the object is not read.
fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let object = Option::<Object>::deserialize(&mut serde_json::Deserializer::from_slice(body));
    let object = object.map_err(|error| bad(format!("JSON that this node cannot read: {error}")))?;
    Ok(object.unwrap_or_default().0)
}

/// Fields by their names in lower case, each taken in its turn: the last of equal ones wins, in whatever case each is
/// written. The node and the runtime must not read two of them.
#[derive(Default)]
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            object.take(name.to_lowercase(), value);
        }
        Ok(object)
    }
}

// === impl Object ===

impl Object {
    /// Takes one more field as Go does: what maps names to values grows, `null` leaves a text as it was and takes
    /// anything else away, and every other value stands for the one before. What names no files where it should is
    /// refused, whatever comes behind it.
    fn take(&mut self, name: String, value: Value) {
        let taken = match (self.0.remove(&name), value) {
            (Some(before), _) if FILES.contains(&name.as_str()) && !before.is_object() => before,
            (Some(Value::Object(mut before)), Value::Object(more)) => {
                before.extend(more);
                Value::Object(before)
            }
            (Some(before @ Value::String(_)), Value::Null) if name != "license" => before,
            (_, Value::Null) => return,
            (_, value) => value,
        };
        self.0.insert(name, taken);
    }
}

/// The digests of all files.
fn files(object: &Map<String, Value>) -> Result<BTreeSet<Digest>, ApiError> {
    let mut files = BTreeSet::new();
    for (field, named) in FILES.iter().filter_map(|field| Some((*field, object.get(*field)?))) {
        let Value::Object(named) = named else { return Err(wrong(field, named, "map[string]string")) };
        for digest in named.values() {
            let Value::String(text) = digest else { return Err(wrong(field, digest, "string")) };
            files.insert(digest_of(text).ok_or_else(|| bad("invalid digest format"))?);
        }
    }
    Ok(files)
}

/// A digest as Ollama takes it: `sha256`, a colon or a dash, 64 digits.
pub(super) fn digest_of(text: &str) -> Option<Digest> {
    let is_prefixed = text.starts_with("sha256:") || text.starts_with("sha256-");
    text.parse().ok().filter(|_| is_prefixed)
}

fn wrong(field: &'static str, found: &Value, wanted: &'static str) -> ApiError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    unread(BodyError::WrongField { found, request: Change::Create.request(), field, wanted })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &str) -> Result<(String, Value, usize, bool), String> {
        let recipe = Recipe::read(body.as_bytes()).map_err(|error| format!("{} {error}", error.status))?;
        assert_eq!((recipe.head.files.len(), recipe.head.replicas), (0, 0));
        let body = serde_json::from_slice(&recipe.head.body).expect("JSON");
        Ok((recipe.head.name, body, recipe.files.len(), recipe.streams))
    }

    #[test]
    fn what_a_runtime_needs_goes_on_in_names_that_every_runtime_reads_alike() {
        let made = |name: &str, body: Value, files: usize, streams: bool| Ok((name.to_owned(), body, files, streams));
        let from = r#"{"model":"mine","from":"base","system":"Be brief.","parameters":{"Stop":["x"]}}"#;
        let expected = json!({"model": "mine", "from": "base", "system": "Be brief.", "parameters": {"Stop": ["x"]}});
        assert_eq!(read(from), made("mine", expected, 0, true));
        let old = r#"{"Name":"Mine","FROM":"base","stream":false,"template":null} and more"#;
        assert_eq!(read(old), made("Mine", json!({"from": "base", "stream": false}), 0, false));
        let (one, two) = ("0a".repeat(32), "0B".repeat(32));
        let files = json!({"a.gguf": format!("sha256:{one}"), "b.gguf": format!("sha256-{two}")});
        let adapters = json!({"c.gguf": format!("sha256:{one}")});
        let body = json!({"model": "mine", "files": files, "adapters": adapters, "quantize": "q4_K_M"});
        assert_eq!(read(&body.to_string()), made("mine", body, 2, true));
        // Nothing is known of a base, which is not there, in text that is empty.
        let body = json!({"model": "mine", "from": "", "files": {}});
        assert_eq!(read(&body.to_string()), made("mine", json!({"model": "mine", "files": {}}), 0, true));
    }

    #[test]
    fn a_field_that_is_written_twice_is_read_as_go_reads_it() {
        let check = |fields: &str, expected: Value| {
            let (name, body, ..) = read(&format!(r#"{{{fields}}}"#)).expect(fields);
            assert_eq!((name.as_str(), body), ("mine", expected), "{fields}");
        };
        let from_b = || json!({"model": "mine", "from": "b"});
        check(r#""model":"mine","from":"a","from":"b""#, from_b());
        check(r#""model":"mine","FROM":"a","from":"b""#, from_b());
        check(r#""model":"mine","from":"a","FROM":"x","from":"b""#, from_b());
        check(r#""model":"mine","from":"b","From":null"#, from_b());
        check(r#""model":"yours","from":"b","Model":"mine","model":null"#, from_b());
        let (one, two) = (format!("sha256:{}", "0a".repeat(32)), format!("sha256:{}", "0b".repeat(32)));
        let twice = format!(r#""model":"mine","files":{{"a":"{one}"}},"Files":{{"b":"{two}"}}"#);
        check(&twice, json!({"model": "mine", "files": {"a": one, "b": two}}));
        let gone = format!(r#""model":"mine","from":"b","files":{{"a":"{one}"}},"files":null"#);
        check(&gone, from_b());
        let once =
            r#""model":"mine","from":"b","parameters":{"stop":"x"},"license":"l","license":null,"parameters":null"#;
        check(once, from_b());
    }

    #[test]
    fn what_makes_no_sense_is_refused_in_ollamas_words() {
        let check = |body: &str, expected: &str| assert_eq!(read(body), Err(format!("400 {expected}")), "{body}");
        let wrong = |found: &str, field: &str, wanted: &str| {
            format!("json: cannot unmarshal {found} into Go struct field CreateRequest.{field} of type {wanted}")
        };
        check("", "missing request body");
        check("{", "unexpected EOF");
        check("[]", "json: cannot unmarshal array into Go value of type api.CreateRequest");
        check(r#"{"model":7}"#, &wrong("number", "model", "string"));
        check(r#"{"model":"mine","from":[]}"#, &wrong("array", "from", "string"));
        check(r#"{"model":"mine","files":["a"]}"#, &wrong("array", "files", "map[string]string"));
        check(r#"{"model":"mine","files":{"a":1}}"#, &wrong("number", "files", "string"));
        check(r#"{"model":7,"model":"mine","from":"base"}"#, &wrong("number", "model", "string"));
        let wrong_files = wrong("number", "files", "map[string]string");
        check(r#"{"model":"mine","from":"base","files":{},"files":7}"#, &wrong_files);
        check(r#"{"model":"mine","from":"base","files":7,"files":{}}"#, &wrong_files);
        check(r#"{"model":"mine","from":"base","files":7,"Files":null}"#, &wrong_files);
        check("{}", "invalid model name");
        check(r#"{"from":"base"}"#, "invalid model name");
        check(r#"{"model":"a b","from":"base"}"#, "invalid model name");
        check(r#"{"model":"mine","from":"a b"}"#, "invalid model name");
        check(r#"{"model":"mine"}"#, "neither 'from' or 'files' was specified");
        check(r#"{"model":"mine","from":"","files":null}"#, "neither 'from' or 'files' was specified");
        for digest in ["", "sha256:12", &"ab".repeat(32), "sha512:12"] {
            check(&format!(r#"{{"model":"mine","files":{{"a":"{digest}"}}}}"#), "invalid digest format");
        }
        let many: Map<String, Value> =
            (0..=CREATE_FILES_MAX).map(|at| (format!("{at}.gguf"), format!("sha256:{at:064x}").into())).collect();
        let many = json!({"model": "mine", "files": many}).to_string();
        check(&many, &format!("a model is made of {CREATE_FILES_MAX} files at most"));
    }
}
