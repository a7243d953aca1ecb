//! The types that Ollama's structs give to the fields of a request, and Go's words for a value of another type.
//!
//! Pure. Null fits everywhere and unknown fields are passed over, as in Go. Only fields that this runtime reads are
//! listed. A first wrong value in the order of the text is the one that is told.

use serde_json::Value;

/// A struct of Ollama's.
#[derive(Debug)]
pub(in crate::http) struct Struct {
    /// Its package and name.
    pub(in crate::http) go: &'static str,
    pub(in crate::http) fields: &'static [(&'static str, Kind)],
    /// It decodes itself, so that Go names the struct around it instead.
    pub(in crate::http) is_nameless: bool,
}

/// The type of a field.
#[derive(Debug)]
pub(in crate::http) enum Kind {
    /// Whatever comes; its handler looks at it.
    Any,
    Text,
    Bool,
    Int,
    Float,
    /// An object with any keys.
    Map,
    /// An object of texts.
    Texts,
    /// A list, as Go writes its type, and what is in it.
    List(&'static str, &'static Kind),
    Struct(&'static Struct),
}

impl Struct {
    pub(in crate::http) const fn new(go: &'static str, fields: &'static [(&'static str, Kind)]) -> Self {
        Self { go, fields, is_nameless: false }
    }

    /// Checks the value of a whole request.
    pub(super) fn check(&'static self, value: &Value) -> Result<(), String> {
        check(&Kind::Struct(self), value, "", "")
    }
}

impl Kind {
    const fn go(&self) -> &'static str {
        match self {
            Self::Any => "interface {}",
            Self::Text => "string",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float64",
            Self::Map => "map[string]interface {}",
            Self::Texts => "map[string]string",
            Self::List(go, _) => go,
            Self::Struct(of) => of.go,
        }
    }
}

/// Checks a value at `path` below the struct `owner`.
fn check(kind: &Kind, value: &Value, owner: &str, path: &str) -> Result<(), String> {
    match (kind, value) {
        (_, Value::Null)
        | (Kind::Any, _)
        | (Kind::Text, Value::String(_))
        | (Kind::Bool, Value::Bool(_))
        | (Kind::Float, Value::Number(_))
        | (Kind::Map, Value::Object(_)) => Ok(()),
        (Kind::Int, Value::Number(number)) if number.is_i64() => Ok(()),
        (Kind::Texts, Value::Object(map)) => map.values().try_for_each(|text| check(&Kind::Text, text, owner, path)),
        (Kind::List(_, of), Value::Array(items)) => items.iter().try_for_each(|item| check(of, item, owner, path)),
        (Kind::Struct(of), Value::Object(map)) => {
            let owner = if of.is_nameless { owner } else { of.go.rsplit('.').next().unwrap_or(of.go) };
            let before = if path.is_empty() { String::new() } else { format!("{path}.") };
            map.iter().try_for_each(|(name, value)| {
                let field = of.fields.iter().find(|(field, _)| field == name);
                field.map_or(Ok(()), |(_, kind)| check(kind, value, owner, &format!("{before}{name}")))
            })
        }
        _ if path.is_empty() => {
            Err(format!("json: cannot unmarshal {} into Go value of type {}", found(kind, value), kind.go()))
        }
        _ => {
            let found = found(kind, value);
            Err(format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {}", kind.go()))
        }
    }
}

/// A value of the wrong type as Go names it; where a number is the type that is wanted, its text is what is wrong.
fn found(kind: &Kind, value: &Value) -> String {
    match (kind, value) {
        (Kind::Int, Value::Number(number)) => format!("number {number}"),
        (_, Value::Null) => "null".to_owned(),
        (_, Value::Bool(_)) => "bool".to_owned(),
        (_, Value::Number(_)) => "number".to_owned(),
        (_, Value::String(_)) => "string".to_owned(),
        (_, Value::Array(_)) => "array".to_owned(),
        (_, Value::Object(_)) => "object".to_owned(),
    }
}
